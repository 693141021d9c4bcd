"""Examples made from the ensemble that trains on them: closed forms and what all of them keep."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import divtrain as dt
from divtrain.attacks import FGSM, MIFGSM
from divtrain.attacks.objectives import make_objective
from divtrain.defences.crafters import Crafter, Moment, PGDExamples, ascend, craft
from divtrain.defences.cross import FeaturesAway, draw_depth
from divtrain.defences.dverge import FeatureTargets
from divtrain.defences.features import layer_output
from divtrain.defences.trs import RoughPoints
from divtrain.forward import Batch
from made import same

EPS = 0.2
CRAFTERS: dict[str, Any] = {
    "pgd": PGDExamples(EPS, steps=3),
    "pgd-member": PGDExamples(EPS, steps=2, attacked="member", radius="uniform"),
    "cross": FeaturesAway(EPS, share=1.0, warm_up=0.0),
    "dverge": FeatureTargets(EPS, steps=3, warm_up=0.0),
    "trs": RoughPoints(EPS, steps=3, share=1.0, adds=False),
    "dverge-one": FeatureTargets(EPS, steps=3, partners="one", warm_up=0.0),
}
EACH = pytest.mark.parametrize("crafter", CRAFTERS.values(), ids=CRAFTERS)


def nets(members: int = 3, seed: int = 0, kind: torch.dtype = torch.float64) -> dt.Ensemble:
    torch.manual_seed(seed)
    each = [
        nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(),
            nn.Linear(48, 4),
        )
        for _ in range(members)
    ]  # fmt: skip
    return dt.Ensemble(each).to(kind)


def linear_nets(members: int = 2, seed: int = 0) -> dt.Ensemble:
    torch.manual_seed(seed)
    return dt.Ensemble(
        [nn.Sequential(nn.Flatten(), nn.Linear(36, 4)) for _ in range(members)]
    ).double()


def images(count: int = 8, low: float = 0.0, high: float = 1.0) -> Batch:
    generator = torch.Generator().manual_seed(1)
    x = low + (high - low) * torch.rand(count, 1, 6, 6, generator=generator, dtype=torch.float64)
    return Batch(x, torch.randint(4, (count,), generator=generator))


def made(crafter: Crafter, ens: dt.Ensemble | None = None, batch: Batch | None = None,
         step: int = 0, **place: int) -> Batch:  # fmt: skip
    moment = Moment(seed=3, step=step, steps=10)
    return craft(crafter, ens or nets(), batch or images(), moment, **place)


def weight(ens: dt.Ensemble, member: int) -> Tensor:
    layer = ens.members[member][1]  # pyright: ignore[reportIndexIssue]
    assert isinstance(layer, nn.Linear)
    return layer.weight.detach()


@EACH
def test_examples_are_in_the_ball_and_in_zero_to_one_and_move(crafter: Crafter) -> None:
    batch, found = images(), made(crafter)
    sets = found.x.shape[-4] // len(batch)
    moved = found.x - batch.x.repeat(sets, 1, 1, 1)
    assert found.x.min() >= 0
    assert found.x.max() <= 1
    assert 0.2 * EPS < moved.abs().amax() <= EPS + 1e-12
    assert torch.equal(found.y, batch.y.repeat(sets))
    assert found.parts == {"given": slice(0, 0), "crafted": slice(0, sets * len(batch))}


@EACH
def test_no_radius_gives_the_images_themselves(crafter: Any) -> None:
    found = made(replace(crafter, eps=0.0))
    sets = found.x.shape[-4] // 8
    assert torch.equal(found.x, images().x.repeat(sets, 1, 1, 1).expand_as(found.x))


@EACH
def test_a_share_is_made_from_the_last_images_and_the_first_stay_as_they_are(crafter: Any) -> None:
    batch = images()
    found = made(replace(crafter, share=0.3))  # 2.4 images, rounded up
    assert found.parts["given"] == slice(0, 5)
    given = found.x[..., :5, :, :, :]
    assert torch.equal(given, batch.x[:5].expand_as(given))
    assert not torch.equal(
        found.x[..., 5:8, :, :, :], batch.x[5:].expand_as(given[..., :3, :, :, :])
    )
    assert torch.equal(found.y[:8], batch.y)


@EACH
def test_examples_that_are_added_leave_all_images_there(crafter: Any) -> None:
    batch, found = images(), made(replace(crafter, share=0.5, adds=True))
    given = found.x[..., found.parts["given"], :, :, :]
    assert torch.equal(given, batch.x.expand_as(given))
    crafted = found.parts["crafted"]
    assert crafted.stop - crafted.start == len(found.y) - 8 > 0
    assert torch.equal(found.y[8:12], batch.y[4:])


@EACH
def test_crafting_leaves_no_trace_on_the_ensemble(crafter: Crafter) -> None:
    ens = nets().train()
    ens.members[1].eval()
    next(ens.members[0].parameters()).requires_grad_(False)
    for parameter in ens.members[2].parameters():
        parameter.grad = torch.ones_like(parameter)
    state = {name: value.clone() for name, value in ens.state_dict().items()}
    modes = [module.training for module in ens.modules()]
    flags = [parameter.requires_grad for parameter in ens.parameters()]
    drawn = torch.get_rng_state()
    made(crafter, ens)
    assert same(state.values(), ens.state_dict().values())
    assert [module.training for module in ens.modules()] == modes
    assert [parameter.requires_grad for parameter in ens.parameters()] == flags
    assert all(p.grad is None for member in (0, 1) for p in ens.members[member].parameters())
    assert all(p.grad is not None and (p.grad == 1).all() for p in ens.members[2].parameters())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not any(module._forward_hooks for module in ens.modules())


@EACH
def test_examples_follow_from_the_moment(crafter: Crafter) -> None:
    one, again, later = made(crafter), made(crafter), made(crafter, step=1)
    assert torch.equal(one.x, again.x)
    assert not torch.equal(one.x, later.x)


@EACH
def test_processes_that_share_a_batch_make_what_one_makes(crafter: Any) -> None:
    for each in (crafter, replace(crafter, share=0.5)):
        whole = made(each)
        for rank in (0, 1):
            found = made(each, rank=rank, world=2)
            assert found.parts == whole.every(2, rank).parts
            torch.testing.assert_close(found.x, whole.every(2, rank).x, rtol=0, atol=1e-12)
            assert torch.equal(found.y, whole.every(2, rank).y)


@EACH
def test_the_warm_up_has_no_examples(crafter: Any) -> None:
    slow = replace(crafter, warm_up=0.25)  # 2.5 of 10 steps, rounded up
    for step in (0, 1, 2):
        found = made(slow, step=step)
        assert torch.equal(found.x, images().x)
        assert found.parts == {"given": slice(0, 8), "crafted": slice(8, 8)}
    assert made(slow, step=3).parts["crafted"] != slice(8, 8)


@EACH
def test_networks_without_gradient_give_finite_images(crafter: Crafter) -> None:
    ens = nets()
    with torch.no_grad():
        for parameter in ens.parameters():
            parameter.zero_()
    found = made(crafter, ens)
    assert found.x.isfinite().all()
    sets = found.x.shape[-4] // 8
    assert (found.x - images().x.repeat(sets, 1, 1, 1)).abs().max() <= EPS + 1e-12


@pytest.mark.parametrize("name", ["cross", "dverge", "dverge-one"])
def test_examples_in_feature_space_do_not_look_at_the_label(name: str) -> None:
    batch = images()
    other = replace(batch, y=(batch.y + 1) % 4)
    assert torch.equal(made(CRAFTERS[name], batch=batch).x, made(CRAFTERS[name], batch=other).x)


@pytest.mark.parametrize("name", ["cross", "dverge", "dverge-one"])
def test_with_two_members_what_one_learns_from_does_not_depend_on_its_own_weights(
    name: str,
) -> None:
    ens, changed = nets(2), nets(2)
    with torch.no_grad():
        for parameter in changed.members[0].parameters():
            parameter.add_(torch.randn_like(parameter))
    one, other = made(CRAFTERS[name], ens).x, made(CRAFTERS[name], changed).x
    assert torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])


def test_each_members_own_examples_do_not_depend_on_the_others() -> None:
    ens, changed = nets(), nets()
    with torch.no_grad():
        for parameter in changed.members[0].parameters():
            parameter.add_(torch.randn_like(parameter))
    one, other = (made(CRAFTERS["pgd-member"], each).x for each in (ens, changed))
    assert torch.equal(one[1:], other[1:])
    assert not torch.equal(one[0], other[0])


def test_ascending_one_step_from_the_image_is_fgsm() -> None:
    ens, batch = nets().eval(), images()
    objective = make_objective("ce_of_mean_prob", ens)
    found = ascend(lambda z: objective(z, batch.y), batch.x, batch.x, 0.1, 1, 0.1)
    expected = FGSM(eps=0.1, objective="ce_of_mean_prob")(ens, batch.x, batch.y)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)


def test_ascending_with_momentum_is_mifgsm() -> None:
    ens, batch = nets().eval(), images()
    objective = make_objective("mean_member_ce", ens)
    found = ascend(lambda z: objective(z, batch.y), batch.x, batch.x, 0.1, 5, 0.02, 1.0)
    expected = MIFGSM(eps=0.1, steps=5, decay=1.0)(ens, batch.x, batch.y)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)


def test_pgd_examples_raise_the_loss_of_what_they_attack() -> None:
    ens, batch = nets().eval(), images()
    loss = make_objective("ce_of_mean_prob", ens)
    whole = made(PGDExamples(EPS, 7), ens)
    assert (loss(whole.x, batch.y) > loss(batch.x, batch.y)).all()
    each = made(PGDExamples(EPS, 7, "member"), ens)
    logits, clean = ens.member_logits(each.x), ens.member_logits(batch.x)
    for member in range(3):
        losses = [nn.functional.cross_entropy(z[member], batch.y) for z in (logits, clean)]
        assert losses[0] > losses[1] + 0.01


def test_cross_is_one_step_from_a_random_start_along_the_feature_distance() -> None:
    """h(z) = W z + b, so the gradient of the distance at x + u is 2 W'W u / features."""
    ens, batch = linear_nets(), images(low=0.45, high=0.55)
    found = made(FeaturesAway(EPS, share=1.0, warm_up=0.0), ens, batch).x
    for learner, crafting in ((0, 1), (1, 0)):
        w = weight(ens, crafting)
        moved = (found[learner] - batch.x).flatten(1)
        radius = moved.abs().amax(1, keepdim=True)
        # u is where z was not cut: |u + 1.25 r s| <= r leaves u = z - 1.25 r s, inside the ball.
        inside = moved.abs() < radius - 1e-9
        assert inside.any(1).all()
        generator = Moment(3, 0, 10).generator()
        r = EPS * torch.rand(8, 1, 1, 1, generator=generator, dtype=torch.float64)
        start = torch.rand(2, 8, 1, 6, 6, generator=generator, dtype=torch.float64)
        u = (r * (2 * start - 1))[crafting].flatten(1)
        step = 1.25 * r.flatten(1) * (u @ w.T @ w).sign()
        expected = (u + step).clamp(-r.flatten(1), r.flatten(1))
        torch.testing.assert_close(moved, expected, rtol=0, atol=1e-12)
        before, after = ((d @ w.T).square().mean(1) for d in (u, moved))
        assert (after > before).float().mean() > 0.9


