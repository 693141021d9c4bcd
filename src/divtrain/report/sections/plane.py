"""The plane of two members' gradients at one image: who is fooled where (Figure 2)."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from divtrain.analysis.plane import ENDS, Plane
from divtrain.report.canvas import (
    colour_of,
    draw_image,
    label_axis,
    legend_below,
    new_figure,
    to_png,
)
from divtrain.report.report import Figure, Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WORDS = (
    "Start at an image and walk along the input gradients of two members: every point of the plane"
    " is a changed image. Grey: one of the two members is wrong there; dark: both are, so one"
    " change fools both. The coloured line is the edge of where the whole ensemble is wrong; the"
    " numbers in circles are its answers, those at the arrows the two members. The paper sketches"
    " this in its Figure 2; here it is computed."
)
NOTE = (
    "Of all pairs of members the one whose gradients agree most at this image. Axes: 1 is as far as"
    " a step of the largest eps on every pixel; pixels stay in [0, 1]. Arrows: the two gradients."
    " Drawn by `divtrain show RUN`."
)
SHADES = {"one is wrong": "#C8CCD0", "both are wrong": "#5A6068"}


def plane_section(
    image: Float[Tensor, "channel height width"], planes: Mapping[str, Plane], title: str
) -> Section:
    """Return the plane of each target, side by side.

    Args:
        image: The image that they start at.
        planes: By target.
        title: Name of the experiment.
    """
    told = [
        f"{target}: members {p.members[0] + 1} and {p.members[1] + 1} have cosine {p.cosine:.2f};"
        f" both are wrong on {p.overlap:.0%} of the plane, the ensemble on {p.lost:.0%}."
        for target, p in planes.items()
    ]
    alt = "Maps of who is fooled over the plane of two members' gradients. " + " ".join(told)
    figure = Figure("plane", plane_figure(image, planes, title), alt)
    return Section(
        "Where two members are fooled at once (Figure 2)", told, figures=[figure],
        notes=[NOTE], explained=[WORDS],
    )  # fmt: skip


def plane_figure(
    image: Float[Tensor, "channel height width"], planes: Mapping[str, Plane], title: str
) -> bytes:
    """Draw the image, and a panel for each target."""
    figure = new_figure(2.9 * len(planes) + 1.7, 3.7)
    axes = figure.subplots(
        1, len(planes) + 1, gridspec_kw={"width_ratios": [0.5, *[1] * len(planes)]}
    )
    label = next(iter(planes.values())).label
    draw_image(axes[0], image, f"the image: class {label}")
    axes[0].set_axis_off()
    targets = list(planes)
    for axis, (target, plane) in zip(axes[1:], planes.items(), strict=True):
        _panel(axis, plane, colour_of(target, targets))
        label_axis(axis, f"{target}: cosine {plane.cosine:.2f}, both wrong on {plane.overlap:.0%}",
                   "between the two gradients")  # fmt: skip
        for name, shade in SHADES.items():
            axis.plot([], [], "s", color=shade, label=name)
        axis.plot([], [], color=colour_of(target, targets), linewidth=2,
                  label=f"edge of where {target} is wrong")  # fmt: skip
    axes[1].set_ylabel("from one gradient to the other", fontsize=8)
    legend_below(figure, axes[1:], 4)
    return to_png(figure, f"{title}: the plane of two members' input gradients at one image")


def _panel(axis: "Axes", plane: Plane, colour: str) -> None:
    """Draw who is wrong where, the ensemble's answers, and the two gradients as arrows."""
    from matplotlib.colors import ListedColormap

    left, right, low, high = ENDS
    count = plane.first.int() + plane.second.int()
    axis.imshow(count.tolist(), cmap=ListedColormap(["white", *SHADES.values()]), vmin=0, vmax=2,
                extent=ENDS, origin="lower", interpolation="nearest")  # fmt: skip
    rows, columns = plane.answers.shape
    xs = [left + (right - left) * i / max(1, columns - 1) for i in range(columns)]
    ys = [low + (high - low) * i / max(1, rows - 1) for i in range(rows)]
    wrong = (plane.answers != plane.label).float()
    if 0 < wrong.mean() < 1:
        axis.contour(xs, ys, wrong.tolist(), levels=[0.5], colors=[colour], linewidths=2)
    for answer in plane.answers.unique().tolist():
        where = plane.answers == answer
        if where.float().mean() > 0.03:
            places = where.nonzero().float()
            middle = places.mean(0)
            row, column = places[(places - middle).norm(dim=1).argmin()].int().tolist()
            box = {"boxstyle": "circle,pad=0.15", "fc": "white", "ec": colour, "lw": 0.7}
            axis.text(xs[column], ys[row], f"{answer}", fontsize=8, ha="center", va="center",
                      bbox=box)  # fmt: skip
    for sign, member in ((1, plane.members[0]), (-1, plane.members[1])):
        end = 0.5 * math.cos(plane.angle), 0.5 * sign * math.sin(plane.angle)
        axis.annotate("", end, (0, 0), arrowprops={"arrowstyle": "->", "lw": 1.5, "color": "black"})
        axis.annotate(f"{member + 1}", end, (2, 3 if sign > 0 else -9), fontsize=7,
                      textcoords="offset points", color="black",
                      bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none"})  # fmt: skip
    axis.plot([0], [0], "o", color="black", markersize=4)
