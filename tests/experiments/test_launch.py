"""A training stage in several processes: stopped, gone on with, failed, killed."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import divtrain as dt
from divtrain.experiments import (
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    Progress,
    TrainConfig,
    train_ensembles,
)
from divtrain.experiments.stages.launch import launch
from ranks import note_the_end, second_cannot, second_is_killed
from rounding import batches_back_to_front

SMALL = ExperimentConfig(
    preset="digits",
    data=DataConfig(name="digits", train_size=160, test_size=30, shift=1),
    model=ModelConfig(members=("conv3", "conv3", "conv3")),
    train=TrainConfig(epochs=4, batch_size=40, noise=0.2, save_every=0.0),
    targets=("div",),
    accelerator="cpu",
)


def weights(folder: Path) -> torch.Tensor:
    ens, _ = dt.load_ensemble(folder / "ensemble.safetensors")
    return torch.cat([parameter.detach().flatten() for parameter in ens.parameters()])


def test_a_run_on_two_devices_is_stopped_and_goes_on_with_one(tmp_path: Path) -> None:
    """SIGTERM to the process that was started; the weights are those of a run never stopped.

    Up to rounding, which Adam lets grow: as far as between two ways to sum in one process.
    """
    (whole,) = train_ensembles(SMALL, ["div"], tmp_path / "whole", Progress())
    with batches_back_to_front():
        (rounded,) = train_ensembles(SMALL, ["div"], tmp_path / "rounded", Progress())
    out = tmp_path / "run"
    words = (
        "digits --only div --targets div --accelerator cpu --data.train-size 160"
        " --data.test-size 30 --data.shift 1 --model.members conv3 conv3 conv3 --train.epochs 4"
        " --train.batch-size 40 --train.noise 0.2 --train.save-every 0 --train.learning-rate 1e-3"
        " --train.schedule constant --train.precision fp32 --attack.eps 0.1 0.3"
        " --train.devices 2 --train.strategy members"
    )
    command = [sys.executable, "-m", "divtrain", "train", *words.split(), "--out", str(out)]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    state = out / "stages/train-div-s0/training-state.safetensors"
    deadline = time.monotonic() + 60
    while not state.exists() and started.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    started.send_signal(signal.SIGTERM)
    _, said = started.communicate(timeout=60)
    assert started.returncode == 130, said
    assert "the same command goes on" in said
    assert state.exists()
    assert "stopped in train-div-s0" in (out / "log.txt").read_text()
    (folder,) = train_ensembles(SMALL, ["div"], out, Progress())
    assert not state.exists()
    expected = weights(whole)
    rounding = (weights(rounded) - expected).norm()
    assert (weights(folder) - expected).norm() < 2 * rounding < 0.1 * expected.norm()


def test_processes_leave_their_group_before_they_end(tmp_path: Path) -> None:
    """Gloo's threads would now and then abort them on their way out."""
    launch(partial(note_the_end, tmp_path), 2, "cpu", "fp32", lambda *told: None)
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == ["False", "False"]


def test_what_one_process_raises_is_raised_here_and_the_others_end() -> None:
    seen: list[tuple[int, int, str]] = []
    with pytest.raises(dt.DivtrainError, match="the disk is full"):
        launch(second_cannot, 2, "cpu", "fp32", lambda *told: seen.append(told))
    assert seen == [(1, 2, "half way")]


def test_a_killed_process_ends_the_others_and_is_told() -> None:
    with pytest.raises(dt.DivtrainError, match="rank 1 ended with signal SIGKILL; out of memory"):
        launch(second_is_killed, 2, "cpu", "fp32", lambda *told: None)


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
    config = replace(SMALL, train=replace(SMALL.train, **change))
    with pytest.raises(dt.DivtrainError, match=message):
        train_ensembles(config, ["div"], tmp_path / "run", Progress())
    assert not (tmp_path / "run").exists()
