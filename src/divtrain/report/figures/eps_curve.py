"""Accuracy of one target by eps."""

from collections.abc import Sequence

from divtrain.attacks import attack_title
from divtrain.evaluation import Record
from divtrain.report.figures.canvas import COLOURS, label_axis, new_figure, to_png
from divtrain.report.rows import one_or_other


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
        mine = [r for r in curve if (r.threat, r.surrogate, r.attack) == line]
        mine.sort(key=lambda record: record.eps)
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
    over = f"{one_or_other(record.images for record in curve)} images, 95 % intervals"
    title = f"{target}: accuracy by eps ({over})"
    label_axis(axis, title, "eps, L-infinity, pixels in [0, 1]", "accuracy, %")
    axis.set_ylim(0, 102)
    axis.set_xlim(left=0)
    axis.legend(fontsize=7, frameon=False)
    return to_png(figure)
