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
from divtrain.experiments.blueprints import RunBlueprint
from divtrain.experiments.lock import Lock
from divtrain.files import make_folder
from experiments.small import FULL, LIMIT, SMALL, Watching, names, records, result, start, until

pytestmark = pytest.mark.usefixtures("children_end")


class Waiting(Watching):
    """Notes what is waited for, and releases it."""

    def __init__(self, claim: Lock):
        super().__init__()
        self.claim = claim
        self.waited: list[tuple[str, str]] = []

    def waiting(self, stage: str, holder: str) -> None:
        self.waited.append((stage, holder))
        self.claim.release()


def begun(out: Path) -> list[tuple[str, str]]:
    """Stage and process of each beginning in the log."""
    return re.findall(r"begin (\S+) in process (\d+)", (out / "log.txt").read_text())


def test_two_processes_started_at_once_on_nothing_share_the_stages_and_end_with_the_same_report(
    small: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    both = [start(f"--out={out}") for _ in range(2)]
    told = [process.communicate(timeout=LIMIT) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert told[0][0] == told[1][0]
    assert Counter(stage for stage, _ in begun(out)) == Counter(names(SMALL))
    assert len({process for _, process in begun(out)}) == 2
    assert result(out) == result(small)
    assert records(out) == records(small)
    assert (out / "table.csv").read_bytes() == (small / "table.csv").read_bytes()


def test_a_second_process_takes_the_stage_of_one_that_is_killed(
    small: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    first = start(f"--out={out}")
    until((out / "stages/train-base-s0/manifest.json").exists, first)
    first.send_signal(signal.SIGSTOP)  # it lives, and holds what it holds
    second, log = start(f"--out={out}"), out / "log.txt"
    until(lambda: "wait  train-base-s0" in log.read_text(), second)
    first.kill()
    first.communicate()
    _, told = second.communicate(timeout=LIMIT)
    assert second.returncode == 0, told
    who = rf"process {first.pid} on {re.escape(socket.gethostname())} since 20\d\d-\d\d-\d\d"
    assert re.search(rf"wait  train-base-s0, which {who}", log.read_text())
    takers = [process for stage, process in begun(out) if stage == "train-base-s0"]
    assert takers == [str(first.pid), str(second.pid)]
    assert result(out) == result(small)
    assert records(out) == records(small)


def test_a_stage_that_another_process_has_is_waited_for_by_name(run: Path, full: Path) -> None:
    shutil.rmtree(run / "stages/train-base-s0")
    claim = Lock(run / "locks", "train-base-s0")
    assert claim.take()
    watch = Waiting(claim)
    run_experiment(FULL, run, watch)
    ((stage, holder),) = watch.waited
    assert stage == "train-base-s0"
    assert f"process {os.getpid()} on {socket.gethostname()}" in holder
    assert watch.began == ["train-base-s0"]
    assert result(run) == result(full)


def test_a_note_of_a_pid_that_lives_again_holds_nothing(run: Path, full: Path) -> None:
    """What counts is the kernel's lock: pid 1 is always there, and this note is not its."""
    note = {"host": socket.gethostname(), "pid": 1, "since": "2026-01-01 00:00:00"}
    for name in ("train-base-s0", "plan"):
        (run / "locks" / f"{name}.lock").touch()
        (run / "locks" / f"{name}.json").write_text(json.dumps(note))
    shutil.rmtree(run / "stages/train-base-s0")
    run_experiment(FULL, run, Progress())
    assert result(run) == result(full)


def test_a_command_whose_input_another_one_replaces_ends_and_keeps_nothing_of_it(
    run: Path, full: Path
) -> None:
    directory = RunDirectory(run)
    stages = {stage.name: stage for stage in RunBlueprint(FULL).build().stages}

    class Replacing(Progress):
        """Another command that has trained base with other values meanwhile."""

        def begin(self, stage: str) -> None:
            trained = stages["train-base-s0"]
            directory.begin(replace(trained, spec={**trained.spec, "epochs": 7}))
            made = "stages/train-base-s0/ensemble.safetensors"
            shutil.copy(full / made, run / made)

    shutil.rmtree(run / "stages/coherence-base-s0")
    with pytest.raises(dt.DivtrainError, match=r"train-base-s0 was begun again by another command"):
        run_experiment(FULL, run, Replacing())
    manifest = json.loads((run / "stages/coherence-base-s0/manifest.json").read_text())
    assert manifest["files"] is None
    with pytest.raises(
        dt.DivtrainError, match="trained with other settings: spec.epochs was 7, is now 1"
    ):
        run_experiment(FULL, run, Progress())


def test_a_folder_that_cannot_be_locked_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_directory, "PATIENCE", 0.1)
    with Lock(make_folder(tmp_path / "locks"), "plan").held():
        who = f"process {os.getpid()} on {re.escape(socket.gethostname())}"
        told = rf"has been locked by {who}.* for 0 s; if that process is gone, remove .*plan.lock"
        with pytest.raises(dt.DivtrainError, match=told):
            run_experiment(SMALL, tmp_path, Progress())
    shutil.rmtree(tmp_path / "locks")
    (tmp_path / "locks" / "plan.lock").mkdir(parents=True)
    with pytest.raises(dt.DivtrainError, match=r"cannot write .*plan.lock"):
        run_experiment(SMALL, tmp_path, Progress())