def test_dverge_steps_towards_the_features_of_another_image() -> None:
    """h(z) = W z + b and one step: z = x - a sign(W'W (x - x_t)), x_t a roll of the batch."""
    ens, batch = linear_nets(), images(low=0.45, high=0.55)
    found = made(FeatureTargets(EPS, steps=1, warm_up=0.0), ens, batch).x
    x = batch.x.flatten(1)
    for learner, crafting in ((0, 1), (1, 0)):
        w = weight(ens, crafting)
        expected = [x - EPS / 10 * ((x - x.roll(k, 0)) @ w.T @ w).sign() for k in range(1, 8)]
        distances = [(found[learner].flatten(1) - e).abs().max().item() for e in expected]
        assert min(distances) < 1e-12


@pytest.mark.parametrize("step", range(5))
def test_dverge_brings_features_nearer(step: int) -> None:
    ens, batch = nets(2).eval(), images()
    moment = Moment(3, step, 10)
    found = craft(FeatureTargets(EPS, 10, warm_up=0.0), ens, batch, moment).x
    depth = draw_depth(moment)
    for learner, crafting in ((0, 1), (1, 0)):
        net = ens.members[crafting]
        aims = layer_output(net, batch.x, depth)
        start, end = aims, layer_output(net, found[learner], depth)
        nearer = [
            ((end - aims.roll(k, 0)).square().sum(1) < (start - aims.roll(k, 0)).square().sum(1))
            for k in range(1, 8)
        ]
        assert any(bool(each.all()) for each in nearer)


