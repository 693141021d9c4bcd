"""What holds for every loss term."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import divtrain as dt
import reference
from divtrain.defences import (
    ADP,
    DEG,
    TRSL2,
    AbsoluteCosine,
    Base,
    CosineSum,
    CrossEntropy,
    Defence,
    GradientAlignment,
    GradientNorm,
    LabelSmoothing,
    PredictionDiversity,
    Term,
)
from divtrain.defences.terms import total_loss
from divtrain.forward import Batch, member_pass
from divtrain.models import build
from divtrain.training.step import step_by_member, step_together
from passes import images, pass_of, smooth_pass

TERMS: list[Any] = [
    CrossEntropy(), CrossEntropy(smoothing=0.2), GradientAlignment(), PredictionDiversity(),
    CosineSum(), AbsoluteCosine(), GradientNorm(0.5),
]  # fmt: skip
NAMES = [f"{type(term).__name__}-{index}" for index, term in enumerate(TERMS)]
each_term = pytest.mark.parametrize("term", TERMS, ids=NAMES)


@each_term
def test_repeating_the_images_of_a_batch_changes_nothing(term: Term) -> None:
    (one, forward), (other, doubled) = smooth_pass(), smooth_pass(repeats=2)
    value, log = term(forward, 0)
    again, log_again = term(doubled, 0)
    torch.testing.assert_close(again, value)
    torch.testing.assert_close(log_again, log)
    value.backward()
    again.backward()
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@each_term
def test_the_order_of_members_does_not_matter(term: Term) -> None:
    ens, (x, y) = reference.smooth_ensemble(), images()
    first, second, third = ens.members
    turned = dt.Ensemble([third, first, second])
    values = [term(member_pass(each, Batch(x, y)), 0)[0] for each in (ens, turned)]
    torch.testing.assert_close(*values)


@dataclass
class TwoLayers:
    """Three members with curvature everywhere, as a function of their weights."""

    first: Tensor
    second: Tensor
    members: nn.ModuleList

    def member_logits(self, x: Tensor | Sequence[Tensor], /) -> Tensor:
        x = x if isinstance(x, Tensor) else torch.stack(list(x))
        return (x.flatten(2) @ self.first).tanh() @ self.second


@each_term
def test_gradients_are_those_of_finite_differences(term: Term) -> None:
    generator = torch.Generator().manual_seed(4)
    shapes = ((3, 12, 5), (3, 5, 4))
    weights = [torch.randn(s, generator=generator, dtype=torch.float64) / 2 for s in shapes]
    x, y = images(3)
    members = nn.ModuleList(nn.Identity() for _ in "abc")

    def value(first: Tensor, second: Tensor) -> Tensor:
        return term(member_pass(TwoLayers(first, second, members), Batch(x, y)), 0)[0]

    assert torch.autograd.gradcheck(value, [weight.requires_grad_() for weight in weights])


@each_term
def test_what_is_logged_is_detached_and_unweighted(term: Term) -> None:
    _, forward = smooth_pass()
    value, log = term(forward, 0)
    assert value.requires_grad and value.shape == ()
    assert log and all(not scalar.requires_grad and scalar.shape == () for scalar in log.values())


@each_term
def test_under_autocast_it_is_computed_in_float32(term: Term) -> None:
    ens, (x, y) = reference.smooth_ensemble().float(), images()
    with torch.autocast("cpu", torch.bfloat16):
        forward = member_pass(ens, Batch(x.float(), y))
        inside, log = term(forward, 0)
    assert forward.logits.dtype == torch.bfloat16
    outside, _ = term(forward, 0)
    assert inside.dtype == torch.float32
    assert all(scalar.dtype == torch.float32 for scalar in log.values())
    assert torch.equal(inside, outside)
    plain = pass_of(forward.logits.float(), y)
    if term.gradients_at(0) is None:  # a function of the logits alone, as if they had been float32
        assert torch.equal(term(plain, 0)[0], inside)


@pytest.mark.parametrize("term", [*TERMS[:2], PredictionDiversity(), TRSL2().terms, DEG().terms],
                         ids=["ce", "smoothed", "adp", "trs", "deg"])  # fmt: skip
def test_by_member_and_together_are_the_same_step(term: Any) -> None:
    terms: list[Term] = list(term) if isinstance(term, tuple) else [CrossEntropy(), term]
    x, y = images()
    found: list[tuple[Tensor, ...]] = []
    for step in (step_together, step_by_member):
        ens = reference.smooth_ensemble()
        done = step(ens, Batch(x, y), terms)
        gradients = [parameter.grad for parameter in ens.parameters()]
        assert all(gradient is not None for gradient in gradients)
        found.append((done.loss, *done.log.values(), *(g for g in gradients if g is not None)))
    torch.testing.assert_close(*found)


def net() -> nn.Module:
    return build("conv3", 1, 8, 10)


@pytest.mark.parametrize(
    "defence",
    [
        ADP(0.0, 0.0),
        DEG(0.0),
        TRSL2(0.0, 0.0),
        LabelSmoothing(0.0),
    ],
    ids=lambda defence: type(defence).__name__,
)
def test_at_weight_zero_every_defence_is_base_bit_for_bit(defence: Defence) -> None:
    x, y = torch.rand(12, 1, 8, 8), torch.arange(12) % 10
    found: list[list[Tensor]] = []
    loss = torch.zeros(())
    for each in (Base(), defence):
        torch.manual_seed(0)
        ens = dt.Ensemble([net() for _ in "abc"])
        optimizer = torch.optim.Adam(ens.parameters(), 1e-3)
        for step in range(3):
            optimizer.zero_grad()
            loss = step_together(ens, Batch(x, y), each.terms, step).loss
            optimizer.step()
        found.append([loss, *ens.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    "make", [lambda: ADP(2.0, 0.0), lambda: ADP(0.0, 0.5), lambda: DEG(0.1), lambda: TRSL2(9.0, 0),
             lambda: TRSL2(0.0, 9.0), lambda: LabelSmoothing(0.1)],
)  # fmt: skip
def test_every_weight_moves_the_loss(make: Callable[[], Defence]) -> None:
    _, forward = smooth_pass()
    loss, _ = total_loss(make().terms, forward)
    assert abs(loss - forward.losses.mean()) > 1e-5


def test_smoothed_labels_are_those_of_torch() -> None:
    _, forward = smooth_pass()
    y = forward.batch.y
    for smoothing in (0.1, 0.9):
        loss, log = CrossEntropy(2.0, smoothing=smoothing)(forward)
        expected = torch.stack(
            [nn.functional.cross_entropy(z, y, label_smoothing=smoothing) for z in forward.logits]
        ).mean()
        torch.testing.assert_close(loss, 2 * expected)
        torch.testing.assert_close(log["cross_entropy"], forward.losses.mean().detach())
    # It is least where the true class has 1 - s + s / L.
    p = torch.full((10,), 0.01, dtype=torch.float64)
    p[3] = 0.91
    z = p.log().expand(2, 1, 10).clone().requires_grad_()
    value, _ = CrossEntropy(smoothing=0.1)(pass_of(z, torch.tensor([3])))
    (gradient,) = torch.autograd.grad(value, z)
    assert gradient.abs().max() < 1e-12
