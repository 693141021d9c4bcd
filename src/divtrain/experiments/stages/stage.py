"""A node of the graph of an experiment, and what it works with.

A stage is named, configured and fed by other stages; its key is the hash of all that determines
its result. It reads its inputs' files and writes its own, nothing else.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from divtrain.data import Dataset
from divtrain.ensemble import Ensemble
from divtrain.errors import DivtrainError
from divtrain.evaluation.parts import PART
from divtrain.training import load_ensemble

if TYPE_CHECKING:
    from lightning_fabric import Fabric

ENSEMBLE = "ensemble.safetensors"
"""Where a stage that yields an ensemble keeps it."""

SCRATCH = ("training-state", PART, "processes")
"""How the names of files begin that let a stage resume, or say why it could not; the run directory
removes them when the stage is written down as done, not before: whatever comes between loses
nothing."""

OnProgress = Callable[[int, int, str], None]
"""Called with (done, total, a few words on how it goes)."""


def _no_log(line: str) -> None:
    del line


@dataclass(frozen=True)
class Context:
    """What a stage works with.

    Attributes:
        dataset: Training and test images, subsets already drawn.
        accelerator: Device, in Fabric's words.
        folder: The stage's own folder.
        inputs: The folders of its inputs, by stage name.
        on_progress: For showing progress.
        log: Writes a line to the run's log.
    """

    dataset: Dataset
    accelerator: str
    folder: Path
    inputs: dict[str, Path]
    on_progress: OnProgress
    log: Callable[[str], None] = _no_log

    def fabric(self, precision: str = "fp32", devices: int = 1) -> "Fabric":
        """Return the device with a precision; of several that share the work, this process's."""
        return open_fabric(self.accelerator, precision, devices)

    def load(self, stage: "Stage") -> nn.Module:
        """Return the model that an input stage yields, on the device."""
        if stage.model is not None:
            return stage.model.to(self.fabric().device)
        return self.load_ensemble(stage)

    def load_ensemble(self, stage: "Stage") -> Ensemble:
        """Load the ensemble that an input stage trained, on the device, laid out for speed."""
        return load_trained(self.inputs[stage.name], self.fabric().device)


@dataclass(frozen=True)
class Stage:
    """One node of the graph.

    Attributes:
        name: Names its folder; unique in a graph.
        config: All that determines its result beside its inputs; JSON-able.
        inputs: Stages whose files it reads.
        work: Does it.
        model: What it yields, where that is there already instead of in a file.
        devices: How many processes do it together, a device each.
    """

    name: str
    config: dict[str, Any]
    inputs: tuple["Stage", ...]
    work: Callable[[Context], None]
    model: nn.Module | None = None
    devices: int = 1

    @cached_property
    def key(self) -> str:
        """Hash of name, config and the keys of the inputs."""
        parts = [self.name, self.config, [stage.key for stage in self.inputs]]
        text = json.dumps(parts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def load_trained(folder: Path, device: torch.device) -> Ensemble:
    """Load the ensemble that the stage of a folder trained, on a device, laid out for speed."""
    ens, _ = load_ensemble(folder / ENSEMBLE)
    ens.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return ens.to(device)


def open_fabric(accelerator: str, precision: str = "fp32", devices: int = 1) -> "Fabric":
    """Return a device, in Fabric's words, with a precision, in ours.

    With several devices, each process that torchrun started is to open one, and launch it.

    Raises:
        DivtrainError: when this machine has no such device, or not so many.
    """
    from lightning_fabric import Fabric  # here: it takes longer to import than torch
    from lightning_fabric.strategies.ddp import DDPStrategy
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    words = {"fp32": "32-true", "bf16": "bf16-mixed"}
    several: dict[str, Any] = {}
    if devices > 1:
        # Processes wait for the first one's stages, which may take long.
        strategy = DDPStrategy(timeout=timedelta(days=30))
        several = {"strategy": strategy, "num_nodes": int(os.environ["GROUP_WORLD_SIZE"])}
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
    try:
        kind: Any = words[precision]
        return Fabric(accelerator=accelerator, devices=devices, precision=kind, **several)
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        many = f"{devices} times " if devices > 1 else ""
        fewer = "lower --train.devices, or " if devices > 1 else ""
        raise DivtrainError(
            f"this machine cannot compute {many}on --accelerator {accelerator}; {fewer}leave it out"
            " for what is here, `divtrain doctor` tells"
        ) from error
