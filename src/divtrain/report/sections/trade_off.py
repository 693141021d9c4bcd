"""A sweep: clean and worst-case accuracy of each target at each value."""

from collections.abc import Mapping, Sequence

from divtrain.report.figures.trade_off import sweep_figure
from divtrain.report.output import percent
from divtrain.report.report import CsvRow, Entry, Figure, Section, Table
from divtrain.report.rows import Cell
from divtrain.report.sections.ablation import zero_shares
from divtrain.report.sweep import SweepPoint, Zeros, describe_sweep, swept_fields

NOTE = (
    "Accuracy in percent over all images. Worst: share of images right when clean and under every"
    " attack at that eps (L-infinity, [0, 1] pixel units), transferred from the surrogate, which is"
    " the same for all, or white-box, then with the transferred ones. Coherence: mean over the"
    " images."
)


def trade_off_section(
    points: Sequence[SweepPoint], coherence: Mapping[str, float], zeros: Zeros, title: str
) -> Section:
    """Return a row for each target and combination of values, and the trade-off as a figure.

    Args:
        points: From `sweep_points`.
        coherence: Mean coherence on the images, by target; may be empty.
        zeros: Shares of zeros, for the CSV file; may be empty.
        title: Name of the experiment.
    """
    fields = swept_fields(points)
    places = sorted({(point.threat, point.eps) for point in points})
    worst = (f"{threat} worst, eps {eps:g}" for threat, eps in places)
    rows: list[Sequence[Entry]] = []
    for target in dict.fromkeys(point.target for point in points):
        mine = {(point.threat, point.eps): point for point in points if point.target == target}
        one = next(iter(mine.values()))
        rows.append(
            (
                Entry(one.defence),
                *map(Entry, value_texts(one, fields)),
                _entry(one.clean),
                *(_entry(mine[place].worst) if place in mine else Entry("") for place in places),
                Entry(f"{coherence[target]:.2f}" if target in coherence else ""),
            )
        )
    header = ("target", *fields, "clean", *worst, "coherence")
    alt = "Clean against worst-case accuracy of each target at each value, for each threat and eps"
    figure = Figure("sweep", sweep_figure(points, title), alt)
    return Section(
        "Clean and robust accuracy", tables=[Table(describe_sweep(points), header, rows)],
        figures=[figure], notes=[NOTE], data={"sweep.csv": _data(points, zeros)},
    )  # fmt: skip


def value_texts(point: SweepPoint, fields: Sequence[str]) -> list[str]:
    """The values of some fields; empty for those that make no difference to the target."""
    return [f"{point.values[name]:g}" if name in point.values else "" for name in fields]


def _entry(cell: Cell) -> Entry:
    return Entry(str(cell), cell.brackets)


def _data(points: Sequence[SweepPoint], zeros: Zeros) -> list[CsvRow]:
    """One line for each point, in percent; shares of zeros only where there are some."""
    fields = swept_fields(points)
    return [
        {
            "target": point.defence,
            **dict(zip(fields, value_texts(point, fields), strict=True)),
            "threat": point.threat,
            "eps": f"{point.eps:g}",
            "clean_percent": percent(point.clean.mean),
            "clean_deviation_percent": percent(point.clean.deviation),
            "worst_percent": percent(point.worst.mean),
            "worst_deviation_percent": percent(point.worst.deviation),
            "images": point.images,
            "seeds": point.seeds,
            **(zero_shares(zeros, point.target) if zeros else {}),
        }
        for point in points
    ]
