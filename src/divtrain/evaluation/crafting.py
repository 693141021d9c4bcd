"""Adversarial sets: crafted once on a surrogate, checked, and shared by every target."""

import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from divtrain.attacks import Attack, LinfAttack
from divtrain.data import Images
from divtrain.errors import DivtrainError
from divtrain.evaluation.effort import Growth, Passes, count_passes
from divtrain.evaluation.parts import Part, Parts
from divtrain.module_state import device_of

TOLERANCE = 1e-6
"""Float32 rounding allowed beyond the ball before an example counts as a violation."""

OnBatch = Callable[[int, int], None]
"""Called with (images done, images in all)."""


@dataclass(frozen=True)
class Violations:
    """What an attack returned that the threat model does not allow; all of it was mended.

    Attributes:
        outside_ball: Images with a pixel further than eps from the clean one.
        outside_bounds: Images with a pixel outside [0, 1].
        not_finite: Images with a NaN or infinite pixel, replaced by the clean image.
    """

    outside_ball: int
    outside_bounds: int
    not_finite: int


def enforce_threat_model(
    clean: Float[Tensor, "image channel height width"],
    x_adv: Float[Tensor, "image channel height width"],
    eps: float,
) -> tuple[Float[Tensor, "image channel height width"], Violations]:
    """Clip adversarial examples into the ball and the bounds, and count what had to be mended.

    The evaluator calls it on everything an attack returns: attacks are not trusted.
    """

    def images(mask: Tensor) -> int:
        return int(mask.flatten(1).any(1).sum())

    broken = ~torch.isfinite(x_adv)
    violations = Violations(
        outside_ball=images((x_adv - clean).abs() > eps + TOLERANCE),
        outside_bounds=images((x_adv < -TOLERANCE) | (x_adv > 1 + TOLERANCE)),
        not_finite=images(broken),
    )
    whole = torch.where(broken.flatten(1).any(1).view(-1, 1, 1, 1), clean, x_adv)
    low, high = (clean - eps).clamp(min=0), (clean + eps).clamp(max=1)
    return whole.clamp(low, high), violations


@dataclass(frozen=True)
class CraftedSet:
    """Adversarial examples and what they cost.

    Attributes:
        x_adv: The examples on the CPU, inside the ball and [0, 1].
        violations: What had to be mended.
        passes: Passes through the attacked model, mean per image.
        growth: The objective at each image at first, after three quarters of the steps and at
            last, (3, image); None for attacks that do not report it.
    """

    x_adv: Float[Tensor, "image channel height width"]
    violations: Violations
    passes: Passes
    growth: Float[Tensor, "3 image"] | None


def craft(
    attack: Attack,
    surrogate: nn.Module,
    images: Images,
    batch_size: int = 128,
    seed: int = 0,
    on_batch: OnBatch | None = None,
    parts: Parts | None = None,
) -> CraftedSet:
    """Attack every image on the surrogate.

    Args:
        attack: Which attack.
        surrogate: The model attacked, on the device to compute on.
        images: Clean images and true labels.
        batch_size: Images at a time; has no influence on the result but through random starts.
        seed: Of random starts; combined with the attack's parameters and the batch's number, so
            that every batch is the same whatever was crafted before it.
        on_batch: For showing progress.
        parts: Where to keep each batch, and find those that were crafted before.
    """
    done: list[Part] = []
    batches = zip(images.x.split(batch_size), images.y.split(batch_size), strict=True)
    for index, (x, y) in enumerate(batches):
        own_seed = zlib.crc32(f"{seed} {_words(attack)} {index}".encode())
        make = partial(_craft_batch, attack, surrogate, x, y, own_seed)
        done.append(make() if parts is None else parts.get(index, make))
        if on_batch is not None:
            on_batch(min((index + 1) * batch_size, len(images)), len(images))
    whole = torch.cat([tensors["x_adv"] for tensors, _ in done])
    x_adv, violations = enforce_threat_model(images.x.cpu(), whole, attack.eps)
    growth = Growth([tensors["growth"] for tensors, _ in done if "growth" in tensors])
    passes = Passes(
        sum(about["forward"] for _, about in done), sum(about["backward"] for _, about in done)
    )
    return CraftedSet(x_adv, violations, passes.per_image(len(images)), growth.tensor())


def _craft_batch(attack: Attack, surrogate: nn.Module, x: Tensor, y: Tensor, seed: int) -> Part:
    """Attack one batch; what is random in attack or model follows from `seed` alone."""
    device, growth = device_of(surrogate), Growth()
    generator = torch.Generator(device).manual_seed(seed)
    batch = (surrogate, x.to(device), y.to(device), generator)
    devices = [device] if device.type == "cuda" else []
    with count_passes(surrogate) as passes, torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        if isinstance(attack, LinfAttack):
            watcher = growth.watch(getattr(attack, "steps", 1))
            x_adv = attack(*batch, watcher)
            watcher.close(len(x))
        else:
            x_adv = attack(*batch)
    if x_adv.shape != x.shape:
        raise DivtrainError(
            f"expected adversarial examples of shape {tuple(x.shape)}, got"
            f" {tuple(x_adv.shape)} from {attack!r}"
        )
    tensors = {"x_adv": x_adv.detach().cpu()}
    if growth.rows:
        tensors["growth"] = growth.rows[0]
    return tensors, asdict(passes)


def _words(attack: Attack) -> str:
    """The attack and its parameters; the same in every process, also with a callable objective."""
    if isinstance(attack, LinfAttack) and callable(attack.objective):
        attack = replace(attack, objective="mean_member_ce")
    return repr(attack)
