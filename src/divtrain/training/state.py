"""Where a training run stands, and its file: all that is needed to go on as if never stopped."""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from divtrain.ensemble import Ensemble
from divtrain.errors import DivtrainError
from divtrain.fields import from_json
from divtrain.files import read_tensors, reading, write_tensors

FORMAT = "divtrain-training-state-2"
MOMENTS = ("exp_avg", "exp_avg_sq")
"""What Adam remembers of each parameter, beside its step."""

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

    def add(self, values: dict[str, float], started: float) -> None:
        """Count a step that began at monotonic time `started`, and what it logged."""
        self.step += 1
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
    path: Path,
    ens: Ensemble,
    optimizer: torch.optim.Optimizer,
    recipe: dict[str, str],
    steps: int,
) -> TrainingState:
    """Load what `save_state` saved into the ensemble, the optimiser and torch's CPU generator.

    Everything is checked first: on an error none of the three is touched.

    Raises:
        DivtrainError: when the file is of another recipe or architecture; `DamagedFileError` when
            it is damaged.
    """
    tensors, about = read_tensors(path)
    advice = f"delete {path} to train from the beginning"
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise DivtrainError(f"{path} is not a training state; {advice}")
    with reading(path):
        found = from_json(dict[str, str], about["recipe"], path)
        state = from_json(TrainingState, about["state"], path)
    different = [name for name in recipe if found.get(name) != recipe[name]]
    if different:
        name = different[0]
        raise DivtrainError(
            f"{path} belongs to another run: its {name} is {found.get(name, 'nothing')}, this"
            f" one's is {recipe[name]}; {advice}"
        )
    with reading(path):
        generator = _check_generator(tensors.pop("random.cpu"))
        weights, slots = _split(tensors)
        _check_position(state, steps)
    expected = {name: (t.dtype, t.shape) for name, t in ens.state_dict().items()}
    if expected != {name: (t.dtype, t.shape) for name, t in weights.items()}:
        raise DivtrainError(f"{path} belongs to an ensemble of another architecture; {advice}")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    with reading(path):
        _check_slots(slots, parameters)
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


def _check_generator(state: Tensor) -> Tensor:
    try:
        torch.Generator().set_state(state)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"it holds no state of torch's generator: {error}") from error
    return state


def _check_position(state: TrainingState, steps: int) -> None:
    if state.steps != steps or not 0 < state.step <= steps:
        raise ValueError(f"step {state.step} of {state.steps} is none of this run's {steps}")
    counted = state.counts.keys() == state.sums.keys() and all(
        0 < count <= state.step for count in state.counts.values()
    )
    if not counted or len(state.history) > state.step:
        raise ValueError("its sums are of no steps")


def _check_slots(slots: dict[int, dict[str, Tensor]], parameters: list[nn.Parameter]) -> None:
    """Check that what Adam remembers is there for every parameter it moved, in its shape."""
    for index, own in slots.items():
        if not 0 <= index < len(parameters) or own.keys() != {"step", *MOMENTS}:
            raise ValueError(f"the optimiser has no parameter {index} with {', '.join(own)}")
        shape = parameters[index].shape
        if own["step"].numel() != 1 or any(own[name].shape != shape for name in MOMENTS):
            raise ValueError(f"the optimiser's memory of parameter {index} is of another shape")
        if not all(tensor.is_floating_point() for tensor in own.values()):
            raise ValueError(f"the optimiser's memory of parameter {index} is of another type")
