"""A sweep's figure: clean against worst-case accuracy."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from divtrain.report.figures.canvas import (
    STYLES,
    colour_of,
    label_axis,
    legend_below,
    new_figure,
    to_png,
)
from divtrain.report.sweep import SweepPoint, describe_bars, describe_sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def sweep_figure(points: Sequence[SweepPoint], title: str) -> bytes:
    """Draw clean against worst-case accuracy, a panel for each threat and eps, as PNG bytes.

    Panels of one eps have one x-axis. Bars are standard deviations over the seeds, or Wilson's
    intervals of 95 % for one seed.

    Args:
        points: From `sweep_points`; those of a defence that differ in the last field swept, and in
            no other, are joined by a line.
        title: Name of the experiment.
    """
    panels = sorted({(point.threat, point.eps) for point in points})
    # Those that the values do not touch come last and hollow: they may coincide with another.
    touched = {point.defence for point in points if point.values}
    defences = sorted(dict.fromkeys(p.defence for p in points), key=lambda d: d not in touched)
    figure = new_figure(3.0 * len(panels) + 0.8, 3.4)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    first: dict[float, Axes] = {}
    for axis, (threat, eps) in zip(axes, panels, strict=True):
        mine = [point for point in points if (point.threat, point.eps) == (threat, eps)]
        before = Counter[str]()  # lines of each defence
        for line in joined_points(mine):
            defence = line[0].defence
            style = STYLES[before[defence] % len(STYLES)]
            _join(axis, line, colour_of(defence, defences), style, defence in touched)
            before[defence] += 1
        label_axis(axis, f"{threat}, eps {eps:g}", "worst-case accuracy, %")
        axis.margins(0.15)
        if first.setdefault(eps, axis) is not axis:
            axis.sharex(first[eps])
    for axis in first.values():
        axis.autoscale()
    axes[0].set_ylabel("clean accuracy, %", fontsize=8)
    legend_below(figure, axes[:1], len(defences))
    swept = ", ".join(max((point.values for point in points), key=len))  # as the labels go
    told = describe_sweep(points) + describe_bars(points)
    figure.suptitle(f"{title}: {swept} ({told})", fontsize=10)
    return to_png(figure)


def joined_points(
    points: Sequence[SweepPoint], field: str | None = None
) -> list[Sequence[SweepPoint]]:
    """Group points that differ in one field only, in their order.

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


def _join(axis: "Axes", line: Sequence[SweepPoint], colour: str, style: str, filled: bool) -> None:
    """Draw points of one defence, each with its values beside it."""
    worst, clean = [p.worst for p in line], [p.clean for p in line]
    spread = [list(zip(*(cell.bar for cell in cells), strict=True)) for cells in (worst, clean)]
    axis.errorbar(
        [100 * cell.mean for cell in worst], [100 * cell.mean for cell in clean],
        xerr=spread[0], yerr=spread[1], fmt="o", linestyle=style,
        markersize=3.5 if filled else 6, markerfacecolor=None if filled else "none",
        linewidth=1, elinewidth=0.4, color=colour, label=line[0].defence,
    )  # fmt: skip
    for index, point in enumerate(line):
        place = (100 * point.worst.mean, 100 * point.clean.mean)
        beside = (3, 4) if index % 2 == 0 else (3, -9)  # neighbours may lie close together
        axis.annotate(point.words, place, xytext=beside, textcoords="offset points", fontsize=6)
