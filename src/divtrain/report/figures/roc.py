"""Section 6 as a figure: ROC curves."""

from collections.abc import Sequence

import torch
from torch import Tensor

from divtrain.analysis import roc_curve
from divtrain.analysis.detection import TITLES
from divtrain.report.detection import ALL, Scored, kind_order, short_name, trained_on, with_pooled
from divtrain.report.figures.canvas import (
    colour_of,
    label_axis,
    legend_below,
    new_figure,
    to_png,
)
from divtrain.report.rows import one_or_other

LINES = {"max_softmax": "--", "disagreement": "-", "incoherence": ":"}
GRID = torch.linspace(0, 1, 201, dtype=torch.float64)
"""False positive rates at which curves of several seeds are averaged."""


def detection_figure(scored: Sequence[Scored], title: str) -> bytes:
    """Draw ROC curves, a panel for each kind of inputs, the attacks of one eps together, as PNG.

    Every target's disagreement; the softmax of base, or the first; the incoherence of detector, or
    the last. Of several seeds the mean true positive rate.
    """
    clean = {(s.target, s.seed): s for s in scored if s.kind.threat == "clean"}
    pooled = [s for s in with_pooled(scored) if s.kind.name == ALL or s.kind.threat == "outside"]
    kinds = sorted(dict.fromkeys(each.kind for each in pooled), key=kind_order)
    targets = list(dict.fromkeys(each.target for each in scored))
    baseline = "base" if "base" in targets else targets[0]
    ours = "detector" if "detector" in targets else targets[-1]
    lines = [(baseline, "max_softmax"), *((target, "disagreement") for target in targets)]
    lines.append((ours, "incoherence"))
    down = -(-len(kinds) // 4)
    across = -(-len(kinds) // down)
    figure = new_figure(2.5 * across + 0.4, 2.6 * down + 0.9)
    axes = figure.subplots(down, across, squeeze=False, sharey=True)
    for axis, kind in zip(axes.flat, kinds, strict=False):
        for target, score in lines:
            mine = [each for each in pooled if (each.kind, each.target) == (kind, target)]
            if mine:
                rates = [
                    _on_grid(*roc_curve(each.scores[score], clean[target, each.seed].scores[score]))
                    for each in mine
                ]
                axis.plot(GRID, torch.stack(rates).mean(0), LINES[score], linewidth=1.3,
                          color=colour_of(target, targets),
                          label=f"{target}: {TITLES[score]}")  # fmt: skip
        axis.plot([0, 1], [0, 1], color="#BBBBBB", linewidth=0.7, zorder=0)
        known = any(trained_on(each, kind) for each in pooled if each.kind == kind)
        name = f"{kind.threat}, eps {kind.eps:g}"
        name = short_name(kind.name) if kind.threat == "outside" else name
        note = "\n(detector trained on this kind)" if known else ""
        label_axis(axis, name + note, "share of clean images flagged")
    for axis in axes.flat[len(kinds) :]:
        axis.set_visible(False)
    for line in axes:
        line[0].set_ylabel("share of these inputs flagged", fontsize=8)
    legend_below(figure, axes.flat, 3)
    images = one_or_other(len(each.scores["disagreement"]) for each in clean.values())
    seeds = len({each.seed for each in scored})
    over = f"{images} clean images{f', mean of {seeds} seeds' if seeds > 1 else ''}"
    figure.suptitle(f"{title}: detection ({over}; all attacks together)", fontsize=10)
    return to_png(figure)


def _on_grid(false: Tensor, true: Tensor) -> Tensor:
    """The curve's true positive rate at each rate of `GRID`, straight between its points."""
    after = torch.searchsorted(false, GRID, right=True).clamp(1, len(false) - 1)
    low, high = false[after - 1], false[after]
    share = torch.where(high > low, (GRID - low) / (high - low).clamp_min(1e-300), 1.0)
    return true[after - 1] + share.clamp(0, 1) * (true[after] - true[after - 1])
