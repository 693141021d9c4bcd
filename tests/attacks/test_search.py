"""The loop that keeps the best point of several runs, and PGD, its plainest user."""

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor, nn

import divtrain as dt
from attacks.nets import Lambda, corner, linear, seeded
from divtrain.attacks import APGD, APGDT, PGD, SearchAttack, Square, make_objective, margin
from divtrain.attacks.search import Best
from divtrain.evaluation import count_passes

EPS = 0.1


def curved(seed: int = 0, classes: int = 3) -> nn.Module:
    """A net with a bent decision surface, of random weights large enough to bend it."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, classes))
    with torch.no_grad():
        net.get_parameter("1.weight").mul_(6)
    return net


def right_images(net: nn.Module, count: int = 60) -> tuple[Tensor, Tensor]:
    """Images that the net gets right, by choice of their labels."""
    x = torch.rand(count, 2, 2, 2, generator=torch.Generator().manual_seed(7))
    return x, net(x).argmax(1)


def fooled_by(attack: SearchAttack, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return net(attack(net, x, y, seeded())).argmax(1) != y


# The best point


def best_of(value: float, fooled: bool) -> Best:
    return Best(torch.zeros(1, 1, 1, 1), torch.tensor([value]), torch.tensor([fooled]))


@pytest.mark.parametrize(
    ("had", "offered", "taken"),
    [
        ((0.0, False), (1.0, False), True),
        ((1.0, False), (0.0, False), False),
        ((0.0, False), (0.0, False), False),
        ((9.0, False), (-9.0, True), True),
        ((-9.0, True), (9.0, False), False),
        ((0.0, True), (1.0, True), True),
        ((1.0, True), (0.0, True), False),
        ((float("-inf"), False), (-5.0, False), True),
        ((0.0, False), (float("nan"), False), False),
    ],
)
def test_a_point_that_fools_beats_one_that_does_not_and_else_the_higher_wins(
    had: tuple[float, bool], offered: tuple[float, bool], taken: bool
) -> None:
    best = best_of(*had)
    value, fooled = torch.tensor([offered[0]]), torch.tensor([offered[1]])
    best.offer(torch.tensor([0]), torch.ones(1, 1, 1, 1), value, fooled)
    assert best.x.item() == float(taken)
    assert (best.value.item(), best.fooled.item()) == (offered if taken else had)


def test_points_are_offered_to_the_images_they_belong_to() -> None:
    best = Best(torch.zeros(4, 1, 1, 1), torch.zeros(4), torch.zeros(4, dtype=torch.bool))
    points = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1)
    values = torch.tensor([1.0, -1.0, -2.0])
    best.offer(torch.tensor([3, 0, 1]), points, values, torch.tensor([False, False, True]))
    assert best.x.flatten().tolist() == [0, 3, 0, 1]
    assert best.value.tolist() == [0, -2, 0, 1]
    assert best.fooled.tolist() == [False, True, False, False]


# Images that are fooled

EVERY: list[SearchAttack] = [
    PGD(eps=EPS, steps=8),
    PGD(eps=EPS, steps=8, random_start=False),
    APGD(eps=EPS, steps=8),
    APGD(eps=EPS, steps=8, objective="dlr"),
    APGDT(eps=EPS, steps=8, restarts=2),
    Square(eps=EPS, steps=30),
]


@pytest.mark.parametrize("attack", EVERY)
def test_an_image_that_fools_when_clean_is_left_alone(attack: SearchAttack) -> None:
    net = curved()
    x, y = right_images(net)
    y[::3] = (y[::3] + 1) % 3
    stopping = dataclasses.replace(attack, stop_when_fooled=True)(net, x, y)
    assert torch.equal(stopping[::3], x[::3])
    assert not torch.equal(stopping, x)
    going_on = attack(net, x, y, seeded())
    moved = (going_on[::3] != x[::3]).flatten(1).any(1)
    assert moved.any()  # where points that fool too have a higher objective


@pytest.mark.parametrize(
    ("attack", "restarts", "wrong"),
    [*((attack, restarts, False) for attack in EVERY[:-1] for restarts in (1, 3)),
     (EVERY[1], 1, True)],
)  # fmt: skip
def test_stopping_at_fooled_images_does_not_change_which_are_fooled(
    attack: SearchAttack, restarts: int, wrong: bool
) -> None:
    """Exact where every run starts on the same images either way: where all are right when clean,
    or where nothing is drawn. Not so Square, which draws for all images left at every query."""
    net = curved()
    x, y = right_images(net)
    if wrong:
        y[::3] = (y[::3] + 1) % 3
    attack = dataclasses.replace(attack, restarts=restarts)
    going_on = fooled_by(attack, net, x, y)
    stopping = fooled_by(dataclasses.replace(attack, stop_when_fooled=True), net, x, y)
    assert torch.equal(going_on, stopping)
    assert 0.2 < stopping.float().mean() < 0.95


@pytest.mark.parametrize("attack", EVERY)
def test_passes_are_saved_on_fooled_images(attack: SearchAttack) -> None:
    net = curved()
    x, y = right_images(net)
    with count_passes(net) as going_on:
        attack(net, x, y, seeded())
    with count_passes(net) as stopping:
        dataclasses.replace(attack, stop_when_fooled=True)(net, x, y, seeded())
    assert stopping().forward < 0.95 * going_on().forward
    assert stopping().backward <= 0.95 * going_on().backward


# Restarts


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("attack", EVERY)
def test_more_restarts_never_leave_more_images_right(attack: SearchAttack, stop: bool) -> None:
    """Exact, image by image: the first runs of a longer attack are the shorter one."""
    net = curved(classes=5)
    x, y = right_images(net)
    masks, values = [], []
    for restarts in range(1, 5):
        longer = dataclasses.replace(attack, restarts=restarts, stop_when_fooled=stop, steps=4)
        x_adv = longer(net, x, y, seeded())
        masks.append(net(x_adv).argmax(1) != y)
        values.append(make_objective("ce_of_mean_prob", net)(x_adv, y))
    for fewer, more in itertools.pairwise(masks):
        assert (fewer <= more).all()
    if attack == PGD(eps=EPS, steps=8):  # by default it maximises what is measured here
        right = ~masks[-1]
        assert right.any()
        for fewer, more in itertools.pairwise(values):
            assert (fewer[right] <= more[right]).all()


@pytest.mark.parametrize("attack", [EVERY[0], EVERY[1], EVERY[2]])
def test_restarts_fool_more(attack: SearchAttack) -> None:
    """Without a random start as well: only the first run starts at the image itself."""
    net = curved(classes=5)
    x, y = right_images(net, 300)
    once, often = (
        fooled_by(dataclasses.replace(attack, steps=2, restarts=restarts), net, x, y)
        for restarts in (1, 8)
    )
    assert often.sum() > once.sum()


def test_later_runs_only_attack_images_that_are_not_fooled_yet() -> None:
    net = curved()
    x, y = right_images(net)
    attack = PGD(eps=0.15, steps=8, random_start=False)
    left = (~fooled_by(attack, net, x, y)).sum().item()
    assert 0 < left < len(x)
    with count_passes(net) as once:
        attack(net, x, y, seeded())
    with count_passes(net) as twice:
        dataclasses.replace(attack, restarts=2)(net, x, y, seeded())
    assert twice().backward - once().backward == 8 * left


# PGD


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("attack", EVERY[:4])
def test_a_linear_classifier_of_two_classes_is_attacked_optimally(
    attack: SearchAttack, stop: bool
) -> None:
    """Its best example is known: every pixel at the end of its range along w_other - w_own."""
    net = linear(classes=2)
    x, y = right_images(net)
    best = corner(net, x, y, EPS)
    reached = dataclasses.replace(attack, stop_when_fooled=stop)(net, x, y)
    hinge = [margin(net(points), y, confidence=100.0) for points in (x, reached, best)]
    assert (hinge[0] < hinge[2] - 0.01).all()
    fooled = net(best).argmax(1) != y
    assert 0 < fooled.sum() < len(x)
    if stop:
        assert torch.equal(net(reached).argmax(1) != y, fooled)
        torch.testing.assert_close(hinge[1][~fooled], hinge[2][~fooled], atol=1e-5, rtol=0)
    else:
        torch.testing.assert_close(hinge[1], hinge[2], atol=1e-5, rtol=0)


def slope(x: Tensor) -> Tensor:
    """Two classes, never fooled: class 0 leads by 100 minus the brightness."""
    bright = x.flatten(1).sum(1)
    return torch.stack([100 - bright, 0 * bright], 1)


@pytest.mark.parametrize(
    ("attack", "moved"),
    [
        (PGD(eps=0.1, steps=3, step_size=0.01, random_start=False), 0.03),
        (PGD(eps=0.1, steps=100, random_start=False), 0.1),
        (PGD(eps=0.1, steps=1, random_start=False), 0.1),
        (PGD(eps=0.1, steps=2, step_size=0.04, random_start=False), 0.08),
    ],
)
def test_pgd_steps_by_its_step_size_and_stops_at_the_ball(attack: PGD, moved: float) -> None:
    x, y = torch.full((2, 1, 2, 2), 0.5), torch.zeros(2, dtype=torch.int64)
    torch.testing.assert_close(attack(Lambda(slope), x, y), x + moved, atol=1e-6, rtol=0)


def test_pgds_default_step_is_two_and_a_half_radii_shared_among_the_steps() -> None:
    x, y = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.int64)
    seen: list[Tensor] = []

    def brightness(points: Tensor, _: Tensor) -> Tensor:
        seen.append(points.detach().clone())
        return points.flatten(1).sum(1)

    PGD(eps=0.2, steps=50, random_start=False, objective=brightness)(Lambda(slope), x, y)
    torch.testing.assert_close(seen[2] - seen[1], torch.full_like(x, 2.5 * 0.2 / 50))


# Objectives of the user


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("kind", [PGD, APGD])
def test_a_callable_objective_does_what_the_named_one_does(
    kind: type[SearchAttack], stop: bool
) -> None:
    net = curved()
    x, y = right_images(net)

    def objective(x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(net(x), y, reduction="none")

    by_name = kind(eps=EPS, steps=8, objective="mean_member_ce", stop_when_fooled=stop)
    by_hand = dataclasses.replace(by_name, objective=objective)
    torch.testing.assert_close(by_hand(net, x, y, seeded()), by_name(net, x, y, seeded()))


def test_the_attacked_model_says_who_is_fooled_whatever_the_objective() -> None:
    """The objective pulls towards white; images that fool on the way stay where they first did."""
    net = curved()
    x, y = right_images(net)
    seen: list[Tensor] = []

    def brightness(points: Tensor, _: Tensor) -> Tensor:
        seen.append(net(points).argmax(1))
        return points.flatten(1).sum(1)

    attack = PGD(eps=EPS, steps=8, random_start=False, objective=brightness)
    x_adv = attack(net, x, y)
    ever = (torch.stack(seen) != y).any(0)
    assert torch.equal(net(x_adv).argmax(1) != y, ever)
    assert 0 < ever.sum() < len(x)
    torch.testing.assert_close(x_adv[~ever], (x + EPS).clamp(max=1)[~ever])


def test_an_ensembles_answer_counts_not_its_members() -> None:
    """The second member never yields; the mean logit follows the first, which is steeper."""
    weak, strong = curved(0), curved(1)
    with torch.no_grad():
        weak.get_parameter("3.weight").mul_(50)
    ens = dt.Ensemble([weak, strong], aggregate="logit")
    x, y = right_images(ens)
    x_adv = PGD(eps=EPS, steps=8, stop_when_fooled=True)(ens, x, y, seeded())
    left = (x_adv == x).flatten(1).all(1)
    assert not left.any()  # all were right when clean, whatever the members said
    assert (strong(x).argmax(1) != y).any()
    assert (ens(x_adv).argmax(1) != y).any()


# Being told


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("attack", EVERY)
def test_the_objective_is_told_as_it_grows(attack: SearchAttack, stop: bool) -> None:
    """It may fall once: when a point fools that another, which does not, exceeds."""
    net = curved()
    x, y = right_images(net)
    steps, told = [], []

    def on_step(step: int, values: Tensor) -> None:
        steps.append(step)
        told.append(values.clone())

    attack = dataclasses.replace(attack, restarts=1, stop_when_fooled=stop)
    x_adv = attack(net, x, y, seeded(), on_step)
    assert steps == sorted(set(steps))
    assert steps[0] <= 1
    assert steps[-1] in (attack.steps - 1, attack.steps)
    growth = torch.stack(told).diff(dim=0)
    right = net(x_adv).argmax(1) == y
    assert right.any()
    assert (growth[:, right] >= 0).all()
    assert (growth[:, right] > 0).any()
    assert ((growth < 0).sum(0) <= 1).all()
    values, _ = attack.query(net, x, y, 0)(x_adv, torch.arange(len(x)))
    torch.testing.assert_close(told[-1], values, atol=1e-5, rtol=1e-4)
