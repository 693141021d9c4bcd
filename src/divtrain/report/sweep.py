"""A sweep's table: clean and worst-case accuracy of each target at each value."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from divtrain.data import Split
from divtrain.evaluation import CLEAN, WORST, Threat
from divtrain.report.rows import Cell, Row

SWEEP_LEGEND = (
    "Accuracy in percent over all images. *worst*: share of images right when clean and under every"
    " attack at that eps (L-infinity, [0, 1] pixel units), transferred from the surrogate, which is"
    " the same for all, or white-box, then with the transferred ones. *coherence*: mean over the"
    " images."
)
ZEROS_LEGEND = (
    "In percent, exact zeros in eval mode (section 3.4): *zeros*, entries of the members' input"
    " gradients; *zero products*, terms of the inner products of every two of them; *dead*, input"
    " gradients that are zero as a whole; *idle weights*, entries of the gradient of GAL at one"
    " image with respect to the weights, mean over some of the images."
)
ZERO_COLUMNS = ("zeros", "zero products", "dead", "idle weights")


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


Zeros = Mapping[str, Sequence[ZeroMeans]]
"""By what records call the target, a seed each; empty where nobody looked."""


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
                   row.cells[WORST], row.images, row.seeds, row.split)
        for row in mine
    ]  # fmt: skip
    return sorted(points, key=lambda point: order.index(point.target))


def sweep_terminal(
    points: Sequence[SweepPoint], coherence: Mapping[str, float], zeros: Zeros
) -> Table:
    """Render the table for a terminal, a line a target and combination of values."""
    names, lines = _lines(points, coherence, zeros)
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    for name in names:
        table.add_column(name, justify="left" if name == "target" else "right")
    for line in lines:
        table.add_row(*line)
    return table


def sweep_markdown(
    points: Sequence[SweepPoint], coherence: Mapping[str, float], zeros: Zeros
) -> str:
    """Render the table as Markdown, with the legend below."""
    names, lines = _lines(points, coherence, zeros)
    rules = ["---" if name == "target" else "---:" for name in names]
    table = [f"| {' | '.join(cells)} |" for cells in (names, rules, *lines)]
    return "\n".join([*table, "", f"{describe_sweep(points)}. {sweep_legend(zeros)}", ""])


def sweep_csv(points: Sequence[SweepPoint], zeros: Zeros) -> str:
    """Render one line a point, in percent; shares of zeros only where there are some."""
    fields = _fields(points)
    told = [name.replace(" ", "_") for name in ZERO_COLUMNS] if zeros else []
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["target", *fields, "threat", "eps", "clean_percent", "clean_deviation_percent",
         "worst_percent", "worst_deviation_percent", "images", "seeds",
         *(f"{name}_percent" for name in told)]
    )  # fmt: skip
    for point in points:
        values = [f"{point.values[f]:g}" if f in point.values else "" for f in fields]
        cells = [text for cell in (point.clean, point.worst) for text in _percent(cell)]
        writer.writerow(
            [point.defence, *values, point.threat, f"{point.eps:g}", *cells, point.images,
             point.seeds, *(_zero_cells(zeros, point.target, 4) if zeros else [])]
        )  # fmt: skip
    return out.getvalue()


def sweep_legend(zeros: Zeros) -> str:
    """What the numbers of the table mean."""
    return f"{SWEEP_LEGEND} {ZEROS_LEGEND}" if zeros else SWEEP_LEGEND


def describe_sweep(points: Sequence[SweepPoint]) -> str:
    """One line on what the numbers are over."""
    images = " or ".join(str(n) for n in sorted({point.images for point in points}))
    seeds = max((point.seeds for point in points), default=0)
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "1 seed"
    split = " or ".join(sorted({point.split for point in points}))
    return f"{images} {split} images, {spread}"


def describe_bars(points: Sequence[SweepPoint], where: str = "") -> str:
    """What a figure adds to `describe_sweep` on bars that are no deviations, as `Cell.bar` has it.

    Args:
        points: Those drawn.
        where: Which part of the figure has them.
    """
    return f", 95 % intervals{where}" if all(point.seeds == 1 for point in points) else ""


def _lines(
    points: Sequence[SweepPoint], coherence: Mapping[str, float], zeros: Zeros
) -> tuple[list[str], list[list[str]]]:
    fields = _fields(points)
    worst = sorted({(point.threat, point.eps) for point in points})
    names = ["target", *fields, "clean", *(f"{t} worst, eps {e:g}" for t, e in worst), "coherence"]
    names += ZERO_COLUMNS if zeros else ()
    lines: list[list[str]] = []
    for target in dict.fromkeys(point.target for point in points):
        mine = {(point.threat, point.eps): point for point in points if point.target == target}
        one = next(iter(mine.values()))
        values = [f"{one.values[f]:g}" if f in one.values else "" for f in fields]
        cells = [str(mine[place].worst) if place in mine else "" for place in worst]
        told = f"{coherence[target]:.2f}" if target in coherence else ""
        sparse = _zero_cells(zeros, target, 2) if zeros else []
        lines.append([one.defence, *values, str(one.clean), *cells, told, *sparse])
    return names, lines


def _zero_cells(zeros: Zeros, target: str, digits: int) -> list[str]:
    """The mean over the seeds of each share, in percent."""
    seeds = zeros.get(target, ())
    if not seeds:
        return [""] * len(ZERO_COLUMNS)
    kinds = zip(*((z.entries, z.products, z.dead, z.idle) for z in seeds), strict=True)
    return [f"{100 * statistics.mean(shares):.{digits}f}" for shares in kinds]


def _fields(points: Sequence[SweepPoint]) -> list[str]:
    return list(dict.fromkeys(field for point in points for field in point.values))


def _percent(cell: Cell) -> list[str]:
    deviation = "" if cell.deviation is None else f"{100 * cell.deviation:.4f}"
    return [f"{100 * cell.mean:.4f}", deviation]
