"""The loop of attacks that keep their best point: restarts, and images dropped once fooled.

An image counts as fooled as soon as *some* point fools the attacked model, and a point that fools
beats every point that does not; among either, the higher objective wins. With `stop_when_fooled`
an image is left alone from then on, which cannot change whether the attacked model is fooled.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from divtrain.attacks.attack import LinfAttack, OnStep
from divtrain.attacks.iterative import check_values, value_and_gradient
from divtrain.attacks.objectives import ModelObjective
from divtrain.logits import ask


@dataclass
class Best:
    """The best point so far of each image of a batch.

    Attributes:
        x: The points, of the images' shape.
        value: The objective there, (batch,).
        fooled: Whether the model is fooled there, (batch,).
    """

    x: Tensor
    value: Tensor
    fooled: Tensor

    def offer(self, where: Tensor, x: Tensor, value: Tensor, fooled: Tensor) -> None:
        """Take points at the images `where` that are better than what is there."""
        value = value.to(self.value.dtype)
        higher = value > self.value[where]
        better = (fooled & ~self.fooled[where]) | ((fooled == self.fooled[where]) & higher)
        chosen = where[better]
        self.x[chosen], self.value[chosen] = x[better], value[better]
        self.fooled[chosen] = fooled[better]


Query = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""One forward pass: maps points, and the indices in the batch of the images they belong to, to
(objective, the model's answer)."""


@dataclass(frozen=True)
class Tracker:
    """Queries the model for a run of a search, and offers every point queried to `best`.

    Attributes:
        query: The forward pass.
        x: Clean images of the whole batch.
        y: Their labels.
        best: The best points so far.
        run: Number of the run, from 0.
        generator: Source of randomness.
        on_step: Is told how the objective grows.
    """

    query: Query
    x: Tensor
    y: Tensor
    best: Best
    run: int
    generator: torch.Generator | None
    on_step: OnStep | None

    def report(self, step: int) -> None:
        """Pass the number of steps done to `on_step`; to be called after each."""
        if self.on_step is not None:
            self.on_step(step, self.best.value)

    def values(self, x: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        """Query points without gradients: (objective, whether the model is fooled there)."""
        with torch.no_grad():
            values, answer = self.query(x, where)
        return values, self._offer(x, where, values, answer)

    def gradient(self, x: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        """Query points: (objective, its gradient)."""
        answers: list[Tensor] = []

        def objective(x: Tensor, _: Tensor) -> Tensor:
            values, answer = self.query(x, where)
            answers.append(answer)
            return values

        values, gradient = value_and_gradient(objective, x, self.y[where])
        self._offer(x, where, values, answers[0])
        return values, gradient

    def _offer(self, x: Tensor, where: Tensor, values: Tensor, answer: Tensor) -> Tensor:
        check_values(values, where.shape)
        fooled = answer.detach().argmax(1) != self.y[where]
        self.best.offer(where, x.detach(), values, fooled)
        return fooled


@dataclass(frozen=True, kw_only=True)
class SearchAttack(LinfAttack):
    """An attack that keeps, per image, the best point of several runs.

    An evaluation's budgets set its steps and restarts.

    Attributes:
        steps: Steps of each run.
        restarts: Number of runs; later ones only attack images that are not fooled yet.
        stop_when_fooled: Leave an image alone once it fools the attacked model. Right when that
            model is also the target, where it saves most of the time; when the result is to be
            transferred, further steps make it transfer better.
    """

    budgeted: ClassVar[Mapping[str, str]] = {"steps": "steps", "restarts": "restarts"}

    steps: int = 50
    restarts: int = 1
    stop_when_fooled: bool = False

    def runs(self, model: nn.Module, x: Tensor) -> int:
        """How many runs to make."""
        del model, x
        return self.restarts

    def query(self, model: nn.Module, x: Tensor, y: Tensor, run: int) -> Query:
        """Return the forward pass of run number `run` on the images `x`."""
        del x, run
        objective = self.bind(model)

        def forward(points: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
            if not isinstance(objective, ModelObjective):
                return objective(points, y[where]), ask(model, points.detach())
            logits = objective.member_logits(points)
            return objective.value(logits, y[where]), objective.answer(points, logits.detach())

        return forward

    def explore(self, tracker: Tracker, where: Tensor) -> None:
        """Do one run.

        Args:
            tracker: The batch, and the model to query; keeps the best points itself.
            where: Which images of the batch to attack, (image,).
        """
        raise NotImplementedError  # abstract: what tells one attack from another

    def perturb(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        generator: torch.Generator | None,
        on_step: OnStep | None,
    ) -> Tensor:
        """See `LinfAttack`."""
        lowest = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        best = Best(x.clone(), lowest, torch.zeros(len(x), dtype=torch.bool, device=x.device))
        where = torch.arange(len(x), device=x.device)
        for run in range(self.runs(model, x)):
            if best.fooled.all() and run > 0:
                break
            query = self.query(model, x, y, run)
            tracker = Tracker(query, x, y, best, run, generator, on_step)
            if run == 0:
                tracker.values(x, where)  # the clean image is allowed, and may fool already
            left = where[~best.fooled] if run > 0 or self.stop_when_fooled else where
            if len(left) > 0:
                self.explore(tracker, left)
        return best.x

    def still(self, best: Best, where: Tensor) -> Tensor:
        """Mask of the images `where` that are to be attacked further."""
        return ~best.fooled[where] if self.stop_when_fooled else torch.ones_like(where).bool()
