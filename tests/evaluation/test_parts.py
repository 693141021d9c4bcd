"""Crafting and classifying batch by batch: stopped anywhere, it goes on to the same result."""

import contextlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from divtrain.attacks import PGDCW
from divtrain.data import Images
from divtrain.evaluation import CraftedSet, correct_mask, craft
from divtrain.evaluation.parts import Parts

ATTACK = PGDCW(eps=0.2, steps=3)


class Stopped(Exception):
    pass


class Shaky(nn.Module):
    """Draws noise at every pass, and stops at one of them."""

    def __init__(self, last: int = 10**9):
        super().__init__()
        self.passes, self.last = 0, last
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(9, 4, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        if self.passes > self.last:
            raise Stopped
        return (x.flatten(1) + 0.1 * torch.randn(len(x), 9)).tanh() @ self.weight


def images() -> Images:
    x = torch.rand(10, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    return Images(x, torch.arange(10) % 4)


def crafted(model: nn.Module, parts: Parts | None = None) -> CraftedSet:
    torch.manual_seed(int(torch.randint(1000, ())))  # whatever was drawn before
    return craft(ATTACK, model, images(), 3, parts=parts)


def same(one: CraftedSet, two: CraftedSet) -> bool:
    assert one.growth is not None
    assert two.growth is not None
    return (
        torch.equal(one.x_adv, two.x_adv)
        and torch.equal(one.growth, two.growth)
        and (one.passes, one.violations) == (two.passes, two.violations)
    )


@settings(max_examples=15, deadline=None)
@given(stops=st.lists(st.integers(0, 14), max_size=3))
def test_crafting_stopped_anywhere_goes_on_to_the_same_set(
    stops: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    parts = Parts(tmp_path_factory.mktemp("parts"))
    whole = crafted(Shaky())
    for last in stops:
        with contextlib.suppress(Stopped):
            crafted(Shaky(last), parts)
    assert same(crafted(Shaky(), parts), whole)


def test_what_is_kept_is_not_crafted_again(tmp_path: Path) -> None:
    model = Shaky()
    crafted(model, Parts(tmp_path))
    a_batch = model.passes // 4
    (tmp_path / "part-00002.safetensors").unlink()
    again = Shaky()
    crafted(again, Parts(tmp_path))
    assert again.passes == a_batch


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "other"])
def test_a_damaged_part_is_made_again_and_never_trusted(damage: str, tmp_path: Path) -> None:
    whole = crafted(Shaky(), Parts(tmp_path))
    file = tmp_path / "part-00001.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[-1] ^= 1
    elif damage == "truncate":
        del content[len(content) // 2 :]
    elif damage == "empty":
        content.clear()
    else:
        content[:] = b"\x02\0\0\0\0\0\0\0{}"  # safetensors, but nothing of ours
    file.write_bytes(content)
    assert same(crafted(Shaky(), Parts(tmp_path)), whole)
    assert file.read_bytes() != content


def test_a_batch_does_not_depend_on_those_before_it() -> None:
    """So that it can be crafted alone."""
    some = images()
    pairs = craft(ATTACK, Shaky(), Images(some.x[:6], some.y[:6]), 3).x_adv
    assert torch.equal(pairs, crafted(Shaky()).x_adv[:6])
    assert not torch.equal(pairs[:3] - some.x[:3], pairs[3:] - some.x[3:6])


def test_classifying_stopped_half_way_asks_only_for_the_rest(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 4))
    asked: list[int] = []
    model.register_forward_hook(lambda module, args, output: asked.append(len(output)))
    whole = correct_mask(model, images().x, images().y, 4)
    asked.clear()
    correct_mask(model, images().x[:8], images().y[:8], 4, Parts(tmp_path))
    assert torch.equal(correct_mask(model, images().x, images().y, 4, Parts(tmp_path)), whole)
    assert asked == [4, 4, 2]
