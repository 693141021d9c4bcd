"""What all figures share: the colours of the defences, images, panels, PNG bytes; no display."""

import io
from collections.abc import Iterable, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#E69F00", "#56B4E9", "#009E73", "#CC79A7")
"""Okabe and Ito's, which most colour-blind readers can tell apart."""
OWN_COLOUR = {"base": 0, "div": 1, "detector": 2, "base+noise": 3, "adv": 4, "adv+div": 5}
"""Each defence has one colour in every figure, whatever else is shown."""
OTHER_COLOURS = ("#000000", "#882255", "#999999", "#999933")
"""Of targets that are none of these, in the order of the figure."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""Targets also differ in their marker, for readers who do not see the colours."""
STYLES = ("-", "--", ":", "-.")
"""Of lines of one defence that differ in other values swept."""


def colour_of(target: str, targets: Sequence[str]) -> str:
    """Return the colour of a target: a defence's own, or the next free one among the others."""
    own, place = target in OWN_COLOUR, _place(target, targets)
    return COLOURS[place] if own else OTHER_COLOURS[place % len(OTHER_COLOURS)]


def marker_of(target: str, targets: Sequence[str]) -> str:
    """Return the marker of a target; with its colour it is that of no other of 28 targets."""
    return MARKERS[_place(target, targets) % len(MARKERS)]


def _place(target: str, targets: Sequence[str]) -> int:
    """Return the place of a target among those that have a colour of their own, or the others."""
    others = [name for name in dict.fromkeys(targets) if name not in OWN_COLOUR]
    return OWN_COLOUR[target] if target in OWN_COLOUR else others.index(target)


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


def draw_image(axis: "Axes", image: Tensor, title: str = "") -> None:
    """Draw an image, (channel, height, width) in [0, 1], grey or in colour, without axes."""
    grey = len(image) != 3
    pixels = image.mean(0) if grey else image.permute(1, 2, 0)
    axis.imshow(pixels.tolist(), cmap="gray" if grey else None, vmin=0, vmax=1,
                interpolation="nearest")  # fmt: skip
    axis.set_title(title, fontsize=7, pad=3)
    axis.set_axis_off()


def draw_change(
    axis: "Axes", change: Tensor, title: str = "", largest: float = 0.0, colour: str = "black"
) -> None:
    """Draw a change of an image, (channel, height, width), mean over channels: red up, blue down.

    Args:
        axis: Where.
        change: The change, or a gradient.
        title: Stands above it.
        largest: What has the deepest colour; the largest value if 0.
        colour: Of the title.
    """
    values = change.mean(0)
    top = largest or values.abs().max().item() or 1.0
    axis.imshow(values.tolist(), cmap="RdBu_r", vmin=-top, vmax=top, interpolation="nearest")
    axis.set_title(title, fontsize=7, pad=3, color=colour)
    axis.set_axis_off()


def legend_below(figure: Any, axes: Iterable["Axes"], columns: int) -> None:
    """Put one legend below a figure, or a part of one: each name of its axes once.

    Args:
        figure: The figure.
        axes: Whose names.
        columns: Names beside each other at most; fewer where long names would not fit.
    """
    names: dict[str, Any] = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            names.setdefault(name, handle)
    if names:
        inches = 0.5 + 0.07 * max(map(len, names))  # of a name with its sign
        fitting = max(1, int(figure.bbox.width / figure.dpi / inches))
        across = min(columns, fitting, len(names))
        figure.legend(list(names.values()), list(names), loc="outside lower center",
                      ncols=across, fontsize=8, frameon=False)  # fmt: skip


def to_png(figure: "Figure", title: str = "") -> bytes:
    """Return a figure, under its title, as a PNG file holds it."""
    if title:
        figure.suptitle(fill(title, int(13 * figure.get_figwidth())), fontsize=10)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()
