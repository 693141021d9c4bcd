"""One directory, one writer: refused, joined, recovered."""

import json
import os
import re
import shutil
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest

import divtrain as dt
from divtrain.experiments import Progress, RunDirectory, run_experiment, train_ensembles
from divtrain.experiments.lock import Lock
from divtrain.experiments.runner import ExperimentBlueprint
from experiments.small import SMALL, records, result, start, until


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by one process."""
    out = tmp_path_factory.mktemp("joining") / "run"
    run_experiment(SMALL, out, Progress())
    return out


class Waiting(Progress):
    """Notes what is waited for, and lets it go on."""

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


def test_a_second_process_is_refused_by_host_and_pid_and_a_dead_one_is_forgotten(
    whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    first = start(out)
    until((out / "stages/train-base-s0/key").exists, first)
    first.send_signal(signal.SIGSTOP)  # it lives, and holds what it holds
    who = rf"process {first.pid} on {re.escape(socket.gethostname())} since 20\d\d-\d\d-\d\d"
    with pytest.raises(dt.DivtrainError, match=rf"in use by {who} .*--join"):
        run_experiment(SMALL, out, Progress())
    second = start(out)
    _, told = second.communicate()
    assert second.returncode == 2
    assert f"process {first.pid} on" in " ".join(told.split())
    assert "Traceback" not in told
    first.kill()
    first.communicate()
    run_experiment(SMALL, out, Progress())
    assert result(out) == result(whole)
    assert not list((out / "locks").glob("process-*"))


def test_several_processes_share_the_stages_and_end_with_the_same_report(
    whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    crew = [start(out, "--join", "--train.epochs=1") for _ in range(3)]
    told = [process.communicate() for process in crew]
    assert [process.returncode for process in crew] == [0, 0, 0], told
    assert len({stdout for stdout, _ in told}) == 1
    stages = [stage for stage, _ in begun(out)]
    assert sorted(stages) == sorted(folder.name for folder in (whole / "stages").iterdir())
    assert result(out) == result(whole)
    assert (out / "table.md").read_bytes() == (whole / "table.md").read_bytes()


def test_who_joins_takes_the_stages_of_one_that_is_killed(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = start(out)
    until((out / "stages/train-base-s0/key").exists, first)
    first.send_signal(signal.SIGSTOP)
    second = start(out, "--join")
    until(lambda: len({process for _, process in begun(out)}) == 2, second)
    assert second.poll() is None
    first.kill()
    first.communicate()
    _, told = second.communicate()
    assert second.returncode == 0, told
    both = dict.fromkeys(process for _, process in begun(out))
    assert list(both) == [str(first.pid), str(second.pid)]
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
    assert [stage for stage, _ in watch.waited] == ["train-base-s0"]
    assert f"process {os.getpid()} on {socket.gethostname()}" in watch.waited[0][1]
    assert watch.began == ["train-base-s0"]
    assert f"wait  train-base-s0, which process {os.getpid()} on" in (out / "log.txt").read_text()
    assert result(out) == result(whole)


def test_a_note_of_a_pid_that_lives_again_holds_nothing(whole: Path, tmp_path: Path) -> None:
    """What counts is the kernel's lock: pid 1 is always there, and this note is not its."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    note = {"host": socket.gethostname(), "pid": 1, "since": "2026-01-01 00:00:00"}
    for name in ("process-somewhere-1-abc", "stage-train-base-s0", "door"):
        (out / "locks" / f"{name}.lock").touch()
        (out / "locks" / f"{name}.json").write_text(json.dumps(note))
    shutil.rmtree(out / "stages/train-base-s0")
    run_experiment(SMALL, out, Progress())
    assert result(out) == result(whole)
    assert not list((out / "locks").glob("process-*"))


def test_joining_another_graph_is_refused_and_changes_nothing(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    directory = RunDirectory(out)
    stages = ExperimentBlueprint(SMALL).build().stages
    before = (out / "stages.json").read_bytes()
    with directory.entered(directory.read_config(), stages):
        with pytest.raises(dt.DivtrainError, match="another graph, without this stage .*-s1"):
            run_experiment(replace(SMALL, seeds=2), out, Progress(), join=True)
        (folder,) = train_ensembles(SMALL, ["div"], out, Progress(), join=True)  # a part of it
        assert folder.name == "train-div-s0"
        with pytest.raises(dt.DivtrainError, match="in use by"):
            run_experiment(SMALL, out, Progress())
    assert (out / "stages.json").read_bytes() == before
    run_experiment(replace(SMALL, seeds=2), out, Progress(), join=True)  # nobody is there now
    assert {row["seed"] for row in records(out)} == {0, 1}


def test_a_folder_that_cannot_be_locked_is_explained(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "door.lock").mkdir()
    with pytest.raises(dt.DivtrainError, match=r"cannot write .*door.lock"):
        run_experiment(SMALL, tmp_path, Progress())
