"""Several processes on one directory: each stage done once, waited for by name, taken over."""

import json
import os
import re
import shutil
import signal
import socket
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import divtrain as dt
from divtrain.experiments import Progress, RunDirectory, run_directory, run_experiment
from divtrain.experiments.lock import Lock
from divtrain.experiments.runner import ExperimentBlueprint
from divtrain.files import make_folder
from experiments.small import LIMIT, SMALL, records, result, start, until

pytestmark = pytest.mark.usefixtures("children_end")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by one process."""
    out = tmp_path_factory.mktemp("joining") / "run"
    run_experiment(SMALL, out, Progress())
    return out


class Waiting(Progress):
    """Notes what is waited for, and releases it."""

    def __init__(self, claim: Lock):
        self.claim = claim
        self.waited: list[tuple[str, str]] = []
        self.began: list[str] = []

    def begin(self, stage: str) -> None:
        self.began.append(stage)

    def waiting(self, stage: str, holder: str) -> None:
        self.waited.append((stage, holder))
        self.claim.release()


def begun(out: Path) -> list[tuple[str, str]]:
    """Stage and process of each beginning in the log."""
    return re.findall(r"begin (\S+) in process (\d+)", (out / "log.txt").read_text())


def test_two_processes_started_at_once_share_the_stages_and_end_with_the_same_report(
    whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    both = [start(out) for _ in range(2)]
    told = [process.communicate(timeout=LIMIT) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert told[0][0] == told[1][0]
    every_stage_once = Counter(folder.name for folder in (whole / "stages").iterdir())
    assert Counter(stage for stage, _ in begun(out)) == every_stage_once
    assert result(out) == result(whole)
    assert (out / "table.md").read_bytes() == (whole / "table.md").read_bytes()


def test_a_second_process_takes_the_stage_of_one_that_is_killed(
    whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    first = start(out)
    until((out / "stages/train-base-s0/key").exists, first)
    first.send_signal(signal.SIGSTOP)  # it lives, and holds what it holds
    second, log = start(out), out / "log.txt"
    until(lambda: "wait  train-base-s0" in log.read_text(), second)
    first.kill()
    first.communicate()
    _, told = second.communicate(timeout=LIMIT)
    assert second.returncode == 0, told
    who = rf"process {first.pid} on {re.escape(socket.gethostname())} since 20\d\d-\d\d-\d\d"
    assert re.search(rf"wait  train-base-s0, which {who}", log.read_text())
    takers = [process for stage, process in begun(out) if stage == "train-base-s0"]
    assert takers == [str(first.pid), str(second.pid)]
    assert result(out) == result(whole)


def test_a_stage_that_another_process_has_is_waited_for_by_name(
    whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "stages/train-base-s0")
    claim = Lock(out / "locks", "stage-train-base-s0")
    assert claim.take()
    watch = Waiting(claim)
    run_experiment(SMALL, out, watch)
    ((stage, holder),) = watch.waited
    assert stage == "train-base-s0"
    assert f"process {os.getpid()} on {socket.gethostname()}" in holder
    assert watch.began == ["train-base-s0"]
    assert result(out) == result(whole)


def test_a_note_of_a_pid_that_lives_again_holds_nothing(whole: Path, tmp_path: Path) -> None:
    """What counts is the kernel's lock: pid 1 is always there, and this note is not its."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    note = {"host": socket.gethostname(), "pid": 1, "since": "2026-01-01 00:00:00"}
    for name in ("stage-train-base-s0", "config"):
        (out / "locks" / f"{name}.lock").touch()
        (out / "locks" / f"{name}.json").write_text(json.dumps(note))
    shutil.rmtree(out / "stages/train-base-s0")
    run_experiment(SMALL, out, Progress())
    assert result(out) == result(whole)


def test_a_command_whose_input_another_one_replaces_ends_and_keeps_nothing_of_it(
    whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    directory = RunDirectory(out)
    stages = {stage.name: stage for stage in ExperimentBlueprint(SMALL).build().stages}

    class Replacing(Progress):
        """Another command that has trained base with other values meanwhile."""

        def begin(self, stage: str) -> None:
            trained = stages["train-base-s0"]
            directory.begin(replace(trained, config={**trained.config, "epochs": 7}))
            made = "stages/train-base-s0/ensemble.safetensors"
            shutil.copy(whole / made, out / made)

    shutil.rmtree(out / "stages/coherence-base-s0")
    with pytest.raises(dt.DivtrainError, match=r"train-base-s0 was begun anew by another command"):
        run_experiment(SMALL, out, Replacing())
    assert not (out / "stages/coherence-base-s0/manifest.json").exists()
    run_experiment(replace(SMALL, seeds=2), out, Progress())
    assert {row["seed"] for row in records(out)} == {0, 1}


def test_a_folder_that_cannot_be_locked_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_directory, "PATIENCE", 0.1)
    with Lock(make_folder(tmp_path / "locks"), "config").held():
        who = f"process {os.getpid()} on {re.escape(socket.gethostname())}"
        with pytest.raises(dt.DivtrainError, match=rf"is being opened by {who}.*config.lock"):
            run_experiment(SMALL, tmp_path, Progress())
    shutil.rmtree(tmp_path / "locks")
    (tmp_path / "locks" / "config.lock").mkdir(parents=True)
    with pytest.raises(dt.DivtrainError, match=r"cannot write .*config.lock"):
        run_experiment(SMALL, tmp_path, Progress())
