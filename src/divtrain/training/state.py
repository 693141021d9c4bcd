"""Where a training run stands, and its file: all that is needed to go on as if never stopped."""

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from divtrain.ensemble import Ensemble
from divtrain.errors import DivtrainError
from divtrain.files import read_tensors, write_tensors

FORMAT = "divtrain-training-state-1"

History = list[dict[str, float]]
"""One row an epoch: epoch, step, learning_rate, loss, its parts, accuracy, seconds."""


@dataclass
class TrainingState:
    """Position and log of a run.

    Attributes:
        steps: Steps in all.
        step: Steps done.
        history: A row for each epoch done.
        sums: Sums of everything logged since the epoch began.
        count: Steps since the epoch began.
        seconds: Time spent since the epoch began.
    """

    steps: int
    step: int = 0
    history: History = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0
    seconds: float = 0.0

    def add(self, log: dict[str, Tensor], started: float) -> None:
        """Count a step that began at monotonic time `started`.

        Raises:
            DivtrainError: when anything logged is NaN or infinite.
        """
        values = {name: float(value.detach()) for name, value in log.items()}
        self.step += 1
        if not all(map(math.isfinite, values.values())):
            shown = ", ".join(f"{name} {value:g}" for name, value in values.items())
            raise DivtrainError(
                f"training diverged at step {self.step} of {self.steps} ({shown}); lower the"
                " learning rate (--train.learning-rate) or the weight of the term that is not"
                " finite"
            )
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1
        self.seconds += time.monotonic() - started

    def means(self) -> dict[str, float]:
        """Means of everything logged since the epoch began."""
        return {name: total / self.count for name, total in self.sums.items()}

    def end_epoch(self, learning_rate: float) -> None:
        """Turn the running means into a row of the history, and begin anew."""
        row = {"epoch": len(self.history) + 1, "step": self.step, "learning_rate": learning_rate}
        self.history.append(row | self.means() | {"seconds": round(self.seconds, 2)})
        self.sums, self.count, self.seconds = {}, 0, 0.0


def save_state(
    path: Path, ens: Ensemble, optimizer: torch.optim.Optimizer, state: TrainingState
) -> None:
    """Save weights, optimiser and position to one safetensors file, whole or not at all."""
    tensors = {f"model.{name}": tensor for name, tensor in ens.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in slots.items()}
    write_tensors(path, tensors, {"format": FORMAT, "state": asdict(state)})


def load_state(
    path: Path, ens: Ensemble, optimizer: torch.optim.Optimizer, steps: int
) -> TrainingState:
    """Load what `save_state` saved into the ensemble and the optimiser.

    Raises:
        DivtrainError: when the file is damaged, or of a run of another length or architecture.
    """
    tensors, about = read_tensors(path)
    advice = f"delete {path} to train from the beginning"
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise DivtrainError(f"{path} is not a training state; {advice}")
    state = TrainingState(**about["state"])
    if state.steps != steps:
        raise DivtrainError(
            f"{path} belongs to a run of {state.steps} steps, this one has {steps}; {advice}"
        )
    weights, slots = _split(tensors)
    shapes = {name: t.shape for name, t in ens.state_dict().items()}
    if shapes != {name: t.shape for name, t in weights.items()}:
        raise DivtrainError(f"{path} belongs to an ensemble of another architecture; {advice}")
    ens.load_state_dict(weights)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": slots, "param_groups": groups})
    return state


def _split(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[int, dict[str, Any]]]:
    weights: dict[str, Tensor] = {}
    slots: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        owner, _, rest = name.partition(".")
        if owner == "model":
            weights[rest] = tensor
        else:
            index, _, slot = rest.partition(".")
            slots.setdefault(int(index), {})[slot] = tensor
    return weights, slots
