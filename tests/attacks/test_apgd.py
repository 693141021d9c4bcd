"""Auto-PGD against the paper (Croce and Hein, 2020), plain PGD, and chosen landscapes."""

import dataclasses
import math
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import divtrain as dt
from attacks.nets import Lambda, fitted, linear, seeded
from divtrain.attacks import APGD, APGDT, PGD, dlr, make_objective
from divtrain.attacks.apgd import _checkpoints, _State
from divtrain.ensemble import Aggregate
from divtrain.evaluation import count_passes


def sure(x: Tensor) -> Tensor:
    """Always class 0, whatever it sees."""
    flat = 0 * x.flatten(1).sum(1)
    return torch.stack([flat + 1, flat, flat - 1], 1)


SURE = Lambda(sure)


# When to check the step size, and for what


def checkpoints_of_the_paper(steps: int) -> set[int]:
    """p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06); w_j = p_j steps."""
    shares = [0.0, 0.22]
    while shares[-1] <= 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return {math.ceil(round(share * steps, 6)) for share in shares[1:] if share <= 1}


def test_the_checkpoints_come_when_the_paper_says() -> None:
    assert _checkpoints(100) == checkpoints_of_the_paper(100) == {22, 41, 57, 70, 80, 87, 93, 99}
    assert _checkpoints(1000) == checkpoints_of_the_paper(1000)


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 33, 50])
def test_the_checkpoints_of_few_steps_lie_among_them_and_come_closer_and_closer(steps: int) -> None:
    checkpoints = sorted(_checkpoints(steps))
    assert checkpoints[0] >= 1
    assert checkpoints[-1] <= steps
    gaps = [later - earlier for earlier, later in zip([0, *checkpoints], checkpoints, strict=False)]
    assert gaps == sorted(gaps, reverse=True)
    assert steps - checkpoints[-1] < max(gaps[-1], 1)


def state(
    rises: list[int], best_value: list[float], value_at_checkpoint: list[float], halved: list[bool]
) -> _State:
    """A state of images of one pixel: the point is at 0.2, the best at 0.8."""
    count = len(rises)
    pixel = torch.ones(count, 1, 1, 1)
    made = _State(
        where=torch.arange(count), low=0 * pixel, high=pixel, point=0.2 * pixel, gradient=-pixel,
        value=torch.zeros(count), size=torch.full((count,), 0.4),
    )  # fmt: skip
    made.before, made.best, made.best_gradient = 0.1 * pixel, 0.8 * pixel, 2 * pixel
    made.best_value = torch.tensor(best_value)
    made.value_at_checkpoint = torch.tensor(value_at_checkpoint)
    made.rises, made.halved = torch.tensor(rises).float(), torch.tensor(halved)
    return made


@pytest.mark.parametrize(
    ("rises", "improved", "halved_before", "halves"),
    [
        (16, True, False, False),
        (16, True, True, False),
        (14, True, False, True),  # condition 1: fewer than 15 of 20 steps rose
        (14, True, True, True),
        (0, False, True, True),
        (16, False, False, True),  # condition 2: same step, same best value as at the last one
        (16, False, True, False),  # the step was halved at the last checkpoint: give it time
        (20, False, False, True),
    ],
)
def test_the_step_is_halved_in_the_papers_two_cases(
    rises: int, improved: bool, halved_before: bool, halves: bool
) -> None:
    made = state([rises], [2.0], [1.0 if improved else 2.0], [halved_before])
    made.check(20)
    assert made.halved.tolist() == [halves]
    assert made.size.item() == pytest.approx(0.2 if halves else 0.4)
    assert made.point.item() == pytest.approx(0.8 if halves else 0.2)
    assert made.gradient.item() == (2.0 if halves else -1.0)
    assert made.value_at_checkpoint.tolist() == [2.0]
    assert made.rises.tolist() == [0.0]


def test_each_image_has_its_own_step_size_also_when_others_are_dropped() -> None:
    made = state([14, 16, 14], [2.0, 2.0, 3.0], [1.0, 1.0, 1.0], [False, False, True])
    made.check(20)
    assert made.size.tolist() == pytest.approx([0.2, 0.4, 0.2])
    made.value_at_checkpoint = torch.tensor([5.0, 6.0, 7.0])
    made.keep(torch.tensor([False, True, True]))
    assert made.where.tolist() == [1, 2]
    assert made.size.tolist() == pytest.approx([0.4, 0.2])
    assert made.value_at_checkpoint.tolist() == [6.0, 7.0]
    assert made.point.flatten().tolist() == pytest.approx([0.2, 0.8])


