"""Square Attack (Andriushchenko et al., 2020): random search without gradients."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from divtrain.attacks.attack import Family, box
from divtrain.attacks.objectives import Objective, ObjectiveName, answer_of, lead, member_logits_of
from divtrain.attacks.search import Query, SearchAttack, Tracker
from divtrain.errors import DivtrainError

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, of 10,000, after which the share of pixels in a square is halved."""


@dataclass(frozen=True, kw_only=True)
class Square(SearchAttack):
    """Set random squares to x +- eps and keep what lowers the lead of the true class.

    Needs no gradient, so masked gradients do not hinder it: where it fools what gradient attacks
    could not, those failed. `steps` is the number of queries per image, beside the clean one.

    Attributes:
        share: Share of the image in the first squares.
    """

    title: ClassVar[str] = "Square"
    family: ClassVar[Family] = "query"
    budgeted: ClassVar[Mapping[str, str]] = {"steps": "queries"}
    fixed_objective: ClassVar[bool] = True

    objective: ObjectiveName | Objective = "dlr"
    steps: int = 1000
    share: float = 0.8

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise DivtrainError(f"expected `share` in (0, 1], got {self.share!r}")
        if self.objective != "dlr":
            raise DivtrainError(
                f"Square lowers the lead of the true class, got `objective` {self.objective!r};"
                " leave it out"
            )

    def query(self, model: nn.Module, x: Tensor, y: Tensor, run: int) -> Query:
        """Return the lead of the true class in the answer; nothing inside the model is used."""
        del x, run
        logits_of, answer_from = member_logits_of(model), answer_of(model)

        def forward(points: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
            answer = answer_from(points, logits_of(points))
            return -lead(answer, y[where]), answer

        return forward

    def explore(self, tracker: Tracker, where: Tensor) -> None:
        """See `SearchAttack`."""
        x, generator = tracker.x, tracker.generator
        low, high = box(x[where], self.eps)
        stripes = _signs((len(where), x.shape[1], 1, x.shape[3]), generator, x)
        point = (x[where] + self.eps * stripes).clamp(low, high)
        value, _ = tracker.values(point, where)
        for query in range(1, self.steps):
            going = self.still(tracker.best, where)
            where, point, value = where[going], point[going], value[going]
            low, high = low[going], high[going]
            if len(where) == 0:
                return
            proposal = self._with_square(x[where], point, low, high, query, generator)
            new, _ = tracker.values(proposal, where)
            better = new > value
            point = torch.where(better.view(-1, 1, 1, 1), proposal, point)
            value = torch.where(better, new, value)
            tracker.report(query)

    def _with_square(
        self,
        x: Tensor,
        point: Tensor,
        low: Tensor,
        high: Tensor,
        query: int,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Return the points with a square of each set to x +- eps, a sign per channel."""
        count, channels, height, width = x.shape
        halvings = sum(query * 10_000 / self.steps > mark for mark in HALVINGS)
        area = self.share / 2**halvings * height * width
        side = max(1, min(round(area**0.5), height, width))
        corner = torch.rand(2, count, generator=generator, device=x.device)
        top = (corner[0] * (height - side + 1)).long().view(-1, 1)
        left = (corner[1] * (width - side + 1)).long().view(-1, 1)
        rows = torch.arange(height, device=x.device)
        columns = torch.arange(width, device=x.device)
        inside = ((rows >= top) & (rows < top + side)).unsqueeze(2) & (
            (columns >= left) & (columns < left + side)
        ).unsqueeze(1)
        signs = _signs((count, channels, 1, 1), generator, x)
        return torch.where(inside.unsqueeze(1), (x + self.eps * signs).clamp(low, high), point)


def _signs(shape: tuple[int, ...], generator: torch.Generator | None, like: Tensor) -> Tensor:
    """Random entries of -1 and 1."""
    coins = torch.randint(0, 2, shape, generator=generator, device=like.device)
    return coins.to(like.dtype) * 2 - 1
