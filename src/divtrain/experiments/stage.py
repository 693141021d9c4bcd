"""A node of an experiment's graph, and the context it runs in.

A stage is described by data: its kind, the model it is about, a seed, a spec, and the stages it
reads from. Its key is the hash of these and of the code behind it, so a result is reused
exactly where all of that is the same. A stage reads its inputs' files and writes its own, nothing
else.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from divtrain.data import Dataset
from divtrain.ensemble import Ensemble
from divtrain.experiments.batch_cache import BatchCache
from divtrain.experiments.devices import open_fabric
from divtrain.identity import code_digest, key_of
from divtrain.training import load_ensemble

if TYPE_CHECKING:
    from lightning_fabric import Fabric

ENSEMBLE = "ensemble.safetensors"
"""Where a stage that yields an ensemble keeps it."""

OWN_SEED = "own_seed"
"""What a training's spec calls the seed of all that it draws, initial weights first."""

OnProgress = Callable[[int, int, str], None]
"""Called with (done, total, a few words on how it goes; at the end: what was found)."""


@dataclass(frozen=True)
class Stage:
    """One node of the graph.

    Attributes:
        kind: What it does: ``train``, ``pretrained``, ``diagnose``, ``attack``, ``evaluate``, or
            the name of an analysis.
        target: What its result is about, as reports call it, e.g. ``div``.
        seed: Seed of the experiment.
        spec: All that determines its result beside its inputs; JSON-able.
        inputs: Stages whose files it reads.
        work: Does it.
        code: Modules whose code, with all that they import from their package, determines its
            result; the module of `work` itself counts too.
        detail: Tells it from other stages of its kind, target and seed; a part of its name only.
        model: What it yields, where that is in memory already instead of in a file.
        devices: How many processes do it together, one device each.
    """

    kind: str
    target: str
    seed: int
    spec: Mapping[str, Any]
    inputs: tuple["Stage", ...]
    work: Callable[["Context"], None]
    code: tuple[str, ...] = ()
    detail: str = ""
    model: nn.Module | None = None
    devices: int = 1

    @cached_property
    def name(self) -> str:
        """Names its folder; unique in a graph."""
        words = [self.kind, self.target, self.detail, f"s{self.seed}"]
        return file_name("-".join(word for word in words if word))

    @cached_property
    def key(self) -> str:
        """Hash of all that determines the result."""
        inputs = [stage.key for stage in self.inputs]
        return stage_key(self.kind, self.target, self.seed, self.spec, self.code_digest, inputs)

    @property
    def code_digest(self) -> str:
        """Digest of the code that the stage uses."""
        return code_digest(self.code, alone=[self.work.__module__])


@dataclass(frozen=True)
class Context:
    """The context of a running stage.

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
    inputs: Mapping[str, Path]
    on_progress: OnProgress
    log: Callable[[str], None]

    @property
    def cache(self) -> BatchCache:
        """Cache of results per batch until the stage is done."""
        return BatchCache(self.folder)

    def fabric(self, precision: str = "fp32", devices: int = 1) -> "Fabric":
        """Return the device with a precision; of several that share the work, this process's."""
        return open_fabric(self.accelerator, precision, devices)

    def file(self, stage: Stage, name: str) -> Path:
        """Return a file of an input stage."""
        return self.inputs[stage.name] / name

    def load(self, stage: Stage) -> nn.Module:
        """Return the model that an input stage yields, on the device."""
        if stage.model is not None:
            return stage.model.to(self.fabric().device)
        return self.load_ensemble(stage)

    def load_ensemble(self, stage: Stage) -> Ensemble:
        """Load the ensemble that an input stage trained, on the device."""
        return load_trained(self.inputs[stage.name], self.fabric().device)


def stage_key(
    kind: str, target: str, seed: int, spec: Mapping[str, Any], code: str, inputs: Sequence[str]
) -> str:
    """Return the key of a stage from its spec, its code's digest and its inputs' keys."""
    return key_of([kind, target, seed, dict(spec), code, list(inputs)])


def load_trained(folder: Path, device: torch.device) -> Ensemble:
    """Load the ensemble that the stage of a folder trained, on a device, channels last."""
    ens, _ = load_ensemble(folder / ENSEMBLE)
    ens.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return ens.to(device)


def file_name(text: str) -> str:
    """Return a name that can be part of a file's name everywhere."""
    return re.sub(r"[^\w.+=-]", "-", text)


@dataclass(frozen=True)
class Graph:
    """Stages, each after its inputs, and the data they share.

    Attributes:
        stages: The stages; inputs come first.
        dataset: Training and test images, subsets already drawn.
        accelerator: Device, in Fabric's words.
    """

    stages: list[Stage]
    dataset: Dataset
    accelerator: str
