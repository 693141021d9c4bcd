"""Whole experiments, small: run, kill, resume, refuse."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest

import divtrain as dt
from divtrain.experiments import (
    Progress,
    RunDirectory,
    rewrite_summary,
    run_experiment,
    train_ensembles,
)
from divtrain.experiments.stages import Stage
from experiments.small import SMALL, records, start, until


class Watching(Progress):
    """Notes which stages ran; optionally stops in one."""

    def __init__(self, stop_in: str = "nowhere"):
        self.began: list[str] = []
        self.stop_in = stop_in

    def begin(self, stage: str) -> None:
        self.began.append(stage)

    def update(self, stage: str, done: int, total: int, detail: str) -> None:
        if stage.startswith(self.stop_in):
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run_experiment(SMALL, out, Progress())
    return out


def test_a_run_leaves_config_log_checkpoints_records_tables_and_figures(whole: Path) -> None:
    for name in (
        "config.json", "log.txt", "records.jsonl", "table.md", "table.csv",
        "figures/accuracy.png", "figures/coherence.png",
        "stages/train-div-s0/ensemble.safetensors", "stages/train-div-s0/history.jsonl",
        "stages/transfer-div-s0/masks.safetensors",
    ):  # fmt: skip
        assert (whole / name).stat().st_size > 0, name
    assert not list(whole.rglob("training-state*"))
    ens, about = dt.load_ensemble(whole / "stages/train-div-s0/ensemble.safetensors")
    assert len(ens) == 2
    assert (about["defence"], about["seed"], about["data"]) == ("div", 0, "digits")
    assert about["model"]["activation"] == "leaky_relu"
    assert about["terms"] == [
        "CrossEntropy(weight=1.0)",
        "GradientAlignment(weight=0.5, temperature=1.0, every=1, part=1.0)",
    ]
    assert about["versions"]["torch"]


def test_records_agree_with_the_masks_and_count_all_images(whole: Path) -> None:
    from divtrain.files import read_tensors

    rows = records(whole)
    assert {row["images"] for row in rows} == {30}
    for target in ("base", "div"):
        masks, _ = read_tensors(whole / f"stages/transfer-{target}-s0/masks.safetensors")
        for eps in (0.1, 0.3):
            both = masks["clean"] & masks[f"fgsm {eps:g}"] & masks[f"pgdcw {eps:g}"]
            wanted = {"target": target, "attack": "worst", "eps": eps, "threat": "transfer"}
            (worst,) = [row for row in rows if wanted.items() <= row.items()]
            assert worst["correct"] == int(both.sum())
            assert worst["accuracy"] == int(both.sum()) / 30


def test_who_knows_the_weights_is_never_the_weaker_adversary(whole: Path) -> None:
    """Transferred examples count in the white-box worst case."""
    worst = {
        (row["target"], row["eps"], row["threat"]): row["correct"]
        for row in records(whole)
        if row["attack"] == "worst"
    }
    for target in ("base", "div"):
        for eps in (0.1, 0.3):
            assert worst[target, eps, "white-box"] <= worst[target, eps, "transfer"]  # pyright: ignore


def test_a_second_run_computes_nothing(whole: Path) -> None:
    watch = Watching()
    run_experiment(SMALL, whole, watch)
    assert watch.began == []


@pytest.mark.parametrize(
    "stop_in", ["train-surrogate", "train-div", "craft-surrogate", "transfer-div"]
)
def test_a_run_stopped_in_any_kind_of_stage_ends_with_the_same_records(
    whole: Path, tmp_path: Path, stop_in: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_experiment(SMALL, tmp_path / "run", Watching(stop_in))
    watch = Watching()
    run_experiment(SMALL, tmp_path / "run", watch)
    assert watch.began[0].startswith(stop_in)
    assert records(tmp_path / "run") == records(whole)


def test_a_process_killed_in_training_and_in_the_attack_ends_with_the_same_records(
    whole: Path, tmp_path: Path
) -> None:
    """SIGKILL, from outside, at whatever instant it falls."""
    out = tmp_path / "run"
    for sign in ("train-div-s0/training-state.safetensors", "craft-surrogate-pgdcw-0.3-s0/key"):
        process = start(out)
        until((out / "stages" / sign).exists, process)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        process.communicate()
    assert not (out / "records.jsonl").exists()
    process = start(out)
    told = process.communicate()
    assert process.returncode == 0, told
    assert records(out) == records(whole)


def test_a_damaged_artefact_is_made_again_and_not_trusted(whole: Path, tmp_path: Path) -> None:
    import shutil

    out = tmp_path / "run"
    shutil.copytree(whole, out)
    file = out / "stages/craft-surrogate-fgsm-0.1-s0/crafted.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    watch = Watching()
    run_experiment(SMALL, out, watch)
    assert watch.began == ["craft-surrogate-fgsm-0.1-s0"]
    assert records(out) == records(whole)


def test_another_config_on_the_same_directory_is_refused_naming_the_fields(whole: Path) -> None:
    other = replace(SMALL, train=replace(SMALL.train, epochs=3), seed=1)
    with pytest.raises(dt.DivtrainError, match=r"--train.epochs is 3 now, was 1.*--seed is 1 now"):
        run_experiment(other, whole, Progress())


def test_more_seeds_and_targets_reuse_what_is_there(whole: Path, tmp_path: Path) -> None:
    import shutil

    out = tmp_path / "run"
    shutil.copytree(whole, out)
    watch = Watching()
    summary = run_experiment(replace(SMALL, seeds=2), out, watch)
    assert watch.began
    assert all(name.endswith("-s1") for name in watch.began)
    assert all(row.seeds == 2 and row.cells["fgsm"].deviation is not None for row in summary.rows)
    first = [row for row in records(out) if row["seed"] == 0]
    assert first == records(whole)


def test_other_attacks_and_radii_reuse_what_was_trained_and_crafted(
    whole: Path, tmp_path: Path
) -> None:
    import shutil

    out = tmp_path / "run"
    shutil.copytree(whole, out)
    watch = Watching()
    other = replace(SMALL.attack, names=("fgsm", "reversed"), eps=(0.1, 0.2))
    run_experiment(replace(SMALL, attack=other), out, watch)
    assert {name for name in watch.began if name.startswith("craft-surrogate")} == {
        "craft-surrogate-fgsm-0.2-s0", "craft-surrogate-reversed-0.1-s0",
        "craft-surrogate-reversed-0.2-s0",
    }  # fmt: skip
    assert not any(name.startswith("train") for name in watch.began)
    found = {(row["target"], row["attack"], row["eps"]) for row in records(out)}
    assert ("div", "reversed", 0.2) in found
    assert not any(attack == "pgdcw" or eps == 0.3 for _, attack, eps in found)
    same = [row for row in records(whole) if (row["attack"], row["eps"]) == ("fgsm", 0.1)]
    assert all(row in records(out) for row in same)
    run_experiment(SMALL, out, Progress())
    assert records(out) == records(whole)


def test_training_alone_is_taken_up_by_the_run(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    (folder,) = train_ensembles(SMALL, ["div"], out, Progress())
    assert (folder / "ensemble.safetensors").exists()
    watch = Watching()
    run_experiment(SMALL, out, watch)
    assert "train-div-s0" not in watch.began
    assert records(out) == records(whole)


def test_a_report_can_be_written_again_from_the_directory_alone(whole: Path) -> None:
    table, log = (whole / "table.md").read_text(), records(whole)
    (whole / "table.md").unlink()
    rewrite_summary(RunDirectory(whole))
    assert (whole / "table.md").read_text() == table
    assert records(whole) == log


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(dt.DivtrainError, match="no run at"):
        rewrite_summary(RunDirectory(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        run_experiment(SMALL, tmp_path / "run", Watching("train-surrogate"))
    with pytest.raises(dt.DivtrainError, match="nothing in .* has been evaluated yet"):
        rewrite_summary(RunDirectory(tmp_path / "run"))


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(dt.DivtrainError, match="not empty and holds no run"):
        run_experiment(SMALL, tmp_path, Progress())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_place_of_the_run_directory_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(dt.DivtrainError, match="choose another"):
        run_experiment(SMALL, tmp_path / "file" / "run", Progress())


def test_a_full_disk_keeps_what_was_computed(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    real, out = os.fsync, tmp_path / "run"

    def full(handle: int) -> None:
        if (out / "stages/craft-surrogate-fgsm-0.3-s0").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            dt.DivtrainError, match="disk is full; free some space and run the same"
        ):
            run_experiment(SMALL, out, Progress())
    watch = Watching()
    run_experiment(SMALL, out, watch)
    assert watch.began[0] == "craft-surrogate-fgsm-0.3-s0"
    assert records(out) == records(whole)


def test_sizes_beyond_the_data_are_refused(tmp_path: Path) -> None:
    big = replace(SMALL, data=replace(SMALL.data, train_size=2000))
    with pytest.raises(dt.DivtrainError, match="--data.train-size: .* 1 to 1297 images, got 2000"):
        run_experiment(big, tmp_path / "run", Progress())
    assert not (tmp_path / "run").exists()


def test_a_report_leaves_out_what_an_earlier_command_computed_otherwise(tmp_path: Path) -> None:
    def stage(value: int) -> Stage:
        return Stage("coherence-base-s0", {"value": value}, (), lambda context: None)

    directory, first, second = RunDirectory(tmp_path / "run"), stage(1), stage(2)
    directory.enter({"preset": "x"}, [first])
    directory.begin(first)
    directory.finish(first, 1.0)
    assert directory.finished() == [directory.folder(first)]
    directory.enter({"preset": "x"}, [second])
    assert not directory.is_done(second)
    assert directory.finished() == []
