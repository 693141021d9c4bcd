"""Projected gradient descent (Madry et al., 2018) with restarts, keeping the best point."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from divtrain.attacks.attack import box, uniform_in_ball
from divtrain.attacks.search import SearchAttack, Tracker


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

    def explore(self, tracker: Tracker, where: Tensor) -> None:
        """See `SearchAttack`."""
        size = 2.5 * self.eps / self.steps if self.step_size is None else self.step_size
        start = tracker.x[where]
        low, high = box(start, self.eps)
        if self.random_start or tracker.run > 0:
            start = uniform_in_ball(start, self.eps, tracker.generator)
        point = start.clamp(low, high)
        for step in range(self.steps):
            _, gradient = tracker.gradient(point, where)
            tracker.report(step)
            point = (point + size * gradient.sign()).clamp(low, high)
            going = self.still(tracker.best, where)
            where, point, low, high = where[going], point[going], low[going], high[going]
            if len(where) == 0:
                return
        tracker.values(point, where)
        tracker.report(self.steps)
