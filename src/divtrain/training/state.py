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

FORMAT = "divtrain-training-state-2"

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
        counts: How many steps since the epoch began logged it.
        seconds: Time spent since the epoch began.
    """

    steps: int
    step: int = 0
    history: History = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
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
            self.counts[name] = self.counts.get(name, 0) + 1
        self.seconds += time.monotonic() - started

    def means(self) -> dict[str, float]:
        """Means of everything logged since the epoch began."""
        return {name: total / self.counts[name] for name, total in self.sums.items()}

    def end_epoch(self, learning_rate: float) -> None:
        """Turn the running means into a row of the history, and begin anew."""
        row = {"epoch": len(self.history) + 1, "step": self.step, "learning_rate": learning_rate}
        self.history.append(row | self.means() | {"seconds": round(self.seconds, 2)})
        self.sums, self.counts, self.seconds = {}, {}, 0.0


def save_state(
    path: Path,
    ens: Ensemble,
    optimizer: torch.optim.Optimizer,
    state: TrainingState,
    recipe: dict[str, str],
) -> None:
    """Save weights, optimiser, torch's CPU generator and position to one safetensors file.

    `recipe` says what is being trained and how, so that no other run takes the state up.
    """
    tensors = {f"model.{name}": tensor for name, tensor in ens.state_dict().items()}
    tensors["random.cpu"] = torch.get_rng_state()
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in slots.items()}
    write_tensors(path, tensors, {"format": FORMAT, "recipe": recipe, "state": asdict(state)})


def load_state(
    path: Path, ens: Ensemble, optimizer: torch.optim.Optimizer, recipe: dict[str, str]
) -> TrainingState:
    """Load what `save_state` saved into the ensemble, the optimiser and torch's CPU generator.

    Raises:
        DivtrainError: when the file is damaged, or of another recipe or architecture.
    """
    tensors, about = read_tensors(path)
    advice = f"delete {path} to train from the beginning"
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise DivtrainError(f"{path} is not a training state; {advice}")
    different = [n for n in recipe if about.get("recipe", {}).get(n) != recipe[n]]
    if different:
        name = different[0]
        found = about.get("recipe", {}).get(name, "nothing")
        raise DivtrainError(
            f"{path} belongs to another run: its {name} is {found}, this one's is {recipe[name]};"
            f" {advice}"
        )
    state = TrainingState(**about["state"])
    generator = tensors.pop("random.cpu")
    weights, slots = _split(tensors)
    shapes = {name: t.shape for name, t in ens.state_dict().items()}
    if shapes != {name: t.shape for name, t in weights.items()}:
        raise DivtrainError(f"{path} belongs to an ensemble of another architecture; {advice}")
    ens.load_state_dict(weights)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": slots, "param_groups": groups})
    for parameter, own in optimizer.state.items():
        for name, slot in own.items():
            if slot.shape == parameter.shape:
                # In the parameter's memory layout: fused Adam walks both side by side.
                own[name] = torch.empty_like(parameter).copy_(slot)
    torch.set_rng_state(generator)
    return state


def _split(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[int, dict[str, Any]]]:
    """Part weights from the optimiser's slots, by parameter."""
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
