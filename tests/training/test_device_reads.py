"""A training step waits for the device once: where it reads what it logs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import divtrain as dt
from divtrain.defences import (
    ADP,
    TRSL2,
    Adv,
    AdvDiv,
    Base,
    BaseNoise,
    Defence,
    Detector,
    Div,
    LabelSmoothing,
)
from divtrain.models import build
from divtrain.training import train
from made import stream

WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")


class Reads(TorchDispatchMode):
    """Counts operations that make a program wait for the values of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").partition(".")[0]
        masks = name.startswith("index") and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
            for index in (args[1] if isinstance(args[1], (list, tuple)) else ())
        )
        if name in WAITS or name.startswith("unique") or masks:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def lists(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Calls of `Tensor.tolist`, which no operation shows on the CPU."""
    calls: list[str] = []
    tolist: Callable[[Tensor], Any] = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda self: calls.append("tolist") or tolist(self))
    return calls


def net() -> torch.nn.Module:
    return build("conv3", 1, 8, 10)


@pytest.mark.parametrize(
    "defence",
    [
        Base(), BaseNoise(noise=0.2), Div(), Div(gal_every=2), Div(gal_part=0.5), Detector(),
        Adv(nets=(net(),)), AdvDiv(nets=(net(),)), ADP(), TRSL2(), LabelSmoothing(),
    ],
    ids=lambda defence: type(defence).__name__,
)  # fmt: skip
def test_a_step_reads_once(defence: Defence, lists: list[str]) -> None:
    """Between two steps of one epoch, drawing of the batch included."""
    reads, seen = Reads(), []

    class Look:
        def on_step(self, step: int, steps: int, means: dict[str, float]) -> None:
            seen.append([*reads.found, *lists])
            reads.found.clear()
            lists.clear()

    ens = dt.Ensemble([net() for _ in "abc"])
    with reads:
        train(ens, stream(30), defence, epochs=1, callbacks=[Look()])
    assert len(seen) >= 4
    assert all(step == ["tolist"] for step in seen[1:]), seen[1:]


def test_the_count_finds_what_it_looks_for(lists: list[str]) -> None:
    x = torch.arange(4.0)
    with Reads() as reads:
        made = x[x > 1], x.sum().item(), bool((x > 1).any()), x.tolist()
    assert len(made) == 4
    assert len(reads.found) >= 3 and lists == ["tolist"]
