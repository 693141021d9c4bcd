"""A sweep: clean and worst-case accuracy of each target at each value."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from divtrain.report.canvas import label_axis, legend_below, looks, panels, to_png
from divtrain.report.output import percents
from divtrain.report.report import CsvRow, Entry, Figure, Section, Table
from divtrain.report.rows import describe
from divtrain.report.sections.ablation import zero_columns
from divtrain.report.sweep import SweepPoint, Zeros, figure_title, joined_points, swept_fields

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    places = sorted({point.place for point in points})
    worst = (f"{threat} worst, eps {eps:g}" for threat, eps in places)
    rows: list[Sequence[Entry]] = []
    for target in dict.fromkeys(point.row.target for point in points):
        mine = {point.place: point for point in points if point.row.target == target}
        one = next(iter(mine.values()))
        rows.append(
            (
                Entry(one.defence),
                *map(Entry, one.texts(fields)),
                one.clean.entry,
                *(mine[place].worst.entry if place in mine else Entry("") for place in places),
                Entry(f"{coherence[target]:.2f}" if target in coherence else ""),
            )
        )
    header = ("target", *fields, "clean", *worst, "coherence")
    table = Table(describe([point.row for point in points]), header, rows)
    alt = "Clean against worst-case accuracy of each target at each value, for each threat and eps"
    figure = Figure("sweep", sweep_figure(points, title), alt)
    return Section(
        "Clean and robust accuracy", tables=[table], figures=[figure], notes=[NOTE],
        data={"sweep.csv": _data(points, zeros)},
    )  # fmt: skip


def sweep_figure(points: Sequence[SweepPoint], title: str) -> bytes:
    """Draw clean against worst-case accuracy, a panel for each threat and eps, as PNG bytes.

    Points of a defence that differ in the last field swept, and in no other, are joined by a line.
    Panels of one eps have one x-axis. Bars are standard deviations over the seeds, or Wilson's
    intervals of 95 % for one seed.
    """
    places = sorted({point.place for point in points})
    # Those that the values do not touch come last and hollow: they may coincide with another.
    touched = {point.defence for point in points if point.values}
    defences = sorted(dict.fromkeys(p.defence for p in points), key=lambda d: d not in touched)
    figure, [axes] = panels(3.0 * len(places) + 0.8, 3.4, len(places))
    first: dict[float, Axes] = {}
    for axis, (threat, eps) in zip(axes, places, strict=True):
        lines = joined_points([point for point in points if point.place == (threat, eps)])
        for look, line in zip(
            looks([line[0].defence for line in lines], defences), lines, strict=True
        ):
            _join(axis, line, look, line[0].defence in touched)
        label_axis(axis, f"{threat}, eps {eps:g}", "worst-case accuracy, %")
        axis.margins(0.15)
        if first.setdefault(eps, axis) is not axis:
            axis.sharex(first[eps])
    for axis in first.values():
        axis.autoscale()
    axes[0].set_ylabel("clean accuracy, %", fontsize=8)
    legend_below(figure, axes[:1], len(defences))
    swept = ", ".join(max((point.values for point in points), key=len))  # as the labels go
    return to_png(figure, figure_title(f"{title}: {swept}", points))


def _join(axis: "Axes", line: Sequence[SweepPoint], look: Mapping[str, Any], filled: bool) -> None:
    """Draw points of one defence, each with its values beside it."""
    worst, clean = [p.worst for p in line], [p.clean for p in line]
    spread = [list(zip(*(cell.bar for cell in cells), strict=True)) for cells in (worst, clean)]
    axis.errorbar(
        [100 * cell.mean for cell in worst], [100 * cell.mean for cell in clean],
        xerr=spread[0], yerr=spread[1], fmt="o",
        markersize=3.5 if filled else 6, markerfacecolor=None if filled else "none",
        linewidth=1, elinewidth=0.4, label=line[0].defence, **look,
    )  # fmt: skip
    for index, point in enumerate(line):
        words = ", ".join(point.texts([*point.values]))
        place = (100 * point.worst.mean, 100 * point.clean.mean)
        beside = (3, 4) if index % 2 == 0 else (3, -9)  # neighbours may lie close together
        axis.annotate(words, place, xytext=beside, textcoords="offset points", fontsize=6)


def _data(points: Sequence[SweepPoint], zeros: Zeros) -> list[CsvRow]:
    """One line for each point, in percent; shares of zeros only where there are some."""
    fields = swept_fields(points)
    kinds = ("clean", "worst")
    names = [f"{kind}{which}_percent" for kind in kinds for which in ("", "_deviation")]
    return [
        {
            "target": point.defence,
            **dict(zip(fields, point.texts(fields), strict=True)),
            "threat": point.row.threat,
            "eps": f"{point.row.eps:g}",
            **percents(names, [*point.clean.numbers[:2], *point.worst.numbers[:2]]),
            "images": point.row.images,
            "seeds": point.row.seeds,
            **(zero_columns(zeros, point.row.target) if zeros else {}),
        }
        for point in points
    ]
