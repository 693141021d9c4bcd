"""Files of every kind, damaged at random: an error that tells, or what was written; nothing else.

DIVTRAIN_FUZZ=100 tries a hundred times as many cases.
"""

import copy
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import divtrain as dt
from damage import (
    cases,
    confused,
    confused_header,
    damaged,
    deep_json,
    header_size,
    survives,
)
from divtrain.data import Images, Stream
from divtrain.errors import DamagedFileError, DivtrainError
from divtrain.files import (
    read_json,
    read_json_lines,
    read_tensors,
    write_json,
    write_json_lines,
    write_tensors,
)
from divtrain.models import build
from divtrain.training import train
from divtrain.training.state import TrainingState, load_state, save_state
from made import StopAt

pytestmark = pytest.mark.usefixtures("no_shape_checks")  # a user runs without them

RECIPE = {"optimisation": "once", "terms": "one", "stream": "short"}
ABOUT = {"name": "a", "list": [1, 2.5, None, True], "inside": {"text": "é", "number": 0.1}}


def same(one: Any, other: Any) -> bool:
    """Whether two things, tensors in them or not, are equal bit for bit."""
    if isinstance(one, Tensor):
        alike = one.dtype == other.dtype and one.shape == other.shape
        return alike and one.numpy().tobytes() == other.numpy().tobytes()
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def ensemble(kind: str = "resnet20") -> dt.Ensemble:
    torch.manual_seed(3)
    return dt.Ensemble([build(kind, 1, 4, 2) for _ in "ab"])


def small() -> tuple[dt.Ensemble, torch.optim.Optimizer]:
    torch.manual_seed(4)
    ens = dt.Ensemble([nn.Sequential(nn.Flatten(), nn.Linear(4, 2)) for _ in "ab"])
    return ens, torch.optim.Adam(ens.parameters(), 1e-3)


def load_small_state(path: Path) -> Any:
    """Load into a fresh ensemble, which an error must leave as it was, with torch's generator."""
    ens, optimizer = small()
    before = copy.deepcopy(ens.state_dict()), torch.get_rng_state()
    try:
        state = load_state(path, ens, optimizer, RECIPE, 9)
    except DivtrainError:
        assert same(dict(before[0]), dict(ens.state_dict()))
        assert torch.equal(before[1], torch.get_rng_state())
        assert not optimizer.state
        raise
    state.means()
    slots = [value for own in optimizer.state.values() for value in own.values()]
    return vars(state), dict(ens.state_dict()), slots, torch.get_rng_state()


def use_checkpoint(path: Path) -> Any:
    ens, about = dt.load_ensemble(path)
    assert ens(torch.rand(1, 1, 4, 4)).shape == (1, 2)
    return dict(ens.state_dict()), ens.aggregate, about


def write_tensor_file(path: Path) -> None:
    write_tensors(path, {"a": torch.randn(3, 4), "b": torch.arange(5), "c": torch.ones(0)}, ABOUT)


def write_checkpoint(path: Path) -> None:
    dt.save_ensemble(path, ensemble(), {"data": "digits"})


def write_state(path: Path) -> None:
    ens, optimizer = small()
    for _ in range(3):
        optimizer.zero_grad()
        ens(torch.rand(5, 1, 2, 2)).sum().backward()
        optimizer.step()
    row = {"epoch": 1, "step": 2, "learning_rate": 1e-3, "loss": 0.5, "seconds": 0.1}
    state = TrainingState(9, 3, [row], {"loss": 0.5}, {"loss": 1}, 0.1)
    save_state(path, ens, optimizer, state, RECIPE)


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "tensors": (write_tensor_file, read_tensors),
    "checkpoint": (write_checkpoint, use_checkpoint),
    "state": (write_state, load_small_state),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_an_error_or_what_was_written(tmp_path: Path, kind: str) -> None:
    write, use = KINDS[kind]
    path, draw = tmp_path / kind, random.Random(kind)
    write(path)
    whole, expected = path.read_bytes(), use(path)
    head = header_size(whole)
    refused, number = 0, cases(100 if kind == "checkpoint" else 300)
    for case in range(number):
        path.write_bytes(damaged(whole, draw, head))
        returned, found = survives(lambda: use(path), DamagedFileError)
        assert not returned or same(found, expected), f"case {case}"
        refused += not returned
    assert refused > 0.9 * number


