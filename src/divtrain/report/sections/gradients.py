"""What GAL does: the members' input gradients at a few images, and the cosines between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from divtrain.gal import pairwise_cosine
from divtrain.report.canvas import colour_of, draw_change, draw_image, new_figure, to_png
from divtrain.report.report import Figure, Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 6
"""Members drawn."""
WORDS = (
    "For each image, every member is asked which small change of the pixels would hurt it most:"
    " its input gradient. If two members give the same answer, one change fools both. Diversity"
    " Training makes the answers differ. Red: brighter pixels hurt, blue: darker pixels hurt."
)
NOTE = (
    "Each map has its own scale, since only directions matter. The squares hold the cosine between"
    " the maps of every two members: 1 is the same direction, 0 is unrelated, below 0 is opposed."
    " The images are the first of different classes that all targets shown classify right."
    " Drawn by `divtrain show RUN`."
)


@dataclass(frozen=True)
class GradientMaps:
    """Input gradients at a few images.

    Attributes:
        x: The images, in [0, 1].
        labels: Their classes.
        maps: By target the input gradients of its members.
    """

    x: Float[Tensor, "image channel height width"]
    labels: Sequence[int]
    maps: Mapping[str, Float[Tensor, "member image channel height width"]]

    def cosines(self, target: str) -> list[list[list[float]]]:
        """For each image the cosines between the members, member by member."""
        gradients = self.maps[target].flatten(2)
        members = len(gradients)
        found = torch.eye(members).repeat(gradients.shape[1], 1, 1)
        if members > 1:
            one, other = torch.triu_indices(members, members, offset=1)
            pairs = pairwise_cosine(gradients)
            found[:, one, other] = pairs
            found[:, other, one] = pairs
        return found.tolist()

    def largest(self, target: str) -> list[float]:
        """For each image the largest cosine of two members: its coherence (Eq. 7)."""
        gradients = self.maps[target].flatten(2)
        if len(gradients) < 2:
            return []
        return pairwise_cosine(gradients).amax(1).tolist()


def gradients_section(found: GradientMaps, title: str) -> Section:
    """Return the maps of each target, one above the other, and the cosines in words.

    Args:
        found: What was computed.
        title: Name of the experiment.
    """
    told = [
        f"{target}: {', '.join(f'{each:.2f}' for each in found.largest(target))}"
        for target in found.maps
        if len(found.maps[target]) > 1
    ]
    largest = f"Largest cosine of two members, image by image. {'; '.join(told)}." if told else ""
    alt = f"Heat maps of the members' input gradients at {len(found.labels)} images. {largest}"
    return Section(
        "What Diversity Training does to the gradients",
        [largest] if largest else [],
        figures=[Figure("gradients", gradients_figure(found, title), alt.strip())],
        notes=[NOTE],
        explained=[WORDS],
    )


def gradients_figure(found: GradientMaps, title: str) -> bytes:
    """Draw image, maps and cosines: a row for each target, a band for each image."""
    members = min(MOST, max(len(each) for each in found.maps.values()))
    rows = len(found.labels) * len(found.maps)
    figure = new_figure(1.15 * (members + 2) + 0.3, 1.22 * rows + 0.5)
    axes = figure.subplots(
        rows, members + 2, squeeze=False, gridspec_kw={"width_ratios": [1] * (members + 1) + [1.25]}
    )
    targets = list(found.maps)
    for row, line in enumerate(axes):
        image, place = divmod(row, len(targets))
        target = targets[place]
        maps, cosines = found.maps[target], found.cosines(target)[image]
        for axis in line:
            axis.set_axis_off()
        if place == 0:
            draw_image(line[0], found.x[image], f"class {found.labels[image]}")
        colour = colour_of(target, targets)
        for member in range(min(members, len(maps))):
            name = f"{target}, member {member + 1}" if member == 0 else f"member {member + 1}"
            draw_change(line[member + 1], maps[member, image], name, colour=colour)
        if len(maps) > 1:
            largest = found.largest(target)[image]
            _cosines(line[-1], cosines, f"largest cosine {largest:.2f}", colour)
    return to_png(figure, f"{title}: what would hurt each member most (input gradients)")


def _cosines(axis: "Axes", cosines: list[list[float]], title: str, colour: str) -> None:
    """Draw the lower triangle of the cosines as a small table of grey squares."""
    few = [row[:MOST] for row in cosines[:MOST]]
    shown = [[v if j < i else float("nan") for j, v in enumerate(row)] for i, row in enumerate(few)]
    axis.imshow(shown, cmap="Greys", vmin=-0.2, vmax=1.2)
    for i, row in enumerate(shown):
        for j, value in enumerate(row[:i]):
            words = f"{value:.2f}".replace("-0.00", "0.00").replace("0.", ".")
            axis.text(j, i, words, ha="center", va="center",
                      fontsize=5.5, color="white" if value > 0.6 else "black")  # fmt: skip
        axis.text(i, i, f"{i + 1}", ha="center", va="center", fontsize=5.5, color="#56636f")
    axis.set_title(title, fontsize=7, color=colour, pad=3)
