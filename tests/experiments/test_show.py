"""Pictures of finished runs, and two runs compared."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import divtrain as dt
from divtrain.experiments import (
    DataConfig,
    Progress,
    RunDirectory,
    compare_runs,
    run_experiment,
    show_run,
    train_ensembles,
    write_as,
)
from divtrain.experiments.stages.evaluate import read_evaluation
from divtrain.experiments.stages.examples import read_pictures
from divtrain.experiments.stages.gradients import read_gradients
from divtrain.experiments.stages.plane import read_planes
from experiments.small import SMALL, Watching, ensemble, finished, result

DRAWN = replace(SMALL, pictures=3)
PICTURES = {"gradients", "examples-transfer", "examples-white-box", "plane"}


@pytest.fixture(scope="module")
def small(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run of `SMALL`, with pictures."""
    out = tmp_path_factory.mktemp("drawn") / "run"
    shutil.copytree(small, out)
    run_experiment(DRAWN, out, Progress())
    return out


def test_a_run_computes_its_pictures_from_its_own_models_and_attacks(small: Path) -> None:
    (gradients,) = map(read_gradients, finished(small, "gradients"))
    (examples,) = map(read_pictures, finished(small, "examples"))
    (plane,) = finished(small, "plane")
    assert list(gradients.maps) == ["base", "div"]
    assert len(gradients.labels) == len({*gradients.labels}) == DRAWN.pictures == 3
    ens = ensemble(small, "div").eval()
    wanted = dt.input_gradients(ens, gradients.x, torch.tensor(gradients.labels))
    assert gradients.maps["div"].flatten(2).allclose(wanted, atol=1e-6)
    assert [(a.threat, a.source, a.attack, a.eps) for a in examples.attacks] == [
        (threat, source, attack, eps)
        for threat, source, attack in (
            ("transfer", "base", "fgsm"),
            ("white-box", "base", "fgsm"),
            ("white-box", "div", "fgsm"),
        )
        for eps in SMALL.attack.eps
    ]  # fmt: skip
    for attacked in examples.attacks:
        assert (attacked.x_adv - examples.x).abs().max() <= attacked.eps + 1e-6
        answers = ens(attacked.x_adv).argmax(1).tolist()
        assert attacked.answers["div"].labels == answers
    by_target = {each.target: each for each in map(read_evaluation, finished(small, "evaluate"))}
    (run, *_) = [run for run in by_target["div"].runs("transfer", 0.1) if run.attack == "fgsm"]
    right = {name: each.results[run].correct for name, each in by_target.items()}
    counts = {(e.loser, e.keeper): e.count for e in examples.exchanged}
    assert counts == {
        (loser, keeper): int((~right[loser] & right[keeper]).sum())
        for loser, keeper in (("base", "div"), ("div", "base"))
    }
    image, planes = read_planes(plane)
    assert image.equal(gradients.x[0])
    assert planes["div"].cosine == pytest.approx(gradients.largest("div")[0], abs=1e-4)
    assert all((small / f"figures/{name}.png").stat().st_size < 500_000 for name in PICTURES)
    assert (small / "report.html").stat().st_size < 2_000_000


def test_none_are_drawn_where_none_are_asked_for_and_one_target_is_enough(tmp_path: Path) -> None:
    alone = replace(SMALL, targets=("div",), seeds=2)
    out, watch = tmp_path / "run", Watching()
    run_experiment(alone, out, watch)
    assert not watch.kinds & {"gradients", "examples", "plane"}
    watch = Watching()
    run_experiment(replace(alone, pictures=1), out, watch)
    assert watch.kinds == {"gradients", "examples", "plane"}
    assert len(watch.began) == 3  # of the first seed alone
    assert "examples-exchanged" not in {f.stem for f in (out / "figures").iterdir()}


