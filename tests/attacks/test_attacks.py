"""Facts that hold for every attack, and the closed forms of each."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import divtrain as dt
from attacks.nets import Lambda, corner, linear, seeded
from divtrain.attacks import (
    APGD,
    APGDT,
    FGSM,
    IFGSM,
    MIFGSM,
    PGD,
    PGDCW,
    RFGSM,
    Adapter,
    Attack,
    IterativeAttack,
    LinfAttack,
    RandomNoise,
    ReversedFGSM,
    Square,
    build_attack,
)
from divtrain.attacks.attack import box, uniform_in_ball
from divtrain.attacks.external import OnImages


def theirs(eps: float) -> Adapter:
    """FGSM, as if it came from another library."""

    def make(model: nn.Module) -> OnImages:
        def attack(x: Tensor, y: Tensor) -> Tensor:
            x = x.requires_grad_()
            loss = nn.functional.cross_entropy(model(x), y)
            return (x + eps * torch.autograd.grad(loss, x)[0].sign()).clamp(*box(x, eps)).clone()

        return attack

    return Adapter("theirs", eps, make)


Make = Callable[[float], Attack]
PAPERS = (FGSM, RFGSM, IFGSM, MIFGSM, PGDCW)
OURS: list[Make] = [
    *(lambda eps, kind=kind: kind(eps=eps) for kind in PAPERS),
    lambda eps: PGD(eps=eps, steps=5, restarts=2),
    lambda eps: PGD(eps=eps, steps=5, random_start=False, stop_when_fooled=True),
    lambda eps: APGD(eps=eps, steps=5, stop_when_fooled=True),
    lambda eps: APGD(eps=eps, steps=5, objective="dlr"),
    lambda eps: APGDT(eps=eps, steps=5, restarts=2),
    lambda eps: Square(eps=eps, steps=20),
    lambda eps: Square(eps=eps, steps=20, restarts=2, stop_when_fooled=True),
    lambda eps: ReversedFGSM(eps=eps),
    lambda eps: RandomNoise(eps=eps),
]
EVERY = [*OURS, theirs]
"""Each from a radius."""


def ensemble() -> dt.Ensemble:
    return dt.Ensemble([linear(seed=seed) for seed in range(3)])


def images(count: int = 6) -> tuple[Tensor, Tensor]:
    return torch.rand(count, 2, 2, 2), torch.arange(count) % 3


# Every attack


@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize("eps", [0.0, 0.03, 0.3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_examples_stay_in_the_ball_and_in_the_bounds(
    make: Make, eps: float, dtype: torch.dtype
) -> None:
    x, y = images()
    x[0], x[1] = 0.0, 1.0
    x, before = x.to(dtype), x.clone().to(dtype)
    x_adv = make(eps)(ensemble().to(dtype), x, y)
    low, high = box(x, eps)
    assert torch.equal(x, before)
    assert x_adv.dtype == x.dtype
    assert not x_adv.requires_grad
    assert (x_adv >= low).all()
    assert (x_adv <= high).all()
    assert (eps == 0) == torch.equal(x_adv, x)


@pytest.mark.parametrize("kind", [FGSM, IFGSM, MIFGSM, PGDCW])
def test_a_linear_classifier_of_two_classes_is_attacked_optimally(
    kind: type[IterativeAttack],
) -> None:
    """Its loss rises along sign(w_other - w_own) only, so the best example is known. Not so by
    R-FGSM, whose one step falls short where its random start was far off."""
    net, (x, _) = linear(classes=2), images()
    y = torch.arange(len(x)) % 2
    best = corner(net, x, y, 0.1)
    torch.testing.assert_close(kind(eps=0.1)(net, x, y), best, atol=1e-6, rtol=0)


@pytest.mark.parametrize("make", EVERY)
def test_the_model_is_left_as_it_was_found(make: Make) -> None:
    frozen, net = linear(seed=1), nn.Sequential(nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, 3))
    ens, (x, y) = dt.Ensemble([net, frozen]), images()
    ens.train()
    net[1].eval()
    frozen.requires_grad_(False)
    modes = [module.training for module in ens.modules()]
    flags = [parameter.requires_grad for parameter in ens.parameters()]
    state = {name: value.clone() for name, value in ens.state_dict().items()}
    make(0.1)(ens, x, y)
    assert [module.training for module in ens.modules()] == modes
    assert [parameter.requires_grad for parameter in ens.parameters()] == flags
    assert all(parameter.grad is None for parameter in ens.parameters())
    for name, value in ens.state_dict().items():
        assert torch.equal(value, state[name])


@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_attacks_work_where_gradients_are_disabled(make: Make, mode: Callable[[], object]) -> None:
    ens, (x, y) = ensemble(), images()
    expected = make(0.1)(ens, x, y, seeded())
    with mode():  # pyright: ignore[reportGeneralTypeIssues]
        got = make(0.1)(ens, x + 0, y + 0, seeded())
        torch.testing.assert_close(got, expected, atol=0, rtol=0)


@pytest.mark.parametrize("make", EVERY)
def test_a_seeded_attack_repeats_itself_whatever_the_global_generator(make: Make) -> None:
    """And another seed starts elsewhere, where anything is random: a flat model keeps the start."""
    ens, (x, y) = ensemble(), images()
    before = torch.get_rng_state()
    one, same = (make(0.2)(ens, x, y, seeded(1)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, same)
    flat, attack = Lambda(lambda x: torch.zeros(len(x), 3) + 0 * x.sum()), make(0.2)
    random = isinstance(attack, (RFGSM, PGDCW, RandomNoise))  # a search returns its best, the image
    assert torch.equal(*(attack(flat, x, y, seeded(seed)) for seed in (1, 2))) != random


@pytest.mark.parametrize("make", EVERY)
def test_flat_models_leave_examples_finite_and_where_the_attack_started(make: Make) -> None:
    x, y = images()
    x_adv = make(0.1)(Lambda(lambda x: torch.zeros(len(x), 3) + 0 * x.sum()), x, y)
    assert x_adv.isfinite().all()
    if not isinstance(make(0.1), (RandomNoise, RFGSM, PGDCW)):
        assert torch.equal(x_adv, x)  # a zero gradient moves nothing; nothing beats the clean image


def test_random_noise_moves_every_pixel_by_eps_up_or_down_and_looks_at_no_model() -> None:
    x, y = torch.full((500, 2, 2, 2), 0.5), torch.zeros(500, dtype=torch.int64)
    seen: list[Tensor] = []
    moved = RandomNoise(eps=0.1)(Lambda(seen.append), x, y) - x  # pyright: ignore
    assert seen == []
    torch.testing.assert_close(moved.abs(), torch.full_like(x, 0.1))
    assert moved.sign().mean().abs() < 0.07  # 4 standard deviations of 4000 coins


def test_the_reversed_step_is_fgsms_mirrored_at_the_image_and_makes_the_label_likelier() -> None:
    ens, (x, y) = ensemble(), images()
    x = 0.2 + 0.6 * x  # so that nothing is clipped
    there, back = FGSM(eps=0.1)(ens, x, y), ReversedFGSM(eps=0.1)(ens, x, y)
    torch.testing.assert_close(back - x, x - there)
    loss = dt.attacks.make_objective("mean_member_ce", ens)
    assert (loss(back, y) < loss(x, y)).all()
    assert (loss(x, y) < loss(there, y)).all()


def test_nan_in_the_gradient_is_told_and_taken_as_zero() -> None:
    def rooted(x: Tensor) -> Tensor:
        root = (x - x.detach()).sqrt().flatten(1)  # infinite slope at 0, times 0 is NaN
        return torch.stack([(0 * root).sum(1), x.sum((1, 2, 3))], 1)

    x, y = images()
    with pytest.warns(UserWarning, match="NaN"):
        x_adv = FGSM(eps=0.1)(Lambda(rooted), x, y.clamp(max=1))
    assert x_adv.isfinite().all()


# Each attack


class Quadratic(nn.Module):
    """Logits with a gradient that turns along the way, and a known one."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return torch.stack([-((flat - 0.6) ** 2).sum(1), ((flat - 0.4) ** 3).sum(1)], 1)


