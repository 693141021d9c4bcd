"""Coherence of each target, and its distribution over the images (Figure 4 of the paper)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from divtrain.report.canvas import colour_of, label_axis, legend_below, new_figure, to_png
from divtrain.report.report import Entry, Figure, Section, Table

NOTE = (
    "The largest cosine between two members' input gradients at an image, in eval mode. 1: two"
    " members would be fooled by the same change; 0: no two would."
)


def coherence_section(values: Mapping[str, Tensor], title: str) -> Section:
    """Return the mean coherence of each target, and its distribution.

    Args:
        values: Coherence at each image, (image,), by target.
        title: Name of the experiment.
    """
    rows = [(Entry(target), Entry(f"{each.mean().item():.3f}")) for target, each in values.items()]
    table = Table("Coherence (Eq. 7), mean over the images", ("target", "coherence"), rows)
    alt = "Histograms of the coherence at the images, one for each target"
    figure = Figure("coherence", coherence_figure(values, title), alt)
    return Section("Coherence", tables=[table], figures=[figure], notes=[NOTE])


def coherence_figure(values: Mapping[str, Tensor], title: str) -> bytes:
    """Draw histograms of per-example coherence, a colour per target, medians dashed."""
    figure = new_figure(6.4, 3.6)
    axis = figure.subplots()
    bins = torch.linspace(-1, 1, 61).tolist()
    for target, coherence in values.items():
        colour = colour_of(target, list(values))
        median = coherence.median().item()
        share = [1 / len(coherence)] * len(coherence)
        axis.hist(coherence.tolist(), bins, weights=share, alpha=0.45, color=colour,
                  histtype="stepfilled", edgecolor=colour,
                  label=f"{target} (median {median:.2f})")  # fmt: skip
        axis.axvline(median, color=colour, linestyle="--", linewidth=1)
    axis.set_xlim(max(-1.0, min(v.min().item() for v in values.values()) - 0.05), 1.0)
    below = "largest cosine between two members' input gradients"
    label_axis(axis, f"{title}: coherence, eval mode", below, "share of images")
    legend_below(figure, [axis], 3)
    return to_png(figure)
