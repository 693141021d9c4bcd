from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attacks.nets import Lambda
from divtrain.attacks import (
    FGSM,
    IFGSM,
    MIFGSM,
    PGDCW,
    RFGSM,
    Adapter,
    Attack,
    IterativeAttack,
    LinfAttack,
)
from divtrain.data import Images
from divtrain.evaluation import (
    CraftedBatch,
    Violations,
    craft,
    craft_batch,
    enforce_threat_model,
    join_batches,
    split_images,
)
from divtrain.evaluation.crafting import TOLERANCE

GREY = torch.full((4, 1, 2, 2), 0.5)


def made(count: int = 12) -> Images:
    x = torch.rand(count, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    return Images(x, torch.arange(count) % 4)


def surrogate() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 16), nn.Tanh(), nn.Linear(16, 4))


def changed(image: int, value: float) -> Tensor:
    x = GREY.clone()
    x[image, 0, 1, 0] = value
    return x


@pytest.mark.parametrize(
    ("x_adv", "expected", "mended"),
    [
        (GREY, Violations(0, 0, 0), 0.5),
        (changed(2, 0.6), Violations(0, 0, 0), 0.6),
        (changed(2, 0.6 + TOLERANCE / 2), Violations(0, 0, 0), 0.6),
        (changed(2, 0.61), Violations(1, 0, 0), 0.6),
        (changed(2, 0.1), Violations(1, 0, 0), 0.4),
        (changed(2, 1.7), Violations(1, 1, 0), 0.6),
        (changed(2, -0.2), Violations(1, 1, 0), 0.4),
        (changed(2, torch.nan), Violations(0, 0, 1), 0.5),
        (changed(2, torch.inf), Violations(1, 1, 1), 0.5),
        (torch.ones(4, 1, 2, 2), Violations(4, 0, 0), 0.6),
    ],
)
def test_violations_are_counted_by_image_and_mended(
    x_adv: Tensor, expected: Violations, mended: float
) -> None:
    before = x_adv.clone()
    whole, violations = enforce_threat_model(GREY, x_adv, 0.1)
    assert violations == expected
    assert whole[2, 0, 1, 0].item() == pytest.approx(mended, abs=1e-6)
    assert torch.equal(x_adv.nan_to_num(), before.nan_to_num())


def test_an_image_with_one_nan_pixel_is_replaced_as_a_whole() -> None:
    x_adv = GREY + 0.05
    x_adv[1, 0, 0, 0] = torch.nan
    whole, violations = enforce_threat_model(GREY, x_adv, 0.1)
    assert violations.not_finite == 1
    assert torch.equal(whole[1], GREY[1])
    assert torch.equal(whole[[0, 2, 3]], x_adv[[0, 2, 3]])


@settings(max_examples=60, deadline=None)
@given(eps=st.floats(0, 1), seed=st.integers(0, 2**31), spread=st.floats(0, 3))
def test_what_leaves_the_evaluator_is_in_the_ball_and_the_bounds(
    eps: float, seed: int, spread: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    clean = torch.rand(5, 1, 3, 3, generator=generator)
    x_adv = clean + spread * torch.randn(clean.shape, generator=generator)
    whole, violations = enforce_threat_model(clean, x_adv, eps)
    assert (whole - clean).abs().max() <= eps + 1e-6
    assert whole.min() >= 0
    assert whole.max() <= 1
    far = ((x_adv - clean).abs() > eps + TOLERANCE).flatten(1).any(1)
    assert violations.outside_ball == int(far.sum())
    again, none = enforce_threat_model(clean, whole, eps)
    assert none == Violations(0, 0, 0)
    assert torch.equal(again, whole)


@pytest.mark.parametrize("batch_size", [1, 5, 11])
@pytest.mark.parametrize(
    "attack",
    [FGSM(eps=0.1), IFGSM(eps=0.1), MIFGSM(eps=0.1), PGDCW(eps=0.1, random_start=False)],
    ids=lambda attack: type(attack).__name__,
)
def test_batch_size_has_no_influence_on_deterministic_attacks(
    attack: IterativeAttack, batch_size: int
) -> None:
    crafted = craft(attack, surrogate(), made(), batch_size=12)
    whole = crafted.x_adv
    assert crafted.violations == Violations(0, 0, 0)
    parts = craft(attack, surrogate(), made(), batch_size=batch_size).x_adv
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=0)
    assert not torch.equal(whole, made().x)


