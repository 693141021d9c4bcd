import math
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

import divtrain as dt
from divtrain.attacks import (
    PGDCW,
    ObjectiveName,
    dlr,
    input_gradient,
    make_objective,
    margin,
    reweighted,
)
from divtrain.attacks.objectives import lead
from divtrain.ensemble import Aggregate
from divtrain.evaluation import count_passes

X, Y = (
    torch.rand(4, 1, 2, 4, generator=torch.Generator().manual_seed(0)),
    torch.tensor([0, 1, 2, 2]),
)


def member(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))


def ensemble() -> dt.Ensemble:
    return dt.Ensemble([member(seed) for seed in range(3)])


def test_each_objective_is_what_it_says_of_the_members() -> None:
    ens = ensemble()
    logits = torch.stack([m(X) for m in ens.members])
    losses = [nn.functional.cross_entropy(each, Y, reduction="none") for each in logits]
    hinges = [
        torch.stack([
            -max(z[i, y] - max(z[i, j] for j in range(3) if j != y) + 0.5, z.new_zeros(()))
            for i, y in enumerate(Y.tolist())
        ])
        for z in logits
    ]  # fmt: skip
    expected: dict[ObjectiveName, Tensor] = {
        "mean_member_ce": torch.stack(losses).mean(0),
        "ce_of_mean_prob": -logits.softmax(-1).mean(0).gather(1, Y[:, None]).squeeze(1).log(),
        "ce_of_mean_logit": nn.functional.cross_entropy(logits.mean(0), Y, reduction="none"),
        "margin": torch.stack(hinges).mean(0),
    }
    for name, values in expected.items():
        torch.testing.assert_close(make_objective(name, ens, confidence=0.5)(X, Y), values)


def test_the_objectives_differ_on_an_ensemble_and_the_entropies_agree_on_one_net() -> None:
    names: tuple[ObjectiveName, ...] = ("mean_member_ce", "ce_of_mean_prob", "ce_of_mean_logit")
    values = [make_objective(name, ensemble())(X, Y) for name in names]
    assert not torch.allclose(values[0], values[1])
    assert not torch.allclose(values[1], values[2])
    alone = [make_objective(name, member(0))(X, Y) for name in names]
    torch.testing.assert_close(alone[0], alone[1])
    torch.testing.assert_close(alone[0], alone[2])


@pytest.mark.parametrize("name", get_args(ObjectiveName))
def test_logits_and_log_probabilities_are_attacked_alike(name: ObjectiveName) -> None:
    net = member(0)
    log = nn.Sequential(net, nn.LogSoftmax(-1))
    one, other = (input_gradient(make_objective(name, m, 50.0), X, Y) for m in (net, log))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert (one != 0).any()


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
    assert (model(PGDCW(eps=0.8, step_size=0.08)(model, x, y)).argmax(1) == 1).all()


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


def test_margins_of_infinite_confidence_do_not_turn_into_nan() -> None:
    z = torch.tensor([[-math.inf, 0.0, 1.0]])
    assert margin(z, torch.tensor([1]), 0.0).isfinite().all()


# The lead and the difference of logits ratio


def test_the_lead_is_over_the_best_other_class() -> None:
    z = torch.tensor([[1.0, 4.0, 2.0], [1.0, 4.0, 2.0], [-1.0, -9.0, -math.inf]])
    assert lead(z, torch.tensor([0, 1, 0])).tolist() == [-3.0, 2.0, 8.0]
    both = torch.stack([z, 2 * z])
    assert lead(both, torch.tensor([0, 1, 0])).tolist() == [[-3.0, 2.0, 8.0], [-6.0, 4.0, 16.0]]


