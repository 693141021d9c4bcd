"""What all figures share: the colours of the defences, panels without a display, PNG bytes."""

import io
from collections.abc import Iterable, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#4C72B0", "#DD8452", "#55A868", "#8C8C8C", "#C44E52", "#8172B3")
OWN_COLOUR = {"base": 0, "div": 1, "detector": 2, "base+noise": 3}
"""The defences look alike in every figure; other targets take the remaining colours."""
STYLES = ("-", "--", ":", "-.")
"""Of lines of one defence that differ in other values swept."""


def colour_of(target: str, targets: Sequence[str]) -> str:
    """Return the colour of a target among those of a figure."""
    others = [name for name in targets if name not in OWN_COLOUR]
    free = [i for i in range(len(COLOURS)) if i not in {OWN_COLOUR.get(n) for n in targets}]
    own = OWN_COLOUR.get(target)
    return COLOURS[free[others.index(target) % len(free)] if own is None else own]


def looks(defences: Sequence[str], among: Sequence[str]) -> list[dict[str, Any]]:
    """Return the look of lines, by defence: its colour, another style for each line more of it."""
    return [
        {"color": colour_of(each, among),
         "linestyle": STYLES[defences[:index].count(each) % len(STYLES)]}
        for index, each in enumerate(defences)
    ]  # fmt: skip


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in inches, drawn without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panels(
    width: float, height: float, across: int, down: int = 1, **how: Any
) -> tuple["Figure", Any]:
    """Return a figure and its axes, (down, across), which share what goes up."""
    figure = new_figure(width, height)
    return figure, figure.subplots(down, across, squeeze=False, sharey=True, **how)


def label_axis(axis: "Axes", title: str = "", x: str = "", y: str = "") -> None:
    """Give an axis its title and labels, small numbers, and no frame above and at the right."""
    axis.set_title(title, fontsize=9, loc="left")
    axis.set_xlabel(x, fontsize=8)
    axis.set_ylabel(y, fontsize=8)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def band(
    axis: "Axes",
    places: Sequence[float],
    values: Sequence[float],
    intervals: Sequence[tuple[float, float]],
    colour: str,
    label: str,
) -> None:
    """Draw a line, and the intervals of its values as a band."""
    axis.plot(places, values, "o-", markersize=3, color=colour, label=label)
    low, high = zip(*intervals, strict=True) if intervals else ((), ())
    axis.fill_between(places, low, high, color=colour, alpha=0.2, linewidth=0)


def legend_below(figure: Any, axes: Iterable["Axes"], columns: int) -> None:
    """Put one legend below a figure, or a part of one: each name of its axes once."""
    names: dict[str, Any] = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            names.setdefault(name, handle)
    if names:
        figure.legend(list(names.values()), list(names), loc="outside lower center",
                      ncols=min(columns, len(names)), fontsize=8, frameon=False)  # fmt: skip


def to_png(figure: "Figure", title: str = "") -> bytes:
    """Return a figure, under its title, as a PNG file holds it."""
    if title:
        figure.suptitle(fill(title, int(13 * figure.get_figwidth())), fontsize=10)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()
