"""A training stage in several processes: stopped, resumed, failed, killed, orphaned."""

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
from divtrain.experiments import Progress, RunDirectory, train_ensembles
from divtrain.experiments.blueprints import RunBlueprint
from divtrain.experiments.executors import find_stage
from divtrain.experiments.launch import FAILURE, OUTPUT, PROGRESS
from experiments import small
from experiments.small import LIMIT, THREE, alive, until, weights

pytestmark = pytest.mark.usefixtures("children_end")

MEMBERS = replace(THREE, train=replace(THREE.train, devices=2, strategy="members"))
FOLDER = "stages/train-div-s0"
STATE = f"{FOLDER}/{small.STATE}"


def start(out: Path, **changes: float) -> "subprocess.Popen[str]":
    """Start ``divtrain train`` of div of `THREE` on two devices."""
    config = replace(MEMBERS, train=replace(MEMBERS.train, **changes))  # pyright: ignore
    return small.start("--only=div", f"--out={out}", config=config, command="train")


def workers(folder: Path) -> list[int]:
    """The processes that torchrun started for a run in a folder."""
    found = alive(folder).items()
    return [pid for pid, command in found if "-u -m divtrain.experiments.worker" in command]


def test_a_run_on_two_devices_is_stopped_and_resumed_with_one(
    tmp_path: Path, alone: Path, rounding: float
) -> None:
    """SIGTERM to the process that was started; the weights are those of a run never stopped.

    Up to rounding, which Adam lets grow: as far as between two ways to sum in one process.
    """
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
    assert left == {"manifest.json", "history.jsonl", "ensemble.safetensors"}
    expected = weights(alone, "div")
    assert (weights(out, "div") - expected).norm() < 2 * rounding < 0.1 * expected.norm()


def test_what_the_processes_raise_is_told_once(tmp_path: Path) -> None:
    started = start(tmp_path / "run", learning_rate=1e38)
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
    started = start(out, save_every=1e9, epochs=400)
    until(lambda: workers(out), started)
    started.send_signal(signal.SIGSTOP)
    until((out / FOLDER / PROGRESS).exists)
    started.kill()
    started.communicate()
    until(lambda: not alive(out))
    assert (out / STATE).exists()


def test_one_device_needs_no_launcher(tmp_path: Path) -> None:
    words = ["digits", "--only=div", *small.flags(THREE), f"--out={tmp_path / 'run'}"]
    code = (
        "import sys; from divtrain.cli import main; status = main(sys.argv[1:])\n"
        "assert 'divtrain.experiments.launch' not in sys.modules\n"
        "assert 'torch.distributed.run' not in sys.modules\n"
        "import torch; assert not torch.distributed.is_initialized(); sys.exit(status)"
    )
    subprocess.run([sys.executable, "-c", code, "train", *words], check=True, timeout=LIMIT)


def test_a_graph_that_a_process_builds_otherwise_is_refused(tmp_path: Path) -> None:
    blueprint, directory = RunBlueprint(THREE), RunDirectory(tmp_path)
    graph = blueprint.build()
    directory.open(blueprint, graph.stages)
    stage = graph.stages[-1]
    assert find_stage(graph, directory, stage.name, stage.key) is stage
    told = f"stage {stage.name} differs on {re.escape(socket.gethostname())}: expected the same div"
    with pytest.raises(dt.DivtrainError, match=told):
        find_stage(graph, directory, stage.name, "another")
