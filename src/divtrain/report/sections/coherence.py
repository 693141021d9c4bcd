"""Coherence of each target."""

from collections.abc import Mapping

from torch import Tensor

from divtrain.data import Split
from divtrain.report.figures.coherence_histogram import coherence_figure
from divtrain.report.report import Entry, Figure, Section, Table

NOTE = (
    "The largest cosine between two members' input gradients at an image, in eval mode. 1: some two"
    " gradients agree; near 0: no two do."
)


def coherence_section(values: Mapping[str, Tensor], title: str, split: Split = "test") -> Section:
    """Return the mean coherence of each target, and its distribution.

    Args:
        values: Coherence at each image, (image,), by target.
        title: Name of the experiment.
        split: Which images.
    """
    rows = [(Entry(target), Entry(f"{each.mean().item():.3f}")) for target, each in values.items()]
    table = Table("Coherence (Eq. 7), mean over the images", ("target", "coherence"), rows)
    alt = f"Histograms of the coherence at the {split} images, one for each target"
    figure = Figure("coherence", coherence_figure(values, title, split), alt)
    return Section("Coherence", tables=[table], figures=[figure], notes=[NOTE])
