"""The command line under torchrun: the processes train together, and the first does the rest."""

import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import divtrain as dt
from divtrain.experiments import (
    Progress,
    WorkOptions,
    run_experiment,
    torchrun,
)
from experiments.small import LIMIT, STATE, THREE, alive, flags, result, start, until, weights

pytestmark = pytest.mark.usefixtures("children_end")

MEMBERS = replace(THREE, train=replace(THREE.train, strategy="members"))
TWO = "--standalone --nproc-per-node 2"


def told(process: "subprocess.Popen[str]") -> str:
    """What a process says until it ends."""
    return "".join(process.communicate(timeout=LIMIT))


def test_two_nodes_make_the_run_of_one_process(
    tmp_path: Path, alone: Path, rounding: float
) -> None:
    """Two torchruns as on two machines, with a process each; every stage is done, once."""
    out = tmp_path / "run"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = f"--nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:{port}"
    nodes = [start(f"--out={out}", config=THREE, launcher=where) for _ in range(2)]
    said = [told(node) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert sum(f"run directory: {out}" in text for text in said) == 1
    log = (out / "log.txt").read_text()
    assert log.count("begin train-div-s0") == 1
    expected = weights(alone, "div")
    assert (weights(out, "div") - expected).norm() <= 3 * rounding < 0.1 * expected.norm()
    ours, theirs = ((run / "records.jsonl").read_text().splitlines() for run in (out, alone))
    assert len(ours) == len(theirs) > 0
    assert result(out).keys() == result(alone).keys()


def test_a_stopped_torchrun_saves_its_state_and_one_process_resumes(
    tmp_path: Path, alone: Path, rounding: float
) -> None:
    """By members; the one static net of adv is trained by the first process alone."""
    out = tmp_path / "run"
    started = start(f"--out={out}", config=MEMBERS, launcher=TWO)
    state = out / "stages/train-div-s0" / STATE
    until(state.exists, started)
    started.send_signal(signal.SIGTERM)
    said = told(started)
    assert started.returncode != 0
    assert said.count("the same command") == 1, said
    assert state.exists()
    assert "stopped in train-div-s0" in (out / "log.txt").read_text()
    run_experiment(THREE, out, Progress())
    expected = weights(alone, "div")
    assert (weights(out, "div") - expected).norm() <= 3 * rounding
    (static,) = (file for file in result(alone) if re.match("train-static.*/ensemble", file))
    assert result(out)[static] == result(alone)[static]


@pytest.mark.parametrize(
    ("word", "message"),
    [("--train.epochs=0", "--train.epochs: expected greater"),
     ("--train.learning-rate=1e38", "training diverged")],
)  # fmt: skip
def test_what_fails_is_told_once_and_all_end(tmp_path: Path, word: str, message: str) -> None:
    words = ["--only=div", word, f"--out={tmp_path / 'run'}"]
    started = start(*words, config=THREE, launcher=TWO, command="train")
    said = told(started)
    assert started.returncode != 0
    assert said.count(message) == 1, said
    assert "rank 1 on" not in said
    assert not alive(tmp_path)


def test_a_process_that_fails_where_the_first_does_not_says_so(tmp_path: Path) -> None:
    """As on a machine without the data: the first waits for it, and ends with it."""
    code = (
        "import os, sys; from divtrain import DivtrainError, cli\n"
        "from divtrain.experiments.blueprints import run\n"
        "def no_data(config): raise DivtrainError('there is no data here')\n"
        "if os.environ['RANK'] == '1': run.open_dataset = no_data\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    torchrun = [sys.executable, "-m", "torch.distributed.run", *TWO.split(), str(script)]
    command = [*torchrun, "run", "digits", *flags(THREE), f"--out={tmp_path / 'run'}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert ended.returncode != 0
    assert ended.stderr.count("there is no data here") == 1
    assert f"rank 1 on {socket.gethostname()}: " in ended.stderr
    assert not (tmp_path / "run").exists()


@pytest.fixture
def as_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("as_under_torchrun")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"devices": 4}, "1 or the 2 processes that torchrun started, got 4"),
        ({"batch_size": 41}, "expected a `train.batch_size` that 2 devices divide, got 41"),
    ],
)
def test_what_the_processes_cannot_share_is_refused(
    tmp_path: Path, change: dict, message: str
) -> None:
    config = replace(THREE, train=replace(THREE.train, **change))
    with pytest.raises(dt.DivtrainError, match=message):
        run_experiment(config, tmp_path / "run", Progress())
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("as_under_torchrun")
def test_restarts_by_torchrun_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(dt.DivtrainError, match="without --max-restarts"):
        run_experiment(THREE, tmp_path / "run", Progress())
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("as_under_torchrun")
@pytest.mark.parametrize("status", [0, 2, 130])
def test_of_several_processes_one_is_heard(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: int
) -> None:
    """Another one only with why it failed, and if it still lives by then."""

    def command() -> int:
        print("a table")
        print("error: a mistake", file=sys.stderr)
        return status

    waited: list[float] = []
    monkeypatch.setattr(torchrun.time, "sleep", waited.append)
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert torchrun.speak_once(command) == status
    output = capsys.readouterr()
    assert output.out == "a table\n"
    assert output.err.count("error: a mistake") == (2 if status == 2 else 1)
    assert waited == {0: [], 2: [torchrun.LAST_WORDS], 130: [1]}[status]


@pytest.mark.usefixtures("as_under_torchrun")
def test_ray_under_torchrun_is_refused() -> None:
    with pytest.raises(dt.DivtrainError, match="does not go with torchrun"):
        WorkOptions(executor="ray").choose()


def test_a_world_size_of_something_else_is_of_no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "7")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert dt.training.torchrun_processes() == 1
    assert "TORCHELASTIC_RUN_ID" not in os.environ
