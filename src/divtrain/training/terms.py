"""The terms of a training loss. A defence is a list of terms and a stream of views of the images.

A term sees one forward pass of every member (`MemberPass`) and returns its share of the loss with
what to log; `weight` is already in the loss, not in the log. A new defence is a new term here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from divtrain.errors import DivtrainError
from divtrain.gal import MemberPass, alignment, images_in


@runtime_checkable
class Term(Protocol):
    """One weighted part of a loss."""

    def share(self, step: int, /) -> float:
        """Share of the batch at whose images the term takes input gradients at this step."""
        ...

    def __call__(self, forward: MemberPass, /) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted scalar to add to the loss, and detached scalars to log."""
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """Mean over members and examples of each member's cross-entropy (first term of Eq. 9).

    Attributes:
        weight: Factor in the loss.
    """

    weight: float = 1.0

    def share(self, step: int) -> float:
        """None of it: it takes no input gradients."""
        del step
        return 0.0

    def __call__(self, forward: MemberPass) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Term`."""
        value = forward.losses.mean()
        return self.weight * value, {"cross_entropy": value.detach()}


@dataclass(frozen=True)
class InsideCrossEntropy:
    """Cross-entropy without the first images of each batch, which are from outside and of no class.

    See `divtrain.data.OutsidePart`; `GradientAlignment` with that share as its `part` is GAL at
    those images alone.

    Attributes:
        outside: Share of the batch that is from outside.
        weight: Factor in the loss.
    """

    outside: float
    weight: float = 1.0

    def share(self, step: int) -> float:
        """None of it: it takes no input gradients."""
        del step
        return 0.0

    def __call__(self, forward: MemberPass) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Term`; mean over members and the other images."""
        inside = forward.losses[:, images_in(self.outside, forward.losses.shape[1]) :]
        value = inside.mean()
        return self.weight * value, {"cross_entropy": value.detach()}


@dataclass(frozen=True)
class GradientAlignment:
    """Mean over examples of GAL (second term of Eq. 9), at every step or lazily.

    Lazily, GAL is taken at every k-th step with k times the weight, or at part of the batch: its
    expectation is the same, its price a fraction (docs/speed.md says what that costs).

    Attributes:
        weight: The paper's lambda.
        temperature: See `divtrain.gradient_alignment_loss`; the paper has none (1).
        every: Take GAL at every `every`-th step, `every` times as heavy; the paper's is 1.
        part: Share of the batch to take GAL at, in (0, 1]; the paper's is 1.
    """

    weight: float = 0.5
    temperature: float = 1.0
    every: int = 1
    part: float = 1.0

    def __post_init__(self) -> None:
        """Check the values."""
        if self.every < 1:
            raise DivtrainError(f"expected every >= 1 (steps), got {self.every!r}")
        if not 0 < self.part <= 1:
            raise DivtrainError(f"expected part in (0, 1], a share of the batch, got {self.part!r}")

    def share(self, step: int) -> float:
        """See `Term`."""
        return self.part if step % self.every == 0 else 0.0

    def __call__(self, forward: MemberPass) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Term`; nothing where no image records gradients."""
        if forward.some == 0:
            return forward.losses.new_zeros(()), {}
        value = alignment(forward.input_gradients(create_graph=True), self.temperature)
        log = {"gal": value.gal, "coherence": value.coherence, "vanishing": value.vanishing}
        named = {name: part.detach() for name, part in log.items()}
        return self.weight * self.every * value.gal, named


def total_loss(
    terms: Sequence[Term], forward: MemberPass, number: int = 0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the sum of the terms on one batch, and everything they log.

    Args:
        terms: Each sees the pass with the images at which it takes input gradients.
        forward: The pass.
        number: Steps done before this one.

    Raises:
        DivtrainError: for no terms.
    """
    if not terms:
        raise DivtrainError("expected at least one loss term, got none")
    parts: list[Tensor] = []
    log: dict[str, Tensor] = {}
    for term in terms:
        some = images_in(term.share(number), forward.losses.shape[1])
        part, named = term(replace(forward, some=some))
        parts.append(part)
        log.update(named)
    return torch.stack(parts).sum(), log
