"""The paper's five attacks, each a few lines over the loop of `IterativeAttack`.

FGSM (Goodfellow et al., 2015), R-FGSM (Tramer et al., 2018), I-FGSM (Kurakin et al., 2017),
MI-FGSM (Dong et al., 2018) and PGD-CW (Madry et al., 2018); and FGSM backwards.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from divtrain.attacks.attack import Family, uniform_in_ball
from divtrain.attacks.iterative import IterativeAttack
from divtrain.attacks.objectives import Objective, ObjectiveName, make_objective
from divtrain.errors import DivtrainError


@dataclass(frozen=True, kw_only=True)
class FGSM(IterativeAttack):
    """Fast gradient sign method: x + eps sign(grad_x J) (Eq. 2)."""

    title: ClassVar[str] = "FGSM"
    family: ClassVar[Family] = "one-step"

    steps: int = field(default=1, init=False)
    step_size: float | None = field(default=None, init=False)


@dataclass(frozen=True, kw_only=True)
class RFGSM(FGSM):
    """FGSM after one random step, projected into the ball.

    Attributes:
        alpha: None for the paper's form, x + U(-eps, eps) and a step of eps; a length of at most
            eps for Tramer et al.'s, x + alpha sign(N(0, 1)) and a step of eps - alpha.
    """

    title: ClassVar[str] = "R-FGSM"

    alpha: float | None = None

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        if self.alpha is not None and not 0 <= self.alpha <= self.eps:
            raise DivtrainError(f"expected `alpha` in [0, eps = {self.eps}], got {self.alpha!r}")

    def default_step_size(self) -> float:
        """Step that follows the random one."""
        return self.eps - (self.alpha or 0.0)

    def start(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Take the random step."""
        if self.alpha is None:
            return uniform_in_ball(x, self.eps, generator)
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return x + self.alpha * noise.sign()


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


@dataclass(frozen=True, kw_only=True)
class PGDCW(IterativeAttack):
    """PGD from a uniform random start that maximises -max(z_y - max_{j != y} z_j + kappa, 0).

    The paper does not tell the step. Its attacks are CleverHans', whose `MadryEtAl` steps by 0.01
    and starts at random unless told otherwise, so that is the likeliest; `PGDCWTenth` goes further.

    Attributes:
        step_size: Length of each step in pixel units, whatever the radius; None for eps / 10.
        confidence: kappa; the hinge is flat once another class leads by it.
        random_start: Start from x + U(-eps, eps) rather than from x.
    """

    title: ClassVar[str] = "PGD-CW"

    objective: ObjectiveName | Objective = "margin"
    steps: int = 30
    step_size: float | None = 0.01
    confidence: float = 50.0
    random_start: bool = True

    def default_step_size(self) -> float:
        """A tenth of the radius."""
        return self.eps / 10

    def bind(self, model: nn.Module) -> Objective:
        """Return the hinge with this attack's confidence, or the objective that was chosen."""
        if callable(self.objective):
            return self.objective
        return make_objective(self.objective, model, self.confidence)

    def start(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Start at a random point of the ball, or at `x`."""
        return uniform_in_ball(x, self.eps, generator) if self.random_start else x


@dataclass(frozen=True, kw_only=True)
class PGDCWTenth(PGDCW):
    """PGD-CW with steps of a tenth of the radius: three radii in all, so the stronger at 0.3."""

    title: ClassVar[str] = "PGD-CW, eps/10"

    step_size: float | None = None


@dataclass(frozen=True, kw_only=True)
class ReversedFGSM(FGSM):
    """FGSM's step backwards, x - eps sign(grad_x J): the true label looks likelier to the model.

    It helps any model that looks at the image, so one that it fools when it is crafted on another
    model reads the label off the steps it was trained on (label leaking, Kurakin et al., 2017), and
    what it withstands from the true step is not robustness. One gradient tells.
    """

    title: ClassVar[str] = "FGSM reversed"
    family: ClassVar[Family] = "reversed"

    def direction(self, gradient: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """Away from the gradient."""
        return -gradient.sign(), memory
