"""The terms of input gradients beside GAL: sums of cosines, absolute cosines, lengths."""

import math

import pytest
import torch
from torch import Tensor, nn

import divtrain as dt
import reference
from divtrain.defences import (
    DEG,
    TRSL2,
    AbsoluteCosine,
    CosineSum,
    GradientAlignment,
    GradientNorm,
    Term,
)
from divtrain.defences.terms import total_loss
from divtrain.forward import Batch, MemberPass, Where, member_pass
from passes import images, smooth_pass


def pass_with(g: Tensor) -> MemberPass:
    """A pass that has these input gradients, (member, batch, feature)."""
    members, batch, features = g.shape
    x, y = g.new_zeros(batch, 1, 1, features), torch.zeros(batch, dtype=torch.int64)
    logits = g.new_zeros(members, batch, 2)
    every = slice(0, batch)
    numbers, given = range(len(g)), {True: g}
    return MemberPass(
        Batch(x, y), logits, logits[..., 0], every, g.unbind(), numbers, gradients=given
    )


ALONG = [[[1.0, 0.0]], [[3.0, 0.0]]]
AGAINST = [[[1.0, 0.0]], [[-2.0, 0.0]]]
ACROSS = [[[1.0, 0.0]], [[0.0, 5.0]]]


@pytest.mark.parametrize(
    ("g", "cosine", "absolute"), [(ALONG, 1.0, 1.0), (AGAINST, -1.0, 1.0), (ACROSS, 0.0, 0.0)]
)
def test_cosines_of_known_gradients(g: list, cosine: float, absolute: float) -> None:
    forward = pass_with(torch.tensor(g))
    assert CosineSum(0.5)(forward)[0].item() == pytest.approx(0.5 * cosine)
    assert AbsoluteCosine(0.5)(forward)[0].item() == pytest.approx(0.5 * absolute / 2)


def test_terms_of_three_members_equal_plain_loops() -> None:
    _, forward = smooth_pass()
    g = forward.input_gradients()
    cosines = reference.pairwise_cosine(g)
    flat = [cosine for row in cosines for cosine in row]
    squares = [sum(float(v) ** 2 for v in image) for member in g for image in member]
    value, log = CosineSum(0.7)(forward)
    assert value.item() == pytest.approx(0.7 * sum(flat) / 6)  # six images
    assert log["mean_cosine"].item() == pytest.approx(sum(flat) / 18)  # and three pairs
    value, log = AbsoluteCosine(0.7)(forward)
    assert value.item() == pytest.approx(0.7 / 3 * sum(map(abs, flat)) / 18)
    assert log["absolute_cosine"].item() == pytest.approx(sum(map(abs, flat)) / 18)
    value, log = GradientNorm(0.7)(forward)
    assert value.item() == pytest.approx(0.7 / 3 * sum(squares) / 18)
    assert log["gradient_norm"].item() == pytest.approx(sum(squares) / 18)


def weight_gradients(ens: dt.Ensemble, value: Tensor) -> Tensor:
    found = torch.autograd.grad(value, list(ens.parameters()), retain_graph=True, allow_unused=True)
    return torch.cat([each.flatten() for each in found if each is not None])


def test_with_two_members_the_absolute_cosine_is_gal_times_its_sign() -> None:
    ens, forward = smooth_pass(2)
    cosine = dt.pairwise_cosine(forward.input_gradients()).flatten()
    assert cosine.min() < 0 < cosine.max()  # so that the sign matters
    trs = TRSL2(trs_cosine=4.0, trs_norm=0.0)
    loss, _ = total_loss(trs.terms, forward)
    found = weight_gradients(ens, loss - forward.losses.mean())
    expected = torch.zeros_like(found)
    for image, sign in enumerate(cosine.sign().tolist()):
        x, y = images()
        alone = member_pass(ens, Batch(x[image : image + 1], y[image : image + 1]))
        gal = GradientAlignment(4.0 / 2)(alone)[0]
        expected += sign * weight_gradients(ens, gal) / len(cosine)
    torch.testing.assert_close(found, expected)
    assert found.abs().max() > 1e-3


def test_gal_at_a_high_temperature_is_the_mean_cosine() -> None:
    _, forward = smooth_pass(4)
    hot, pairs = 1e3, 6
    gal = GradientAlignment(1.0, temperature=hot)(forward)[0] - hot * math.log(pairs)
    mean = CosineSum(1.0)(forward)[0] / pairs
    assert abs(gal - mean) < 1e-3
    assert abs(mean) > 1e-2


