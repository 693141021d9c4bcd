"""Cross-entropy at training images, GAL alone at images from outside: the detector's loss."""

from dataclasses import dataclass, replace

import pytest
import torch

import divtrain as dt
from divtrain.data import NOISES
from divtrain.defences import Base, Detector
from divtrain.training import adam, step_by_member, step_together, train
from made import stream, tanh_nets

DETECTOR = Detector(gal_weight=0.7, temperature=0.8)
BATCH = DETECTOR.prepare(stream(), 10).batch(0)


@pytest.mark.parametrize("step", [step_together, step_by_member])
def test_the_loss_is_cross_entropy_inside_plus_gal_outside(step) -> None:
    batch = replace(BATCH, x=BATCH.x.double())
    ens, slow = tanh_nets().double(), tanh_nets().double()
    done = step(ens, batch, DETECTOR.terms)
    # From the public functions, each on its half.
    cross = dt.diversity_loss(slow, batch.x[20:], batch.y[20:], gal_weight=0.0).total
    gradients = dt.input_gradients(slow, batch.x[:20], batch.y[:20], create_graph=True)
    loss = cross + 0.7 * dt.gradient_alignment_loss(gradients, 0.8).mean()
    loss.backward()
    torch.testing.assert_close(done.loss, loss.detach())
    for one, other in zip(ens.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_training_lowers_coherence_outside_and_counts_accuracy_inside() -> None:
    ens, plain = tanh_nets(), tanh_nets()
    history = train(ens, stream(), DETECTOR, 60, adam(3e-2))
    assert history[-1]["coherence"] < history[0]["coherence"] - 0.1
    assert history[-1]["accuracy"] > 0.8  # were those from outside counted, at most 0.55
    x = NOISES["noise"]((200, 1, 8, 8), torch.Generator().manual_seed(1))
    train(plain, stream(20), Base(), 60, adam(3e-2))
    found, base = (
        dt.coherence(dt.input_gradients(each, x, torch.zeros(200).long())).mean()
        for each in (ens, plain)
    )
    assert found < base - 0.1


def test_an_iterable_is_given_images_from_outside_too() -> None:
    history = train(tanh_nets(), [(BATCH.x[20:], BATCH.y[20:])] * 3, DETECTOR, 2)
    assert history[-1]["step"] == 6
    assert history[-1]["gal"] != history[0]["gal"]


@dataclass(frozen=True)
class Broken:
    def __call__(self, shape, generator, test=False):
        return torch.full(tuple(shape), torch.nan)


def test_what_diverges_outside_is_named() -> None:
    with pytest.raises(dt.DivtrainError, match="20 of 40 images .20 from outside"):
        train(tanh_nets(), stream(), replace(DETECTOR, outside=Broken()), 1)