def test_dverge_of_permuted_members_is_permuted() -> None:
    """There is no random start, so members have nothing of their own but their weights."""
    ens = nets()
    turned = dt.Ensemble([ens.members[i] for i in (1, 2, 0)])
    one, other = (made(CRAFTERS["dverge"], each).x for each in (ens, turned))
    # Member i has the sets of members i + 1 and i + 2, in this order.
    torch.testing.assert_close(other, one[[1, 2, 0]], rtol=0, atol=0)


def test_one_partner_is_drawn_evenly_for_each_image() -> None:
    """Member i's example of an image is that of one of the other members, each as often."""
    batch = images(300)
    alone, whole = (made(CRAFTERS[name], batch=batch).x for name in ("dverge-one", "dverge"))
    sets = whole.unflatten(1, (2, 300))
    match = (alone.unsqueeze(1) == sets).flatten(3).all(-1)
    assert (match.sum(1) == 1).all()
    assert (match.double().mean(-1) - 0.5).abs().max() < 0.1


def test_rough_points_are_where_gradients_are_longer_and_the_ball_grows() -> None:
    ens, batch = nets().eval(), images()
    crafter, length = RoughPoints(EPS, steps=6, share=1.0, adds=False), []
    late = craft(crafter, ens, batch, Moment(3, 9, 90))  # a tenth of the training is done
    assert (late.x - batch.x).abs().max().item() == pytest.approx(EPS * 1.2 / 3, abs=1e-9)
    for step in (0, 9):
        found = made(crafter, ens, batch, step=step)
        g = [
            dt.input_gradients(ens, x, batch.y).square().sum(-1).mean() for x in (batch.x, found.x)
        ]
        assert g[1] > g[0]
        length.append((found.x - batch.x).abs().max().item())
    assert length == pytest.approx([EPS / 3, EPS * (1 + 2 * 0.9) / 3], abs=1e-9)


