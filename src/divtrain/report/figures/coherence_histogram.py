"""The distribution of coherence over the images (Figure 4 of the paper)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from divtrain.data import Split
from divtrain.report.figures.canvas import (
    colour_of,
    label_axis,
    legend_below,
    new_figure,
    to_png,
)


def coherence_figure(values: Mapping[str, Tensor], title: str, split: Split = "test") -> bytes:
    """Draw histograms of per-example coherence, a colour per target, medians dashed, as PNG bytes.

    Args:
        values: Coherence at each image, (image,), by target.
        title: Name of the experiment.
        split: Which images.
    """
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
    label_axis(
        axis,
        f"{title}: coherence on the {split} images, eval mode",
        "coherence: largest cosine between two members' input gradients",
        f"share of {split} images",
    )
    axis.set_xlim(max(-1.0, min(v.min().item() for v in values.values()) - 0.05), 1.0)
    legend_below(figure, [axis], 3)
    return to_png(figure)