def linear(seed: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).double()
    return net, net.get_parameter("1.weight")


def test_the_length_of_a_softmax_regressions_gradient_in_closed_form() -> None:
    """g = W'(p - e_y), and dn/dW = 2 (p - e_y) g' + 2 (diag p - pp') W g x', for n = |g|^2."""
    nets, (x, y) = [linear(seed) for seed in (1, 2)], images()
    ens = dt.Ensemble([net for net, _ in nets])
    forward = member_pass(ens, Batch(x, y))
    value, log = GradientNorm(1.0)(forward)
    value.backward()
    squares = 0.0
    for net, weight in nets:
        w = weight.detach()
        gradient = torch.zeros_like(w)
        for image, label in zip(x.flatten(1), y, strict=True):
            p = net(image[None]).detach().softmax(-1)[0]
            off = p - torch.eye(4, dtype=torch.float64)[label]
            g = w.T @ off
            squares += float(g @ g) / 12  # two members, six images
            curved = torch.diag(p) - p.outer(p)
            gradient += 2 * off.outer(g) + 2 * (curved @ w @ g).outer(image)
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, gradient / 12 / 2)
    assert log["gradient_norm"].item() == pytest.approx(squares)
    assert value.item() == pytest.approx(squares / 2)


def test_the_published_weight_is_that_of_the_mean_loss_of_128_images() -> None:
    """lambda_b mean_i 2 |G_i|^2 of the gradient G of the mean loss, for any size of batch."""
    torch.manual_seed(3)
    ens, x = reference.smooth_ensemble(3), torch.rand(128, 1, 3, 4, dtype=torch.float64)
    y = torch.arange(128) % 4
    cross, _, norm = TRSL2(trs_norm=2.5).terms
    assert isinstance(norm, GradientNorm) and norm.weight == pytest.approx(3.1e-4, rel=0.02)
    published = 0.0
    for member in ens.members:
        leaf = x.clone().requires_grad_()
        mean = nn.functional.cross_entropy(member(leaf), y)
        (gradient,) = torch.autograd.grad(mean, leaf)
        published += 2.5 * 2 * float(gradient.flatten(1).square().sum(1).mean()) / 3
    forward = member_pass(ens, Batch(x, y))
    # Beside the sum of the cross-entropies; ours is the mean.
    summed = forward.losses.mean(1).sum().item()
    assert norm(forward, 0)[0].item() == pytest.approx(published / 3)
    assert cross(forward, 0)[0].item() == pytest.approx(summed / 3)


def test_lengths_and_cosines_are_taken_where_they_are_asked_for() -> None:
    ens, (x, y) = reference.smooth_ensemble(), images()
    parts = {"given": slice(0, 4), "rough": slice(4, 6)}
    forward = member_pass(ens, Batch(x, y, parts))
    rough = member_pass(ens, Batch(x[4:], y[4:]))
    terms: list[tuple[Term, Term]] = [
        (GradientNorm(2.0, where=Where("rough")), GradientNorm(2.0)),
        (AbsoluteCosine(2.0, where=Where("rough")), AbsoluteCosine(2.0)),
        (CosineSum(2.0, where=Where("rough")), CosineSum(2.0)),
    ]
    for there, everywhere in terms:
        assert there.gradients_at(0) == Where("rough")
        torch.testing.assert_close(there(forward, 0)[0], everywhere(rough, 0)[0])
    with pytest.raises(dt.DivtrainError, match="unknown part of a batch 'rugh'"):
        GradientNorm(1.0, Where("rugh"))(forward, 0)


def test_vanished_gradients_have_no_cosine_and_no_length() -> None:
    g = torch.zeros(3, 2, 4, requires_grad=True)
    forward = pass_with(g)
    for term in (CosineSum(), AbsoluteCosine(), GradientNorm(1.0)):
        value = term(forward)[0]
        (gradient,) = torch.autograd.grad(value, g)
        assert value == 0 and torch.equal(gradient, torch.zeros_like(g))


def test_deg_sums_over_pairs_as_its_source_does() -> None:
    _, forward = smooth_pass(5)
    loss, _ = total_loss(DEG(deg_weight=0.01).terms, forward)
    mean = dt.pairwise_cosine(forward.input_gradients()).mean()
    torch.testing.assert_close(loss, forward.losses.mean() + 0.1 * mean)
