"""The terms of a training loss. A defence is a list of terms and a stream of views of the images.

A term sees one forward pass of every member (`MemberPass`) and returns its share of the loss with
what to log; `weight` is already in the loss, not in the log. A new defence is a new term here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from divtrain.errors import DivtrainError
from divtrain.gal import MemberPass, alignment


@runtime_checkable
class Term(Protocol):
    """One weighted part of a loss."""

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

    def __call__(self, forward: MemberPass) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Term`."""
        value = forward.losses.mean()
        return self.weight * value, {"cross_entropy": value.detach()}


@dataclass(frozen=True)
class GradientAlignment:
    """Mean over examples of GAL (second term of Eq. 9).

    Attributes:
        weight: The paper's lambda.
        temperature: See `divtrain.gradient_alignment_loss`; the paper has none (1).
    """

    weight: float = 0.5
    temperature: float = 1.0

    def __call__(self, forward: MemberPass) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Term`."""
        value = alignment(forward.input_gradients(create_graph=True), self.temperature)
        log = {"gal": value.gal, "coherence": value.coherence, "vanishing": value.vanishing}
        return self.weight * value.gal, {name: part.detach() for name, part in log.items()}


def total_loss(terms: Sequence[Term], forward: MemberPass) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the sum of the terms on one batch, and everything they log.

    Raises:
        DivtrainError: for no terms.
    """
    if not terms:
        raise DivtrainError("expected at least one loss term, got none")
    parts: list[Tensor] = []
    log: dict[str, Tensor] = {}
    for term in terms:
        part, named = term(forward)
        parts.append(part)
        log.update(named)
    return torch.stack(parts).sum(), log
