"""A small experiment, as a config and as a command, and what of a run must not differ."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

import divtrain as dt
from divtrain.evaluation import PAPER_SUITE
from divtrain.experiments import (
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    Progress,
    RunDirectory,
    TrainConfig,
)
from divtrain.experiments.blueprints import RunBlueprint
from divtrain.experiments.config import DetectionConfig, GaasConfig, differences
from divtrain.experiments.manifest import FinishedStage
from divtrain.experiments.presets import digits

SMALL = ExperimentConfig(
    preset="digits",
    data=DataConfig(name="digits", train_size=160, test_size=30, shift=1),
    model=ModelConfig(members=("conv3", "conv3")),
    train=TrainConfig(epochs=1, batch_size=40, noise=0.2, learning_rate=3e-3, save_every=0.0),
    attack=replace(PAPER_SUITE, transfer=("fgsm", "pgdcw"), white_box=("fgsm",)),
    targets=("base", "div"),
    pictures=0,
    accelerator="cpu",
)
"""Without analyses but coherence, and without pictures."""
FULL = replace(
    SMALL,
    gaas=GaasConfig(images=4, orders=(4, 16), eps=(0.1, 0.3), targets=("base", "div")),
    detection=DetectionConfig(images=20, targets=("base", "detector")),
    targets=("base", "div", "detector"),
    surrogates=("base", "div"),
    pictures=3,
    group="Conv3",
)
"""With all that a run may have."""
THREE = replace(
    SMALL,
    model=ModelConfig(members=("conv3", "conv3", "conv3")),
    train=replace(SMALL.train, epochs=3, learning_rate=1e-3),
    attack=replace(PAPER_SUITE, transfer=("fgsm",), eps=(0.1,), white_box=()),
    targets=("div", "adv"),
)
"""For several processes: members that two do not divide, static nets, and little else."""
COMMON = {"data": "digits", "fingerprint": "f", "device": "cpu"}
LIMIT = 900.0
"""Seconds that only what hangs takes."""
STATE = "training-state.safetensors"


class Watching(Progress):
    """Notes which stages began; optionally stops in one, as soon as it has something done."""

    def __init__(self, stop_in: str = "nowhere"):
        self.began: list[str] = []
        self.stop_in = stop_in

    def begin(self, stage: str) -> None:
        self.began.append(stage)

    def update(self, stage: str, done: int, total: int, detail: str) -> None:
        if stage.startswith(self.stop_in):
            raise KeyboardInterrupt

    @property
    def kinds(self) -> set[str]:
        return {name.partition("-")[0] for name in self.began}


def flags(config: ExperimentConfig) -> list[str]:
    """Return what makes ``divtrain run digits`` this experiment."""
    found: list[str] = []
    changed = differences(config, replace(digits(), group=config.group))
    for name, (value, _) in changed.items():
        values = value if isinstance(value, tuple) else (value,)
        found += [f"--{name.replace('_', '-')}", *map(str, values)]
    return found


def start(
    *words: str, config: ExperimentConfig = SMALL, launcher: str = "", command: str = "run"
) -> "subprocess.Popen[str]":
    """Start a ``divtrain`` command on an experiment in a process of its own.

    Args:
        words: Further words of the command.
        config: The experiment.
        launcher: Words for torchrun, which starts the command then.
        command: ``run`` or ``train``.
    """
    torchrun = ["-m", "torch.distributed.run", *launcher.split()] if launcher else []
    line = [sys.executable, *torchrun, "-m", "divtrain", command, "digits", *flags(config), *words]
    pipe = subprocess.PIPE
    # As many threads as the tests have: with others the last bits of a sum may differ.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True, env=environment)


def until(happens: Callable[[], object], process: "subprocess.Popen[str] | None" = None) -> None:
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


def names(config: ExperimentConfig) -> list[str]:
    """Names of an experiment's stages."""
    return [stage.name for stage in RunBlueprint(config).build().stages]


def finished(run: Path, kind: str, target: str = "") -> list[FinishedStage]:
    """Stages of a run that are done, by kind and target."""
    done = RunDirectory(run).finished()
    return [each for each in done if each.kind == kind and target in ("", each.target)]


def ensemble(run: Path, target: str) -> dt.Ensemble:
    """A trained target."""
    return dt.load_ensemble(run / f"stages/train-{target}-s0/ensemble.safetensors")[0]


def weights(run: Path, target: str) -> torch.Tensor:
    """All weights of a trained target, in a row."""
    return torch.cat([each.detach().flatten() for each in ensemble(run, target).parameters()])


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
