"""One step: FGSM (Goodfellow et al., 2015), R-FGSM (Tramer et al., 2018), and FGSM backwards."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from divtrain.attacks.attack import Family, uniform_in_ball
from divtrain.attacks.iterative import IterativeAttack
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
            raise DivtrainError(f"expected alpha in [0, eps = {self.eps}], got {self.alpha!r}")

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