@pytest.mark.parametrize(
    ("logits", "label", "target", "expected"),
    [
        ([5.0, 3.0, 1.0, 0.0], 0, None, -2 / 4),
        ([5.0, 3.0, 1.0, 0.0], 1, None, 2 / 4),
        ([5.0, 3.0, 1.0, 0.0], 3, None, 5 / 4),
        ([5.0, 3.0, 1.0], 0, None, -2 / 4),
        ([5.0, 3.0], 0, None, -2.0),
        ([5.0, 3.0], 1, None, 2.0),
        ([5.0, 3.0, 1.0, 0.0], 0, 1, -2 / 4.5),
        ([5.0, 3.0, 1.0, 0.0], 0, 3, -5 / 4.5),
        ([5.0, 3.0, 1.0, 0.0], 2, 0, 4 / 4.5),
        ([5.0, 3.0, 1.0, 0.0, -9.0], 0, 4, -14 / 4.5),
        ([5.0, 3.0], 0, 1, -2.0),
        ([5.0, 3.0], 1, 0, 2.0),
    ],
)
def test_dlr_is_equations_6_and_7(
    logits: list[float], label: int, target: int | None, expected: float
) -> None:
    aim = None if target is None else torch.tensor([target])
    got = dlr(torch.tensor([logits]), torch.tensor([label]), aim)
    assert got.item() == pytest.approx(expected)


