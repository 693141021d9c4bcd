"""The state of a training, and its file: all that is needed to resume as if never stopped."""

import reprlib
import time
from copy import copy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from divtrain.ensemble import Ensemble
from divtrain.errors import DivtrainError
from divtrain.fields import from_json
from divtrain.files import read_tensors, reading, write_tensors
from divtrain.module_state import saved_tensors

FORMAT = "divtrain-training-state-3"
Slots = dict[int, dict[str, Any]]
"""What an optimiser remembers, by the index of the parameter and name: tensors, numbers or None."""

History = list[dict[str, int | float]]
"""One row per epoch: epoch, step, learning_rate, loss, its parts, accuracy, seconds."""


@dataclass
class TrainingState:
    """Position and log of a training.

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
        """Turn the running means into a row of the history, and reset them."""
        row = {"epoch": len(self.history) + 1, "step": self.step, "learning_rate": learning_rate}
        self.history.append(row | self.means() | {"seconds": round(self.seconds, 2)})
        self.sums, self.counts, self.seconds = {}, {}, 0.0


def save_state(
    path: Path,
    ens: Ensemble,
    optimizer: torch.optim.Optimizer,
    state: TrainingState,
    recipe: dict[str, Any],
) -> None:
    """Save weights, optimiser, torch's CPU generator and position to one safetensors file.

    The JSON-able `recipe` says what is trained and how, so that no other run resumes from the file.

    Raises:
        DivtrainError: for an optimiser that remembers anything but tensors, numbers and None.
    """
    tensors = {f"model.{name}": tensor for name, tensor in _tensors(ens).items()}
    tensors["random.cpu"] = torch.get_rng_state()
    numbers: dict[str, dict[str, float | None]] = {}
    for index, slots in optimizer.state_dict()["state"].items():
        for name, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            elif value is None or isinstance(value, (int, float)):
                numbers.setdefault(str(index), {})[name] = value
            else:
                raise DivtrainError(
                    f"expected an optimizer that remembers tensors and numbers per parameter, got"
                    f" {type(value).__name__} for {name!r} of {type(optimizer).__name__}; train"
                    " without a state_file"
                )
    about = {"format": FORMAT, "recipe": recipe, "state": asdict(state), "numbers": numbers}
    write_tensors(path, tensors, about)


def _tensors(ens: Ensemble) -> dict[str, Tensor]:
    """Weights and all buffers, also those that `state_dict` leaves out."""
    return dict(ens.named_buffers()) | saved_tensors(ens)


def load_state(
    path: Path,
    ens: Ensemble,
    optimizer: torch.optim.Optimizer,
    recipe: dict[str, Any],
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
        found = about["recipe"]
        state = from_json(TrainingState, about["state"], path)
        numbers = from_json(dict[str, dict[str, float | None]], about["numbers"], path)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    with reading(path):
        generator = _check_generator(tensors.pop("random.cpu"))
        weights, slots = _split(tensors, numbers)
    expected = {name: (t.dtype, t.shape) for name, t in _tensors(ens).items()}
    if expected != {name: (t.dtype, t.shape) for name, t in weights.items()}:
        raise DivtrainError(f"{path} belongs to an ensemble of another architecture; {advice}")
    different = _first_difference(found, recipe)
    if different is not None:
        name, theirs, ours = different
        raise DivtrainError(
            f"{path} belongs to another run: its {name} is {reprlib.repr(theirs)}, this one's is"
            f" {reprlib.repr(ours)}; {advice}"
        )
    remembered = {"state": slots, "param_groups": optimizer.state_dict()["param_groups"]}
    with reading(path):
        _check_position(state, steps)
        _check_slots(slots, parameters)
        # Whether this kind of optimiser takes it; a Fabric optimiser wraps the one that is copied.
        copy(getattr(optimizer, "optimizer", optimizer)).load_state_dict(remembered)
    ens.load_state_dict({name: weights[name] for name in ens.state_dict()})
    for name, buffer in ens.named_buffers():
        buffer.copy_(weights[name])
    optimizer.load_state_dict(remembered)
    lay_out(optimizer)
    torch.set_rng_state(generator)
    return state


def lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Put what an optimiser remembers into its parameters' memory layout.

    Fused optimisers walk both side by side, and do not look.
    """
    for parameter, slots in optimizer.state.items():
        for name, slot in slots.items():
            if isinstance(slot, Tensor) and slot.shape == parameter.shape:
                slots[name] = torch.empty_like(parameter, dtype=slot.dtype).copy_(slot)


def _first_difference(found: Any, ours: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """Return the path of the first value that differs in JSON-able data, and both values."""
    if isinstance(found, dict) and isinstance(ours, dict):
        pairs = {str(key): (found.get(key), ours.get(key)) for key in [*ours, *found]}
    elif isinstance(found, list) and isinstance(ours, list) and len(found) == len(ours):
        pairs = {str(index): pair for index, pair in enumerate(zip(found, ours, strict=True))}
    else:
        return None if found == ours else (name or "recipe", found, ours)
    differences = (
        _first_difference(*pair, f"{name}.{key}".lstrip(".")) for key, pair in pairs.items()
    )
    return next((each for each in differences if each is not None), None)


def _split(
    tensors: dict[str, Tensor], numbers: dict[str, dict[str, float | None]]
) -> tuple[dict[str, Tensor], Slots]:
    """Separate the weights from what the optimiser remembers."""
    weights: dict[str, Tensor] = {}
    slots: Slots = {int(index): dict(named) for index, named in numbers.items()}
    for name, tensor in tensors.items():
        owner, _, rest = name.partition(".")
        if owner == "model":
            weights[rest] = tensor
        else:
            index, _, slot = rest.partition(".")
            slots.setdefault(int(index), {})[slot] = tensor
    return weights, slots


def _check_slots(slots: Slots, parameters: list[nn.Parameter]) -> None:
    """Check that what an optimiser remembers is of parameters, in their shape or a number."""
    for index, named in slots.items():
        if not 0 <= index < len(parameters):
            raise ValueError(f"the optimiser has no parameter {index}")
        shape = parameters[index].shape
        for name, slot in named.items():
            if not isinstance(slot, Tensor) or slot.numel() == 1:
                continue
            fits = len(slot.shape) == len(shape) and all(
                a in (1, b) for a, b in zip(slot.shape, shape, strict=True)
            )
            if not fits or not slot.is_floating_point():
                raise ValueError(
                    f"the optimiser's {name} of parameter {index} is of another shape or type"
                )


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
