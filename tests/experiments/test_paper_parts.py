"""Parts of the paper alone: the stages they need and no others, kept by the whole run."""

from dataclasses import replace
from pathlib import Path

import pytest

import divtrain as dt
from divtrain.cli import main
from divtrain.experiments import (
    PRESETS,
    RunDirectory,
    rewrite_summary,
    run_experiment,
    train_ensembles,
)
from divtrain.experiments.config import DetectionConfig, ExperimentConfig, GaasConfig
from divtrain.experiments.graph import experiment_graph
from divtrain.experiments.paper_parts import PARTS, only_parts, parts_of
from divtrain.experiments.progress import Progress
from experiments.small import FLAGS, SMALL, result

Captured = pytest.CaptureFixture[str]
COMMON = {"data": "x", "fingerprint": "0", "device": "cpu"}


class Noting(Progress):
    """Notes which stages began."""

    def __init__(self) -> None:
        self.began: list[str] = []

    def begin(self, stage: str) -> None:
        self.began.append(stage)


def kinds(names: list[str]) -> set[str]:
    return {name.split("-")[0] for name in names}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("part", PARTS)
def test_a_part_has_its_stages_with_their_inputs_in_order(preset: str, part: str) -> None:
    stages = experiment_graph(PRESETS[preset](), COMMON)
    if not PARTS[part].included(PRESETS[preset]()):
        with pytest.raises(dt.DivtrainError, match=rf"--only {part} .*--{part}.images N"):
            only_parts(stages, [part])
        return
    kept = only_parts(stages, [part])
    places = [stages.index(stage) for stage in kept]
    assert places == sorted(places)
    names = [stage.name for stage in kept]
    for stage in kept:
        assert {each.name for each in stage.inputs} <= set(names)
    own = [s.name for s in stages if s.name.startswith(PARTS[part].kinds)]
    assert [name for name in names if name.startswith(PARTS[part].kinds)] == own
    needed = {each.name for stage in kept for each in stage.inputs}
    assert set(names) == needed | set(own)  # and nothing else


def everything() -> ExperimentConfig:
    return replace(PRESETS["cifar10-conv4"](), detection=DetectionConfig(images=5))


def test_what_each_part_leaves_out() -> None:
    stages = experiment_graph(everything(), COMMON)
    names = {part: [stage.name for stage in only_parts(stages, [part])] for part in PARTS}
    assert kinds(names["table2"]) == {"train", "craft", "transfer", "white"}
    assert kinds(names["coherence"]) == {"train", "coherence"}
    assert "train-surrogate-s0" not in names["coherence"]
    assert "train-static-s0" in names["coherence"]  # adv needs it
    assert kinds(names["detection"]) == {"train", "craft", "detection"}
    looked_at = ("base-s0", "base+noise-s0", "div-s0")
    assert names["gaas"] == [f"{kind}-{each}" for kind in ("train", "gaas") for each in looked_at]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_run_of_everything_includes_the_parts_that_its_graph_has(preset: str) -> None:
    config = PRESETS[preset]()
    others = GaasConfig(images=5, targets=("adv", "x"))
    unusual = DetectionConfig(images=5, targets=("div", "detector"))
    for changed in (config, replace(config, gaas=others), replace(config, detection=unusual)):
        names = [stage.name for stage in experiment_graph(changed, COMMON)]
        assert [n for n, part in PARTS.items() if part.included(changed)] == parts_of(names)


def test_all_parts_together_are_the_whole_graph() -> None:
    stages = experiment_graph(everything(), COMMON)
    assert only_parts(stages, PARTS) == stages
    assert parts_of(stage.name for stage in stages) == list(PARTS)
    assert parts_of(["train-div-s0", "coherence-div-s0"]) == ["coherence"]


