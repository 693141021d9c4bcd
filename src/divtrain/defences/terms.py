"""The terms of a training loss; a defence lists them, and the loss is their sum.

A term takes one forward pass of every member (`MemberPass`) and returns a weighted scalar, and
unweighted ones to log.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from divtrain.errors import DivtrainError
from divtrain.forward import Batch, MemberPass, Where
from divtrain.gal import alignment

EVERYWHERE = Where()
"""All images of a batch."""


@runtime_checkable
class Term(Protocol):
    """One weighted summand of a loss. `step` counts the steps done before this one."""

    def gradients_at(self, step: int, /) -> Where | None:
        """Return where the term takes input gradients at this step; None for nowhere.

        Only these images record gradients, so the term cannot take them elsewhere.
        """
        ...

    def __call__(self, forward: MemberPass, step: int, /) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted scalar to add to the loss, and detached scalars to log."""
        ...


def is_nowhere(forward: MemberPass, where: Where) -> bool:
    """Whether a batch has no such images, as crafted ones in a warm-up: a term is 0 there."""
    place = forward.batch.at(where)
    return place.stop == place.start


def check_weight(name: str, weight: float) -> None:
    """Check that a weight in a loss, a field of this name, is not negative, and finite."""
    if not 0 <= weight < math.inf:
        raise DivtrainError(f"expected `{name}` >= 0 and finite, got {weight!r}")


@dataclass(frozen=True)
class CrossEntropy:
    """Mean over members and examples of each member's cross-entropy (first term of Eq. 9).

    Attributes:
        weight: Factor in the loss.
        part: The part of each batch to take it at, such as ``given``; None for all images.
        smoothing: Label smoothing: the probability that the labels spread over all classes evenly,
            in [0, 1).
    """

    weight: float = 1.0
    part: str | None = None
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise DivtrainError(f"expected `smoothing` in [0, 1), got {self.smoothing!r}")

    def gradients_at(self, step: int) -> Where | None:
        """Nowhere: it takes no input gradients."""
        return None

    def __call__(self, forward: MemberPass, step: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted mean, and the mean without smoothing to log."""
        where = Where(self.part)
        if is_nowhere(forward, where):
            return forward.losses.new_zeros(()), {}
        here = forward.batch.at(where)
        plain = value = forward.losses[:, here].mean()
        if self.smoothing:
            logits = forward.logits[:, here]
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            evenly = -logits.log_softmax(-1).mean()
            value = (1 - self.smoothing) * plain + self.smoothing * evenly
        return self.weight * value, {"cross_entropy": plain.detach()}


@dataclass(frozen=True)
class GradientAlignment:
    """Mean over examples of GAL (second term of Eq. 9), at every step or lazily.

    Lazily, GAL is taken at every k-th step with k times the weight, or at a fraction of the images:
    its expectation is the same at a fraction of the cost (docs/speed.md).

    Attributes:
        weight: The paper's lambda.
        temperature: See `divtrain.gradient_alignment_loss`; the paper has none (1).
        every: Take GAL at every `every`-th step, with `every` times the weight; the paper's is 1.
        share: Take GAL at this fraction of the images, the first ones, in (0, 1]; the paper's is 1.
        part: The part of each batch to take GAL at; None for all images.
    """

    weight: float = 0.5
    temperature: float = 1.0
    every: int = 1
    share: float = 1.0
    part: str | None = None

    def __post_init__(self) -> None:
        check_weight("weight", self.weight)
        if not 0 < self.temperature < math.inf:
            raise DivtrainError(f"expected `temperature` > 0 and finite, got {self.temperature!r}")
        if not isinstance(self.every, int) or self.every < 1:
            raise DivtrainError(f"expected `every` >= 1 (steps), got {self.every!r}")
        if not 0 < self.share <= 1:
            raise DivtrainError(f"expected `share` in (0, 1], got {self.share!r}")

    def gradients_at(self, step: int) -> Where | None:
        """Everywhere at every `every`-th step, else nowhere."""
        return Where(self.part, self.share) if step % self.every == 0 else None

    def __call__(self, forward: MemberPass, step: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted mean and what to log; zero and nothing at the steps between."""
        where = self.gradients_at(step)
        if where is None or is_nowhere(forward, where):
            return forward.losses.new_zeros(()), {}
        value = alignment(forward.input_gradients(where, create_graph=True), self.temperature)
        log = {"gal": value.gal, "coherence": value.coherence, "vanishing": value.vanishing}
        named = {name: scalar.detach() for name, scalar in log.items()}
        return self.weight * self.every * value.gal, named


@dataclass(frozen=True)
class GradientTerm:
    """A term of the input gradients at some images, in every step; what of them is in `measure`.

    Attributes:
        weight: Factor in the loss, not negative.
        where: At which images.
    """

    weight: float
    where: Where = EVERYWHERE

    def __post_init__(self) -> None:
        check_weight("weight", self.weight)

    def gradients_at(self, step: int) -> Where:
        """At its images, in every step."""
        return self.where

    def measure(self, g: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted scalar of input gradients, (member, image, feature), and the log."""
        raise NotImplementedError  # abstract: what tells one such term from another

    def __call__(self, forward: MemberPass, step: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted scalar, and what to log; zero and nothing where no image is."""
        if is_nowhere(forward, self.where):
            return forward.losses.new_zeros(()), {}
        return self.measure(forward.input_gradients(self.where, create_graph=True))


def total_loss(
    terms: Sequence[Term], forward: MemberPass, step: int = 0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the sum of the terms on one batch, and everything they log.

    Raises:
        DivtrainError: for no terms, or one that returns something else.
    """
    if not terms:
        raise DivtrainError("expected at least one loss term, got none")
    found = [(term, cast(Any, term(forward, step))) for term in terms]
    for term, returned in found:
        if not (isinstance(returned, tuple) and len(cast(tuple[Any, ...], returned)) == 2):
            raise DivtrainError(
                f"expected {type(term).__name__} to return a loss and a dictionary of what to log,"
                f" got {type(returned).__name__}"
            )
    values, logs = zip(*(returned for _, returned in found), strict=True)
    return torch.stack(values).sum(), {name: scalar for log in logs for name, scalar in log.items()}


def recorded_images(terms: Sequence[Term], batch: Batch, step: int) -> slice:
    """Return the images that record gradients at a step: all that any term needs."""
    asked = [where for term in terms if (where := term.gradients_at(step)) is not None]
    places = [place for place in map(batch.at, asked) if place.stop > place.start]
    if not places:
        return slice(0, 0)
    return slice(min(place.start for place in places), max(place.stop for place in places))