def test_show_draws_without_training_also_what_other_code_has_made(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(small, tmp_path / "run")
    before, config = result(out), (out / "config.json").read_bytes()
    monkeypatch.setattr("divtrain.experiments.stage.code_digest", lambda *_, **__: "other")
    watch = Watching()
    written = show_run(out, 2, watch)
    assert watch.kinds == {"gradients", "examples", "plane"}
    assert (result(out), (out / "config.json").read_bytes()) == (before, config)
    assert {path.stem for path in written.files} >= PICTURES
    assert {path.parent for path in written.files} <= {out / "show", out / "show/figures"}
    text = (out / "show/show.html").read_text()
    assert f"divtrain show {out} --images 2" in text
    assert "at 2 images" in text


def test_what_was_only_trained_has_no_attacks_to_draw(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train_ensembles(SMALL, ["base", "div"], out, Progress())
    (report,) = show_run(out, 1, Progress()).reports
    assert [figure.name for figure in report.figures] == ["gradients", "plane"]
    (notice,) = report.notices
    assert notice.items[0][0] == "examples"
    assert "attack-" in notice.items[0][1]
    shutil.rmtree(out / "stages/train-div-s0")
    with pytest.raises(dt.DivtrainError, match="can be drawn yet: .*needs train-div-s0"):
        show_run(out, 1, Progress())
    with pytest.raises(dt.DivtrainError, match="no run at"):
        show_run(tmp_path / "nowhere", 1, Progress())


def test_show_refuses_damaged_files(small: Path, tmp_path: Path) -> None:
    out = shutil.copytree(small, tmp_path / "run")
    file = out / "stages/train-div-s0/ensemble.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(dt.DivtrainError, match="is damaged"):
        show_run(out, 1, Progress())


def test_two_runs_are_compared_on_the_same_images(small: Path, tmp_path: Path) -> None:
    other = replace(SMALL, train=replace(SMALL.train, epochs=2))
    run_experiment(other, tmp_path / "run", Progress())
    report = compare_runs(small, tmp_path / "run")
    assert "--train.epochs: 1 in the first, 2 in the second" in report.lead
    (table,) = report.sections[0].tables
    rows = {(r[0].text, r[1].text, r[2].text): r[3:] for r in table.rows}
    assert len(rows) == 2 * (1 + 2 * 2)
    evaluations = [
        {e.target: e for e in map(read_evaluation, finished(run, "evaluate"))}
        for run in (small, tmp_path / "run")
    ]
    for target in ("base", "div"):
        for threat in ("transfer", "white-box"):
            first, second = (
                next(100 * r.accuracy for r in each[target].records()
                     if (r.threat, r.eps, r.attack) == (threat, 0.1, "worst"))
                for each in evaluations
            )  # fmt: skip
            one, two, difference = rows[threat, "0.1", target]
            assert (one.text, two.text) == (f"{first:.1f}", f"{second:.1f}")
            assert difference.text == f"{second - first:+.1f}"
            low, high = map(float, difference.note.strip("[]").split(","))
            assert low <= second - first <= high
            assert difference.strong == (low > 0 or high < 0)
    same = compare_runs(small, small)
    assert {row[5].text for row in same.sections[0].tables[0].rows} == {"+0.0"}


def test_runs_on_other_images_are_not_compared(small: Path, tmp_path: Path) -> None:
    few = replace(SMALL, data=replace(SMALL.data, test_size=20), targets=("base",))
    run_experiment(few, tmp_path / "run", Progress())
    with pytest.raises(dt.DivtrainError, match="evaluated on different images"):
        compare_runs(small, tmp_path / "run")


def test_a_file_that_has_changed_is_other_images(tmp_path: Path) -> None:
    file, pixels = tmp_path / "mine.npz", np.random.default_rng(0)
    for out in ("one", "other"):
        x, y = pixels.random((60, 8, 8)), np.arange(60) % 3
        np.savez(file, x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])
        data = DataConfig(name=str(file))
        attack = replace(SMALL.attack, transfer=("fgsm",), white_box=())
        config = replace(SMALL, data=data, targets=("base",), attack=attack)
        run_experiment(config, tmp_path / out, Progress())
    with pytest.raises(dt.DivtrainError, match="evaluated on different images"):
        compare_runs(tmp_path / "one", tmp_path / "other")


def test_a_run_is_written_in_other_formats(small: Path) -> None:
    directory = RunDirectory(small)
    assert write_as(directory, "csv") == (small / "table.csv").read_text()
    found = json.loads(write_as(directory, "json"))
    assert found["title"] == "digits"
    assert "\\toprule" in write_as(directory, "latex")
