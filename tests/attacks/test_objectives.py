import math

import pytest
import torch
from torch import Tensor, nn

import divtrain as dt
from divtrain.attacks import (
    MIFGSM,
    PGDCW,
    ObjectiveName,
    build_attack,
    input_gradient,
    make_objective,
    margin,
)

X, Y = (
    torch.rand(4, 1, 2, 4, generator=torch.Generator().manual_seed(0)),
    torch.tensor([0, 1, 2, 2]),
)


def member(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))


def ensemble() -> dt.Ensemble:
    return dt.Ensemble([member(seed) for seed in range(3)])


def test_mean_member_ce_is_the_mean_of_the_members_cross_entropies() -> None:
    ens = ensemble()
    losses = [nn.functional.cross_entropy(m(X), Y, reduction="none") for m in ens.members]
    got = make_objective("mean_member_ce", ens)(X, Y)
    torch.testing.assert_close(got, torch.stack(losses).mean(0))


def test_ce_of_mean_prob_is_minus_the_log_of_the_mean_probability() -> None:
    ens = ensemble()
    probability = torch.stack([m(X).softmax(-1) for m in ens.members]).mean(0)
    expected = -probability.gather(1, Y[:, None]).squeeze(1).log()
    torch.testing.assert_close(make_objective("ce_of_mean_prob", ens)(X, Y), expected)


def test_ce_of_mean_logit_is_the_cross_entropy_of_the_mean_logit() -> None:
    ens = ensemble()
    mean = torch.stack([m(X) for m in ens.members]).mean(0)
    expected = nn.functional.cross_entropy(mean, Y, reduction="none")
    torch.testing.assert_close(make_objective("ce_of_mean_logit", ens)(X, Y), expected)


def test_margin_is_the_mean_hinge_of_the_members() -> None:
    ens = ensemble()
    rows = []
    for m in ens.members:
        z = m(X)
        rows.append(
            torch.stack(
                [-max(z[i, y] - max(z[i, j] for j in range(3) if j != y) + 0.5, z.new_zeros(()))
                 for i, y in enumerate(Y.tolist())]
            )
        )  # fmt: skip
    got = make_objective("margin", ens, confidence=0.5)(X, Y)
    torch.testing.assert_close(got, torch.stack(rows).mean(0))


def test_the_objectives_differ_on_an_ensemble_and_the_entropies_agree_on_one_net() -> None:
    names: tuple[ObjectiveName, ...] = ("mean_member_ce", "ce_of_mean_prob", "ce_of_mean_logit")
    values = [make_objective(name, ensemble())(X, Y) for name in names]
    assert not torch.allclose(values[0], values[1])
    assert not torch.allclose(values[1], values[2])
    alone = [make_objective(name, member(0))(X, Y) for name in names]
    torch.testing.assert_close(alone[0], alone[1])
    torch.testing.assert_close(alone[0], alone[2])


@pytest.mark.parametrize(
    "name", ["mean_member_ce", "ce_of_mean_prob", "ce_of_mean_logit", "margin"]
)
def test_logits_and_log_probabilities_are_attacked_alike(name: ObjectiveName) -> None:
    net = member(0)
    log = nn.Sequential(net, nn.LogSoftmax(-1))
    one, other = (input_gradient(make_objective(name, m, 50.0), X, Y) for m in (net, log))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


class LogProbabilities(nn.Module):
    """All outputs negative; class 0 leads by an amount that grows with the brightness."""

    def __init__(self, lead: float):
        super().__init__()
        self.lead = lead

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1).mean(1)
        return torch.stack([score + self.lead, -score, -2 * score], 1).log_softmax(-1)


