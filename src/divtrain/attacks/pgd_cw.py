"""Projected gradient descent on Carlini and Wagner's hinge (Madry et al., 2018)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from divtrain.attacks.attack import uniform_in_ball
from divtrain.attacks.iterative import IterativeAttack
from divtrain.attacks.objectives import Objective, ObjectiveName, make_objective


@dataclass(frozen=True, kw_only=True)
class PGDCW(IterativeAttack):
    """PGD from a uniform random start that maximises -max(z_y - max_{j != y} z_j + kappa, 0).

    Attributes:
        confidence: kappa; the hinge is flat once another class leads by it.
        random_start: Start from x + U(-eps, eps) rather than from x.
    """

    title: ClassVar[str] = "PGD-CW"

    objective: ObjectiveName | Objective = "margin"
    steps: int = 30
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