@pytest.mark.parametrize("classes", [3, 4, 10])
@pytest.mark.parametrize("targeted", [False, True])
def test_dlr_does_not_depend_on_the_scale_or_the_offset_of_the_logits(
    classes: int, targeted: bool
) -> None:
    if targeted and classes < 4:
        return  # there is no z_4 to scale by
    z, y = torch.randn(50, classes), torch.arange(50) % classes
    target = (y + 1) % classes if targeted else None
    value = dlr(z, y, target)
    torch.testing.assert_close(dlr(100 * z, y, target), value)
    torch.testing.assert_close(dlr(z + 5, y, target), value, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(dlr(z.log_softmax(-1), y, target), value, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("classes", [2, 3, 4, 5])
def test_targeted_dlr_rises_with_the_target_wherever_it_ranks(classes: int) -> None:
    """Were the scale of three classes z_1 - z_3, it would be -1 and flat for the last of them."""
    z = (10.0 - torch.arange(classes)).requires_grad_()
    for target in range(1, classes):
        value = dlr(z[None], torch.tensor([0]), torch.tensor([target]))
        (gradient,) = torch.autograd.grad(value.sum(), z)
        assert gradient[target] > 0.01


def test_dlr_of_an_ensemble_is_that_of_its_answer() -> None:
    nets = [member(seed) for seed in range(3)]
    for aggregate in ("prob", "logit"):
        ens = dt.Ensemble(nets, aggregate)
        torch.testing.assert_close(make_objective("dlr", ens)(X, Y), dlr(ens(X), Y))
    vote = make_objective("dlr", dt.Ensemble(nets, "vote"))  # votes have no gradient
    torch.testing.assert_close(vote(X, Y), dlr(dt.Ensemble(nets)(X), Y))


# Members weighted anew


def test_reweighted_is_the_cross_entropy_of_a_single_member() -> None:
    net = member(0)
    expected = nn.functional.cross_entropy(net(X), Y, reduction="none")
    torch.testing.assert_close(make_objective("reweighted", net)(X, Y), expected)
    torch.testing.assert_close(
        make_objective("reweighted", dt.Ensemble([member(0)]))(X, Y), expected
    )


def test_reweighted_is_the_cross_entropy_of_the_weighted_mean_logit() -> None:
    z = torch.tensor([[[3.0, 0.0, 1.0]], [[0.0, 1.0, 0.0]]])  # the leads are 2 and -1
    weight = torch.tensor([2 / 1.5, -1 / 1.5]).softmax(0)
    mixed = weight[0] * z[0] + weight[1] * z[1]
    y = torch.tensor([0])
    torch.testing.assert_close(reweighted(z, y), nn.functional.cross_entropy(mixed, y)[None])


def test_reweighted_knows_neither_the_members_order_nor_their_offsets() -> None:
    z, y = torch.randn(4, 20, 5), torch.arange(20) % 5
    value = reweighted(z, y)
    torch.testing.assert_close(reweighted(z[[2, 0, 3, 1]], y), value)
    torch.testing.assert_close(reweighted(z + torch.randn(4, 20, 1), y), value)


def test_the_weights_do_not_depend_on_the_logits_scale_and_carry_no_gradient() -> None:
    z, y = torch.randn(3, 20, 4, requires_grad=True), torch.arange(20) % 4
    for scale in (1.0, 1000.0):
        rows = (scale * z).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(reweighted(rows, y).sum(), rows)
        weight = torch.softmax(lead(z, y) / lead(z, y).abs().mean(0), 0).detach()
        mixed = (weight.unsqueeze(-1) * rows.detach()).sum(0).requires_grad_()
        (one,) = torch.autograd.grad(nn.functional.cross_entropy(mixed, y, reduction="sum"), mixed)
        torch.testing.assert_close(gradient, weight.unsqueeze(-1) * one)


def test_members_that_are_all_undecided_weigh_alike() -> None:
    value = reweighted(torch.zeros(3, 2, 4), torch.tensor([0, 1]))
    torch.testing.assert_close(value, torch.full((2,), math.log(4)))


def mirrored() -> tuple[dt.Ensemble, Tensor, Tensor]:
    """Two members whose losses have opposite input gradients at all images, while leads differ.

    The lead of the first is 1 and of the second 3; the second is the steeper by as much as its
    loss is the flatter.
    """
    torch.manual_seed(0)
    slope = torch.randn(8)
    x = torch.rand(5, 1, 2, 4) * 0.2 + 0.4
    flat = x.flatten(1)
    flat -= ((flat - 0.5) @ slope / (slope @ slope))[:, None] * slope  # now x . slope is constant
    ratio = torch.tensor(-1.0).sigmoid() / torch.tensor(-3.0).sigmoid()
    members = []
    for sign, share, ahead in ((1, 1.0, 1.0), (-1, ratio.item(), 3.0)):
        net = nn.Sequential(nn.Flatten(), nn.Linear(8, 2))
        with torch.no_grad():
            rise = sign * share * slope / 2
            net.get_parameter("1.weight").copy_(torch.stack([rise, -rise]))
            half = ahead / 2 - 0.5 * rise.sum()
            net.get_parameter("1.bias").copy_(torch.stack([half, -half]))
        members.append(net)
    return dt.Ensemble(members), flat.view_as(x), torch.zeros(5, dtype=torch.int64)


def test_reweighting_finds_a_way_where_the_members_gradients_cancel() -> None:
    ens, x, y = mirrored()
    leads = lead(ens.member_logits(x), y)
    torch.testing.assert_close(leads[0], torch.full((5,), 1.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(leads[1], torch.full((5,), 3.0), atol=1e-4, rtol=0)
    mean = input_gradient(make_objective("mean_member_ce", ens), x, y)
    anew = input_gradient(make_objective("reweighted", ens), x, y)
    alone = input_gradient(make_objective("mean_member_ce", ens.members[1]), x, y)
    assert (mean.abs() < 1e-5).all()
    assert (anew.flatten(1).norm(dim=1) > 100 * mean.flatten(1).norm(dim=1)).all()
    assert torch.equal(anew.sign(), alone.sign())  # it goes for the member that is surer


# The model's answer, from logits that are there already


@pytest.mark.parametrize("aggregate", ["prob", "logit", "vote"])
def test_the_answer_of_an_ensemble_costs_no_second_pass(aggregate: Aggregate) -> None:
    ens = dt.Ensemble([member(seed) for seed in range(3)], aggregate)
    objective = make_objective("mean_member_ce", ens)
    expected = ens(X)
    with count_passes(ens) as passes:
        logits = objective.member_logits(X)
        answer = objective.answer(X, logits)
    torch.testing.assert_close(answer, expected)
    assert passes().forward == pytest.approx(len(X))


def test_the_answer_of_a_single_net_is_its_output() -> None:
    net = member(0)
    objective = make_objective("margin", net)
    assert torch.equal(objective.answer(X, objective.member_logits(X)), net(X))


def test_an_ensemble_with_an_answer_of_its_own_is_asked() -> None:
    class LastMember(dt.Ensemble):
        def forward(self, x: Tensor) -> Tensor:
            return self.members[-1](x)

    ens = LastMember([member(seed) for seed in range(3)])
    objective = make_objective("mean_member_ce", ens)
    answer = objective.answer(X, objective.member_logits(X))
    assert torch.equal(answer, ens.members[-1](X))
    assert not torch.allclose(answer, dt.Ensemble(list(ens.members))(X))
