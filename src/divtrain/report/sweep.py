"""The numbers of a sweep: clean and worst-case accuracy of each target at each value."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

from divtrain.data import Split
from divtrain.evaluation import CLEAN, WORST, Threat
from divtrain.report.rows import Cell, Row, main_rows, one_or_other, over_seeds

SLOPE = "slope"
"""The field of the ablation of section 3.4."""

Histories = Mapping[str, Sequence[Sequence[Mapping[str, float]]]]
"""By what records call the target, for each seed a row per epoch, as training wrote them."""


@dataclass(frozen=True)
class SweepPoint:
    """One target at one combination of the values swept, against one adversary.

    Attributes:
        target: What records call it.
        defence: Its defence.
        values: The values by field; only those that make a difference to it.
        threat: Which adversary.
        eps: L-infinity radius in [0, 1] pixel units.
        clean: Clean accuracy, mean and deviation over the seeds.
        worst: Worst-case accuracy.
        images: Images in each accuracy's denominator.
        seeds: Seeds averaged over.
        split: Which images: the test images, or some held out of the training images.
    """

    target: str
    defence: str
    values: Mapping[str, float]
    threat: Threat
    eps: float
    clean: Cell
    worst: Cell
    images: int
    seeds: int
    split: Split = "test"

    @property
    def words(self) -> str:
        """The values, as a label."""
        return ", ".join(f"{value:g}" for value in self.values.values())


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
    """Pick clean and worst case out of rows.

    Args:
        rows: From `make_rows`.
        swept: Defence and values of each target, in the order to show them.
    """
    order = list(swept)
    mine = [row for row in main_rows(rows) if row.target in swept and WORST in row.cells]
    points = [
        SweepPoint(row.target, *swept[row.target], row.threat, row.eps, row.cells[CLEAN],
                   row.cells[WORST], row.images, row.seeds, row.split)
        for row in mine
    ]  # fmt: skip
    return sorted(points, key=lambda point: order.index(point.target))


def describe_sweep(points: Sequence[SweepPoint]) -> str:
    """One line on what the numbers are over."""
    images = one_or_other(point.images for point in points)
    seeds = max((point.seeds for point in points), default=0)
    return f"{images} {one_or_other(p.split for p in points)} images, {over_seeds(seeds)}"


def describe_bars(points: Sequence[SweepPoint], where: str = "") -> str:
    """What a figure adds to `describe_sweep` on bars that are no deviations, as `Cell.bar` has it.

    Args:
        points: Those drawn.
        where: Which part of the figure has them.
    """
    return f", 95 % intervals{where}" if all(point.seeds == 1 for point in points) else ""


def swept_fields(points: Sequence[SweepPoint]) -> list[str]:
    """Names of the fields swept over."""
    return list(dict.fromkeys(field for point in points for field in point.values))
