"""Accuracy of one target by eps, as a figure."""

from collections.abc import Mapping, Sequence

from divtrain.attacks import attack_title
from divtrain.evaluation import Record
from divtrain.report.canvas import OTHER_COLOURS, band, label_axis, new_figure, to_png
from divtrain.report.rows import one_or_other


def curve_figure(
    curve: Sequence[Record],
    target: str,
    chance: float,
    references: Mapping[str, Mapping[float, float]] | None = None,
) -> bytes:
    """Draw accuracy against eps, a line for each threat, with Wilson's intervals, as PNG bytes.

    Args:
        curve: Records of the sweep, from `Evaluation.curve`.
        target: Name of the target.
        chance: Accuracy of always answering the most frequent class; it is drawn.
        references: For comparison, by name: accuracies, in [0, 1], by eps.
    """
    figure = new_figure(6.4, 3.4)
    axis = figure.subplots()
    lines = dict.fromkeys((record.threat, record.surrogate, record.attack) for record in curve)
    for index, line in enumerate(lines):
        mine = [r for r in curve if (r.threat, r.surrogate, r.attack) == line]
        mine.sort(key=lambda record: record.eps)
        threat, surrogate, attack = line
        source = f" from {surrogate}" if threat == "transfer" else ""
        ends = [(100 * low, 100 * high) for low, high in (record.interval for record in mine)]
        band(
            axis, [record.eps for record in mine], [100 * record.accuracy for record in mine],
            ends, OTHER_COLOURS[index % len(OTHER_COLOURS)],
            f"{threat}{source}: {attack_title(attack)}",
        )  # fmt: skip
    for index, (name, shares) in enumerate((references or {}).items()):
        points = sorted(shares.items())
        axis.plot([eps for eps, _ in points], [100 * share for _, share in points], "--",
                  linewidth=1, color=OTHER_COLOURS[-1 - index % len(OTHER_COLOURS)],
                  label=name)  # fmt: skip
    axis.axhline(100 * chance, color="#8C8C8C", linestyle=":", linewidth=1, label="chance")
    over = f"{one_or_other(record.images for record in curve)} images, 95 % intervals"
    title = f"{target}: accuracy by eps ({over})"
    label_axis(axis, title, "eps, L-infinity, pixels in [0, 1]", "accuracy, %")
    axis.set_ylim(0, 102)
    axis.set_xlim(left=0)
    axis.legend(fontsize=7, frameon=False)
    return to_png(figure)