def test_what_is_not_there_is_refused_before_the_data_is_opened(tmp_path: Path) -> None:
    nowhere = replace(SMALL, data=replace(SMALL.data, name="none.npz"))
    with pytest.raises(dt.DivtrainError, match="--only gaas .*--gaas.images N"):
        run_experiment(nowhere, tmp_path / "run", Progress(), parts=["gaas"])
    with pytest.raises(dt.DivtrainError, match="unknown part in --only 'tabel2'.*'table2'"):
        run_experiment(nowhere, tmp_path / "run", Progress(), parts=["tabel2"])
    elsewhere = replace(SMALL, targets=("base",), gaas=GaasConfig(images=5, targets=("div",)))
    with pytest.raises(dt.DivtrainError, match="--gaas.targets"):
        run_experiment(elsewhere, tmp_path / "run", Progress(), parts=["gaas"])
    with pytest.raises(dt.DivtrainError, match="got the target div; give --targets div, or"):
        run_experiment(nowhere, tmp_path / "run", Progress(), parts=["div"])
    many = replace(SMALL, gaas=GaasConfig(images=5))
    with pytest.raises(dt.DivtrainError, match="--gaas.orders of at most 64, .* got 100"):
        run_experiment(many, tmp_path / "run", Progress())
    assert not (tmp_path / "run").exists()


def test_the_whole_run_goes_on_from_a_part_and_ends_the_same(tmp_path: Path) -> None:
    out, noted = tmp_path / "run", Noting()
    part = run_experiment(SMALL, out, noted, parts=["coherence"])
    assert kinds(noted.began) == {"train", "coherence"}
    assert [file.name for file in part.files] == ["coherence.png", "report.html"]
    assert not part.rows
    assert set(part.results.coherence) == {"base", "div"}
    again = rewrite_summary(RunDirectory(out))
    assert (again.results.coherence, again.files) == (part.results.coherence, part.files)

    table = Noting()
    run_experiment(SMALL, out, table, parts=["table2"])
    assert kinds(table.began) == {"train", "craft", "transfer", "white"}
    assert [name for name in table.began if name.startswith("train")] == ["train-surrogate-s0"]
    rest = Noting()
    run_experiment(SMALL, out, rest)
    assert rest.began == []
    whole = tmp_path / "whole"
    run_experiment(SMALL, whole, Progress())
    assert result(out) == result(whole)
    assert (out / "table.md").read_text() == (whole / "table.md").read_text()


def test_training_alone_leaves_the_report_of_what_was_measured(tmp_path: Path) -> None:
    """Unless it trained anew what was measured: that is to be measured again."""
    config, out = replace(SMALL, targets=("base", "adv")), tmp_path / "run"
    rows = run_experiment(config, out, Progress()).rows
    train_ensembles(config, ["adv"], out, Progress())
    assert rewrite_summary(RunDirectory(out)).rows == rows
    other = replace(config, train=replace(config.train, adv_step="step_ll"))
    train_ensembles(other, ["adv"], out, Progress())
    with pytest.raises(dt.DivtrainError, match="nothing in .* has been evaluated yet"):
        rewrite_summary(RunDirectory(out))


def test_a_whole_run_removes_report_files_that_only_an_earlier_command_asked_for(
    tmp_path: Path,
) -> None:
    out, found = tmp_path / "run", GaasConfig(images=2, orders=(4,), eps=(0.1,))
    run_experiment(replace(SMALL, gaas=found), out, Progress())
    assert {"gaas.jsonl", "table.md"} <= {file.name for file in out.iterdir()}
    run_experiment(SMALL, out, Progress(), parts=["coherence"])  # a part leaves the rest alone
    assert (out / "gaas.jsonl").exists()
    run_experiment(SMALL, out, Progress())
    assert not (out / "gaas.jsonl").exists()
    assert not (out / "figures/gaas.png").exists()
    assert (out / "stages/gaas-div-s0/manifest.json").exists()
    again = Noting()
    run_experiment(replace(SMALL, gaas=found), out, again)
    assert again.began == []
    assert (out / "gaas.jsonl").exists()


def test_only_is_an_option_and_the_report_shows_the_same(tmp_path: Path, capsys: Captured) -> None:
    out = f"--out={tmp_path / 'run'}"
    gaas = ["--gaas.images=2", "--gaas.orders", "4", "--gaas.eps", "0.1"]
    assert main(["run", "digits", out, *FLAGS, *gaas, "--only", "coherence", "gaas"]) == 0
    first = capsys.readouterr().out
    assert "Coherence (Eq. 7)" in first
    assert "of 2)" in first
    assert "FGSM" not in first
    assert main(["report", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == first
    assert "--only coherence gaas" in (tmp_path / "run/report.html").read_text()
