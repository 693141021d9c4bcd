"""What is seen on a model before any attack."""

import pytest
import torch
from torch import Tensor, nn

import divtrain as dt
from attacks.nets import Lambda
from divtrain.data import Images
from divtrain.evaluation import diagnose
from divtrain.evaluation.diagnosis import are_probabilities, is_differentiable
from evaluation.trained import images, trained


def net() -> nn.Module:
    return trained(0.0, 0).members[0]


def test_a_plain_ensemble_is_in_order() -> None:
    seen = diagnose(trained(0.0, 0), images())
    assert (seen.images, seen.classes) == (300, 10)
    assert (seen.randomised, seen.saturated, seen.zero_gradient, seen.nan_gradient) == (0, 0, 0, 0)
    assert seen.differentiable
    assert not seen.probabilities


def test_shares_are_shares_of_the_images() -> None:
    """Dark images get a flat answer, a NaN gradient, or another answer every time."""

    def flat(x: Tensor) -> Tensor:
        return torch.where(x[:, 0, 0, :1] < 0.5, torch.zeros(1), x.flatten(1)[:, :4])

    x = torch.rand(40, 1, 2, 2) / 2 + 0.5
    x[:10, 0, 0, 0] = 0.1
    made = Images(x, torch.arange(40) % 4)
    assert diagnose(Lambda(flat), made).zero_gradient == pytest.approx(0.25)

    def broken(x: Tensor) -> Tensor:
        return (x.flatten(1)[:, :4] - 0.25).abs().sqrt()  # no slope at 0.25

    x[:, 0, 0, 0] = 0.6
    x[:4, 0, 0, 0] = 0.25
    assert diagnose(Lambda(broken), made).nan_gradient == pytest.approx(0.1)

    def random(x: Tensor) -> Tensor:
        return x.flatten(1)[:, :4] + torch.randn(len(x), 4) * (x[:, 0, 0, :1] < 0.5)

    x[:20, 0, 0, 0] = 0.1
    assert diagnose(Lambda(random), made).randomised == pytest.approx(0.5)


def test_saturation_is_a_lead_of_fifty_nats() -> None:
    inner = net()
    assert diagnose(Lambda(lambda x: 1000 * inner(x)), images()).saturated > 0.9
    assert diagnose(Lambda(lambda x: 2 * inner(x)), images()).saturated == 0


def test_autograd_that_cannot_see_through_is_noticed() -> None:
    weight = torch.randn(64, 10, requires_grad=True)
    inner = net()
    constant = Lambda(lambda x: torch.zeros(len(x), 10))
    detached = Lambda(lambda x: inner(x.detach()))
    around = Lambda(lambda x: x.detach().flatten(1) @ weight)  # a graph, but not from the input
    for model in (constant, detached, around):
        assert not is_differentiable(model, images())
        seen = diagnose(model, images())
        assert not seen.differentiable
        assert seen.zero_gradient == 1
    assert is_differentiable(inner, images())


@pytest.mark.parametrize(
    "wrap", [lambda z: torch.softmax(z, 1), lambda z: (10 * z.softmax(1)).round() / 10]
)
def test_probabilities_are_told_from_logits(wrap) -> None:
    inner = net()
    assert diagnose(Lambda(lambda x: wrap(inner(x))), images()).probabilities
    assert not diagnose(Lambda(lambda x: torch.log_softmax(inner(x), 1)), images()).probabilities


def test_members_that_return_probabilities_are_noticed_behind_their_ensemble() -> None:
    """The ensemble's own answer is a logarithm again, so only the members show it."""
    members = [Lambda(lambda x, n=n: torch.softmax(n(x), 1)) for n in trained(0.0, 0).members]
    assert diagnose(dt.Ensemble(members), images()).probabilities


def test_one_member_that_returns_probabilities_among_others_is_noticed() -> None:
    nets = list(trained(0.0, 0).members)
    mixed = dt.Ensemble([nets[0], Lambda(lambda x: torch.softmax(nets[1](x), 1))])
    assert diagnose(mixed, images()).probabilities


def test_logits_between_zero_and_one_are_no_probabilities() -> None:
    assert not are_probabilities(torch.rand(50, 10))


@pytest.mark.parametrize("output", [torch.zeros(3), torch.zeros(300, 10, 1), "words"])
def test_outputs_of_another_shape_are_refused(output: object) -> None:
    with pytest.raises(dt.DivtrainError, match=r"expected logits of shape \(128, classes\)"):
        diagnose(Lambda(lambda x: output), images())


def test_the_model_is_left_as_it_was() -> None:
    ens = trained(0.0, 0)
    ens.train()
    diagnose(ens, images())
    assert ens.training
    ens.eval()
