"""Cross-entropy at training images, GAL alone at images from outside: the detector's loss."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

import divtrain as dt
from divtrain.data import NOISES
from divtrain.defences import Base, CrossEntropy, Detector
from divtrain.training import adam, step_by_member, step_together, train
from made import StopAt, same, stream, tanh_nets

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


def test_labels_of_images_from_outside_do_not_reach_the_cross_entropy() -> None:
    other = replace(BATCH, y=torch.cat([(BATCH.y[:20] + 1) % 10, BATCH.y[20:]]))
    given, whole = (
        [step_together(tanh_nets(), each, [term]).loss for each in (BATCH, other)]
        for term in (CrossEntropy(part="given"), CrossEntropy())
    )
    assert torch.equal(*given)
    assert not torch.equal(*whole)


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


def test_a_state_is_resumed_and_refused_for_other_images(tmp_path: Path) -> None:
    state, whole, again = tmp_path / "state", tanh_nets(), tanh_nets()
    train(whole, stream(), DETECTOR, 2)
    with pytest.raises(KeyboardInterrupt):
        train(
            tanh_nets(), stream(), DETECTOR, 2, state_file=state, save_every=0.0,
            callbacks=[StopAt(7)],
        )  # fmt: skip
    smooth = replace(DETECTOR, outside="smooth")
    with pytest.raises(dt.DivtrainError, match="its defence.outside is 'noise'.*'smooth'"):
        train(tanh_nets(), stream(), smooth, 2, state_file=state)
    train(again, stream(), DETECTOR, 2, state_file=state)
    assert same(whole.parameters(), again.parameters())


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
