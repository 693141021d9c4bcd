"""Diversity Training."""

from dataclasses import dataclass
from typing import ClassVar

from divtrain.defences.base import Defence, WithNoise
from divtrain.defences.terms import CrossEntropy, GradientAlignment, Term
from divtrain.ensemble import Ensemble
from divtrain.errors import DivtrainError, arguments_as
from divtrain.forward import has_batch_norm


@dataclass(frozen=True)
class Aligned(Defence):
    """Settings of Gradient Alignment Loss, for the defences that use it.

    Attributes:
        gal_weight: lambda of Eq. 9; the paper's is 0.5.
        temperature: Of GAL's log-sum-exp; the paper has none (1).
        gal_every: Take GAL at every N-th step only, with N times the weight; the paper's is 1.
        gal_part: Take GAL at this fraction of its images, the first ones of each batch, in (0, 1];
            the paper's is 1. Not with batch norm.
    """

    least_members: ClassVar[int] = 2  # alignment is a property of pairs
    gal_weight: float = 0.5
    temperature: float = 1.0
    gal_every: int = 1
    gal_part: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        with arguments_as(weight="gal_weight", every="gal_every", share="gal_part"):
            self.gal()

    def gal(self, part: str | None = None) -> GradientAlignment:
        """Return GAL as a loss term, at a part of each batch."""
        return GradientAlignment(
            self.gal_weight, self.temperature, self.gal_every, self.gal_part, part
        )

    @property
    def terms(self) -> tuple[Term, ...]:
        """Eq. 9."""
        return (CrossEntropy(), self.gal())

    def cost(self, members: int) -> float:
        """Return 2 where GAL is taken: a backward pass to the images, and back through it."""
        return super().cost(members) + self.gal_part / self.gal_every

    def check_ensemble(self, ens: Ensemble) -> None:
        """Check as `Defence` does, and that `gal_part` can save anything."""
        super().check_ensemble(ens)
        if self.gal_part < 1 and has_batch_norm(ens):
            raise DivtrainError(
                "`gal_part` takes GAL at a fraction of each batch, but these members have batch"
                " norm, with which all images record gradients and nothing would be saved; use"
                " `gal_every` to take GAL at fewer steps instead"
            )

    def check_steps(self, steps: int) -> None:
        """Check that GAL is taken at more steps than the first."""
        if steps < self.gal_every:
            raise DivtrainError(
                f"`gal_every` {self.gal_every} is more than the {steps} steps of this training;"
                " lower it"
            )


@dataclass(frozen=True)
class Div(Aligned, WithNoise):
    """Diversity Training (Kariyappa and Qureshi 2019): Eq. 9 on D' and D_noise.

    Cost: 1.9 plain steps with Conv3, 2.4 with ResNet20 (docs/speed.md); an epoch has twice as many
    steps as one of Base.
    """
