"""Cross-entropy at training images, GAL alone at images from outside: the detector's loss."""

from pathlib import Path

import pytest
import torch
from torch import nn

import divtrain as dt
from divtrain.data import NOISES, Clean, Images, OutsidePart, Stream, balanced_subset, load_dataset
from divtrain.training import (
    CrossEntropy,
    GradientAlignment,
    InsideCrossEntropy,
    TrainingSettings,
    step_by_member,
    step_together,
    train,
)

TERMS = [InsideCrossEntropy(0.5), GradientAlignment(0.7, temperature=0.8, part=0.5)]


def ensemble() -> dt.Ensemble:
    torch.manual_seed(0)
    nets = [
        nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 10)) for _ in "abc"
    ]
    return dt.Ensemble(nets)


@pytest.fixture(scope="module")
def stream() -> Stream:
    images = balanced_subset(load_dataset("digits").train, 120)
    outside = OutsidePart(NOISES["noise"], 0.5, 10)
    return Stream(images, 40, (Clean(),), 1, False, 5, outside)


@pytest.mark.parametrize("step", [step_together, step_by_member])
def test_the_loss_is_cross_entropy_inside_plus_gal_outside(stream: Stream, step) -> None:
    x, y = (part.double() if part.is_floating_point() else part for part in stream.batch(0))
    ens, slow = ensemble().double(), ensemble().double()
    done = step(ens, x, y, TERMS)
    # From the public functions, each on its half.
    cross = dt.diversity_loss(slow, x[20:], y[20:], gal_weight=0.0).total
    gradients = dt.input_gradients(slow, x[:20], y[:20], create_graph=True)
    loss = cross + 0.7 * dt.gradient_alignment_loss(gradients, 0.8).mean()
    loss.backward()
    torch.testing.assert_close(done.loss, loss.detach())
    for one, other in zip(ens.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_labels_of_images_from_outside_do_not_reach_the_cross_entropy(stream: Stream) -> None:
    x, y = stream.batch(0)
    other = torch.cat([(y[:20] + 1) % 10, y[20:]])
    first, second = (
        step_together(ensemble(), x, labels, [InsideCrossEntropy(0.5)]).loss
        for labels in (y, other)
    )
    assert torch.equal(first, second)
    whole = [step_together(ensemble(), x, labels, [CrossEntropy()]).loss for labels in (y, other)]
    assert not torch.equal(*whole)


def test_training_lowers_coherence_outside_and_counts_accuracy_inside(stream: Stream) -> None:
    settings = TrainingSettings(epochs=60, learning_rate=3e-2)
    ens = ensemble()
    history = train(ens, stream, TERMS, settings)
    assert history[-1]["coherence"] < history[0]["coherence"] - 0.1
    assert history[-1]["accuracy"] > 0.8  # were those from outside counted, at most 0.55
    x, y = (
        NOISES["noise"]((200, 1, 8, 8), torch.Generator().manual_seed(1)),
        torch.zeros(200).long(),
    )
    plain = ensemble()
    alone = Stream(stream.images, 20, (Clean(),), 1, False, 5)
    train(plain, alone, [CrossEntropy()], settings)
    found, base = (dt.coherence(dt.input_gradients(each, x, y)).mean() for each in (ens, plain))
    assert found < base - 0.1


def test_a_stopped_run_goes_on_bit_for_bit(stream: Stream, tmp_path: Path) -> None:
    def stop(step: int, steps: int, means: dict[str, float]) -> None:
        if step == 7:
            raise KeyboardInterrupt

    settings = TrainingSettings(epochs=2, save_every=0.0)
    whole, broken, again = ensemble(), ensemble(), ensemble()
    train(whole, stream, TERMS, settings)
    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        train(broken, stream, TERMS, settings, state_file=state, on_step=stop)
    train(again, stream, TERMS, settings, state_file=state)
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_state_of_a_run_with_other_images_from_outside_is_refused(
    stream: Stream, tmp_path: Path
) -> None:
    def stop(step: int, steps: int, means: dict[str, float]) -> None:
        if step == 2:  # the state of the first is kept
            raise KeyboardInterrupt

    settings = TrainingSettings(epochs=1, save_every=0.0)
    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        train(ensemble(), stream, TERMS, settings, state_file=state, on_step=stop)
    other = OutsidePart(NOISES["smooth"], 0.5, 10)
    smooth = Stream(stream.images, 40, (Clean(),), 1, False, 5, other)
    with pytest.raises(dt.DivtrainError, match="outside"):
        train(ensemble(), smooth, TERMS, settings, state_file=state)


def test_batch_norm_is_refused(stream: Stream) -> None:
    nets = [nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)) for _ in "ab"]
    with pytest.raises(dt.DivtrainError, match="batch norm.*conv3"):
        train(dt.Ensemble(nets), stream, TERMS, TrainingSettings(epochs=1))


def test_what_diverges_outside_is_named(stream: Stream) -> None:
    class Broken:
        def __call__(self, shape, generator, test=False):
            return torch.full(tuple(shape), torch.nan)

    broken = Stream(
        Images(stream.images.x, stream.images.y), 40, (Clean(),), 1, False, 5,
        OutsidePart(Broken(), 0.5, 10),
    )  # fmt: skip
    with pytest.raises(dt.DivtrainError, match="20 of 40 images .20 from outside"):
        train(ensemble(), broken, TERMS, TrainingSettings(epochs=1))
