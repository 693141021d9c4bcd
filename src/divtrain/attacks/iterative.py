"""The one loop behind every attack: start, gradient, direction, step, project.

An attack is a frozen dataclass of its parameters that overrides `start` or `direction`; the loop
keeps it inside the ball and the bounds, and leaves the model as it found it.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from divtrain.attacks.objectives import Objective, ObjectiveName, make_objective
from divtrain.checks import check_eps, check_images, check_label_shape
from divtrain.errors import DivtrainError
from divtrain.modes import eval_mode


@dataclass(frozen=True, kw_only=True)
class IterativeAttack:
    """An untargeted L-infinity attack: maximise an objective by signed steps inside a ball.

    Attributes:
        eps: Radius of the ball, in [0, 1] pixel units.
        objective: What to maximise: a name that `make_objective` knows, or any callable
            (x, y) -> (batch,).
        steps: Number of gradient steps.
        step_size: Length of each in pixel units; None chooses the attack's own rule.
    """

    eps: float
    objective: ObjectiveName | Objective = "mean_member_ce"
    steps: int = 1
    step_size: float | None = None

    def __post_init__(self) -> None:
        """Check the parameters."""
        check_eps(self.eps)
        if self.steps < 1:
            raise DivtrainError(f"expected steps >= 1, got {self.steps}")
        if self.step_size is not None and not self.step_size > 0:
            raise DivtrainError(
                f"expected step_size > 0, got {self.step_size!r}; None chooses the default"
            )

    def default_step_size(self) -> float:
        """Step length when none is given."""
        return self.eps / self.steps

    def bind(self, model: nn.Module) -> Objective:
        """Return the objective to maximise on `model`."""
        return self.objective if callable(self.objective) else make_objective(self.objective, model)

    def start(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Where the loop starts; the loop projects it into the ball."""
        del generator
        return x

    def direction(self, gradient: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """Direction to step in, with entries in [-1, 1], and what to remember for the next step."""
        return gradient.sign(), memory

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Craft adversarial examples.

        Args:
            model: Any module from images to logits or log-probabilities, (batch, class). It is
                attacked in eval mode; modes and `requires_grad` are restored afterwards.
            x: Clean images in [0, 1], (batch, channel, height, width).
            y: True labels, (batch,); attacks never guess them (label leaking).
            generator: Source of the random start, on x's device; torch's global one if None.

        Returns:
            Detached images like `x`, within `eps` of it in every pixel and in [0, 1].

        Raises:
            DivtrainError: for images outside [0, 1], of another rank, or not finite.
        """
        check_images(x)
        check_label_shape(y, len(x))
        step_size = self.default_step_size() if self.step_size is None else self.step_size
        with torch.inference_mode(False), _frozen_in_eval_mode(model):
            x, y = x.detach().clone(), y.clone()
            objective = self.bind(model)
            low, high = (x - self.eps).clamp(min=0), (x + self.eps).clamp(max=1)
            x_adv = self.start(x, generator).clamp(low, high)
            memory = None
            for _ in range(self.steps):
                gradient = input_gradient(objective, x_adv, y)
                direction, memory = self.direction(gradient, memory)
                x_adv = (x_adv + step_size * direction).clamp(low, high)
        return x_adv


def input_gradient(objective: Objective, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of the per-example objective with respect to `x`, of x's shape.

    A NaN entry is replaced by zero, with a warning: an attack that meets NaN is not to be trusted.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        values = objective(x, y)
        if values.shape != y.shape:
            raise DivtrainError(
                f"expected an objective that returns one value an image, shape {tuple(y.shape)},"
                f" got {tuple(values.shape)}; do not reduce over the batch"
            )
        if not values.requires_grad:
            raise DivtrainError(
                "the model's output does not depend on its input as far as autograd can tell (is"
                " the input detached inside, or the model run under no_grad?); gradient attacks"
                " need it to"
            )
        (gradient,) = torch.autograd.grad(values.sum(), x)
    if gradient.isnan().any():
        share = gradient.isnan().float().mean().item()
        warnings.warn(
            f"{share:.2%} of the input gradient is NaN and was taken as 0; the attack is weaker"
            " than it looks",
            stacklevel=2,
        )
        gradient = gradient.nan_to_num(nan=0.0)
    return gradient


@contextmanager
def _frozen_in_eval_mode(model: nn.Module) -> Iterator[None]:
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        with eval_mode(model):
            yield
    finally:
        for parameter, requires_grad in flags:
            parameter.requires_grad_(requires_grad)


def uniform_in_ball(x: Tensor, eps: float, generator: torch.Generator | None) -> Tensor:
    """Return `x` plus noise drawn uniformly from [-eps, eps] in every pixel."""
    noise = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return x + eps * (2 * noise - 1)
