"""Crafters: training examples made anew at every step from the ensemble that trains on them.

A crafter runs before the step's forward pass, on weights that are frozen and in eval mode, and
leaves no trace on the ensemble. What it makes is a function of weights, images, labels and `Moment`
alone, so that a training that resumes is the unbroken one; the file of its state does not grow.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from divtrain.attacks.attack import frozen_in_eval_mode
from divtrain.attacks.objectives import make_objective
from divtrain.cross_entropy import trusted_cross_entropy
from divtrain.data.stream import mix_seed
from divtrain.ensemble import Ensemble
from divtrain.errors import DivtrainError
from divtrain.forward import Batch, leading

Attacked = Literal["ensemble", "member"]
"""Whose answer an example should change: the ensemble's, or for each member its own."""
RadiusLaw = Literal["fixed", "uniform"]
"""All examples have the largest radius, or each its own, uniform up to it."""


@dataclass(frozen=True)
class Moment:
    """When in a training a batch is used. All random numbers of a crafter follow from it.

    Attributes:
        seed: Of the training's batches.
        step: Steps done before this one.
        steps: Steps of the whole training.
    """

    seed: int
    step: int
    steps: int

    def generator(self, device: torch.device | str = "cpu", purpose: int = 0) -> torch.Generator:
        """Return a new source of random numbers, the same each time; another one per purpose."""
        return torch.Generator(device).manual_seed(mix_seed(self.seed, 3 + purpose, self.step))


@runtime_checkable
class Crafter(Protocol):
    """What makes training examples from the ensemble as it is before each step."""

    @property
    def share(self) -> float:
        """Fraction of each batch it crafts from, its last images, rounded up, in (0, 1]."""
        ...

    @property
    def warm_up(self) -> float:
        """Fraction of the training's steps, the first ones, without crafted examples, in [0, 1)."""
        ...

    @property
    def adds(self) -> bool:
        """Whether crafted examples join the images they were made from, or replace them."""
        ...

    def __call__(
        self, ens: Ensemble, x: Tensor, y: Tensor, here: slice, moment: Moment, /
    ) -> tuple[Tensor, Tensor]:
        """Return examples in [0, 1], made from the images x[here], and their labels.

        Draw random numbers for all of `x` and keep those of `here`: then it does not matter how
        many processes share a batch.

        Args:
            ens: The ensemble, frozen, in eval mode.
            x: The images that all processes craft from, (image, channel, height, width).
            y: Their labels, (image,).
            here: Those that this process crafts from.
            moment: When; source of random numbers.

        Returns:
            Examples that all members see, (example, channel, height, width), or one set per member,
            (member, example, ...); and labels, (example,). A multiple of the images of `here`.
        """
        ...


def craft(
    crafter: Crafter, ens: Ensemble, batch: Batch, moment: Moment, rank: int = 0, world: int = 1
) -> Batch:
    """Return a process's share of a batch, with the part ``crafted`` after the part ``given``.

    Args:
        crafter: What makes the examples.
        ens: The ensemble; left as it was found.
        batch: The images of all processes; not modified.
        moment: When.
        rank: This process; it takes every `world`-th image from the `rank`-th on.
        world: Processes that share the batch.

    Raises:
        DivtrainError: for examples and labels that do not match.
    """
    if moment.step < math.ceil(crafter.warm_up * moment.steps - 1e-9):
        given = batch.every(world, rank)
        none = slice(len(given), len(given))
        return replace(given, parts={"given": slice(0, len(given)), "crafted": none})
    first = len(batch) - leading(crafter.share, len(batch))
    with torch.enable_grad(), frozen_in_eval_mode(ens):
        source, labels = batch.x[first:].detach(), batch.y[first:]
        x, y = crafter(ens, source, labels, slice(rank, None, world), moment)
    if x.ndim not in (4, 5) or x.shape[-4:-3] != y.shape or x.shape[-3:] != source.shape[-3:]:
        raise DivtrainError(
            f"expected {type(crafter).__name__} to return examples of {tuple(source.shape[1:])}"
            " pixels, with or without a leading dimension of members, and one label each, got"
            f" shapes {tuple(x.shape)} and {tuple(y.shape)}"
        )
    kept = slice(rank, len(batch) if crafter.adds else first, world)
    given = batch.x[kept]
    count = len(given)
    if x.ndim == 5:
        given = given.expand(len(x), *given.shape)
    return Batch(
        torch.cat([given, x.detach()], -4),
        torch.cat([batch.y[kept], y]),
        {"given": slice(0, count), "crafted": slice(count, count + len(y))},
    )


