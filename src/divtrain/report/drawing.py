"""What all figures share: the colours of the defences, a canvas without a display, PNG bytes."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#4C72B0", "#DD8452", "#55A868", "#8C8C8C", "#C44E52", "#8172B3")
OWN_COLOUR = {"base": 0, "div": 1, "detector": 2, "base+noise": 3}
"""The defences look alike in every figure; other targets take the colours that are left."""
STYLES = ("-", "--", ":", "-.")
"""Of lines of one defence that differ in other values swept."""


def colour_of(target: str, targets: Sequence[str]) -> str:
    """Return the colour of a target among those of a figure."""
    others = [name for name in targets if name not in OWN_COLOUR]
    free = [i for i in range(len(COLOURS)) if i not in {OWN_COLOUR.get(n) for n in targets}]
    own = OWN_COLOUR.get(target)
    return COLOURS[free[others.index(target) % len(free)] if own is None else own]


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in inches, drawn without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: "Figure") -> bytes:
    """Return a figure as a PNG file holds it."""
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()
