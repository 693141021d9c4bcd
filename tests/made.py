"""A small ensemble, stream and defence for tests of training."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

import divtrain as dt
from divtrain.data import Images, Stream, View, balanced_subset, load_dataset
from divtrain.defences import Clean, Defence, Div, Term
from divtrain.forward import MemberPass, Where

DIV = Div(noise=0.2)


@dataclass(frozen=True)
class Made(Defence):
    """Any terms and views."""

    made_terms: tuple[Term, ...]
    made_views: tuple[View, ...] = (Clean(),)

    @property
    def terms(self) -> tuple[Term, ...]:
        return self.made_terms

    @property
    def views(self) -> tuple[View, ...]:
        return self.made_views


class PlainTerm:
    """A term that takes no input gradients; what it computes is for subclasses."""

    def gradients_at(self, step: int) -> Where | None:
        return None

    def __call__(self, forward: MemberPass, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError


class StopAt:
    """A callback that stops a training by an error."""

    def __init__(self, step: int, error: type[BaseException] = KeyboardInterrupt):
        self.step, self.error = step, error

    def on_step(self, step: int, steps: int, means: dict[str, float]) -> None:
        if step == self.step:
            raise self.error


@cache
def digits() -> Images:
    return balanced_subset(load_dataset("digits").train, 120)


def tanh_nets(members: int = 3, seed: int = 0) -> dt.Ensemble:
    torch.manual_seed(seed)
    nets = [
        nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 10))
        for _ in range(members)
    ]
    return dt.Ensemble(nets)


def stream(batch_size: int = 40, seed: int = 5) -> Stream:
    return Stream(digits(), batch_size, shift=1, seed=seed)


def same(one: Iterable[Tensor], other: Iterable[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
