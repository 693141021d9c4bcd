"""Projected gradient descent (Madry et al., 2018) with restarts, keeping the best point."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from divtrain.attacks.attack import box, uniform_in_ball
from divtrain.attacks.search import SearchAttack, Tracker
from divtrain.errors import DivtrainError


@dataclass(frozen=True, kw_only=True)
class PGD(SearchAttack):
    """Signed steps from a random start, several times, each image at its best point.

    Attributes:
        step_size: Length of each step in pixel units; None for 2.5 eps / steps.
        random_start: Start every run at x + U(-eps, eps); otherwise the first starts at x.
    """

    title: ClassVar[str] = "PGD"

    steps: int = 40
    step_size: float | None = None
    random_start: bool = True

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        if self.step_size is not None and not self.step_size > 0:
            raise DivtrainError(
                f"expected step_size > 0, got {self.step_size!r}; None chooses the default"
            )

    def explore(
        self,
        tracker: Tracker,
        x: Tensor,
        where: Tensor,
        generator: torch.Generator | None,
        report: Callable[[int], None],
    ) -> None:
        """See `SearchAttack`."""
        size = 2.5 * self.eps / self.steps if self.step_size is None else self.step_size
        low, high = box(x[where], self.eps)
        start = x[where]
        if self.random_start or tracker.run > 0:
            start = uniform_in_ball(start, self.eps, generator)
        point = start.clamp(low, high)
        for step in range(self.steps):
            _, gradient = tracker.gradient(point, where)
            report(step)
            point = (point + size * gradient.sign()).clamp(low, high)
            going = self.still(tracker.best, where)
            where, point, low, high = where[going], point[going], low[going], high[going]
            if len(where) == 0:
                return
        tracker.values(point, where)
        report(self.steps)
