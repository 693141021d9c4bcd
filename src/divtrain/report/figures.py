"""Figures: robust accuracy by attack, and the distribution of coherence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from divtrain.attacks import ObjectiveName
from divtrain.data import Split
from divtrain.evaluation import WORST, Record, Threat, wilson_interval
from divtrain.report.drawing import COLOURS, colour_of, new_figure, to_png
from divtrain.report.rows import Row
from divtrain.report.tables import attack_title, describe
from divtrain.report.transfer import TransferCell
from divtrain.report.transfer_tables import points

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class GaasPoint:
    """One point of Figure 5.

    Attributes:
        target: Which target.
        eps: L-infinity radius in [0, 1] pixel units.
        order: k, the number of orthogonal directions.
        fooled: Images at which at least k directions fool the target.
        images: Images looked at.
        objective: Whose gradient the directions follow.
    """

    target: str
    eps: float
    order: int
    fooled: int
    images: int
    objective: ObjectiveName = "mean_member_ce"


def along(points: Sequence[GaasPoint]) -> str:
    """Whose gradients the directions of some points follow."""
    return " and ".join(dict.fromkeys(point.objective for point in points))


def accuracy_figure(rows: Sequence[Row], title: str) -> bytes:
    """Draw bars of accuracy under each attack, a row each eps, a column each threat, as PNG."""
    threats: list[Threat] = list(dict.fromkeys(row.threat for row in rows))
    radii = sorted({row.eps for row in rows})
    names = {threat: _attacks(rows, threat) for threat in threats}
    figure = new_figure(2.0 + 0.75 * sum(map(len, names.values())), 2.4 * len(radii) + 0.9)
    axes = figure.subplots(
        len(radii),
        len(threats),
        squeeze=False,
        sharey=True,
        gridspec_kw={"width_ratios": [len(names[threat]) for threat in threats]},
    )
    targets = list(dict.fromkeys(row.target for row in rows))
    for line, eps in zip(axes, radii, strict=True):
        for axis, threat in zip(line, threats, strict=True):
            mine = [row for row in rows if (row.threat, row.eps) == (threat, eps)]
            for row in mine:
                _bars(axis, row, names[threat], targets)
            ticks = [attack_title(name).replace(" (", "\n(") for name in names[threat]]
            axis.set_xticks(range(len(ticks)), ticks, fontsize=7)
            axis.set_title(f"{threat}, eps {eps:g}", fontsize=9, loc="left")
            axis.set_ylim(0, 118)
            axis.set_yticks(range(0, 101, 25))
            axis.tick_params(axis="y", labelsize=7)
            axis.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel("accuracy, %", fontsize=8)
    labelled = [axis.get_legend_handles_labels() for axis in axes.flat]
    legend = {name: bar for bars, names in labelled for bar, name in zip(bars, names, strict=True)}
    figure.suptitle(f"{title} ({describe(rows)})", fontsize=10)
    figure.legend(
        list(legend.values()), list(legend), loc="outside lower center", ncols=len(targets),
        fontsize=8, frameon=False,
    )  # fmt: skip
    return to_png(figure)


def _attacks(rows: Sequence[Row], threat: Threat) -> list[str]:
    """Columns of one threat, the worst case last."""
    names = dict.fromkeys(name for row in rows if row.threat == threat for name in row.cells)
    return sorted(names, key=lambda name: name == WORST)


def _bars(axis: "Axes", row: Row, names: Sequence[str], targets: Sequence[str]) -> None:
    """Draw one target's bars beside those of the others."""
    place, width = targets.index(row.target), 0.84 / len(targets)
    shown = [(i, row.cells[name]) for i, name in enumerate(names) if name in row.cells]
    bars = axis.bar(
        [i + width * (place - (len(targets) - 1) / 2) for i, _ in shown],
        [100 * cell.mean for _, cell in shown],
        width,
        yerr=[100 * (cell.deviation or 0) for _, cell in shown] if row.seeds > 1 else None,
        color=colour_of(row.target, targets),
        label=row.target,
        capsize=2,
    )
    upright = 90 if len(targets) > 3 else 0  # numbers side by side would run into each other
    axis.bar_label(bars, fmt="%.1f", fontsize=5.5, padding=2, rotation=upright)


