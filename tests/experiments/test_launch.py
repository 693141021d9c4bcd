"""A training stage in several processes: stopped, resumed, failed, killed, orphaned."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import divtrain as dt
from divtrain.experiments import ModelConfig, Progress, RunDirectory, train_ensembles
from divtrain.experiments.executors import find_stage
from divtrain.experiments.launch import FAILURE, OUTPUT, PROGRESS
from divtrain.experiments.runner import ExperimentBlueprint
from experiments.small import FLAGS, LIMIT, SMALL, alive, until, weights
from rounding import batches_back_to_front

pytestmark = pytest.mark.usefixtures("children_end")

THREE = replace(
    SMALL,
    model=ModelConfig(members=("conv3", "conv3", "conv3")),
    train=replace(SMALL.train, epochs=4),
    targets=("div",),
)
WORDS = [
    "digits", "--only=div", *FLAGS, "--model.members", "conv3", "conv3", "conv3",
    "--train.epochs=4", "--targets", "div",
]  # fmt: skip
"""`THREE`, and its training alone, as words of a command."""
TWO = ("--train.devices=2", "--train.strategy=members")
FOLDER = "stages/train-div-s0"
STATE = f"{FOLDER}/training-state.safetensors"


def start(out: Path, *more: str) -> "subprocess.Popen[str]":
    """Start ``divtrain train`` of `THREE` on two devices."""
    words = [*WORDS, *TWO, *more]
    command = [sys.executable, "-m", "divtrain", "train", *words, "--out", str(out)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def workers(folder: Path) -> list[int]:
    """The processes that torchrun started for a run in a folder."""
    found = alive(folder).items()
    return [pid for pid, command in found if "-u -m divtrain.experiments.worker" in command]


def test_a_run_on_two_devices_is_stopped_and_resumed_with_one(tmp_path: Path) -> None:
    """SIGTERM to the process that was started; the weights are those of a run never stopped.

    Up to rounding, which Adam lets grow: as far as between two ways to sum in one process.
    """
    train_ensembles(THREE, ["div"], tmp_path / "whole", Progress())
    with batches_back_to_front():
        train_ensembles(THREE, ["div"], tmp_path / "rounded", Progress())
    out = tmp_path / "run"
    started = start(out)
    until((out / STATE).exists, started)
    started.send_signal(signal.SIGTERM)
    _, said = started.communicate(timeout=LIMIT)
    assert started.returncode == 130, said
    assert said.count("the same command") == 1
    assert not alive(out)
    assert "stopped in train-div-s0" in (out / "log.txt").read_text()
    (folder,) = train_ensembles(THREE, ["div"], out, Progress())
    left = {file.name for file in folder.iterdir()}
    assert left == {"key", "manifest.json", "history.jsonl", "ensemble.safetensors"}
    expected = weights(tmp_path / "whole", "div")
    rounding = (weights(tmp_path / "rounded", "div") - expected).norm()
    assert (weights(out, "div") - expected).norm() < 2 * rounding < 0.1 * expected.norm()


def test_what_the_processes_raise_is_told_once(tmp_path: Path) -> None:
    started = start(tmp_path / "run", "--train.learning-rate=1e38")
    _, said = started.communicate(timeout=LIMIT)
    assert started.returncode == 2, said
    assert said.count("training diverged at step") == 1
    assert "Traceback" not in said
    assert not alive(tmp_path)
    assert not (tmp_path / "run" / FOLDER / FAILURE).exists()


def test_a_killed_process_ends_the_others_and_is_told(tmp_path: Path) -> None:
    out = tmp_path / "run"
    started = start(out)
    until((out / STATE).exists, started)
    os.kill(workers(out)[-1], signal.SIGKILL)
    _, said = started.communicate(timeout=LIMIT)
    assert started.returncode == 2, said
    assert "out of memory is the usual reason" in said
    assert "SIGKILL" in (out / FOLDER / OUTPUT).read_text()
    assert not alive(out)


def test_processes_whose_parent_is_gone_save_their_state_and_end(tmp_path: Path) -> None:
    out = tmp_path / "run"
    started = start(out, "--train.save-every=1e9", "--train.epochs=400")
    until((out / "log.txt").exists, started)
    started.send_signal(signal.SIGSTOP)
    until((out / FOLDER / PROGRESS).exists)
    started.kill()
    started.communicate()
    until(lambda: not alive(out))
    assert (out / STATE).exists()


def test_one_device_needs_no_launcher(tmp_path: Path) -> None:
    words = [*WORDS, "--train.epochs=1", f"--out={tmp_path / 'run'}"]
    code = (
        "import sys; from divtrain.cli import main; status = main(sys.argv[1:])\n"
        "assert 'divtrain.experiments.launch' not in sys.modules\n"
        "assert 'torch.distributed.run' not in sys.modules\n"
        "import torch; assert not torch.distributed.is_initialized(); sys.exit(status)"
    )
    subprocess.run([sys.executable, "-c", code, "train", *words], check=True, timeout=LIMIT)


def test_a_graph_that_a_process_builds_otherwise_is_refused(tmp_path: Path) -> None:
    graph, directory = ExperimentBlueprint(THREE).build(), RunDirectory(tmp_path)
    directory.enter({}, graph.stages)
    stage = graph.stages[-1]
    assert find_stage(graph, directory, stage.name, stage.key) is stage
    with pytest.raises(dt.DivtrainError, match=f"sees of {stage.name}: expected the same divtrain"):
        find_stage(graph, directory, stage.name, "another")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"devices": 0}, "expected --train.devices >= 1"),
        ({"devices": 3}, "a batch size that 3 devices divide, got 40"),
        ({"devices": 4, "strategy": "members"}, "at most one device a member, got 4 devices for 3"),
    ],
)
def test_devices_that_cannot_share_the_work_are_refused_at_once(
    tmp_path: Path, change: dict, message: str
) -> None:
    config = replace(THREE, train=replace(THREE.train, **change))
    with pytest.raises(dt.DivtrainError, match=message):
        train_ensembles(config, ["div"], tmp_path / "run", Progress())
    assert not (tmp_path / "run").exists()
