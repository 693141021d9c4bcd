"""The ablation of section 3.4: what ReLU and slopes of LeakyReLU do to Diversity Training."""

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from divtrain.report.canvas import (
    COLOURS,
    STYLES,
    label_axis,
    legend_below,
    looks,
    new_figure,
    to_png,
)
from divtrain.report.output import percents
from divtrain.report.report import Entry, Figure, Section, Table
from divtrain.report.sweep import (
    SLOPE,
    Histories,
    SweepPoint,
    ZeroMeans,
    Zeros,
    figure_title,
    joined_points,
    swept_fields,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOTE = (
    "In percent, exact zeros in eval mode (section 3.4). Zeros: entries of the members' input"
    " gradients. Zero products: terms of the inner products of every two of them. Dead: input"
    " gradients that are zero as a whole. Idle weights: entries of the gradient of GAL at one image"
    " with respect to the weights, mean over some of the images."
)
SHARES = ("zeros", "zero products", "dead", "idle weights")
"""Headings of the fields of `ZeroMeans`."""
DRAWN = {"entries": ("o", "input gradients"), "products": ("x", "products of two"),
         "idle": ("s", "GAL by the weights")}  # fmt: skip
"""Which of them are drawn, with their marker and name."""

BELOW_ZERO = "slope below zero"
SHADES = ("#9ECAE1", "#6BAED6", "#3182BD", "#08519C", "#08306B")
"""Of slopes above 0, rising; ReLU is red."""

Values = Mapping[float, Sequence[float]]
"""A value per seed, by place on the x-axis."""
Line = Sequence[SweepPoint]
"""Points that differ in the slope only."""


def ablation_section(
    points: Sequence[SweepPoint],
    coherence: Mapping[str, float],
    zeros: Zeros,
    histories: Histories,
    title: str,
) -> Section:
    """Return the zeros in the gradients of each target, and the ablation as a figure.

    Args:
        points: From `sweep_points`; those with a slope are drawn, and there must be some.
        coherence: Mean coherence on the images, by target.
        zeros: Of each target.
        histories: Of each target; those trained without GAL log none and are left out.
        title: Name of the experiment.
    """
    png = activation_figure(points, coherence, zeros, histories, title)
    alt = "Coherence and GAL in training, zeros in gradients and worst-case accuracy, by slope"
    figure = Figure("activation", png, alt)
    fields = swept_fields(points)
    rows = [
        tuple(map(Entry, (point.defence, *point.texts(fields), *_means(zeros, target, 2).values())))
        for target, point in {point.row.target: point for point in points}.items()
        if zeros.get(target)
    ]
    tables = [Table("Exact zeros, percent", ("target", *fields, *SHARES), rows)] if rows else []
    notes = [NOTE] if rows else []
    return Section("ReLU and LeakyReLU (section 3.4)", (), tables, [figure], notes)


def zero_columns(zeros: Zeros, target: str) -> dict[str, str]:
    """The shares of zeros of a target as columns of a CSV file, in percent."""
    means = _means(zeros, target, 4)
    return {f"{name.replace(' ', '_')}_percent": share for name, share in means.items()}


def _means(zeros: Zeros, target: str, digits: int) -> dict[str, str]:
    """The mean over the seeds of each share, by heading; empty where nobody looked."""
    seeds = zeros.get(target)
    shares = vars(ZeroMeans.over(seeds)).values() if seeds else [None] * len(SHARES)
    return percents(SHARES, shares, digits)


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
    """
    mine = [point for point in points if SLOPE in point.values]
    slopes = sorted({point.values[SLOPE] for point in mine})
    places = sorted({point.place for point in mine})
    figure = new_figure(max(11.0, 2.7 * len(places) + 0.8), 6.2)
    above, below = figure.subfigures(2, 1, squeeze=False)[:, 0]
    logged_coherence, gal, afterwards, sparse = above.subplots(1, 4)
    lines = joined_points([point for point in mine if point.place == places[0]], SLOPE)
    _over_training(logged_coherence, "coherence", lines, histories, slopes)
    _over_training(gal, "gal", lines, histories, slopes)
    if gal.get_legend_handles_labels()[0]:
        gal.legend(title=SLOPE, title_fontsize=7, fontsize=7, frameon=False)
    for look, line in _looks(lines):
        at: dict[float, str] = {slopes.index(p.values[SLOPE]): p.row.target for p in line}
        _draw(afterwards, {x: [coherence[t]] for x, t in at.items() if t in coherence}, **look)
        for kind, (marker, name) in DRAWN.items():
            shares = {x: [100 * getattr(z, kind) for z in zeros[t]] for x, t in at.items()
                      if zeros.get(t)}  # fmt: skip
            label = f"{look['label']}: {name}"
            _draw(sparse, shares, **look | {"marker": marker, "label": label})
    afterwards.sharey(logged_coherence)
    label_axis(afterwards, "coherence afterwards, eval mode", BELOW_ZERO)
    sparse.set_ylim(-3, 103)
    label_axis(sparse, "exact zeros, %", BELOW_ZERO)
    sparse.legend(fontsize=6, frameon=False)
    lower = below.subplots(1, len(places), squeeze=False)[0]
    for axis, (threat, eps) in zip(lower, places, strict=True):
        for look, line in _looks(
            joined_points([p for p in mine if p.place == (threat, eps)], SLOPE)
        ):
            axis.errorbar(
                [slopes.index(p.values[SLOPE]) for p in line], [100 * p.worst.mean for p in line],
                yerr=list(zip(*(p.worst.bar for p in line), strict=True)),
                capsize=2, elinewidth=0.7, **look,
            )  # fmt: skip
        label_axis(axis, f"worst case, {threat}, eps {eps:g}, %", BELOW_ZERO)
    for axis in (afterwards, sparse, *lower):
        axis.set_xticks(range(len(slopes)), [slope_name(slope) for slope in slopes])
        axis.margins(x=0.1)
    legend_below(below, lower[:1], 6)
    start = f"{title}: ReLU and LeakyReLU, section 3.4"
    return to_png(figure, figure_title(start, mine, " below"))


def slope_name(slope: float) -> str:
    """Label of a slope; LeakyReLU of slope 0 is ReLU."""
    return f"{slope:g}" if slope else "0 (ReLU)"


def _over_training(
    axis: "Axes", kind: str, lines: Sequence[Line], histories: Histories, slopes: Sequence[float]
) -> None:
    """Draw what training logged, a colour for each slope, a style for each line of targets."""
    logged = [[(p, epochs) for p in line if (epochs := _epochs(kind, p, histories))]
              for line in lines]  # fmt: skip
    drawn = [line for line in logged if line]
    for index, line in enumerate(drawn):
        for point, by_epoch in line:
            slope = point.values[SLOPE]
            shade = [each for each in slopes if each].index(slope) if slope else 0
            name = slope_name(slope)
            _draw(
                axis, by_epoch, marker="o", linestyle=STYLES[index % len(STYLES)],
                color=SHADES[shade % len(SHADES)] if slope else COLOURS[4],
                label=name if len(drawn) == 1 else f"{_name(point)}: {name}",
            )  # fmt: skip
    axis.set_xticks(sorted({epoch for line in drawn for _, by_epoch in line for epoch in by_epoch}))
    name = {"gal": "GAL"}.get(kind, kind)
    label_axis(axis, f"{name} in training", "epoch (mean over its steps)")


def _epochs(kind: str, point: SweepPoint, histories: Histories) -> Values:
    """What was logged of a target, by epoch; nothing where it was not."""
    found: dict[float, list[float]] = {}
    for rows in histories.get(point.row.target, ()):
        for row in rows:
            if kind in row:
                found.setdefault(row["epoch"], []).append(row[kind])
    return found


def _looks(lines: Sequence[Line]) -> list[tuple[dict[str, Any], Line]]:
    """Give each line its colour, style and name; a defence looks as in every figure."""
    defences = [line[0].defence for line in lines]
    size = {"marker": "o", "linewidth": 1, "markersize": 3.5}
    return [
        ({**look, **size, "label": _name(line[0])}, line)
        for look, line in zip(looks(defences, list(dict.fromkeys(defences))), lines, strict=True)
    ]


def _name(point: SweepPoint) -> str:
    """The defence, with the values of other fields than the slope."""
    others = [f"{field} {value:g}" for field, value in point.values.items() if field != SLOPE]
    return ", ".join([point.defence, *others])


def _draw(axis: "Axes", values: Values, **look: Any) -> None:
    """Draw at each place the mean of the seeds, with their deviation where there are several."""
    several = any(len(seeds) > 1 for seeds in values.values())
    spread = [statistics.stdev(seeds) if len(seeds) > 1 else 0 for seeds in values.values()]
    axis.errorbar(
        list(values), list(map(statistics.mean, values.values())),
        yerr=spread if several else None, capsize=2, **{"markersize": 3.5, "linewidth": 1, **look},
    )  # fmt: skip
