"""The ablation of section 3.4: what ReLU and slopes of LeakyReLU do to Diversity Training."""

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from divtrain.report.figures.canvas import (
    COLOURS,
    STYLES,
    colour_of,
    label_axis,
    legend_below,
    new_figure,
    to_png,
)
from divtrain.report.figures.trade_off import joined_points
from divtrain.report.sweep import (
    SLOPE,
    Histories,
    SweepPoint,
    Zeros,
    describe_bars,
    describe_sweep,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BELOW_ZERO = "slope below zero"
SHADES = ("#9ECAE1", "#6BAED6", "#3182BD", "#08519C", "#08306B")
"""Of slopes above 0, rising; ReLU is red."""

KINDS = {
    "entries": ("o", "input gradients"),
    "products": ("x", "products of two"),
    "idle": ("s", "GAL by the weights"),
}
"""Which shares of zeros are drawn (fields of `ZeroMeans`), with their marker and name."""

Values = Sequence[tuple[float, Sequence[float]]]
"""Places on the x-axis, each with a value per seed."""
Line = Sequence[SweepPoint]
"""Points that differ in the slope only."""


def activation_figure(
    points: Sequence[SweepPoint],
    coherence: Mapping[str, float],
    zeros: Zeros,
    histories: Histories,
    title: str,
) -> bytes:
    """Draw a sweep over the slope (section 3.4) as PNG bytes.

    Above: coherence and GAL over training, a line for each slope; then, by slope, the coherence of
    what was trained, and the zeros in its input gradients and in the gradient of GAL. Below:
    worst-case accuracy by slope, a panel for each threat and eps. Means over the seeds; bars are
    standard deviations, or Wilson's intervals of 95 % for the accuracies of one seed.

    Args:
        points: From `sweep_points`; those with a slope are drawn, and there must be some.
        coherence: Mean coherence on the images, by target.
        zeros: Of each target.
        histories: Of each target; those trained without GAL log none and are left out.
        title: Name of the experiment.
    """
    mine = [point for point in points if SLOPE in point.values]
    slopes = sorted({point.values[SLOPE] for point in mine})
    panels = sorted({(point.threat, point.eps) for point in mine})
    lines = joined_points([p for p in mine if (p.threat, p.eps) == panels[0]], SLOPE)
    figure = new_figure(max(11.0, 2.7 * len(panels) + 0.8), 6.2)
    above, below = figure.subfigures(2, 1, squeeze=False)[:, 0]
    upper = above.subplots(1, 4)
    for axis, kind, name in zip(upper, ("coherence", "gal"), ("coherence", "GAL"), strict=False):
        _over_training(axis, kind, lines, histories, slopes)
        label_axis(axis, f"{name} in training", "epoch (mean over its steps)")
    handles, names = upper[1].get_legend_handles_labels()
    if handles:
        upper[1].legend(handles, names, title=SLOPE, title_fontsize=7, fontsize=7, frameon=False)
    _coherence(upper[2], lines, coherence, slopes)
    upper[2].sharey(upper[0])
    _zeros(upper[3], lines, zeros, slopes)
    lower = below.subplots(1, len(panels), squeeze=False)[0]
    for axis, (threat, eps) in zip(lower, panels, strict=True):
        at = [point for point in mine if (point.threat, point.eps) == (threat, eps)]
        for look, line in _looks(joined_points(at, SLOPE)):
            axis.errorbar(
                _places(line, slopes), [100 * p.worst.mean for p in line],
                yerr=list(zip(*(p.worst.bar for p in line), strict=True)),
                marker="o", capsize=2, elinewidth=0.7, **look,
            )  # fmt: skip
        label_axis(axis, f"worst case, {threat}, eps {eps:g}, %", BELOW_ZERO)
    for axis in (*upper[2:], *lower):
        axis.set_xticks(range(len(slopes)), [slope_name(slope) for slope in slopes])
        axis.margins(x=0.1)
    legend_below(below, lower[:1], 6)
    told = describe_sweep(points) + describe_bars(mine, " below")
    figure.suptitle(f"{title}: ReLU and LeakyReLU, section 3.4 ({told})", fontsize=10)
    return to_png(figure)


def slope_name(slope: float) -> str:
    """Label of a slope; LeakyReLU of slope 0 is ReLU."""
    return f"{slope:g}" if slope else "0 (ReLU)"


def _over_training(
    axis: "Axes",
    kind: str,
    lines: Sequence[Line],
    histories: Histories,
    slopes: Sequence[float],
) -> None:
    """Draw what training logged, a colour for each slope, a style for each line of targets."""
    logged = [
        [(point, by_epoch) for point in line if (by_epoch := _epochs(kind, point, histories))]
        for line in lines
    ]
    drawn = [line for line in logged if line]
    for index, line in enumerate(drawn):
        for point, by_epoch in line:
            slope = point.values[SLOPE]
            shade = [each for each in slopes if each].index(slope) if slope else 0
            name = slope_name(slope)
            _spread(
                axis, by_epoch, marker="o", linestyle=STYLES[index % len(STYLES)],
                color=SHADES[shade % len(SHADES)] if slope else COLOURS[4],
                label=name if len(drawn) == 1 else f"{_name(point)}: {name}",
            )  # fmt: skip
    axis.set_xticks(sorted({place for line in drawn for _, values in line for place, _ in values}))


def _epochs(kind: str, point: SweepPoint, histories: Histories) -> Values:
    """What was logged of a target, by epoch; nothing where it was not."""
    found: dict[float, list[float]] = {}
    for rows in histories.get(point.target, ()):
        for row in rows:
            if kind in row:
                found.setdefault(row["epoch"], []).append(row[kind])
    return list(found.items())


def _coherence(
    axis: "Axes",
    lines: Sequence[Line],
    coherence: Mapping[str, float],
    slopes: Sequence[float],
) -> None:
    for look, line in _looks(lines):
        there = [point for point in line if point.target in coherence]
        axis.plot(_places(there, slopes), [coherence[p.target] for p in there], marker="o",
                  **look)  # fmt: skip
    label_axis(axis, "coherence afterwards, eval mode", BELOW_ZERO)


def _zeros(axis: "Axes", lines: Sequence[Line], zeros: Zeros, slopes: Sequence[float]) -> None:
    for look, line in _looks(lines):
        there = [point for point in line if zeros.get(point.target)]
        for kind, (marker, name) in KINDS.items():
            shares = [[100 * getattr(each, kind) for each in zeros[p.target]] for p in there]
            values = list(zip(_places(there, slopes), shares, strict=True))
            label = f"{look['label']}: {name}"
            _spread(axis, values, marker=marker, **look | {"label": label})
    axis.set_ylim(-3, 103)
    label_axis(axis, "exact zeros, %", BELOW_ZERO)
    axis.legend(fontsize=6, frameon=False)


def _looks(lines: Sequence[Line]) -> list[tuple[dict[str, Any], Line]]:
    """Give each line its colour, style and name; a defence looks as in every figure."""
    defences = list(dict.fromkeys(line[0].defence for line in lines))
    found: list[tuple[dict[str, Any], Line]] = []
    for line in lines:
        defence = line[0].defence
        before = sum(look["color"] == colour_of(defence, defences) for look, _ in found)
        look = {"color": colour_of(defence, defences), "linestyle": STYLES[before % len(STYLES)],
                "label": _name(line[0]), "linewidth": 1, "markersize": 3.5}  # fmt: skip
        found.append((look, line))
    return found


def _name(point: SweepPoint) -> str:
    """The defence, with the values of other fields than the slope."""
    others = [f"{field} {value:g}" for field, value in point.values.items() if field != SLOPE]
    return ", ".join([point.defence, *others])


def _places(line: Sequence[SweepPoint], slopes: Sequence[float]) -> list[float]:
    return [slopes.index(point.values[SLOPE]) for point in line]


def _spread(axis: "Axes", values: Values, **look: Any) -> None:
    """Draw at each place the mean of the seeds, with their deviation where there are several."""
    several = any(len(seeds) > 1 for _, seeds in values)
    spread = [statistics.stdev(seeds) if len(seeds) > 1 else 0 for _, seeds in values]
    axis.errorbar(
        [place for place, _ in values],
        [statistics.mean(seeds) for _, seeds in values],
        yerr=spread if several else None,
        capsize=2, **{"markersize": 3.5, "linewidth": 1, **look},
    )  # fmt: skip
