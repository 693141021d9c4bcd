"""Figures: robust accuracy by attack, and the distribution of coherence."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from divtrain.evaluation import WORST, Threat
from divtrain.report.rows import THREATS, Row
from divtrain.report.tables import TITLES, describe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#4C72B0", "#8C8C8C", "#DD8452", "#55A868", "#C44E52", "#8172B3")


def accuracy_figure(rows: Sequence[Row], title: str) -> bytes:
    """Draw bars of accuracy under each attack, a panel for each threat and eps, as PNG bytes."""
    panels: list[tuple[Threat, float]] = list(dict.fromkeys((r.threat, r.eps) for r in rows))
    figure = _figure(7.2, 2.6 * len(panels) + 0.9)
    axes = figure.subplots(len(panels), squeeze=False)[:, 0]
    targets = list(dict.fromkeys(row.target for row in rows))
    for axis, (threat, eps) in zip(axes, panels, strict=True):
        mine = [row for row in rows if (row.threat, row.eps) == (threat, eps)]
        names = list(dict.fromkeys(name for row in mine for name in row.cells if name != WORST))
        names.append(WORST)
        width = 0.8 / len(targets)
        for row in mine:
            place = targets.index(row.target)
            left = [i + width * (place - (len(targets) - 1) / 2) for i in range(len(names))]
            cells = [row.cells[name] for name in names]
            bars = axis.bar(
                left,
                [100 * cell.mean for cell in cells],
                width,
                yerr=[100 * (c.deviation or 0) for c in cells] if row.seeds > 1 else None,
                color=COLOURS[place % len(COLOURS)],
                label=row.target,
                capsize=2,
            )
            axis.bar_label(bars, fmt="%.0f", fontsize=7, padding=1)
        axis.set_title(f"{THREATS[threat]}, eps {eps:g}", fontsize=9, loc="left")
        axis.set_xticks(range(len(names)), [TITLES.get(n, n) for n in names], fontsize=8)
        axis.set_ylabel("accuracy, %", fontsize=8)
        axis.set_ylim(0, 112)
        axis.set_yticks(range(0, 101, 25))
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.suptitle(f"{title} ({describe(rows)})", fontsize=10)
    figure.legend(
        handles, labels, loc="lower center", ncols=len(targets), fontsize=8, frameon=False
    )
    figure.get_layout_engine().set(rect=(0, 0.05, 1, 0.95))  # pyright: ignore
    return _png(figure)


def coherence_figure(values: Mapping[str, Tensor], title: str) -> bytes:
    """Draw histograms of per-example coherence, a colour a target, medians dashed, as PNG bytes.

    Args:
        values: Coherence at each test image, (image,), by target.
        title: Name of the experiment.
    """
    figure = _figure(6.4, 3.4)
    axis = figure.subplots()
    bins = torch.linspace(-1, 1, 61).tolist()
    for place, (target, coherence) in enumerate(values.items()):
        colour = COLOURS[place % len(COLOURS)]
        median = coherence.median().item()
        share = [1 / len(coherence)] * len(coherence)
        axis.hist(coherence.tolist(), bins, weights=share, alpha=0.55, color=colour,
                  label=f"{target} (median {median:.2f})")  # fmt: skip
        axis.axvline(median, color=colour, linestyle="--", linewidth=1)
    axis.set_xlabel("coherence: largest cosine between two members' input gradients", fontsize=8)
    axis.set_ylabel("share of test images", fontsize=8)
    axis.set_xlim(-0.5, 1)
    axis.set_title(f"{title}: coherence on the test images, eval mode", fontsize=10)
    axis.legend(fontsize=8, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: "Figure") -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()
