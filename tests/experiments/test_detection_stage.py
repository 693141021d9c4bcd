"""Detection as a stage of a run: scores, their file, what is refused, what it leaves alone."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import divtrain as dt
from divtrain.analysis import detection_scores
from divtrain.errors import DamagedFileError
from divtrain.experiments import (
    AttackConfig,
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    Progress,
    RunDirectory,
    SweepConfig,
    TrainConfig,
    open_dataset,
    rewrite_summary,
    run_experiment,
    run_sweep,
)
from divtrain.experiments.config import DetectionConfig, GaasConfig, check_config, flatten
from divtrain.experiments.graph import _surrogate, experiment_graph
from divtrain.experiments.run_directory import CONFIG
from divtrain.experiments.stages import DETECTION, read_detection
from divtrain.experiments.surrogates import parse_recipe
from divtrain.files import read_sealed_json, read_tensors, write_sealed_json, write_tensors

SMALL = ExperimentConfig(
    preset="digits",
    data=DataConfig(name="digits", train_size=160, test_size=30, shift=1),
    model=ModelConfig(members=("conv3", "conv3")),
    train=TrainConfig(epochs=1, batch_size=40, noise=0.2, save_every=0.0),
    attack=AttackConfig(names=("fgsm",), eps=(0.3,), white_box=("fgsm",)),
    detection=DetectionConfig(images=20),
    targets=("base", "detector"),
    accelerator="cpu",
)


class Stop(Progress):
    """Stops in the middle of detector's detection."""

    def update(self, stage: str, done: int, total: int, detail: str) -> None:
        if stage == "detection-detector-s0" and done == 3:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped once, with a set of the user's beside the noise."""
    folder = tmp_path_factory.mktemp("detection")
    images = np.random.default_rng(0).integers(0, 100, (30, 8, 8), dtype=np.uint8)
    labels = np.arange(30) % 2
    np.savez(folder / "set.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    against = ("noise", str(folder / "set.npz"))
    config = replace(SMALL, detection=replace(SMALL.detection, against=against))
    with pytest.raises(KeyboardInterrupt):
        run_experiment(config, folder / "run", Stop())
    parts = sorted((folder / "run/stages/detection-detector-s0").glob("part-*"))
    assert len(parts) == 3
    before = parts[0].stat().st_mtime_ns

    class Look(Progress):
        def update(self, stage: str, done: int, total: int, detail: str) -> None:
            if stage == "detection-detector-s0" and done == 1:
                assert parts[0].stat().st_mtime_ns == before  # taken up, not made again

    run_experiment(config, folder / "run", Look())
    return folder / "run"


def test_a_run_writes_tables_and_a_figure(run: Path) -> None:
    text = (run / "detection.md").read_text()
    for part in ("| noise † | all | detector |", "| noise | all | base |", "| set.npz | all |",
                 "transfer, eps 0.3, all attacks", "white-box, eps 0.3, all attacks"):  # fmt: skip
        assert part in text
    assert (run / "detection.csv").read_text().startswith("threat,inputs,eps")
    assert (run / "figures/detection.png").stat().st_size > 10_000
    first = {name: (run / name).read_bytes() for name in ("detection.md", "detection.csv")}
    rewrite_summary(RunDirectory(run))
    assert {name: (run / name).read_bytes() for name in first} == first


def test_scores_are_those_of_the_checkpoint_at_the_crafted_images(run: Path) -> None:
    scored = {
        (each.kind.threat, each.kind.name): each
        for each in read_detection(run / "stages/detection-detector-s0" / DETECTION)
    }
    assert {threat for threat, _ in scored} == {"clean", "outside", "transfer", "white-box"}
    ens, about = dt.load_ensemble(run / "stages/train-detector-s0/ensemble.safetensors")
    assert about["outside"] == "UniformNoise()"
    test = open_dataset(SMALL.data).test
    own, _ = read_tensors(run / "stages/craft-detector-fgsm-0.3-s0/crafted.safetensors")
    whole, answer = detection_scores(ens, own["x_adv"])
    _, clean = detection_scores(ens, test.x)
    found = scored["white-box", "fgsm"]
    # 20 of the 30 images, in an order of the seed's: as many scores, all among those of all.
    assert len(found.scores["disagreement"]) == 20
    expected = sorted(whole["disagreement"].tolist())
    for value in found.scores["disagreement"].tolist():
        assert min(abs(value - other) for other in expected) < 1e-6
    assert found.fooled is not None
    assert int(found.fooled.sum()) <= int(((clean == test.y) & (answer != test.y)).sum())
    assert scored["clean", "clean"].fooled is None
    trained = {each.trained_outside for each in scored.values()}
    assert trained == {"noise"}


@pytest.mark.parametrize("what", ["range", "nan", "shape", "mask", "missing", "kind"])
def test_damaged_scores_are_told(run: Path, tmp_path: Path, what: str) -> None:
    tensors, about = read_tensors(run / "stages/detection-base-s0" / DETECTION)
    write_tensors(tmp_path / DETECTION, tensors, about)
    read_detection(tmp_path / DETECTION)
    if what == "range":
        tensors["1 scores"][0, 0] = 1.5
    elif what == "nan":
        tensors["1 scores"][1, 3] = torch.nan
    elif what == "shape":
        tensors["2 scores"] = tensors["2 scores"][:, :-1]
    elif what == "mask":
        tensors["3 right"] = tensors["3 right"].long()
    elif what == "missing":
        del tensors["3 right"]
    else:
        about["kinds"][1]["threat"] = "inside"
    write_tensors(tmp_path / DETECTION, tensors, about)
    with pytest.raises(DamagedFileError):
        read_detection(tmp_path / DETECTION)


def keys(config: ExperimentConfig) -> dict[str, str]:
    common = {"data": "digits", "fingerprint": "f", "device": "cpu"}
    return {stage.name: stage.key for stage in experiment_graph(config, common)}


def test_detection_leaves_the_keys_of_all_other_stages_alone() -> None:
    without = replace(SMALL, detection=DetectionConfig(), targets=("base", "div"))
    plain, detecting = keys(without), keys(replace(SMALL, targets=("base", "div", "detector")))
    assert {name: detecting[name] for name in plain} == plain
    more = {name for name in detecting if name not in plain and "detector" not in name}
    assert more == {"detection-base-s0", "detection-div-s0"}


def test_the_key_of_detector_tells_what_it_was_trained_on_and_others_do_not() -> None:
    smooth = replace(SMALL, train=replace(SMALL.train, outside="smooth"))
    one, other = keys(SMALL), keys(smooth)
    different = {name for name in one if one[name] != other[name]}
    assert different == {name for name in one if "detector" in name}


def test_a_run_of_before_goes_on(run: Path) -> None:
    """Its config.json lacks the new fields; stages that were there are taken up."""
    config = read_sealed_json(run / CONFIG)
    old = {n: v for n, v in config.items() if not n.startswith("detection") and "outside" not in n}
    assert len(config) - len(old) == 4
    write_sealed_json(run / CONFIG, old)
    RunDirectory(run).check(flatten(SMALL))
    write_sealed_json(run / CONFIG, config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"detection": DetectionConfig(images=-1)}, "--detection.images >= 0"),
        ({"detection": DetectionConfig(images=31)}, "at most the 30 test images"),
        ({"detection": DetectionConfig(20, ("noise", "noise"))}, "each of --detection.against"),
        ({"detection": DetectionConfig(20, targets=("dive",))}, "in --detection.targets, got dive"),
        ({"model": ModelConfig(members=("conv3", "resnet20"))}, "detector does not go with resnet"),
        ({"train": replace(SMALL.train, batch_size=1)}, "detector needs --train.batch-size >= 2"),
        ({"train": replace(SMALL.train, batch_size=42, devices=2)}, "21 of the 42 images"),
    ],
)
def test_what_cannot_be_done_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(dt.DivtrainError, match=message):
        check_config(replace(SMALL, **change))  # pyright: ignore


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(SMALL, train=replace(SMALL.train, outside="nose")), "did you mean 'noise'"),
        (replace(SMALL, train=replace(SMALL.train, outside="digits")), "the data set itself"),
        (replace(SMALL, detection=DetectionConfig(20, ("no.npz",))), "no file at no.npz"),
        (
            replace(
                SMALL, data=replace(SMALL.data, test_size=None), detection=DetectionConfig(501)
            ),
            "at most the 500 test images",
        ),
        (
            replace(
                SMALL,
                data=replace(SMALL.data, held_out=9, test_size=None),
                gaas=GaasConfig(images=10),
            ),
            "--gaas.images of at most the 9 held-out training images",
        ),
        (
            replace(SMALL, detection=DetectionConfig(5, targets=("base", "bse"))),
            "in --detection.targets 'bse'.*did you mean 'base'",
        ),
    ],
)
def test_images_from_outside_are_looked_at_before_anything_is_computed(
    config: ExperimentConfig, message: str, tmp_path: Path
) -> None:
    with pytest.raises(dt.DivtrainError, match=message):
        run_experiment(config, tmp_path / "run", Progress())
    assert not (tmp_path / "run").exists()


