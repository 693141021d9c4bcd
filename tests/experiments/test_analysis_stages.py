"""GAAS and detection as stages of a run: what they find is what the library finds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import divtrain as dt
from divtrain.analysis import detection_scores, gaas
from divtrain.attacks import ObjectiveName
from divtrain.data import Images
from divtrain.errors import DamagedFileError
from divtrain.evaluation import correct_mask
from divtrain.experiments import ExperimentConfig, Progress, run_experiment
from divtrain.experiments.config import DetectionConfig
from divtrain.experiments.graph import experiment_graph
from divtrain.experiments.open_data import open_dataset
from divtrain.experiments.per_image import per_image_stage
from divtrain.experiments.stage import Context
from divtrain.experiments.stages.attack import read_examples
from divtrain.experiments.stages.detection import FILE, read_detection
from divtrain.experiments.stages.gaas import read_gaas
from divtrain.files import file_digest, read_tensors, write_tensors
from experiments.small import COMMON, FULL, SMALL, Watching, ensemble, finished, result


@pytest.mark.parametrize("objective", ["mean_member_ce", "ce_of_mean_logit"])
def test_counts_are_those_of_the_gradient_asked_for(run: Path, objective: ObjectiveName) -> None:
    config = replace(FULL, gaas=replace(FULL.gaas, objective=objective))
    run_experiment(config, run, Progress(), parts=["gaas"])
    points = read_gaas(finished(run, "gaas"))
    assert {(p.target, p.eps, p.order) for p in points} == {
        (target, eps, order)
        for target in ("base", "div")
        for eps in (0.1, 0.3)
        for order in (1, 4, 16)
    }
    test = open_dataset(FULL.data).test
    for point in points:
        ens = ensemble(run, point.target)
        right = correct_mask(ens, test.x, test.y).nonzero().squeeze(1)[:4]
        own = gaas(ens, test.x[right], test.y[right], point.eps, (4, 16), objective)
        assert (point.images, point.objective) == (4, objective)
        assert point.fooled == round(4 * own.probability[point.order])
    if objective != "mean_member_ce":
        assert f"along {objective}" in (run / "report.html").read_text()


def test_more_images_than_are_classified_right_are_refused(run: Path) -> None:
    few = replace(FULL, gaas=replace(FULL.gaas, images=30, targets=("base",)))
    with pytest.raises(dt.DivtrainError, match=r"base classifies only \d+ of 30 .*gaas.images"):
        run_experiment(few, run, Progress())
    assert "failed in gaas-base-s0" in (run / "log.txt").read_text()
    many = replace(SMALL, data=replace(SMALL.data, test_size=None, held_out=9))
    with pytest.raises(dt.DivtrainError, match=r"gaas.images.? of at most the 9 held-out training"):
        run_experiment(replace(many, gaas=replace(FULL.gaas, images=10)), run, Progress())


def test_scores_are_those_of_the_checkpoint_at_the_crafted_images(full: Path) -> None:
    found = read_detection(finished(full, "detection", "detector"))
    scored = {(each.kind.threat, each.kind.name, each.kind.eps): each for each in found}
    assert {(threat, name) for threat, name, _ in scored} == {
        ("clean", "clean"), ("outside", "noise"), ("outside", "smooth"), ("transfer", "fgsm"),
        ("transfer", "pgdcw"), ("white-box", "fgsm"),
    }  # fmt: skip
    assert {each.trained_outside for each in found} == {"noise"}
    assert {
        each.trained_outside for each in read_detection(finished(full, "detection", "base"))
    } == {""}
    other = replace(FULL, targets=("detector,outside=smooth",), detection=replace(
        FULL.detection, targets=("detector,outside=smooth",)))  # fmt: skip
    stages = experiment_graph(other, COMMON)
    (own_setting,) = [stage for stage in stages if stage.kind == "detection"]
    assert own_setting.spec["trained_outside"] == "smooth"
    ens, test = ensemble(full, "detector"), open_dataset(FULL.data).test
    file = full / "stages/attack-detector-fgsm-0.3-s0/examples.safetensors"
    (own,) = read_examples(file, test.x.shape)
    whole, answer = detection_scores(ens, own.x_adv)
    _, clean = detection_scores(ens, test.x)
    mine = scored["white-box", "fgsm", 0.3]
    # 20 of the 30 images, in an order of the seed's: as many scores, all among those of all.
    for name, scores in mine.scores.items():
        assert scores.shape == (20,)
        distance = (scores[:, None] - whole[name][None]).abs().amin(1)
        assert distance.max() < 1e-3  # of a batch of another size
    assert mine.fooled is not None
    assert 0 < int(mine.fooled.sum()) <= int(((clean == test.y) & (answer != test.y)).sum())
    assert scored["clean", "clean", 0.0].fooled is None


def test_images_of_the_users_own_are_scored_and_a_stopped_stage_goes_on(
    run: Path, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).integers(0, 100, (30, 8, 8), dtype=np.uint8)
    labels, file = np.arange(30) % 2, tmp_path / "set.npz"
    np.savez(file, x_train=images, y_train=labels, x_test=images, y_test=labels)
    config = replace(FULL, detection=DetectionConfig(20, (str(file),), ("detector",)))

    class Stop(Watching):
        def update(self, stage: str, done: int, total: int, detail: str) -> None:
            if done == 3:
                raise KeyboardInterrupt

    folder = run / "stages/detection-detector-s0"
    with pytest.raises(KeyboardInterrupt):
        run_experiment(config, run, Stop())
    parts = {part: part.stat().st_mtime_ns for part in folder.glob("batch*")}
    assert len(parts) == 3

    class Look(Watching):
        def update(self, stage: str, done: int, total: int, detail: str) -> None:
            assert all(part.stat().st_mtime_ns == then for part, then in parts.items())

    watch = Look()
    run_experiment(config, run, watch)
    assert watch.began == [folder.name]  # base was scored and is not any more asked for
    found = read_detection(finished(run, "detection"))
    assert {each.kind.name for each in found if each.kind.threat == "outside"} == {str(file)}
    assert "set.npz" in (run / "report.md").read_text()
    scores = result(run)
    np.savez(file, x_train=images, y_train=labels, x_test=images // 2, y_test=labels)
    watch = Watching()
    run_experiment(config, run, watch)
    assert watch.began == [folder.name]
    assert result(run) != scores


@pytest.mark.parametrize(
    "damage", [lambda t: t.fill_(1.5), lambda t: t.fill_(torch.nan), lambda t: t[:, :-1]]
)
def test_scores_that_cannot_be_are_told(
    full: Path, tmp_path: Path, damage: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    (stage,) = finished(full, "detection", "base")
    tensors, about = read_tensors(stage.file(FILE))
    write_tensors(tmp_path / FILE, {**tensors, "1 scores": damage(tensors["1 scores"])}, about)
    changed = replace(stage, folder=tmp_path, files={FILE: file_digest(tmp_path / FILE)})
    with pytest.raises(DamagedFileError):
        read_detection([changed])


def keys(config: ExperimentConfig) -> dict[str, str]:
    return {stage.name: stage.key for stage in experiment_graph(config, COMMON)}


def test_detection_leaves_the_keys_of_all_other_stages_alone() -> None:
    without = keys(replace(FULL, detection=DetectionConfig()))
    assert keys(FULL).items() > without.items()
    assert keys(FULL).keys() - without == {"detection-base-s0", "detection-detector-s0"}


def test_the_key_of_detector_tells_what_it_was_trained_on_and_others_do_not() -> None:
    one, other = keys(FULL), keys(replace(FULL, train=replace(FULL.train, outside="smooth")))
    different = {name for name in one if one[name] != other.get(name)}
    assert different == {name for name in one if "detector" in name}


def beyond(ens: dt.Ensemble, batch: Images, index: int) -> dict[str, torch.Tensor]:
    return {"twice": 2 + torch.zeros(len(batch))}


def nothing(ens: dt.Ensemble, batch: Images, index: int) -> torch.Tensor:
    return torch.zeros(len(batch))


@pytest.mark.parametrize(
    ("measure", "message"),
    [(beyond, r"expected twice in \[0, 1\], got values from 2 to 2"),
     (nothing, "return a dictionary of tensors by name, got Tensor")],
)  # fmt: skip
def test_what_a_measure_must_not_return_is_refused_before_it_is_kept(
    measure: Any, message: str, full: Path, tmp_path: Path
) -> None:
    (trained,) = (each for each in experiment_graph(FULL, {}) if each.name == "train-div-s0")
    stage = per_image_stage("theirs", measure, "div", trained, 0, low=0, high=1)
    folders = {trained.name: full / "stages" / trained.name}
    test = open_dataset(FULL.data)
    context = Context(test, "cpu", tmp_path, folders, lambda *_: None, print)
    with pytest.raises(dt.DivtrainError, match=message):
        stage.work(context)
