"""Dispersed ensemble gradients: the mean cosine of input gradients."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from divtrain.defences.base import WithNoise
from divtrain.defences.terms import CrossEntropy, GradientTerm, Term, check_weight
from divtrain.gal import pairwise_cosine


@dataclass(frozen=True)
class CosineSum(GradientTerm):
    """Sum over pairs of members of their mean cosine (Eq. 6) over examples.

    Its mean over the P = N (N - 1) / 2 pairs is GAL at infinite temperature, less a constant:
    T log sum exp(CS / T) - T log P. So `weight` here is P times as heavy beside GAL's: 0.01 with
    five members is like lambda = 0.1 on the mean.

    Attributes:
        weight: Of each pair; 0.01 in the source.
        where: At which images.
    """

    weight: float = 0.01

    def measure(self, g: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum over pairs, and the mean over pairs to log."""
        cosine = pairwise_cosine(g)
        log = {"mean_cosine": cosine.detach().mean()}
        return self.weight * cosine.sum(-1).mean(), log


@dataclass(frozen=True)
class DEG(WithNoise):
    """Dispersed ensemble gradients (Huang et al., AAAI 2021), on D' and D_noise as Div.

    The source adds 0.01 times the sum over pairs to the mean cross-entropy (its code), on
    FashionMNIST and on CIFAR-100. The noise is ours, and so is leaving out its dropout, which ties
    the members. Div at a high temperature is the same loss with another weight.

    Cost: as of Div, 1.9 to 2.4 plain steps; an epoch has twice as many steps as one of Base.

    Attributes:
        deg_weight: Weight of the cosine of each pair; the source's is 0.01.
    """

    least_members: ClassVar[int] = 2
    deg_weight: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("deg_weight", self.deg_weight)

    def cost(self, members: int) -> float:
        """As of Div."""
        return 2.0

    @property
    def terms(self) -> tuple[Term, ...]:
        """Cross-entropy and the cosines."""
        return (CrossEntropy(), CosineSum(self.deg_weight))
