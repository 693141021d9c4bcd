"""The one loop behind the paper's attacks: start, gradient, direction, step, project.

An attack is a frozen dataclass of its parameters that overrides `start` or `direction`; the loop
keeps it inside the ball and the bounds.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from divtrain.attacks.attack import LinfAttack, OnStep, box
from divtrain.attacks.objectives import Objective
from divtrain.checks import check_autocast
from divtrain.errors import DivtrainError


@dataclass(frozen=True, kw_only=True)
class IterativeAttack(LinfAttack):
    """Maximise the objective by signed steps inside the ball.

    Attributes:
        steps: Number of gradient steps.
        step_size: Length of each in pixel units; None chooses the attack's own rule.
    """

    steps: int = 1
    step_size: float | None = None

    def default_step_size(self) -> float:
        """Step length when none is given."""
        return self.eps / self.steps

    def start(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Where the loop starts; the loop projects it into the ball."""
        del generator
        return x

    def direction(self, gradient: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """Direction to step in, with entries in [-1, 1], and what to remember for the next step."""
        return gradient.sign(), memory

    def perturb(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        generator: torch.Generator | None,
        on_step: OnStep | None,
    ) -> Tensor:
        """See `LinfAttack`."""
        step_size = self.default_step_size() if self.step_size is None else self.step_size
        objective = self.bind(model)
        low, high = box(x, self.eps)
        x_adv = self.start(x, generator).clamp(low, high)
        memory = None
        for step in range(self.steps):
            values, gradient = value_and_gradient(objective, x_adv, y)
            if on_step is not None:
                on_step(step, values)
            direction, memory = self.direction(gradient, memory)
            x_adv = (x_adv + step_size * direction).clamp(low, high)
        return x_adv


def input_gradient(objective: Objective, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of the per-example objective with respect to `x`, of x's shape.

    A NaN entry is replaced by zero, with a warning: an attack that meets NaN is not to be trusted.
    """
    return value_and_gradient(objective, x, y)[1]


def check_values(values: Tensor, shape: torch.Size) -> None:
    """Check that an objective returned one value per image."""
    if values.shape != shape:
        raise DivtrainError(
            f"expected an objective that returns one value per image, shape {tuple(shape)}, got"
            f" {tuple(values.shape)}; do not reduce over the batch"
        )


def value_and_gradient(objective: Objective, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the objective at each image, (batch,), detached, and `input_gradient`."""
    check_autocast(x.device.type)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        values = objective(x, y)
        check_values(values, y.shape)
        gradient: Tensor | None = None
        if values.requires_grad:
            (gradient,) = torch.autograd.grad(values.sum(), x, allow_unused=True)
        if gradient is None:
            raise DivtrainError(
                "the model's output does not depend on its input as far as autograd can tell (is"
                " the input detached inside, or the model run under no_grad?); gradient attacks"
                " need it to"
            )
    if gradient.isnan().any():
        share = gradient.isnan().float().mean().item()
        warnings.warn(
            f"{share:.2%} of the input gradient is NaN and was taken as 0; the attack is weaker"
            " than it looks",
            stacklevel=2,
        )
        gradient = gradient.nan_to_num(nan=0.0)
    return values.detach(), gradient
