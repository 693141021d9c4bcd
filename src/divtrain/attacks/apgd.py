"""Auto-PGD (Croce and Hein, 2020, Algorithm 1): PGD whose step size needs no tuning."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from divtrain.attacks.attack import box, uniform_in_ball
from divtrain.attacks.objectives import Objective, ObjectiveName, dlr, make_objective
from divtrain.attacks.search import Query, SearchAttack, Tracker
from divtrain.checks import check_labels
from divtrain.ensemble import aggregate_logits
from divtrain.errors import DivtrainError
from divtrain.logits import ask

MOMENTUM = 0.75
OSCILLATION = 0.75
"""The step is halved when at most this share of the steps since the last checkpoint rose."""


@dataclass(frozen=True, kw_only=True)
class APGD(SearchAttack):
    """Signed steps with momentum, halved where progress stalls, restarted at the best point.

    The step starts at 2 eps. At checkpoints that come closer and closer together (after 22 % of the
    steps, then 19 %, 16 %, ...) it is halved at each image where the objective rose in at most
    three quarters of the steps, or where neither step nor best value has changed since the last
    checkpoint; the search continues from the best point there.

    With the cross-entropy of the answer it is AutoAttack's APGD-CE, with ``dlr`` its APGD-DLR.
    """

    title: ClassVar[str] = "APGD"

    objective: ObjectiveName | Objective = "ce_of_mean_prob"
    steps: int = 100

    def explore(self, tracker: Tracker, where: Tensor) -> None:
        """See `SearchAttack`."""
        checkpoints = _checkpoints(self.steps)
        x = tracker.x[where]
        low, high = box(x, self.eps)
        point = uniform_in_ball(x, self.eps, tracker.generator).clamp(low, high)
        value, gradient = tracker.gradient(point, where)
        tracker.report(0)
        state = _State(
            where, low, high, point, gradient, value, torch.full_like(value, 2 * self.eps)
        )
        last_checkpoint = 0
        for step in range(1, self.steps + 1):
            state.keep(self.still(tracker.best, state.where))
            if len(state.where) == 0:
                return
            state.move(first=step == 1)
            state.take(*tracker.gradient(state.point, state.where))
            tracker.report(step)
            if step in checkpoints:
                state.check(step - last_checkpoint)
                last_checkpoint = step


def _checkpoints(steps: int) -> set[int]:
    """After which steps to check whether the step size still makes progress."""
    gap, checkpoints, at = max(int(0.22 * steps), 1), set(), 0
    while at + gap <= steps:
        at += gap
        checkpoints.add(at)
        gap = max(gap - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
    return checkpoints


@dataclass
class _State:
    """State of the search, one row per image still attacked."""

    where: Tensor
    low: Tensor
    high: Tensor
    point: Tensor
    gradient: Tensor
    value: Tensor
    size: Tensor

    def __post_init__(self) -> None:
        self.before = self.best = self.point
        self.best_gradient, self.best_value = self.gradient, self.value
        self.value_at_checkpoint = self.value
        self.rises = torch.zeros_like(self.value)
        self.halved = torch.zeros_like(self.value, dtype=torch.bool)

    def keep(self, going: Tensor) -> None:
        """Continue with only the images of a mask."""
        if not going.all():
            for name, part in vars(self).items():
                setattr(self, name, part[going])

    def move(self, first: bool) -> None:
        """Step along the gradient's sign, with a share of the last move."""
        size = self.size.view(-1, 1, 1, 1)
        ahead = (self.point + size * self.gradient.sign()).clamp(self.low, self.high)
        share = 1.0 if first else MOMENTUM
        moved = self.point + share * (ahead - self.point) + (1 - share) * (self.point - self.before)
        self.before, self.point = self.point, moved.clamp(self.low, self.high)

    def take(self, value: Tensor, gradient: Tensor) -> None:
        """Record the values at the new points."""
        self.rises = self.rises + (value > self.value)
        self.value, self.gradient = value, gradient
        better = value > self.best_value
        wide = better.view(-1, 1, 1, 1)
        self.best = torch.where(wide, self.point, self.best)
        self.best_gradient = torch.where(wide, gradient, self.best_gradient)
        self.best_value = torch.where(better, value, self.best_value)

    def check(self, steps: int) -> None:
        """Halve the step where it makes no progress, and continue from the best point there."""
        oscillates = self.rises <= OSCILLATION * steps
        stuck = ~self.halved & (self.value_at_checkpoint >= self.best_value)
        self.halved = oscillates | stuck
        self.size = torch.where(self.halved, self.size / 2, self.size)
        wide = self.halved.view(-1, 1, 1, 1)
        self.point = torch.where(wide, self.best, self.point)
        self.gradient = torch.where(wide, self.best_gradient, self.gradient)
        self.value_at_checkpoint, self.rises = self.best_value, torch.zeros_like(self.rises)


@dataclass(frozen=True, kw_only=True)
class APGDT(APGD):
    """APGD on the targeted difference of logits ratio, a run for each of the likeliest classes.

    Run r aims at the class ranked r-th after the true one on the clean image; `restarts` is the
    number of classes tried (9 in AutoAttack; at most all but the true one).
    """

    title: ClassVar[str] = "APGD-T"
    budgeted: ClassVar[Mapping[str, str]] = {"steps": "steps", "restarts": "target_classes"}
    fixed_objective: ClassVar[bool] = True

    objective: ObjectiveName | Objective = "dlr"
    restarts: int = 9

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        if self.objective != "dlr":
            raise DivtrainError(
                f"expected `objective` dlr of the targeted attack, got {self.objective!r}; use APGD"
                " for others"
            )

    def runs(self, model: nn.Module, x: Tensor) -> int:
        """No more runs than there are wrong classes."""
        with torch.no_grad():
            classes = ask(model, x[:1]).shape[1]
        return min(self.restarts, classes - 1)

    def query(self, model: nn.Module, x: Tensor, y: Tensor, run: int) -> Query:
        """Aim at the class ranked `run`-th among the wrong ones."""
        objective = make_objective("dlr", model)
        aggregate = "logit" if getattr(model, "aggregate", "prob") == "logit" else "prob"
        with torch.no_grad():
            ranked = objective.answer(x, objective.member_logits(x))
            check_labels(y, len(x), ranked.shape[1])
            wrong = ranked.scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
        target = wrong[:, run]

        def forward(points: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
            logits = objective.member_logits(points)
            value = dlr(aggregate_logits(logits, aggregate), y[where], target[where])
            return value, objective.answer(points, logits.detach())

        return forward
