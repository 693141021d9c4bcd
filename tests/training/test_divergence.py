"""A loss, gradient or weight that is no longer finite: before the step, named, nothing spoiled."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import divtrain as dt
from divtrain.data import Images
from divtrain.defences import Base, CrossEntropy, GradientAlignment
from divtrain.files import read_tensors
from divtrain.forward import MemberPass, Where
from divtrain.training import adam, train
from made import Made, StopAt, digits, stream, tanh_nets


@pytest.fixture(scope="module")
def images() -> Images:
    return digits()


ensemble = partial(tanh_nets, 2)
TWO: dict[str, Any] = {"epochs": 2, "save_every": 0.0}


@dataclass
class Spoiling:
    """A term that adds nothing until a step, and there what `spoil` makes of the pass."""

    step: int
    spoil: Callable[[MemberPass], Tensor]
    calls: list[int] = field(default_factory=list, repr=False, compare=False)

    def spec(self) -> str:
        return "spoiling"

    def gradients_at(self, step: int) -> Where | None:
        return None

    def __call__(self, forward: MemberPass, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        self.calls.append(1)
        value = self.spoil(forward) if len(self.calls) == self.step else forward.losses.sum() * 0
        return value, {"extra": value.detach()}


def nan_loss(forward: MemberPass) -> Tensor:
    return forward.losses.sum() * torch.nan


def infinite_loss(forward: MemberPass) -> Tensor:
    return forward.losses.sum() + torch.inf


def nan_gradient(forward: MemberPass) -> Tensor:
    """Zero, with a gradient that is 0/0 in the weights of member 1."""
    return (forward.losses[1] * 0).sum().sqrt()


def overflowing_gradient(forward: MemberPass) -> Tensor:
    """Finite, as is its gradient, but not the square of it, which Adam sums."""
    return (forward.losses[0] * 1e25).mean()


@pytest.mark.parametrize("spoil", [nan_loss, infinite_loss, nan_gradient, overflowing_gradient])
def test_the_step_is_not_taken_and_the_state_stays_the_last_good_one(
    tmp_path: Path, spoil: Callable[[MemberPass], Tensor]
) -> None:
    state, good = tmp_path / "state.safetensors", tmp_path / "good.safetensors"

    before, after = ensemble(), ensemble()
    spoiled = Made((CrossEntropy(), Spoiling(5, spoil)))
    sound = Made((CrossEntropy(), Spoiling(0, spoil)))
    with pytest.raises(KeyboardInterrupt):  # the state of step 4
        train(before, stream(), sound, state_file=good, callbacks=[StopAt(5)], **TWO)
    with pytest.raises(dt.DivtrainError) as caught:
        train(after, stream(), spoiled, state_file=state, **TWO)
    message = str(caught.value)
    assert "diverged at step 5 of 6 (epoch 2, batch 2 of 3)" in message
    assert f"the last good training state stays in {state}" in message
    assert "the weights in memory are those of before the step, 4 done" in message
    assert "a lower learning rate" in message
    saved, about = read_tensors(state)
    expected, _ = read_tensors(good)
    assert about["state"]["step"] == 4
    for name, tensor in saved.items():
        assert torch.equal(tensor, expected[name]), name
    for name, tensor in after.state_dict().items():
        assert torch.equal(tensor, saved[f"model.{name}"]), name


class Breaking(nn.Module):
    """Answers NaN to one image."""

    def __init__(self, image: Tensor):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        self.image = image

    def forward(self, x: Tensor) -> Tensor:
        here = (x == self.image).flatten(1).all(1)
        return self.net(x).masked_fill(here[:, None], torch.nan)


def test_a_loss_names_member_image_and_view(images: Images) -> None:
    ens = ensemble()
    ens.members[1] = Breaking(images.x[77])
    own = replace(stream(), shift=0)
    step = next(s for s in range(3) if 77 in own.places(s)[0].tolist())
    expected = (
        rf"diverged at step {step + 1} of 6 .* the loss of member 1 \(counted from 0\) is not"
        r" finite, at 1 of 40 images \(training images 77, seen as Clean\(\)\)"
    )
    with pytest.raises(dt.DivtrainError, match=expected):
        train(ens, own, Base(), **TWO)


@dataclass(frozen=True)
class Broken:
    """A view with a NaN pixel in its first image."""

    def __call__(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        x = x.clone()
        x[0, 0, 0, 0] = torch.nan
        return x


BROKEN = Made((CrossEntropy(),), (Broken(),))


def test_batch_norm_that_saw_a_broken_image_is_not_blamed(tmp_path: Path) -> None:
    nets = [nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)) for _ in "ab"]
    state = tmp_path / "state"
    with pytest.raises(dt.DivtrainError, match="the batch itself has pixels") as caught:
        train(dt.Ensemble(nets), stream(), BROKEN, state_file=state, **TWO)
    assert "in memory" not in str(caught.value)  # the running statistics are spoiled
    assert not state.exists()


@dataclass(frozen=True)
class BrokenAlignment(GradientAlignment):
    def __call__(self, forward: MemberPass, step: int = 0) -> tuple[Tensor, dict]:
        value, log = super().__call__(forward, step)
        return value * torch.nan, {**log, "gal": log["gal"] * torch.nan}


FIRST = int(stream().places(0)[0][0])


@pytest.mark.parametrize(
    ("defence", "rate", "match"),
    [
        (Made((CrossEntropy(), Spoiling(2, nan_gradient))), 1e-3,
         r"gradient is not: members\.1\.1\.weight, members\.1"),
        (BROKEN, 1e-3, "the batch itself has pixels that are not finite, at 1 of 40 images .train"
         rf"ing images {FIRST}, seen as Broken\(\)\).*nothing was learnt yet"),
        (Made((CrossEntropy(), BrokenAlignment())), 1e-3, r"gal nan.*a lower gal_weight"),
        (Base(), 1e39,
         r"at step 2 of 6 .*before the step, the one before it made them so: members\.0\.1\.w"),
    ],
    ids=["gradient", "view", "gal", "weights"],
)  # fmt: skip
def test_the_cause_is_named(defence: Made | Base, rate: float, match: str) -> None:
    with pytest.raises(dt.DivtrainError, match=match):
        train(ensemble(), stream(), defence, 2, adam(rate))


def test_weights_that_came_broken_are_named() -> None:
    ens = ensemble()
    with torch.no_grad():
        ens.get_parameter("members.1.3.bias")[2] = torch.inf
    with pytest.raises(dt.DivtrainError, match=r"not finite before the step: members\.1\.3\.bias;"):
        train(ens, stream(), Base(), **TWO)


@pytest.mark.parametrize(("batch_size", "save_every"), [(40, 0.0), (120, 1e6)])
def test_weights_that_overflow_in_a_step_are_neither_saved_nor_returned(
    tmp_path: Path, batch_size: int, save_every: float
) -> None:
    """A finite loss and gradient, and a learning rate that throws the weights out of float32."""
    options: dict[str, Any] = {"state_file": tmp_path / "state", "save_every": save_every}
    with pytest.raises(dt.DivtrainError, match=r"at step 1 of \d: the loss was finite, but"):
        train(ensemble(), stream(batch_size), Base(), 1, adam(1e39), **options)
    assert not (tmp_path / "state").exists()