def coherence_figure(values: Mapping[str, Tensor], title: str, split: Split = "test") -> bytes:
    """Draw histograms of per-example coherence, a colour a target, medians dashed, as PNG bytes.

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
    axis.set_xlabel("coherence: largest cosine between two members' input gradients", fontsize=8)
    axis.set_ylabel(f"share of {split} images", fontsize=8)
    axis.set_xlim(max(-1.0, min(v.min().item() for v in values.values()) - 0.05), 1.0)
    axis.set_title(f"{title}: coherence on the {split} images, eval mode", fontsize=10)
    figure.legend(loc="outside lower center", ncols=min(len(values), 3), fontsize=8, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    return to_png(figure)


def gaas_figure(found: Sequence[GaasPoint], title: str) -> bytes:
    """Draw the share of images fooled by at least k orthogonal directions, a panel each eps.

    Args:
        found: Counts by target, eps and order; those of several seeds are put together.
        title: Name of the experiment.
    """
    radii = sorted({point.eps for point in found})
    orders = sorted({point.order for point in found})
    targets = list(dict.fromkeys(point.target for point in found))
    figure = new_figure(2.6 * len(radii) + 0.8, 2.9)
    axes = figure.subplots(1, len(radii), squeeze=False, sharey=True)[0]
    for axis, eps in zip(axes, radii, strict=True):
        for target in targets:
            mine = [point for point in found if (point.target, point.eps) == (target, eps)]
            counts = [[(p.fooled, p.images) for p in mine if p.order == order] for order in orders]
            sums = [tuple(map(sum, zip(*count, strict=True))) for count in counts]
            ends = [wilson_interval(*pair) for pair in sums]
            colour = colour_of(target, targets)
            axis.plot(orders, [a / b for a, b in sums], "o-", markersize=3, color=colour,
                      label=target)  # fmt: skip
            axis.fill_between(orders, [low for low, _ in ends], [high for _, high in ends],
                              color=colour, alpha=0.2, linewidth=0)  # fmt: skip
        axis.set_xscale("log", base=2)
        axis.set_xticks(orders, [str(order) for order in orders], fontsize=7)
        axis.minorticks_off()
        axis.set_title(f"eps {eps:g}, L-infinity", fontsize=9)
        axis.set_xlabel("k", fontsize=8)
        axis.set_ylim(0, 1)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("share of images with at least k\northogonal fooling directions", fontsize=8)
    axes[-1].legend(fontsize=8, frameon=False)
    images = sorted({point.images for point in found})
    told = f"{' or '.join(map(str, images))} images, 95 % intervals"
    figure.suptitle(f"{title}: GAAS along {along(found)} ({told})", fontsize=10)
    return to_png(figure)


def transfer_figure(cells: Sequence[TransferCell], title: str) -> bytes:
    """Draw surrogates (rows) against targets (columns), a panel each eps, as PNG bytes.

    Args:
        cells: From `compare_surrogates`; the share of images fooled in the worst case is shown.
        title: Name of the experiment.
    """
    radii = list(dict.fromkeys(cell.eps for cell in cells))
    targets = list(dict.fromkeys(cell.target for cell in cells))
    sources = list(dict.fromkeys(cell.surrogate for cell in cells))
    shown = {(c.eps, c.surrogate, c.target): c for c in cells}
    size = (1.2 * len(targets) * len(radii) + 2.0, 0.55 * len(sources) + 1.4)
    figure = new_figure(max(size[0], 5.6), size[1])
    axes = figure.subplots(1, len(radii), squeeze=False, sharey=True)[0]
    for axis, eps in zip(axes, radii, strict=True):
        values = torch.full((len(sources), len(targets)), float("nan"))
        for row, source in enumerate(sources):
            for column, target in enumerate(targets):
                cell = shown.get((eps, source, target))
                if cell is None:
                    continue
                values[row, column] = share = 100 * cell.worst.mean
                difference = points(cell.difference).partition(" [")[0].strip("()")
                words = "\n".join(part for part in (str(cell.worst), difference) if part)
                axis.text(column, row, words, ha="center", va="center", fontsize=7,
                          color="white" if share > 60 else "black")  # fmt: skip
        axis.imshow(values.tolist(), cmap="Blues", vmin=0, vmax=100, aspect="auto")
        axis.set_xticks(range(len(targets)), targets, fontsize=7)
        axis.set_yticks(range(len(sources)), sources, fontsize=7)
        axis.set_title(f"eps {eps:g}", fontsize=9, loc="left")
        axis.set_xlabel("target", fontsize=8)
    axes[0].set_ylabel("crafted on", fontsize=8)
    seeds = max(cell.seeds for cell in cells)
    over = f"{cells[0].images} images, {seeds} seed{'s' if seeds > 1 else ''}"
    figure.suptitle(f"{title}: % of images fooled, worst case, and points above base ({over})",
                    fontsize=9)  # fmt: skip
    return to_png(figure)


def curve_figure(curve: Sequence[Record], target: str, chance: float) -> bytes:
    """Draw accuracy against eps, a line for each threat, with Wilson's intervals, as PNG bytes.

    Args:
        curve: Records of the sweep, from `Evaluation.curve`.
        target: Name of the target.
        chance: Accuracy of always answering the most frequent class; it is drawn.
    """
    figure = new_figure(6.4, 3.4)
    axis = figure.subplots()
    lines = dict.fromkeys((record.threat, record.surrogate, record.attack) for record in curve)
    for index, line in enumerate(lines):
        mine = sorted(
            (r for r in curve if (r.threat, r.surrogate, r.attack) == line), key=lambda r: r.eps
        )
        threat, surrogate, attack = line
        source = f" from {surrogate}" if threat == "transfer" else ""
        colour = COLOURS[(0, 4)[index]] if index < 2 else COLOURS[index % len(COLOURS)]
        radii = [record.eps for record in mine]
        axis.plot(radii, [100 * record.accuracy for record in mine], "o-", color=colour,
                  markersize=3, label=f"{threat}{source}: {attack_title(attack)}")  # fmt: skip
        ends = [record.interval for record in mine]
        axis.fill_between(radii, [100 * low for low, _ in ends], [100 * high for _, high in ends],
                          color=colour, alpha=0.2, linewidth=0)  # fmt: skip
    axis.axhline(100 * chance, color="#8C8C8C", linestyle=":", linewidth=1)
    axis.annotate("chance", (1, 100 * chance), xycoords=("axes fraction", "data"), fontsize=7,
                  ha="right", va="bottom", color="#8C8C8C")  # fmt: skip
    images = sorted({record.images for record in curve})
    axis.set_xlabel("eps, L-infinity, pixels in [0, 1]", fontsize=8)
    axis.set_ylabel("accuracy, %", fontsize=8)
    axis.set_ylim(0, 102)
    axis.set_xlim(left=0)
    over = " or ".join(map(str, images))
    axis.set_title(f"{target}: accuracy by eps ({over} images, 95 % intervals)", fontsize=10)
    axis.legend(fontsize=7, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    return to_png(figure)