def test_a_sweep_leaves_it_out(tmp_path: Path) -> None:
    with pytest.raises(dt.DivtrainError, match="a sweep leaves detection out"):
        run_sweep(SMALL, SweepConfig(gal_weight=(0.0, 1.0)), tmp_path, Progress())


def test_detector_as_a_surrogate_is_checked_and_told_apart() -> None:
    model, train = SMALL.model, SMALL.train
    with pytest.raises(dt.DivtrainError, match="asks for detector with one member"):
        parse_recipe("detector,single", None, model, train, 0)
    with pytest.raises(dt.DivtrainError, match="does not go with resnet20"):
        parse_recipe("own,model=resnet20", "detector", model, train, 0)
    test = open_dataset(SMALL.data).test
    names = {
        outside: [
            _surrogate(
                parse_recipe(word, None, model, replace(train, outside=outside), 0),
                SMALL.data, test, {},
            ).name
            for word in ("base", "detector")
        ]
        for outside in ("noise", "smooth")
    }  # fmt: skip
    assert names["noise"][0] == names["smooth"][0]
    assert names["noise"][1] != names["smooth"][1]


def test_the_config_travels_through_json(tmp_path: Path) -> None:
    from divtrain.experiments.config import unflatten

    assert unflatten(json.loads(json.dumps(flatten(SMALL)))) == SMALL