def gradient(x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    loss = nn.functional.cross_entropy(Quadratic()(x), y, reduction="sum")
    return torch.autograd.grad(loss, x)[0]


def test_fgsm_is_equation_2() -> None:
    x, y = images()
    y = y % 2
    expected = (x + 0.05 * gradient(x, y).sign()).clamp(0, 1)
    torch.testing.assert_close(FGSM(eps=0.05)(Quadratic(), x, y), expected)


def test_ifgsm_is_equations_3_and_4() -> None:
    x, y = images()
    y = y % 2
    expected = x
    for _ in range(10):
        expected = expected + 0.3 / 10 * gradient(expected, y).sign()
        expected = torch.minimum(torch.maximum(expected, x - 0.3), x + 0.3).clamp(0, 1)
    torch.testing.assert_close(IFGSM(eps=0.3)(Quadratic(), x, y), expected)


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_mifgsm_is_equation_5(decay: float) -> None:
    x, y = images()
    y = y % 2
    momentum, expected = torch.zeros_like(x), x
    for _ in range(10):
        g = gradient(expected, y)
        momentum = decay * momentum + g / g.abs().sum((1, 2, 3), keepdim=True)
        expected = expected + 0.3 / 10 * momentum.sign()
        expected = torch.minimum(torch.maximum(expected, x - 0.3), x + 0.3).clamp(0, 1)
    torch.testing.assert_close(MIFGSM(eps=0.3, decay=decay)(Quadratic(), x, y), expected)


def test_mifgsm_keeps_its_momentum_through_a_zero_gradient() -> None:
    """After the hinge goes flat the momentum carries on; 0/0 would make it NaN."""
    net = linear(classes=2)
    x, y = torch.full((1, 2, 2, 2), 0.5), torch.tensor([0])
    attack = MIFGSM(eps=0.4, objective="margin")
    x_adv = attack(net, x, y)
    weight = net[1].weight.detach()  # pyright: ignore
    assert net(x_adv).argmax() == 1
    torch.testing.assert_close(x_adv, x + 0.4 * (weight[1] - weight[0]).sign().view_as(x))


@pytest.mark.parametrize(
    "start", [RFGSM(eps=0.2).start, PGDCW(eps=0.2).start, lambda x, g: uniform_in_ball(x, 0.2, g)]
)
def test_random_starts_are_uniform_in_the_ball(start: Callable[..., Tensor]) -> None:
    x = torch.full((4000, 1, 1, 2), 0.5)
    moved = start(x, torch.Generator().manual_seed(0)) - x
    assert moved.abs().max() <= 0.2
    assert moved.mean().abs() < 0.005
    assert moved.var().item() == pytest.approx(0.4**2 / 12, rel=0.03)


def test_rfgsm_with_alpha_splits_the_step_as_tramer_et_al() -> None:
    net, (x, y) = linear(classes=2), images()
    x, y = x * 0.5 + 0.25, y % 2
    attack = RFGSM(eps=0.2, alpha=0.05)
    assert ((attack.start(x, None) - x).abs() - 0.05).abs().max() < 1e-6
    weight = net[1].weight.detach()  # pyright: ignore
    towards = (weight[1 - y] - weight[y]).sign().view_as(x)
    moved = attack(net, x, y) - x
    distance = (moved * towards).flatten()
    assert ((distance - 0.2).abs().lt(1e-6) | (distance - 0.1).abs().lt(1e-6)).all()


@pytest.mark.parametrize(("name", "step"), [("pgdcw", 0.01), ("pgdcw-tenth", 0.02)])
def test_pgdcw_steps_by_a_hundredth_and_on_demand_by_a_tenth_of_eps(name: str, step: float) -> None:
    """A linear net's gradient has one sign: after two steps each pixel is two steps away."""
    attack = replace(build_attack(name, eps=0.2), steps=2, random_start=False)  # pyright: ignore
    net, x, y = linear(classes=2), torch.full((3, 2, 2, 2), 0.5), torch.arange(3) % 2
    torch.testing.assert_close((attack(net, x, y) - x).abs(), torch.full_like(x, 2 * step))


def test_pgdcw_stops_at_kappa() -> None:
    x, y = images()
    assert torch.equal(PGDCW(eps=0.2, random_start=False).start(x, None), x)
    net = linear()
    with torch.no_grad():  # no class wins at mid grey, so that every image can be fooled
        net[1].bias -= net(torch.full((1, 2, 2, 2), 0.5))[0]  # pyright: ignore
    y = net(x).argmax(1)
    far = PGDCW(eps=1.0, confidence=0.0, step_size=0.001, steps=3000, random_start=False)
    logits = net(far(net, x, y))
    own = logits.gather(1, y[:, None]).squeeze(1)
    lead = logits.scatter(1, y[:, None], -math.inf).amax(1) - own
    fooled = lead > 0
    assert fooled.any()
    assert lead[fooled].max() < 0.02  # the hinge went flat as soon as another class led


# Bad input


@pytest.mark.parametrize("eps", [-0.1, 1.1, math.nan, math.inf])
@pytest.mark.parametrize("make", EVERY)
def test_a_bad_eps_is_refused(make: Make, eps: float) -> None:
    with pytest.raises(dt.DivtrainError, match=r"eps in \[0, 1\]"):
        make(eps)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FGSM(eps=8.0), "8/255 = 0.03137"),
        (lambda: IFGSM(eps=0.1, steps=0), "`steps` >= 1"),
        (lambda: IFGSM(eps=0.1, step_size=-1.0), "`step_size` > 0"),
        (lambda: RFGSM(eps=0.1, alpha=0.2), "`alpha` in"),
        (lambda: PGD(eps=0.1, steps=0), "`steps` >= 1"),
        (lambda: PGD(eps=0.1, step_size=0.0), "`step_size` > 0"),
        (lambda: APGD(eps=0.1, restarts=-1), "`restarts` >= 1"),
        (lambda: APGDT(eps=0.1, objective="margin"), "use APGD for others"),
        (lambda: Square(eps=0.1, share=0.0), "`share` in"),
        (lambda: Square(eps=0.1, share=1.5), "`share` in"),
        (lambda: Square(eps=0.1, objective="margin"), "leave it out"),
        (lambda: Square(eps=0.1, objective=lambda x, y: x.sum((1, 2, 3))), "leave it out"),
        (lambda: FGSM(eps=0.1, objective="margins")(linear(), *images()), "'margin'"),  # pyright: ignore
    ],
)
@pytest.mark.usefixtures("no_shape_checks")
def test_bad_parameters_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(dt.DivtrainError, match=message):
        make()