@pytest.mark.parametrize(("lead", "least", "most"), [(0.5, 0.5, 0.905), (6.0, 0.99, 1.0)])
def test_the_hinge_has_a_gradient_wherever_outputs_are_all_negative(
    lead: float, least: float, most: float
) -> None:
    """The defect of public code: max((1 - onehot) * out) is the masked 0, never a class.

    Its loss is then -relu(log p_y + 0.1), flat once p_y < 0.905 though class 0 still wins.
    """
    model, y = LogProbabilities(lead), torch.zeros(4, dtype=torch.int64)
    output = model(X)
    assert (output <= 0).all()
    assert least < output[:, 0].exp().min()
    assert output[:, 0].exp().max() <= most
    gradient = input_gradient(make_objective("margin", model, 50.0), X, y)
    assert (gradient < 0).all()  # darker is less lead for class 0

    def with_masked_zero(x: Tensor, y: Tensor) -> Tensor:
        out, onehot = model(x), nn.functional.one_hot(y, 3)
        other = ((1 - onehot) * out).amax(1)
        return -torch.relu((onehot * out).sum(1) - other + 0.1)

    assert (input_gradient(with_masked_zero, X, y) == 0).all() == (most < 1)


def test_pgdcw_fools_a_confident_model_of_log_probabilities() -> None:
    model = LogProbabilities(lead=-0.6)  # class 0 leads where 2 * brightness > 0.6
    x, y = torch.full((2, 1, 2, 4), 0.9), torch.zeros(2, dtype=torch.int64)
    assert (model(x).argmax(1) == 0).all()
    assert (model(PGDCW(eps=0.8)(model, x, y)).argmax(1) == 1).all()


def test_the_hinge_is_never_positive_and_flat_beyond_its_confidence() -> None:
    z = torch.tensor([[0.0, 3.0], [0.0, 1.0], [2.0, 0.0]], requires_grad=True)
    value = margin(z, torch.tensor([0, 0, 0]), confidence=2.0)
    assert value.tolist() == [0.0, -1.0, -4.0]
    (gradient,) = torch.autograd.grad(value.sum(), z)
    assert gradient.tolist() == [[0, 0], [-1, 1], [-1, 1]]


def test_a_saturated_surrogate_still_has_a_cross_entropy_gradient() -> None:
    """float32 softmax rounds p_y to 1 at a margin of 17 nats; the attack must not stop there."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 3))
    with torch.no_grad():
        net.get_parameter("1.bias").add_(torch.tensor([40.0, 0.0, 0.0]))
    y = torch.zeros(4, dtype=torch.int64)
    gradient = input_gradient(make_objective("mean_member_ce", net), X, y)
    weight = net.get_parameter("1.weight").detach()
    share = (net(X)[:, 1:]).softmax(-1).detach()
    expected = share @ weight[1:] - weight[0]
    assert torch.equal(gradient.flatten(1).sign(), expected.sign())


def test_an_ensemble_wrapped_by_fabric_is_still_an_ensemble() -> None:
    from lightning_fabric import Fabric

    ens = ensemble()
    model = Fabric(accelerator="cpu", devices=1).setup_module(ens)
    model.mark_forward_method("member_logits")
    got = make_objective("mean_member_ce", model)(X, Y)
    assert torch.equal(got, make_objective("mean_member_ce", ens)(X, Y))


@pytest.mark.parametrize(
    "name", ["mean_member_ce", "ce_of_mean_prob", "ce_of_mean_logit", "margin"]
)
def test_attacks_are_built_with_an_objective_by_name(name: ObjectiveName) -> None:
    assert build_attack(f"mifgsm:{name}", 0.1) == MIFGSM(eps=0.1, objective=name)


def test_gradcheck_of_the_objectives() -> None:
    ens = dt.Ensemble([member(seed).double() for seed in range(2)])
    x = X.double().requires_grad_()
    for name in ("mean_member_ce", "ce_of_mean_prob", "ce_of_mean_logit", "margin"):
        objective = make_objective(name, ens, 1.0)
        assert torch.autograd.gradcheck(lambda x, objective=objective: objective(x, Y), x)


def test_margins_of_infinite_confidence_do_not_turn_into_nan() -> None:
    z = torch.tensor([[-math.inf, 0.0, 1.0]])
    assert margin(z, torch.tensor([1]), 0.0).isfinite().all()
