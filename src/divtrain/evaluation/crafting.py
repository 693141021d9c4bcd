"""Adversarial examples: crafted batch by batch on a model, and never trusted."""

import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from divtrain.attacks.attack import Attack, LinfAttack, frozen_in_eval_mode
from divtrain.data import Images
from divtrain.errors import DivtrainError
from divtrain.evaluation.classifying import correct_mask
from divtrain.evaluation.effort import GrowthTracker, Passes, count_passes
from divtrain.fields import Whole, checked
from divtrain.module_state import device_of
from divtrain.wrapping import Model, as_module

TOLERANCE = 1e-6
"""Float32 rounding allowed beyond the ball before an example counts as a violation."""

OnBatch = Callable[[int, int], None]
"""Called with (images done, images in all)."""


@checked
class Violations:
    """What an attack returned that the threat model does not allow; all of it was clipped.

    Attributes:
        outside_ball: Images with a pixel further than eps from the clean one.
        outside_bounds: Images with a pixel outside [0, 1].
        not_finite: Images with a NaN or infinite pixel, replaced by the clean image.
    """

    outside_ball: Whole
    outside_bounds: Whole
    not_finite: Whole

    def __add__(self, other: "Violations") -> "Violations":
        """Add up, count by count."""
        return Violations(*map(sum, zip(astuple(self), astuple(other), strict=True)))


def enforce_threat_model(
    clean: Float[Tensor, "image channel height width"],
    x_adv: Float[Tensor, "image channel height width"],
    eps: float,
) -> tuple[Float[Tensor, "image channel height width"], Violations]:
    """Clip adversarial examples into the ball and the bounds, and count what had to be clipped.

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
class CraftedBatch:
    """What an attack returned for one batch, as it came.

    Attributes:
        x_adv: The examples on the CPU.
        passes: Passes through the attacked model, summed over the batch's images.
        growth: See `CraftedSet`; None for attacks that do not report it.
    """

    x_adv: Float[Tensor, "image channel height width"]
    passes: Passes
    growth: Float[Tensor, "3 image"] | None


@dataclass(frozen=True)
class CraftedSet:
    """Adversarial examples and what they cost.

    Attributes:
        x_adv: The examples on the CPU, inside the ball and [0, 1].
        violations: What had to be clipped.
        passes: Passes through the attacked model, mean per image.
        growth: The objective at each image at first, after three quarters of the steps and at
            last, (3, image); None for attacks that do not report it.
        right: Which examples the attacked model itself still classifies right.
    """

    x_adv: Float[Tensor, "image channel height width"]
    violations: Violations
    passes: Passes
    growth: Float[Tensor, "3 image"] | None
    right: Bool[Tensor, "image"]

    def digest(self) -> str:
        """Return the SHA-256 of the examples."""
        return hashlib.sha256(self.x_adv.contiguous().numpy().tobytes()).hexdigest()


def craft(
    attack: Attack,
    model: Model,
    images: Images,
    batch_size: int = 128,
    seed: int = 0,
    on_batch: OnBatch | None = None,
) -> CraftedSet:
    """Attack every image on a model.

    Args:
        attack: Which attack.
        model: The model attacked, on the device to compute on; see `as_module` for what it may be.
        images: Clean images and true labels.
        batch_size: Images at a time; has no influence on the result but through random starts.
        seed: Of random starts.
        on_batch: For showing progress.
    """
    crafted, model = list[CraftedBatch](), as_module(model)
    for index, batch in enumerate(split_images(images, batch_size)):
        crafted.append(craft_batch(attack, model, batch, index, seed))
        if on_batch is not None:
            on_batch(min((index + 1) * batch_size, len(images)), len(images))
    return join_batches(crafted, model, images, attack.eps)


def split_images(images: Images, batch_size: int) -> list[Images]:
    """Return images in batches, the last of which may be smaller."""
    pairs = zip(images.x.split(batch_size), images.y.split(batch_size), strict=True)
    return [Images(x, y) for x, y in pairs]


def craft_batch(
    attack: Attack, model: nn.Module, batch: Images, index: int, seed: int
) -> CraftedBatch:
    """Attack one batch.

    What is random in attack or model follows from the seed, the attack's parameters and the batch's
    number alone, so a batch is the same whatever was crafted before it.

    Args:
        attack: Which attack.
        model: The model attacked, on the device to compute on.
        batch: Clean images and true labels.
        index: Number of the batch among those of `split_images`, from 0.
        seed: Of the evaluation.

    Raises:
        DivtrainError: when the attack returns something of another shape.
    """
    own_seed = zlib.crc32(f"{seed} {_describe(attack)} {index}".encode())
    device = device_of(model)
    generator = torch.Generator(device).manual_seed(own_seed)
    # Copies: what an attack does to them in place must not change what it is judged by.
    arguments = (model, batch.x.to(device, copy=True), batch.y.to(device, copy=True), generator)
    growth: Tensor | None = None
    with count_passes(model) as passes, _randomness_of_its_own(device, own_seed):
        if isinstance(attack, LinfAttack):
            tracker = GrowthTracker(getattr(attack, "steps", 1))
            x_adv = attack(*arguments, tracker)
            growth = tracker.growth(len(batch))
        else:
            with frozen_in_eval_mode(model):
                x_adv = attack(*arguments)
    if not isinstance(x_adv, Tensor) or x_adv.shape != batch.x.shape:
        came = tuple(x_adv.shape) if isinstance(x_adv, Tensor) else type(x_adv).__name__
        raise DivtrainError(
            f"expected adversarial examples as a tensor of shape {tuple(batch.x.shape)}, got {came}"
            f" from {attack!r}"
        )
    return CraftedBatch(x_adv.detach().cpu(), passes(), growth)


def join_batches(
    batches: Sequence[CraftedBatch], model: nn.Module, images: Images, eps: float
) -> CraftedSet:
    """Put crafted batches together, clipped into the ball and the bounds.

    Args:
        batches: Every batch, in order.
        model: The model attacked, which is asked once more.
        images: The clean images of all.
        eps: Radius of the ball.
    """
    whole = torch.cat([batch.x_adv for batch in batches])
    x_adv, violations = enforce_threat_model(images.x.cpu(), whole, eps)
    passes = sum((batch.passes for batch in batches), start=Passes())
    rows = [batch.growth for batch in batches if batch.growth is not None]
    growth = torch.cat(rows, dim=1) if rows else None
    told = growth is not None and not growth.isnan().all()
    with _randomness_of_its_own(device_of(model), 0):  # a model that draws answers alike each time
        right = correct_mask(model, x_adv, images.y)
    each = passes.per_image(len(images))
    return CraftedSet(x_adv, violations, each, growth if told else None, right)


@contextmanager
def _randomness_of_its_own(device: torch.device, seed: int) -> Iterator[None]:
    """Draw what a model or an attack draws from a seed; the caller's random numbers stay."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _describe(attack: Attack) -> str:
    """Return a text of the attack and its parameters, the same in every process."""
    if isinstance(attack, LinfAttack) and callable(attack.objective):
        attack = replace(attack, objective="mean_member_ce")
    kind = type(attack)
    if kind.__module__.partition(".")[0] != "divtrain":  # its repr may hold an address
        return f"{kind.__qualname__} {attack.eps!r}"
    return repr(attack)
