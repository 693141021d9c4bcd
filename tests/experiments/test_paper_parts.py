"""Parts of the paper alone: the stages they need and no others, kept by the whole run."""

from dataclasses import replace
from pathlib import Path

import pytest

import divtrain as dt
from divtrain.experiments import (
    PRESETS,
    ExperimentConfig,
    Progress,
    RunDirectory,
    run_experiment,
    write_reports,
)
from divtrain.experiments.analyses import PICTURES
from divtrain.experiments.blueprints import RunBlueprint
from divtrain.experiments.config import DetectionConfig
from divtrain.experiments.graph import experiment_graph, select_parts
from divtrain.experiments.stage import Stage
from experiments.small import COMMON, FULL, SMALL, Watching, result

PARTS = ("table2", "coherence", "gaas", "detection")


def select(config: ExperimentConfig, *parts: str) -> list[Stage]:
    return select_parts(experiment_graph(config, COMMON), parts, config.analyses)


def test_what_each_part_leaves_out_and_all_together_are_the_whole_graph() -> None:
    config = replace(PRESETS["cifar10-conv4"](), detection=DetectionConfig(images=5))
    found = {part: select(config, part) for part in PARTS}
    for stages in found.values():
        names = [stage.name for stage in stages]
        for place, stage in enumerate(stages):
            assert {each.name for each in stage.inputs} <= set(names[:place])
    kinds = {part: {stage.kind for stage in stages} for part, stages in found.items()}
    assert kinds == {
        "table2": {"train", "attack", "diagnose", "evaluate"},
        "coherence": {"train", "coherence"},
        "gaas": {"train", "gaas"},
        "detection": {"train", "attack", "detection"},
    }
    trained = [stage.name for stage in found["coherence"] if stage.kind == "train"]
    assert not any("surrogate" in name for name in trained)
    assert any("static" in name for name in trained)  # adv needs it
    everything = [stage.name for stage in select(config, *PARTS, *PICTURES)]
    assert everything == [stage.name for stage in experiment_graph(config, COMMON)]


@pytest.mark.parametrize(
    ("part", "message"),
    [("gaas", "`only` gaas .*--gaas.images N"), ("zeros", "`only` zeros .*--slope"),
     ("tabel2", "unknown part of the paper in `only` 'tabel2'.*'table2'"), ("div", "unknown part")],
)  # fmt: skip
def test_what_is_not_there_is_refused_before_the_data_is_opened(
    tmp_path: Path, part: str, message: str
) -> None:
    nowhere = replace(SMALL, data=replace(SMALL.data, name="none.npz"))
    with pytest.raises(dt.DivtrainError, match=message):
        run_experiment(nowhere, tmp_path / "run", Progress(), parts=[part])
    assert not (tmp_path / "run").exists()


def test_the_whole_run_goes_on_from_its_parts_and_ends_the_same(
    small: Path, tmp_path: Path
) -> None:
    out, watch = tmp_path / "run", Watching()
    part = run_experiment(SMALL, out, watch, parts=["coherence"])
    assert watch.kinds == {"train", "coherence"}
    names = {file.name for file in part.files}
    assert names == {"coherence.png", "training.png", "report.html", "report.md"}
    assert write_reports(RunDirectory(out)).reports == part.reports
    watch = Watching()
    run_experiment(SMALL, out, watch, parts=["table2"])
    assert watch.kinds == {"train", "attack", "diagnose", "evaluate"}
    assert sum(name.startswith("train") for name in watch.began) == 1  # the surrogate
    assert not (out / "figures/coherence.png").exists()
    watch = Watching()
    run_experiment(SMALL, out, watch)
    assert not watch.began  # all is there
    assert result(out) == result(small)
    assert (out / "table.csv").read_bytes() == (small / "table.csv").read_bytes()


def test_a_report_has_no_files_that_only_an_earlier_command_asked_for(run: Path) -> None:
    (run / "mine.txt").write_text("notes")
    run_experiment(SMALL, run, Progress())
    for name in ("gaas.csv", "figures/gaas.png", "detection.csv", "table2.csv"):
        assert not (run / name).exists()
    assert (run / "mine.txt").exists()
    assert (run / "stages/gaas-div-s0/manifest.json").exists()


def test_a_command_reports_its_own_stages_whatever_began_in_its_directory_since(run: Path) -> None:
    directory, own = RunDirectory(run), RunBlueprint(FULL)
    stages, command, before = own.build().stages, directory.command(), write_reports(directory)
    later = RunBlueprint(replace(FULL, seed=7))
    directory.open(later, later.build().stages)
    with pytest.raises(dt.DivtrainError, match="nothing in .* has been evaluated yet"):
        write_reports(directory)
    assert write_reports(directory, own, stages, command).reports == before.reports