def test_layers_are_drawn_evenly_and_apart_from_the_other_numbers() -> None:
    moments = [Moment(3, step, 1000) for step in range(1000)]
    depths = torch.tensor([draw_depth(moment) for moment in moments])
    assert 0 < depths.min() < 0.01 < 0.99 < depths.max() <= 1
    assert (depths.histc(5, 0, 1) / 1000 - 0.2).abs().max() < 0.05
    first = torch.tensor([torch.rand((), generator=each.generator()).item() for each in moments])
    assert torch.corrcoef(torch.stack([depths, first]))[0, 1].abs() < 0.1


def test_a_pixel_whose_gradient_is_not_a_number_stays() -> None:
    x = torch.full((1, 1, 1, 2), 0.5)

    def objective(z: Tensor) -> Tensor:
        return torch.stack([(z[..., 0] - 0.5).sqrt(), z[..., 1]])  # 0 / 0 and 1

    assert torch.equal(ascend(lambda z: objective(z) * 0 + objective(z), x, x, 0.1, 1, 0.1)[..., 1],
                       x[..., 1] + 0.1)  # fmt: skip


def test_a_rough_step_goes_where_finite_differences_say() -> None:
    """Two pixels that may move: the sign of d/dz of the mean squared input gradient."""
    torch.manual_seed(0)
    ens = dt.Ensemble(
        [nn.Sequential(nn.Flatten(), nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 3)) for _ in "ab"]
    ).double()
    x, y = torch.tensor([[[[0.4, 0.6]]]], dtype=torch.float64), torch.tensor([1])
    moment = Moment(3, 0, 10)
    start = x + EPS / 3 * (2 * torch.rand(x.shape, generator=moment.generator(), dtype=x.dtype) - 1)
    found, _ = RoughPoints(EPS, steps=1)(ens, x, y, slice(None), moment)

    def length(z: Tensor) -> float:
        return dt.input_gradients(ens, z, y).square().sum().item()

    nudges = torch.eye(2, dtype=torch.float64).view(2, 1, 1, 1, 2) * 1e-5
    slope = [length(start + nudge) - length(start - nudge) for nudge in nudges]
    expected = start + EPS / 9 * torch.tensor(slope, dtype=torch.float64).sign()
    expected = x + (expected - x).clamp(-EPS / 3, EPS / 3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_too_few_images_and_examples_that_do_not_match_are_refused() -> None:
    with pytest.raises(dt.DivtrainError, match="at least 2 images per step"):
        made(CRAFTERS["dverge"], batch=images(1))

    class Wrong:
        share, warm_up, adds = 1.0, 0.0, False

        def __call__(
            self, ens: dt.Ensemble, x: Tensor, y: Tensor, here: slice, moment: Moment
        ) -> tuple[Tensor, Tensor]:
            return x, y[:-1]

    with pytest.raises(dt.DivtrainError, match=r"Wrong to return examples .* got shapes"):
        made(Wrong())
