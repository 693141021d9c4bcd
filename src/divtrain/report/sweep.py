"""A sweep's table: clean and worst-case accuracy of each target at each value."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from divtrain.evaluation import CLEAN, WORST, Threat
from divtrain.report.rows import Cell, Row

SWEEP_LEGEND = (
    "Accuracy in percent over all images. *worst*: share of images right when clean and under every"
    " attack at that eps (L-infinity, [0, 1] pixel units), transferred from the surrogate, which is"
    " the same for all, or white-box, then with the transferred ones. *coherence*: mean over the"
    " images."
)


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

    @property
    def words(self) -> str:
        """The values, as a label."""
        return ", ".join(f"{value:g}" for value in self.values.values())


def sweep_points(
    rows: Sequence[Row], swept: Mapping[str, tuple[str, Mapping[str, float]]]
) -> list[SweepPoint]:
    """Pick clean and worst case out of rows.

    Args:
        rows: From `make_rows`.
        swept: Defence and values of each target, in the order to show them.
    """
    order = list(swept)
    mine = [row for row in rows if row.target in swept and WORST in row.cells]
    points = [
        SweepPoint(row.target, *swept[row.target], row.threat, row.eps, row.cells[CLEAN],
                   row.cells[WORST], row.images, row.seeds)
        for row in mine
    ]  # fmt: skip
    return sorted(points, key=lambda point: order.index(point.target))


def sweep_terminal(points: Sequence[SweepPoint], coherence: Mapping[str, float]) -> Table:
    """Render the table for a terminal, a line a target and combination of values."""
    names, lines = _lines(points, coherence)
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    for name in names:
        table.add_column(name, justify="left" if name == "target" else "right")
    for line in lines:
        table.add_row(*line)
    return table


def sweep_markdown(points: Sequence[SweepPoint], coherence: Mapping[str, float]) -> str:
    """Render the table as Markdown, with the legend below."""
    names, lines = _lines(points, coherence)
    rules = ["---" if name == "target" else "---:" for name in names]
    table = [f"| {' | '.join(cells)} |" for cells in (names, rules, *lines)]
    return "\n".join([*table, "", f"{describe_sweep(points)}. {SWEEP_LEGEND}", ""])


def sweep_csv(points: Sequence[SweepPoint]) -> str:
    """Render one line a point, in percent."""
    fields = _fields(points)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["target", *fields, "threat", "eps", "clean_percent", "clean_deviation_percent",
         "worst_percent", "worst_deviation_percent", "images", "seeds"]
    )  # fmt: skip
    for point in points:
        values = [f"{point.values[f]:g}" if f in point.values else "" for f in fields]
        cells = [text for cell in (point.clean, point.worst) for text in _percent(cell)]
        writer.writerow(
            [point.defence, *values, point.threat, f"{point.eps:g}", *cells, point.images,
             point.seeds]
        )  # fmt: skip
    return out.getvalue()


def describe_sweep(points: Sequence[SweepPoint]) -> str:
    """One line on what the numbers are over."""
    images = " or ".join(str(n) for n in sorted({point.images for point in points}))
    seeds = max((point.seeds for point in points), default=0)
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "1 seed"
    return f"{images} test images, {spread}"


def _lines(
    points: Sequence[SweepPoint], coherence: Mapping[str, float]
) -> tuple[list[str], list[list[str]]]:
    fields = _fields(points)
    worst = sorted({(point.threat, point.eps) for point in points})
    names = ["target", *fields, "clean", *(f"{t} worst, eps {e:g}" for t, e in worst), "coherence"]
    lines: list[list[str]] = []
    for target in dict.fromkeys(point.target for point in points):
        mine = {(point.threat, point.eps): point for point in points if point.target == target}
        one = next(iter(mine.values()))
        values = [f"{one.values[f]:g}" if f in one.values else "" for f in fields]
        cells = [str(mine[place].worst) if place in mine else "" for place in worst]
        told = f"{coherence[target]:.2f}" if target in coherence else ""
        lines.append([one.defence, *values, str(one.clean), *cells, told])
    return names, lines


def _fields(points: Sequence[SweepPoint]) -> list[str]:
    return list(dict.fromkeys(field for point in points for field in point.values))


def _percent(cell: Cell) -> list[str]:
    deviation = "" if cell.deviation is None else f"{100 * cell.deviation:.4f}"
    return [f"{100 * cell.mean:.4f}", deviation]