@pytest.mark.parametrize(
    ("first", "high", "expected"),
    [(True, 1.0, 0.6), (False, 1.0, 0.2 + 0.75 * 0.4 + 0.025), (True, 0.3, 0.3)],
)
def test_a_step_is_the_papers_with_a_quarter_of_the_last_move_and_is_projected(
    first: bool, high: float, expected: float
) -> None:
    """z = x_k + eta sign g; x_{k+1} = x_k + 0.75 (z - x_k) + 0.25 (x_k - x_{k-1})."""
    moving = state([0], [0.0], [0.0], [False])
    moving.gradient, moving.high = -moving.gradient, high * moving.high
    moving.move(first)
    assert moving.point.item() == pytest.approx(expected)
    assert moving.before.item() == pytest.approx(0.2)


def test_what_rises_is_counted_and_the_best_is_kept() -> None:
    taking = state([3, 3, 3], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [False] * 3)
    taking.value = torch.tensor([0.5, 0.5, 0.5])
    taking.take(torch.tensor([2.0, 0.7, 0.5]), torch.full((3, 1, 1, 1), 7.0))
    assert taking.rises.tolist() == [4, 4, 3]
    assert taking.best_value.tolist() == [2.0, 1.0, 0.5]
    assert taking.best.flatten().tolist() == pytest.approx([0.2, 0.8, 0.2])
    assert taking.best_gradient.flatten().tolist() == [7.0, 2.0, 7.0]
    assert taking.value.tolist() == pytest.approx([2.0, 0.7, 0.5])


# Where the search goes


def test_it_closes_in_on_a_maximum_inside_the_ball_where_plain_steps_overshoot() -> None:
    x, y = torch.full((20, 1, 3, 3), 0.5), torch.zeros(20, dtype=torch.int64)
    top = x + 0.1 * (2 * torch.rand(x.shape, generator=seeded()) - 1)

    def hill(points: Tensor, _: Tensor) -> Tensor:
        return -((points - top) ** 2).flatten(1).sum(1)

    plain = PGD(eps=0.1, steps=100, step_size=0.02, objective=hill)(SURE, x, y, seeded(4))
    auto = APGD(eps=0.1, steps=100, objective=hill)(SURE, x, y, seeded(4))
    assert (hill(auto, y) > hill(plain, y) / 20).all()
    assert (auto - top).abs().max() < 0.1 / 20


def test_the_best_point_of_all_that_were_seen_is_returned() -> None:
    x, y = torch.rand(30, 1, 3, 3), torch.zeros(30, dtype=torch.int64)
    points: list[Tensor] = []
    values: list[Tensor] = []

    def waves(x: Tensor, _: Tensor) -> Tensor:
        value = torch.sin(40 * x.flatten(1)).sum(1)
        points.append(x.detach().clone())
        values.append(value.detach().clone())
        return value

    x_adv = APGD(eps=0.2, steps=30, objective=waves)(SURE, x, y)
    assert len(points) == 32  # the clean image, the start, and every step
    rank = torch.stack(values).argmax(0)
    assert torch.equal(x_adv, torch.stack(points)[rank, torch.arange(30)])
    assert len(rank.unique()) > 2


def test_the_first_step_is_two_radii_long() -> None:
    """So it ends at the far side of the ball wherever the random start was."""
    x, y = torch.full((10, 1, 2, 2), 0.5), torch.zeros(10, dtype=torch.int64)
    points: list[Tensor] = []

    def slope(points_: Tensor, _: Tensor) -> Tensor:
        points.append(points_.detach().clone())
        return points_.flatten(1).sum(1)

    APGD(eps=0.1, steps=2, objective=slope)(SURE, x, y)
    clean, start, moved = points[:3]
    assert torch.equal(clean, x)
    assert start.var() > 0
    torch.testing.assert_close(moved, x + 0.1)


@cache
def convolutional() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(256, 10),
    )  # fmt: skip
    return fitted(net, 40, 300)


