"""Surrogates against targets: how many images what is crafted on one fools of the other."""

from collections.abc import Sequence

import torch

from divtrain.report.figures.canvas import label_axis, new_figure, to_png
from divtrain.report.transfer import TransferCell


def transfer_figure(cells: Sequence[TransferCell], title: str) -> bytes:
    """Draw surrogates (rows) against targets (columns), a panel for each eps, as PNG bytes.

    Args:
        cells: From `compare_surrogates`; the share of images fooled in the worst case is shown.
        title: Name of the experiment.
    """
    radii = list(dict.fromkeys(cell.eps for cell in cells))
    targets = list(dict.fromkeys(cell.target for cell in cells))
    sources = list(dict.fromkeys(cell.surrogate for cell in cells))
    width = 1.2 * len(targets) * len(radii) + 2.0
    figure = new_figure(max(width, 5.6), 0.55 * len(sources) + 1.4)
    axes = figure.subplots(1, len(radii), squeeze=False, sharey=True)[0]
    for axis, eps in zip(axes, radii, strict=True):
        shares = torch.full((len(sources), len(targets)), float("nan"))
        for cell in (cell for cell in cells if cell.eps == eps):
            row, column = sources.index(cell.surrogate), targets.index(cell.target)
            shares[row, column] = share = 100 * cell.worst.mean
            words = [str(cell.worst)] + ([cell.difference.signed] if cell.difference else [])
            axis.text(column, row, "\n".join(words), ha="center", va="center", fontsize=7,
                      color="white" if share > 60 else "black")  # fmt: skip
        axis.imshow(shares.tolist(), cmap="Blues", vmin=0, vmax=100, aspect="auto")
        label_axis(axis, f"eps {eps:g}", "target")
        axis.set_xticks(range(len(targets)), targets)
        axis.set_yticks(range(len(sources)), sources)
    axes[0].set_ylabel("crafted on", fontsize=8)
    seeds = max(cell.seeds for cell in cells)
    over = f"{cells[0].images} images, {seeds} seed{'s' if seeds > 1 else ''}"
    figure.suptitle(f"{title}: % of images fooled, worst case, and points above base ({over})",
                    fontsize=9)  # fmt: skip
    return to_png(figure)
