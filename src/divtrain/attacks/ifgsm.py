"""Iterative FGSM (Kurakin et al., 2017) and its momentum form (Dong et al., 2018)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from divtrain.attacks.iterative import IterativeAttack


@dataclass(frozen=True, kw_only=True)
class IFGSM(IterativeAttack):
    """Iterative FGSM: k signed steps of eps / k, clipped to the ball (Eq. 3 and 4)."""

    title: ClassVar[str] = "I-FGSM"

    steps: int = 10


@dataclass(frozen=True, kw_only=True)
class MIFGSM(IterativeAttack):
    """Momentum iterative FGSM: m <- decay m + g / |g|_1, a step on sign m (Eq. 5).

    Attributes:
        decay: mu, the share of the momentum that each step keeps.
    """

    title: ClassVar[str] = "MI-FGSM"

    steps: int = 10
    decay: float = 1.0

    def direction(self, gradient: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """Accumulate the normalised gradient; an all-zero gradient adds nothing (not 0/0)."""
        norm = gradient.abs().flatten(1).sum(1).view(-1, 1, 1, 1)
        normalized = gradient / norm.masked_fill(norm == 0, 1.0)
        momentum = normalized if memory is None else self.decay * memory + normalized
        return momentum.sign(), momentum
