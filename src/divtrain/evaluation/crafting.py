"""Adversarial sets: crafted once on a surrogate, checked, and shared by every target."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from divtrain.attacks import IterativeAttack
from divtrain.data import Images
from divtrain.modes import device_of

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


def craft(
    attack: IterativeAttack,
    surrogate: nn.Module,
    images: Images,
    batch_size: int = 128,
    seed: int = 0,
    on_batch: OnBatch | None = None,
) -> tuple[Float[Tensor, "image channel height width"], Violations]:
    """Attack every image on the surrogate.

    Args:
        attack: Which attack.
        surrogate: The model attacked, on the device to compute on.
        images: Clean images and true labels.
        batch_size: Images at a time; has no influence on the result but through random starts.
        seed: Of random starts; combined with the attack's parameters.
        on_batch: For showing progress.

    Returns:
        Adversarial examples on the CPU, inside the ball and [0, 1], and what had to be mended.
    """
    device = device_of(surrogate)
    generator = torch.Generator(device).manual_seed(zlib.crc32(f"{seed} {_words(attack)}".encode()))
    parts: list[Tensor] = []
    for x, y in zip(images.x.split(batch_size), images.y.split(batch_size), strict=True):
        parts.append(attack(surrogate, x.to(device), y.to(device), generator).cpu())
        if on_batch is not None:
            on_batch(sum(map(len, parts)), len(images))
    return enforce_threat_model(images.x.cpu(), torch.cat(parts), attack.eps)


def _words(attack: IterativeAttack) -> str:
    """The attack and its parameters; the same in every process, also with a callable objective."""
    if callable(attack.objective):
        attack = replace(attack, objective="mean_member_ce")
    return repr(attack)