@pytest.mark.parametrize("step_size", [None, 0.2, 0.001])
@pytest.mark.parametrize("eps", [0.06, 0.1])
def test_it_is_at_least_as_strong_as_pgd_of_as_many_steps(
    eps: float, step_size: float | None
) -> None:
    net, x, y = convolutional()
    plain = PGD(eps=eps, steps=50, step_size=step_size, objective="ce_of_mean_prob")
    auto = APGD(eps=eps, steps=50)
    right: list[Tensor] = []
    value: list[Tensor] = []
    for attack in (plain, auto):
        x_adv = attack(net, x, y, seeded())
        right.append(net(x_adv).argmax(1) == y)
        value.append(make_objective("ce_of_mean_prob", net)(x_adv, y))
    assert right[1].sum() <= right[0].sum() + 1  # one image of 300 is luck of the start
    both = right[0] & right[1]
    assert both.any()
    assert value[1][both].mean() >= value[0][both].mean()
    if step_size is not None:  # APGD finds its step itself
        assert value[1][both].mean() > value[0][both].mean()


def test_the_runs_for_each_class_find_what_one_run_does_not() -> None:
    net, x, y = convolutional()
    one = APGDT(eps=0.1, steps=20, restarts=1, stop_when_fooled=True)
    left = [
        (net(attack(net, x, y, seeded())).argmax(1) == y).sum().item()
        for attack in (one, dataclasses.replace(one, restarts=9))
    ]
    assert left[1] < left[0]
    assert 0 < left[0] < (net(x).argmax(1) == y).sum()


# Targeted


@pytest.mark.parametrize("aggregate", ["prob", "logit", "vote"])
@pytest.mark.parametrize("run", [0, 1, 2, 3])
def test_run_r_aims_at_the_class_ranked_r_th_among_the_wrong_ones(
    run: int, aggregate: Aggregate
) -> None:
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(8, 6)) for _ in range(3)]
    ens = dt.Ensemble(nets, aggregate)
    x, y = torch.rand(7, 2, 2, 2), torch.arange(7) % 6
    targets = torch.tensor(
        [
            [c for c in row if c != own][run]
            for row, own in zip(
                ens(x).argsort(1, descending=True).tolist(), y.tolist(), strict=True
            )
        ]
    )
    points, where = torch.rand(4, 2, 2, 2), torch.tensor([5, 1, 2, 0])
    value, answer = APGDT(eps=0.1).query(ens, x, y, run)(points, where)
    seen = dt.Ensemble(nets, "logit" if aggregate == "logit" else "prob")(points)
    torch.testing.assert_close(value, dlr(seen, y[where], targets[where]))
    torch.testing.assert_close(answer, ens(points))


def two_roads(x: Tensor) -> Tensor:
    """Class 1 is close but out of reach; class 2 is further and in reach, by brightness."""
    bright = x.flatten(1).mean(1)
    return torch.stack([0 * bright, -0.1 + 0 * bright, 10 * bright - 6.0], 1)


def test_a_class_that_is_out_of_reach_does_not_hide_the_next() -> None:
    x, y = torch.full((5, 1, 2, 2), 0.5), torch.zeros(5, dtype=torch.int64)
    one, two = (APGDT(eps=0.2, steps=20, restarts=runs)(Lambda(two_roads), x, y) for runs in (1, 2))
    assert (Lambda(two_roads)(one).argmax(1) == 0).all()
    assert (Lambda(two_roads)(two).argmax(1) == 2).all()


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_are_enough(classes: int) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, classes))
    x = torch.rand(40, 2, 2, 2)
    y = net(x).argmax(1)
    weight = net.get_parameter("1.weight").detach()
    low, high = (x - 0.1).clamp(min=0), (x + 0.1).clamp(max=1)
    reachable = torch.zeros(40, dtype=torch.bool)
    for other in range(classes):  # a linear net is fooled towards a class at one corner, if at all
        corner = torch.where((weight[other] - weight[y] > 0).view_as(x), high, low)
        reachable |= net(corner).argmax(1) != y
    assert 0 < reachable.sum() < 40
    x_adv = APGDT(eps=0.1, steps=20)(net, x, y)
    assert torch.equal(net(x_adv).argmax(1) != y, reachable)


def test_no_more_runs_are_made_than_there_are_wrong_classes() -> None:
    torch.manual_seed(1)
    net = linear()
    x = torch.rand(10, 2, 2, 2)
    y = net(x).argmax(1)
    spent = []
    for restarts in (2, 9):
        with count_passes(net) as passes:
            APGDT(eps=0.001, steps=5, restarts=restarts)(net, x, y)
        spent.append(passes())
    assert spent[0] == spent[1]
