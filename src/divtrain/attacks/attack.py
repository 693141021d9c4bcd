"""The interface of every attack: a radius, and clean images to adversarial ones on a model."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from divtrain.attacks.objectives import Objective, ObjectiveName, make_objective
from divtrain.checks import check_eps, check_images, check_label_shape
from divtrain.errors import DivtrainError
from divtrain.module_state import eval_mode
from divtrain.wrapping import Model, as_module

OnStep = Callable[[int, Tensor], None]
"""Called with (steps done, the objective at each image, (batch,)) as an attack proceeds."""

Family = Literal["one-step", "iterative", "query", "noise", "reversed"]
"""One gradient step; several; answers only; random noise; the step towards the true label."""


@runtime_checkable
class Attack(Protocol):
    """Anything that crafts adversarial examples inside a ball of radius `eps`."""

    @property
    def eps(self) -> float:
        """Radius of the L-infinity ball, in [0, 1] pixel units."""
        ...

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return adversarial examples for `x`, of its shape."""
        ...


@dataclass(frozen=True, kw_only=True)
class LinfAttack:
    """An untargeted L-infinity attack that maximises an objective inside a ball.

    Attributes:
        eps: Radius of the ball, in [0, 1] pixel units.
        objective: What to maximise: a name that `make_objective` knows, or any callable
            (x, y) -> (batch,).

    Attributes of the class, which a subclass may set:
        title: What reports call the attack; its class's name if empty.
        family: What kind of attack it is; warning signs compare attacks by family.
        budgeted: Parameters (steps, restarts) that an evaluation's budgets set, each with the field
            of `divtrain.evaluation.Suite` it is taken from; without, the attack's defaults apply.
        fixed_objective: Whether the attack has no choice of objective.
    """

    title: ClassVar[str] = ""
    family: ClassVar[Family] = "iterative"
    budgeted: ClassVar[Mapping[str, str]] = {}
    fixed_objective: ClassVar[bool] = False

    eps: float
    objective: ObjectiveName | Objective = "mean_member_ce"

    def __post_init__(self) -> None:
        """Check the parameters, with those that many attacks have."""
        check_eps(self.eps)
        for name in ("steps", "restarts"):
            if getattr(self, name, 1) < 1:
                raise DivtrainError(f"expected `{name}` >= 1, got {getattr(self, name)}")
        size = getattr(self, "step_size", None)
        if size is not None and not size > 0:
            raise DivtrainError(f"expected `step_size` > 0, got {size!r}; None chooses the default")

    def bind(self, model: nn.Module) -> Objective:
        """Return the objective to maximise on `model`."""
        return self.objective if callable(self.objective) else make_objective(self.objective, model)

    def perturb(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        generator: torch.Generator | None,
        on_step: OnStep | None,
    ) -> Tensor:
        """Return adversarial examples; `__call__` has checked the images and frozen the model."""
        raise NotImplementedError  # abstract: what tells one attack from another

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        generator: torch.Generator | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Craft adversarial examples.

        Args:
            model: Any module from images to logits or log-probabilities, (batch, class), or what
                `as_module` makes one. It is attacked in eval mode; modes and `requires_grad` are
                restored afterwards.
            x: Clean images in [0, 1], (batch, channel, height, width).
            y: True labels, (batch,); attacks never guess them (label leaking).
            generator: Source of random starts, on x's device; torch's global one if None.
            on_step: Is told how the objective grows.

        Returns:
            Detached images like `x`, within `eps` of it in every pixel and in [0, 1].

        Raises:
            DivtrainError: for images outside [0, 1], of another rank, or not finite; for outputs
                that are not (batch, class); when a gradient is needed under float16 autocast.
        """
        check_images(x)
        check_label_shape(y, len(x))
        model = as_module(model)
        with torch.inference_mode(False), frozen_in_eval_mode(model):
            return self.perturb(model, x.detach().clone(), y.clone(), generator, on_step)


def box(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Lowest and highest pixels that the ball around `x` and [0, 1] allow."""
    return (x - eps).clamp(min=0), (x + eps).clamp(max=1)


def uniform_in_ball(x: Tensor, eps: float, generator: torch.Generator | None) -> Tensor:
    """Return `x` plus noise drawn uniformly from [-eps, eps] in every pixel."""
    noise = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return x + eps * (2 * noise - 1)


@contextmanager
def frozen_in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Context with `model` in eval mode and no parameter recording; both restored afterwards."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        with eval_mode(model):
            yield
    finally:
        for parameter, requires_grad in flags:
            parameter.requires_grad_(requires_grad)
