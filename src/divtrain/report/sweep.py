"""The numbers of a sweep: clean and worst-case accuracy of each target at each value."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

from divtrain.evaluation import CLEAN, WORST
from divtrain.report.rows import Cell, Row, describe, main_rows

SLOPE = "slope"
"""The field of the ablation of section 3.4."""

Histories = Mapping[str, Sequence[Sequence[Mapping[str, float]]]]
"""By what records call the target, for each seed a row per epoch, as training wrote them."""


@dataclass(frozen=True)
class SweepPoint:
    """One target at one combination of the values swept, against one adversary.

    Attributes:
        row: Its accuracies, the worst case among them.
        defence: Its defence.
        values: The values by field; only those that make a difference to it.
    """

    row: Row
    defence: str
    values: Mapping[str, float]

    @property
    def place(self) -> tuple[str, float]:
        """Threat and eps, which have a panel and a column of their own."""
        return self.row.threat, self.row.eps

    @property
    def clean(self) -> Cell:
        """Clean accuracy."""
        return self.row.cells[CLEAN]

    @property
    def worst(self) -> Cell:
        """Worst-case accuracy."""
        return self.row.cells[WORST]

    def texts(self, fields: Sequence[str]) -> list[str]:
        """The values of some fields; empty for those that make no difference to the target."""
        return [f"{self.values[name]:g}" if name in self.values else "" for name in fields]


@dataclass(frozen=True)
class ZeroMeans:
    """How sparse the input gradients of a target are: shares of exact zeros, in [0, 1].

    Attributes:
        entries: Of the entries, mean over members and images.
        products: Of the products of two members' entries, mean over pairs and images.
        dead: Of the gradients, those that are zero as a whole.
        idle: Of the weights, those that GAL at one image does not move.
    """

    entries: float
    products: float
    dead: float
    idle: float

    @classmethod
    def over(cls, seeds: Sequence["ZeroMeans"]) -> "ZeroMeans":
        """The mean over some seeds."""
        kinds = zip(*map(astuple, seeds), strict=True)
        return cls(*(statistics.mean(shares) for shares in kinds))


Zeros = Mapping[str, Sequence[ZeroMeans]]
"""By what records call the target, for each seed; empty where nobody looked."""


def sweep_points(
    rows: Sequence[Row], swept: Mapping[str, tuple[str, Mapping[str, float]]]
) -> list[SweepPoint]:
    """Pick the rows that have a worst case, of the targets swept.

    Args:
        rows: From `make_rows`.
        swept: Defence and values of each target, in the order to show them.
    """
    order = list(swept)
    mine = [row for row in main_rows(rows) if row.target in swept and WORST in row.cells]
    mine.sort(key=lambda row: order.index(row.target))
    return [SweepPoint(row, *swept[row.target]) for row in mine]


def swept_fields(points: Sequence[SweepPoint]) -> list[str]:
    """Names of the fields swept over."""
    return list(dict.fromkeys(field for point in points for field in point.values))


def joined_points(
    points: Sequence[SweepPoint], field: str | None = None
) -> list[Sequence[SweepPoint]]:
    """Group the points of one panel that differ in one field only, in their order.

    Args:
        points: Of one panel.
        field: The field; the last of each defence's own if None.
    """
    lines: dict[object, list[SweepPoint]] = {}
    for point in points:
        last = field or next(reversed(list(point.values)), None)
        others = tuple((n, v) for n, v in point.values.items() if n != last)
        lines.setdefault((point.defence, others), []).append(point)
    return [*lines.values()]


def figure_title(start: str, points: Sequence[SweepPoint], where: str = "") -> str:
    """Title of a figure of a sweep: what it is over, and what its bars are if no deviations.

    Args:
        start: How it begins.
        points: Those drawn.
        where: Which part of the figure has bars.
    """
    bars = f", 95 % intervals{where}" if all(point.row.seeds == 1 for point in points) else ""
    return f"{start} ({describe((point.row for point in points), which=False)}{bars})"