@pytest.mark.parametrize("attack", [RFGSM(eps=0.2), PGDCW(eps=0.2, steps=2)])
def test_random_starts_are_a_function_of_the_seed(attack: IterativeAttack) -> None:
    draws = [craft(attack, surrogate(), made(), seed=seed).x_adv for seed in (3, 3, 4)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_attacks_with_other_parameters_start_elsewhere() -> None:
    images = Images(torch.full((4, 1, 3, 3), 0.5), torch.zeros(4, dtype=torch.long))

    def start(attack: IterativeAttack) -> Tensor:
        flat = Lambda(lambda x: 0 * x.flatten(1)[:, :2])  # what is left is the start
        return (craft(attack, flat, images).x_adv - 0.5) / attack.eps

    small, large, other = start(RFGSM(eps=0.1)), start(RFGSM(eps=0.2)), start(PGDCW(eps=0.1))
    assert not torch.allclose(small, large, atol=1e-3)
    assert not torch.allclose(small, other, atol=1e-3)


def test_random_starts_do_not_depend_on_where_an_objective_lies_in_memory() -> None:
    def crafted() -> Tensor:
        model = surrogate()

        def objective(x: Tensor, y: Tensor) -> Tensor:
            return -model(x).gather(1, y[:, None]).squeeze(1)

        return craft(RFGSM(eps=0.2, objective=objective), model, made()).x_adv

    assert torch.equal(crafted(), crafted())


@dataclass(frozen=True, kw_only=True)
class Cheat(LinfAttack):
    """Twice as far as allowed on class 0, not a number on class 1, the clean image elsewhere."""

    def perturb(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        generator: torch.Generator | None,
        on_step: object,
    ) -> Tensor:
        x_adv = x.clone()
        x_adv[y == 0] += 2 * self.eps
        x_adv[y == 1] = torch.nan
        return x_adv


@pytest.mark.parametrize("batch_size", [2, 12])
def test_an_attack_that_cheats_is_mended_and_counted(batch_size: int) -> None:
    images = Images(made().x * 0.5, made().y)
    crafted = craft(Cheat(eps=0.1), surrogate(), images, batch_size)
    x_adv, violations = crafted.x_adv, crafted.violations
    assert violations == Violations(outside_ball=3, outside_bounds=0, not_finite=3)
    torch.testing.assert_close(x_adv[images.y == 0], images.x[images.y == 0] + 0.1)
    assert torch.equal(x_adv[images.y != 0], images.x[images.y != 0])


def test_progress_counts_the_images_done() -> None:
    calls: list[tuple[int, int]] = []
    craft(FGSM(eps=0.1), surrogate(), made(), 5, on_batch=lambda *call: calls.append(call))
    assert calls == [(5, 12), (10, 12), (12, 12)]


THEIRS = Adapter("theirs", 0.1, lambda model: lambda x, y: x + 0.1 * torch.rand_like(x))
"""Of another library, which reports no objective."""


@pytest.mark.parametrize("attack", [PGDCW(eps=0.2, steps=3), RFGSM(eps=0.2), THEIRS])
def test_batches_crafted_alone_and_in_any_order_make_the_same_set(attack: Attack) -> None:
    """Whatever was drawn before, and though the model draws noise at every pass."""
    images, net = made(10), surrogate()
    shaky = Lambda(lambda x: net(x + 0.1 * torch.randn_like(x)), net)
    whole = craft(attack, shaky, images, 3, seed=5)
    batches: dict[int, CraftedBatch] = {}
    for index, batch in reversed(list(enumerate(split_images(images, 3)))):
        torch.rand(index + 1)
        batches[index] = craft_batch(attack, shaky, batch, index, seed=5)
    joined = join_batches([batches[i] for i in sorted(batches)], shaky, images, attack.eps)
    assert torch.equal(joined.x_adv, whole.x_adv)
    assert torch.equal(joined.right, whole.right)
    assert (joined.passes, joined.violations) == (whole.passes, whole.violations)
    assert (joined.growth is None) == (whole.growth is None) == (attack is THEIRS)
    if joined.growth is not None and whole.growth is not None:
        assert torch.equal(joined.growth, whole.growth)
    assert not torch.equal(batches[0].x_adv - images.x[:3], batches[1].x_adv - images.x[3:6])


def test_the_digest_is_that_of_the_examples() -> None:
    one, same = (craft(FGSM(eps=0.1), surrogate(), made()) for _ in range(2))
    other = craft(FGSM(eps=0.2), surrogate(), made())
    assert one.digest() == same.digest() != other.digest()
    assert len(one.digest()) == 64


class Own:
    """An attack of one's own whose repr holds its address, as by default."""

    eps = 0.1

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        noise = torch.rand(x.shape, generator=generator, device=x.device)
        return (x + self.eps * (2 * noise - 1)).clamp(0, 1)


def test_random_starts_of_ones_own_attack_are_the_same_in_every_process() -> None:
    first, second = Own(), Own()
    assert repr(first) != repr(second)
    assert craft(first, surrogate(), made()).digest() == craft(second, surrogate(), made()).digest()
