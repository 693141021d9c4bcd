"""Clean and robust accuracy of each target as bars."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from divtrain.attacks import attack_title
from divtrain.report.figures.canvas import (
    colour_of,
    label_axis,
    legend_below,
    new_figure,
    to_png,
)
from divtrain.report.rows import Row, columns_of, describe

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def accuracy_figure(rows: Sequence[Row], title: str) -> bytes:
    """Draw bars of accuracy under each attack, a panel for each eps (down) and threat (across).

    Args:
        rows: One for each threat, target and eps, from `main_rows`.
        title: Name of the experiment.
    """
    radii = sorted({row.eps for row in rows})
    names = {
        threat: columns_of([row for row in rows if row.threat == threat])
        for threat in dict.fromkeys(row.threat for row in rows)
    }
    figure = new_figure(2.0 + 0.75 * sum(map(len, names.values())), 2.4 * len(radii) + 0.9)
    axes = figure.subplots(
        len(radii), len(names), squeeze=False, sharey=True,
        gridspec_kw={"width_ratios": [len(columns) for columns in names.values()]},
    )  # fmt: skip
    targets = list(dict.fromkeys(row.target for row in rows))
    for line, eps in zip(axes, radii, strict=True):
        for axis, (threat, columns) in zip(line, names.items(), strict=True):
            for row in (row for row in rows if (row.threat, row.eps) == (threat, eps)):
                _bars(axis, row, columns, targets)
            first = axis is line[0]
            label_axis(axis, f"{threat}, eps {eps:g}", y="accuracy, %" if first else "")
            ticks = [attack_title(name).replace(" (", "\n(") for name in columns]
            axis.set_xticks(range(len(ticks)), ticks)
            axis.set_ylim(0, 118)
            axis.set_yticks(range(0, 101, 25))
    figure.suptitle(f"{title} ({describe(rows)})", fontsize=10)
    legend_below(figure, axes.flat, len(targets))
    return to_png(figure)


def _bars(axis: "Axes", row: Row, names: Sequence[str], targets: Sequence[str]) -> None:
    """Draw one target's bars beside those of the others."""
    place, width = targets.index(row.target), 0.84 / len(targets)
    shown = [(i, row.cells[name]) for i, name in enumerate(names) if name in row.cells]
    bars = axis.bar(
        [i + width * (place - (len(targets) - 1) / 2) for i, _ in shown],
        [100 * cell.mean for _, cell in shown],
        width,
        yerr=[100 * (cell.deviation or 0) for _, cell in shown] if row.seeds > 1 else None,
        color=colour_of(row.target, targets),
        label=row.target,
        capsize=2,
    )
    upright = 90 if len(targets) > 3 else 0  # numbers side by side would run into each other
    axis.bar_label(bars, fmt="%.1f", fontsize=5.5, padding=2, rotation=upright)