def lying_tensors(tensors: dict[str, Tensor], draw: random.Random) -> dict[str, Tensor]:
    """Return tensors of which one is away, renamed, or of another shape or type."""
    changed = dict(tensors)
    name = draw.choice(list(tensors))
    one = changed.pop(name)
    lies = [
        None, torch.cat([one.flatten(), one.flatten()]), one.reshape(-1), one.long(), one.double(),
        one.flatten().view(torch.uint8), one * torch.nan, one.flatten()[:0],
        one.to(torch.complex64),
    ]  # fmt: skip
    place = draw.randrange(len(lies) + 1)
    if place == len(lies):
        places = (name + ".x", "optimizer.99.exp_avg", "optimizer.x", "model", "", "members.x")
        changed[draw.choice(places)] = one
    elif (tensor := lies[place]) is not None:
        changed[name] = tensor
    return changed


@pytest.mark.parametrize("kind", ["checkpoint", "state"])
def test_a_stranger_who_lies_is_told(tmp_path: Path, kind: str) -> None:
    """In the header over the same bytes; and, under a digest that fits, in metadata or tensors."""
    write, use = KINDS[kind]
    path, draw = tmp_path / kind, random.Random(kind)
    write(path)
    whole = path.read_bytes()
    tensors, about = read_tensors(path)
    for _ in range(cases(25)):
        path.write_bytes(confused_header(whole, draw))
        survives(lambda: use(path), DivtrainError)
        write_tensors(path, tensors, confused(about, draw))
        survives(lambda: use(path), DivtrainError)
        write_tensors(path, lying_tensors(tensors, draw), about)
        survives(lambda: use(path), DivtrainError)


@pytest.mark.parametrize("read", [read_json, read_json_lines])
def test_damaged_json_is_an_error(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    """Without a digest it may be read as something else; it may not fail in another way."""
    path, draw = tmp_path / "file.json", random.Random(read.__name__)
    if read is read_json:
        write_json(path, ABOUT)
    else:
        write_json_lines(path, [ABOUT, ABOUT])
    whole = path.read_bytes()
    for _ in range(cases(200)):
        path.write_bytes(damaged(whole, draw))
        survives(lambda: read(path), DivtrainError)
    path.write_bytes(deep_json())
    with pytest.raises(DamagedFileError, match="recursion"):
        read(path)
    safetensors.torch.save_file({"a": torch.ones(1)}, path, {"divtrain": deep_json().decode()})
    with pytest.raises(DamagedFileError, match="recursion"):
        read_tensors(path)


@pytest.mark.parametrize("read", [read_json, read_json_lines, read_tensors])
def test_what_would_never_end_is_not_read(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero", "."):
        with pytest.raises(DamagedFileError, match="no file, but a folder, pipe or device"):
            survives(lambda name=name: read(tmp_path / name), ZeroDivisionError, 5)
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(1 << 40)  # a terabyte of nothing
    with pytest.raises(DamagedFileError):
        survives(lambda: read(tmp_path / "large.json"), ZeroDivisionError, 5)


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 10**6},
        {"image_size": 2**62},
        {"in_channels": 10**9, "mean": [0.5], "std": [0.5]},
        {"classes": 10**12},
        {"mean": [0.5] * 3, "in_channels": 3},
        {"members": 50_000},
    ],
)
def test_an_architecture_takes_no_memory_before_the_file_is_seen_to_hold_its_weights(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    path = tmp_path / "e.safetensors"
    dt.save_ensemble(path, ensemble("conv3"))
    tensors, about = read_tensors(path)
    about["members"] *= change.pop("members", 1)
    about["members"][1] |= change
    write_tensors(path, tensors, about)
    told = "another architecture|no such network|names 100000 members and holds weights of 2"
    with pytest.raises(DivtrainError, match=told):
        survives(lambda: dt.load_ensemble(path), ZeroDivisionError, 20)


def test_a_state_that_loads_is_trained_to_its_end_or_told(tmp_path: Path) -> None:
    """Whatever the metadata says, the loop comes to its end with a history of numbers."""
    images = Images(torch.rand(8, 1, 2, 2), torch.arange(8) % 2)
    path, draw = tmp_path / "state", random.Random("train")

    def resume(stop: int = 0) -> Any:
        ens, _ = small()
        history = train(
            ens, Stream(images, 4), "base", 2, callbacks=[StopAt(stop)], state_file=path,
            save_every=0.0,
        )  # fmt: skip
        assert all(isinstance(value, (int, float)) for row in history for value in row.values())

    with pytest.raises(KeyboardInterrupt):
        resume(stop=3)
    tensors, about = read_tensors(path)
    for _ in range(cases(25)):
        write_tensors(path, tensors, confused(about, draw))
        survives(resume, DivtrainError)