def ascend(
    objective: Callable[[Tensor], Tensor],
    x: Tensor,
    start: Tensor,
    radius: Tensor | float,
    steps: int,
    step_size: Tensor | float,
    momentum: float = 0.0,
) -> Tensor:
    """Climb by signed gradient steps inside the ball around `x` and [0, 1].

    A pixel without gradient, or with one that is not a number, stays. Nothing waits for the device.

    Args:
        objective: Images to what should grow, of any shape; its sum is differentiated.
        x: Centre of the ball, (..., channel, height, width).
        start: Where to begin, moved into the ball; like `x`, or with a further leading dimension.
        radius: Of the L-infinity ball, in pixel units, one or one per image.
        steps: Gradient steps.
        step_size: Length of each in pixel units, one or one per image.
        momentum: Factor of the sum of earlier gradients, each divided by its L1 norm.
    """
    low, high = (x - radius).clamp(min=0), (x + radius).clamp(max=1)
    z = torch.minimum(torch.maximum(start, low), high)
    total = torch.zeros_like(z)
    for _ in range(steps):
        z = z.detach().requires_grad_()
        (g,) = torch.autograd.grad(objective(z).sum(), z)
        g = g.nan_to_num(nan=0.0)
        if momentum:
            g = total = momentum * total + g / g.abs().sum((-3, -2, -1), True).clamp(min=1e-12)
        z = torch.minimum(torch.maximum(z.detach() + step_size * g.sign(), low), high)
    return z.detach()


def radii(law: RadiusLaw, eps: float, x: Tensor, generator: torch.Generator) -> Tensor:
    """Return a radius for each image, (image, 1, 1, 1)."""
    shape = (len(x), 1, 1, 1)
    if law == "fixed":
        return x.new_full(shape, eps)
    return eps * torch.rand(shape, generator=generator, device=x.device, dtype=x.dtype)


def uniform_noise(shape: tuple[int, ...], x: Tensor, generator: torch.Generator) -> Tensor:
    """Return noise uniform in [-1, 1], of the precision and on the device of `x`."""
    return 2 * torch.rand(shape, generator=generator, device=x.device, dtype=x.dtype) - 1


@dataclass(frozen=True)
class PGDExamples:
    """Examples that projected gradient descent from a random start makes of the label's loss.

    Attributes:
        eps: Largest radius, in pixel units.
        steps: Gradient steps; each is as long as 2.5 / steps radii, at most 1.25.
        attacked: ``ensemble``: the cross-entropy of its mean softmax grows, and all members see the
            same examples; ``member``: for each member its own does, on its own examples.
        radius: ``fixed``: eps; ``uniform``: each image its own, in [0, eps].
        share: See `Crafter`.
        warm_up: See `Crafter`.
    """

    eps: float
    steps: int = 7
    attacked: Attacked = "ensemble"
    radius: RadiusLaw = "fixed"
    share: float = 1.0
    warm_up: float = 0.0
    adds: bool = False

    def __call__(
        self, ens: Ensemble, x: Tensor, y: Tensor, here: slice, moment: Moment
    ) -> tuple[Float[Tensor, "*member image channel height width"], Tensor]:
        """Return one example of each image, for all members or for each."""
        generator = moment.generator(x.device)
        radius = radii(self.radius, self.eps, x, generator)
        shape = x.shape if self.attacked == "ensemble" else (len(ens), *x.shape)
        start = (x + radius * uniform_noise(shape, x, generator))[..., here, :, :, :]
        x, y, radius = x[here], y[here], radius[here]

        def loss(z: Tensor) -> Tensor:
            if self.attacked == "member":
                return trusted_cross_entropy(ens.member_logits(z), y)
            return make_objective("ce_of_mean_prob", ens)(z, y)

        length = min(1.25, 2.5 / self.steps)
        return ascend(loss, x, start, radius, self.steps, length * radius), y