@pytest.mark.parametrize("kind", [FGSM, PGD, APGD, APGDT])
def test_a_model_that_detaches_its_input_is_told_so(kind: type[LinfAttack]) -> None:
    with pytest.raises(dt.DivtrainError, match="does not depend on its input"):
        kind(eps=0.1)(Lambda(lambda x: x.detach().flatten(1)[:, :3]), X, Y)


@pytest.mark.parametrize("kind", [FGSM, PGD])
def test_an_objective_that_reduces_over_the_batch_is_told_so(kind: type[LinfAttack]) -> None:
    with pytest.raises(dt.DivtrainError, match="one value per image"):
        kind(eps=0.1, objective=lambda x, y: x.sum())(linear(), X, Y)


X, Y = torch.rand(2, 2, 2, 2), torch.tensor([0, 2])


@pytest.mark.parametrize("make", OURS[:-1])
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X * 255, Y, "divide 8-bit"),
        (X / 0 * 0, Y, "NaN"),
        (X[0], Y, "height, width"),
        ((X * 255).to(torch.uint8), Y, "float32"),
        (X, torch.tensor([0, 3]), "from 0 to 2"),
        (X, Y[:1], "expected one label"),
        (X, Y.float(), "int64"),
    ],
)
def test_bad_images_and_labels_are_refused(make: Make, x: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(dt.DivtrainError, match=message):
        make(0.1)(linear(), x, y)


@pytest.mark.parametrize("name", ["pgd", "pgd:margin", "apgd", "apgd:dlr", "apgdt", "square"])
def test_models_that_answer_in_half_precision_can_be_attacked(name: str) -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = linear()
            with torch.no_grad():  # no class wins at mid grey, so that every image can be fooled
                self.net[1].bias -= self.net(torch.full((1, 2, 2, 2), 0.5))[0]  # pyright: ignore

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).to(torch.bfloat16)

    model = Half()
    x, _ = images(40)
    y = model(x).argmax(1)
    x_adv = build_attack(name, 0.3, steps=20)(model, x, y)
    assert x_adv.dtype == x.dtype
    assert (model(x_adv).argmax(1) != y).float().mean() > 0.5
