"""Square Attack: what a search that sees answers alone must do."""

import pytest
import torch
from torch import Tensor, nn

import divtrain as dt
from attacks.nets import Lambda, corner, linear, seeded
from divtrain.attacks import PGD, Square
from divtrain.attacks.objectives import lead
from divtrain.ensemble import Aggregate

EPS = 0.1


def right_images(net: nn.Module, count: int = 60) -> tuple[Tensor, Tensor]:
    x = torch.rand(count, 2, 4, 4, generator=seeded(7))
    return x, net(x).argmax(1)


def seen_by(net: nn.Module) -> list[Tensor]:
    """The batches that will pass through a net."""
    seen: list[Tensor] = []
    net.register_forward_hook(lambda module, args, output: seen.append(args[0].clone()))
    return seen


# What it reaches


@pytest.mark.parametrize("stop", [False, True])
def test_a_linear_model_is_fooled_about_as_well_as_at_its_best_corner(stop: bool) -> None:
    net = linear(32, 2)
    x, y = right_images(net, 200)
    at_best = corner(net, x, y, EPS)
    x_adv = Square(eps=EPS, steps=400, stop_when_fooled=stop)(net, x, y, seeded())
    fooled, possible = net(x_adv).argmax(1) != y, net(at_best).argmax(1) != y
    assert (fooled <= possible).all()
    assert 0.3 < possible.float().mean() < 0.95
    assert fooled.sum() >= 0.95 * possible.sum()
    if not stop:
        clean, reached, best = (lead(net(points), y) for points in (x, x_adv, at_best))
        assert (reached >= best - 1e-5).all()
        assert ((clean - reached) / (clean - best)).mean() > 0.95


def test_masked_gradients_do_not_hinder_it() -> None:
    """Rounding has no gradient, nor has what numpy computes: Square does not notice."""
    net = linear(32, 2)
    x, y = right_images(net, 200)

    def rounded(x: Tensor) -> Tensor:
        return torch.from_numpy(net((64 * x).round() / 64).detach().numpy().copy())

    attack = Square(eps=EPS, steps=300)
    with pytest.raises(dt.DivtrainError, match="does not depend on its input"):
        PGD(eps=EPS)(Lambda(rounded), x, y)
    fooled = rounded(attack(Lambda(rounded), x, y, seeded())).argmax(1) != rounded(x).argmax(1)
    bare = net(attack(net, x, y, seeded())).argmax(1) != y
    assert fooled.sum() >= 0.9 * bare.sum() > 0


@pytest.mark.parametrize("aggregate", ["prob", "logit", "vote"])
def test_the_lead_in_the_answer_falls_however_members_are_aggregated(
    aggregate: Aggregate,
) -> None:
    ens = dt.Ensemble([nn.Sequential(nn.Flatten(), nn.Linear(32, 3)) for _ in range(3)], aggregate)
    x, y = right_images(ens)
    x_adv = Square(eps=EPS, steps=100)(ens, x, y, seeded())
    before, after = lead(ens(x), y), lead(ens(x_adv), y)
    assert (after <= before).all()
    assert (after < before).float().mean() > 0.9
    assert (ens(x_adv).argmax(1) != y).any()


# Where it looks


def test_it_begins_with_vertical_stripes() -> None:
    net = linear(32, 2)
    x = torch.full((200, 2, 4, 4), 0.5)
    seen = seen_by(net)
    Square(eps=EPS, steps=1)(net, x, torch.zeros(200).long())
    clean, stripes = seen
    assert torch.equal(clean, x)
    moved = stripes - x
    torch.testing.assert_close(moved.abs(), torch.full_like(x, EPS))
    assert torch.equal(moved, moved[:, :, :1].expand_as(moved))
    assert moved[:, :, 0].sign().mean().abs() < 0.1  # 1600 coins: 4 standard deviations
    for other in (moved[:, :1], moved[..., :1]):  # a coin for each channel and column
        assert not torch.equal(moved, other.expand_as(moved))


def share_of_the_paper(query: int, queries: int) -> float:
    """The schedule of the authors' code, with p_init = 0.8 and marks for 10,000 queries."""
    at, share = query / queries * 10_000, 0.8
    for mark in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000):
        if at > mark:
            share /= 2
    return share


@pytest.mark.parametrize("queries", [10_000, 1000])
@pytest.mark.parametrize(
    "at", [10, 20, 50, 60, 200, 210, 500, 600, 1000, 1100, 2000, 2100, 4100, 6100, 8100, 9990]
)
def test_the_squares_shrink_as_in_the_paper(at: int, queries: int) -> None:
    attack = Square(eps=EPS, steps=queries)
    query = at * queries // 10_000
    x = torch.full((20, 1, 64, 64), 0.5)
    proposal = attack._with_square(x, x, x - EPS, x + EPS, query, seeded())
    moved = proposal != x
    side = max(1, round((share_of_the_paper(query, queries) * 64 * 64) ** 0.5))
    assert (moved.flatten(1).sum(1) == side**2).all()
    assert (moved.any(2).sum(2) == side).all()
    assert (moved.any(3).sum(2) == side).all()
    for axis in (2, 3):  # rows and columns of a square follow on one another
        inside = moved.any(5 - axis).squeeze(1).float()
        assert (inside.diff(dim=1).abs().sum(1) <= 2).all()


def test_a_square_is_at_the_end_of_the_ball_with_a_sign_a_channel() -> None:
    x = torch.full((300, 3, 8, 8), 0.5)
    point = torch.full_like(x, 0.45)
    proposal = Square(eps=EPS, steps=100)._with_square(x, point, x - EPS, x + EPS, 50, seeded())
    moved = proposal != point
    assert torch.equal(moved, moved[:, :1].expand_as(moved))
    torch.testing.assert_close(
        (proposal - x).abs()[moved], torch.full((int(moved.sum()),), EPS), atol=1e-6, rtol=0
    )
    signs = torch.where(moved, (proposal - x).sign(), 0).sum((2, 3))
    assert (signs.abs() == moved[:, 0].sum((1, 2))[:, None]).all()  # one sign all over a channel
    assert len((signs > 0).unique(dim=0)) == 8  # every combination of three channels


def test_squares_fall_everywhere_also_at_the_border() -> None:
    x = torch.full((4000, 1, 5, 6), 0.5)
    proposal = Square(eps=EPS, steps=100)._with_square(x, x, x - EPS, x + EPS, 99, seeded())
    hits = (proposal != x).sum((0, 1))
    assert hits.sum() == 4000  # of side 1 by now
    assert (hits > 80).all()  # 133 each on average, with a standard deviation of 11
    assert (hits < 190).all()


@pytest.mark.parametrize("shape", [(3, 1, 1, 1), (3, 3, 2, 9), (3, 1, 9, 2)])
def test_squares_fit_into_images_of_any_shape(shape: tuple[int, ...]) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2] * shape[3], 2))
    x = torch.rand(shape)
    y = net(x).argmax(1)
    for share in (1.0, 0.8, 0.01):
        x_adv = Square(eps=EPS, steps=30, share=share)(net, x, y)
        assert (x_adv - x).abs().max() <= EPS + 1e-6
        assert (lead(net(x_adv), y) < lead(net(x), y)).all()
