"""A small experiment, as a config and as a command, and what of a run must not differ."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import divtrain as dt
from divtrain.experiments import (
    AttackConfig,
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    TrainConfig,
)

SMALL = ExperimentConfig(
    preset="digits",
    data=DataConfig(name="digits", train_size=160, test_size=30, shift=1),
    model=ModelConfig(members=("conv3", "conv3")),
    train=TrainConfig(epochs=1, batch_size=40, noise=0.2, save_every=0.0),
    attack=AttackConfig(names=("fgsm", "pgdcw"), eps=(0.1, 0.3), white_box=("fgsm",)),
    targets=("base", "div"),
    accelerator="cpu",
)
LIMIT = 900.0
"""Seconds that only what hangs takes."""
FLAGS = [
    "--data.train-size=160", "--data.test-size=30", "--model.members", "conv3", "conv3",
    "--train.epochs=1", "--train.batch-size=40", "--train.learning-rate=1e-3",
    "--train.schedule=constant", "--train.precision=fp32", "--train.save-every=0",
    "--attack.names", "fgsm", "pgdcw", "--attack.eps", "0.1", "0.3",
    "--attack.white-box", "fgsm", "--targets", "base", "div", "--accelerator=cpu",
]  # fmt: skip
"""`SMALL` as flags of ``divtrain run digits``."""


def start(out: Path, *more: str) -> subprocess.Popen[str]:
    """Start ``divtrain run`` of `SMALL` in a process of its own."""
    command = [sys.executable, "-m", "divtrain", "run", "digits", f"--out={out}", *FLAGS, *more]
    pipe = subprocess.PIPE
    # As many threads as the tests have: with others the last bits of a sum may differ.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)


def until(happens: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Wait for something; fail when the process ends before, or after `LIMIT` seconds."""
    deadline = time.monotonic() + LIMIT
    while not happens():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def alive(folder: Path) -> dict[int, str]:
    """Commands, by process id, of the running processes that work in a folder."""
    listed = subprocess.run(
        ["ps", "-axww", "-o", "pid=,stat=,command="], capture_output=True, text=True, check=True
    )
    rows = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
    return {int(pid): command for pid, state, command in rows
            if str(folder) in command and not state.startswith("Z")}  # fmt: skip


def weights(run: Path, target: str) -> torch.Tensor:
    """All weights of a trained target, in a row."""
    ens, _ = dt.load_ensemble(run / f"stages/train-{target}-s0/ensemble.safetensors")
    return torch.cat([parameter.detach().flatten() for parameter in ens.parameters()])


def records(out: Path) -> list[dict[str, object]]:
    """What a run measured."""
    return [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]


def result(out: Path) -> dict[str, bytes]:
    """Everything that a run's stages computed, byte for byte, by file; times are left out."""
    found: dict[str, bytes] = {}
    for file in sorted((out / "stages").glob("*/*")):
        if file.name == "history.jsonl":
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            kept = [{n: v for n, v in row.items() if n != "seconds"} for row in rows]
            found[f"{file.parent.name}/{file.name}"] = json.dumps(kept).encode()
        elif file.name != "manifest.json":
            found[f"{file.parent.name}/{file.name}"] = file.read_bytes()
    return found
