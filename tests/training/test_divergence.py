"""A loss, gradient or weight that is no longer finite: before the step, named, nothing spoiled."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import divtrain as dt
from divtrain.data import Clean, Images, Stream, balanced_subset, load_dataset
from divtrain.files import read_tensors
from divtrain.gal import MemberPass
from divtrain.training import CrossEntropy, GradientAlignment, TrainingSettings, train
from divtrain.training.divergence import finite_log

SETTINGS = TrainingSettings(epochs=2, learning_rate=1e-3, save_every=0.0)


@pytest.fixture(scope="module")
def images() -> Images:
    return balanced_subset(load_dataset("digits").train, 120)


def ensemble() -> dt.Ensemble:
    torch.manual_seed(0)
    return dt.Ensemble(
        [nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 10)) for _ in "ab"]
    )


def stream(images: Images) -> Stream:
    return Stream(images, 40, (Clean(),), seed=5)


@dataclass
class Spoiling:
    """A term that adds nothing until a step, and there what `spoil` makes of the pass."""

    step: int
    spoil: Callable[[MemberPass], Tensor]
    calls: list[int] = field(default_factory=list, repr=False)

    def share(self, step: int) -> float:
        return 0.0

    def __call__(self, forward: MemberPass) -> tuple[Tensor, dict[str, Tensor]]:
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
    images: Images, tmp_path: Path, spoil: Callable[[MemberPass], Tensor]
) -> None:
    state, good = tmp_path / "state.safetensors", tmp_path / "good.safetensors"

    def stop(step: int, steps: int, means: dict[str, float]) -> None:
        if step == 5:
            raise KeyboardInterrupt

    before, after = ensemble(), ensemble()
    terms = [CrossEntropy(), Spoiling(5, spoil)]
    with pytest.raises(KeyboardInterrupt):  # the state of step 4
        train(before, stream(images), [CrossEntropy(), Spoiling(0, spoil)], SETTINGS,
              state_file=good, on_step=stop)  # fmt: skip
    with pytest.raises(dt.DivtrainError) as caught:
        train(after, stream(images), terms, SETTINGS, state_file=state)
    message = str(caught.value)
    assert "diverged at step 5 of 6 (epoch 2, batch 2 of 3)" in message
    assert f"the last good training state stays in {state}" in message
    assert "the weights in memory are those of before the step, 4 done" in message
    assert "--train.learning-rate" in message
    saved, about = read_tensors(state)
    expected, _ = read_tensors(good)
    assert about["state"]["step"] == 4
    for name, tensor in saved.items():
        assert torch.equal(tensor, expected[name]), name
    for name, tensor in after.state_dict().items():
        assert torch.equal(tensor, saved[f"model.{name}"]), name


def test_a_gradient_names_its_member(images: Images) -> None:
    with pytest.raises(
        dt.DivtrainError, match=r"gradient is not: members\.1\.1\.weight, "
    ) as caught:
        train(ensemble(), stream(images), [CrossEntropy(), Spoiling(2, nan_gradient)], SETTINGS)
    assert "members.0" not in str(caught.value)


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
    own = stream(images)
    step = next(s for s in range(3) if 77 in own.places(s)[0].tolist())
    expected = (
        rf"diverged at step {step + 1} of 6 .* the loss of member 1 \(counted from 0\) is not"
        r" finite, at 1 of 40 images \(training images 77, seen as Clean\(\)\)"
    )
    with pytest.raises(dt.DivtrainError, match=expected):
        train(ens, own, [CrossEntropy()], SETTINGS)


@dataclass(frozen=True)
class Broken:
    """A view with a NaN pixel in its first image."""

    def __call__(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        x = x.clone()
        x[0, 0, 0, 0] = torch.nan
        return x


def test_a_view_that_breaks_images_is_named_and_so_is_the_first_step(images: Images) -> None:
    own = replace(stream(images), views=(Broken(),))
    first = int(own.places(0)[0][0])
    expected = (
        rf"the batch itself has pixels that are not finite, at 1 of 40 images \(training images"
        rf" {first}, seen as Broken\(\)\).*nothing was learnt yet"
    )
    with pytest.raises(dt.DivtrainError, match=expected):
        train(ensemble(), own, [CrossEntropy()], SETTINGS)


def test_batch_norm_that_saw_a_broken_image_is_not_blamed(images: Images, tmp_path: Path) -> None:
    nets = [nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)) for _ in "ab"]
    own, state = replace(stream(images), views=(Broken(),)), tmp_path / "state"
    with pytest.raises(dt.DivtrainError, match="the batch itself has pixels") as caught:
        train(dt.Ensemble(nets), own, [CrossEntropy()], SETTINGS, state_file=state)
    assert "in memory" not in str(caught.value)  # the running statistics are spoiled
    assert not state.exists()


def test_weights_that_came_broken_are_named(images: Images) -> None:
    ens = ensemble()
    with torch.no_grad():
        ens.get_parameter("members.1.3.bias")[2] = torch.inf
    with pytest.raises(dt.DivtrainError, match=r"not finite before the step: members\.1\.3\.bias;"):
        train(ens, stream(images), [CrossEntropy()], SETTINGS)


def test_gal_is_told_how_to_calm_down(images: Images) -> None:
    @dataclass(frozen=True)
    class BrokenAlignment(GradientAlignment):
        def __call__(self, forward: MemberPass) -> tuple[Tensor, dict[str, Tensor]]:
            value, log = super().__call__(forward)
            return value * torch.nan, {**log, "gal": log["gal"] * torch.nan}

    with pytest.raises(dt.DivtrainError, match=r"gal nan.*--train.gal-weight"):
        train(ensemble(), stream(images), [CrossEntropy(), BrokenAlignment()], SETTINGS)


@pytest.mark.parametrize("epochs", [1, 2])
def test_weights_that_overflow_in_a_step_are_neither_saved_nor_returned(
    images: Images, tmp_path: Path, epochs: int
) -> None:
    """A finite loss and gradient, and a learning rate that throws the weights out of float32."""
    state = tmp_path / "state.safetensors"
    settings = TrainingSettings(epochs=epochs, learning_rate=1e39, save_every=0.0)
    with pytest.raises(dt.DivtrainError, match=r"at step 1 of \d: the loss was finite, but"):
        train(ensemble(), stream(images), [CrossEntropy()], settings, state_file=state)
    assert not state.exists()
    once = replace(stream(images), batch_size=120)
    settings = replace(settings, epochs=1)
    with pytest.raises(dt.DivtrainError, match="at step 1 of 1: the loss was finite, but"):
        train(ensemble(), once, [CrossEntropy()], settings)


def test_a_log_comes_back_exactly(images: Images) -> None:
    log = {"one": torch.tensor(0.1), "two": torch.tensor(0.1, dtype=torch.float64)}
    weight = nn.Parameter(torch.zeros(3))
    weight.grad = torch.tensor([1.0, -2.0, 1e19])
    values, finite = finite_log(log, [weight, nn.Parameter(torch.zeros(1))])
    assert values == {name: value.item() for name, value in log.items()}
    assert finite
    weight.grad[0] = 1e20
    assert not finite_log(log, [weight])[1]
    assert finite_log(log, [])[1]


def test_weights_that_a_step_broke_are_told_at_the_next(images: Images) -> None:
    settings = TrainingSettings(epochs=2, learning_rate=1e39)
    expected = r"at step 2 of 6 .*before the step, the one before it made them so: members\.0\.1\.w"
    with pytest.raises(dt.DivtrainError, match=expected):
        train(ensemble(), stream(images), [CrossEntropy()], settings)
