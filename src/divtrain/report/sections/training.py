"""How the trainings went: what each logged, epoch by epoch."""

import statistics
from typing import TYPE_CHECKING

from divtrain.report.canvas import colour_of, label_axis, legend_below, new_figure, to_png
from divtrain.report.report import Figure, Section
from divtrain.report.sweep import Histories

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWN = {"cross_entropy": "cross-entropy", "accuracy": "accuracy", "gal": "GAL",
         "coherence": "coherence"}  # fmt: skip
"""What of a history is drawn, with its name."""
WORDS = (
    "Means over the steps of each epoch, on the training images in the form that each target is"
    " trained on; GAL and coherence are logged where GAL is in the loss."
)


def training_section(histories: Histories, title: str) -> Section | None:
    """Return the curves of every target; None where nothing was logged.

    Args:
        histories: For each target and seed a row per epoch.
        title: Name of the experiment.
    """
    kinds = [k for k in DRAWN if any(k in row for s in histories.values() for h in s for row in h)]
    if not kinds:
        return None
    ends = {
        target: [
            history[-1]["accuracy"] for history in seeds if history and "accuracy" in history[-1]
        ]
        for target, seeds in histories.items()
    }
    last = [f"{name} {statistics.mean(each):.1%}" for name, each in ends.items() if each]
    names = ", ".join(DRAWN[kind] for kind in kinds)
    alt = f"Curves of {names} by epoch. Accuracy at the end: {', '.join(last)}."
    figure = Figure("training", training_figure(histories, kinds, title), alt)
    return Section("Training", figures=[figure], explained=[WORDS])


def training_figure(histories: Histories, kinds: list[str], title: str) -> bytes:
    """Draw a panel for each kind of what was logged, a line for each target and seed."""
    figure = new_figure(2.5 * max(2, len(kinds)) + 0.4, 2.7)
    axes = figure.subplots(1, len(kinds), squeeze=False)[0]
    targets = list(histories)
    for axis, kind in zip(axes, kinds, strict=True):
        for target, seeds in histories.items():
            for seed, history in enumerate(seeds):
                rows = [row for row in history if kind in row]
                axis.plot(
                    [row["epoch"] for row in rows], [row[kind] for row in rows], "o-",
                    markersize=2.5, linewidth=1.2, color=colour_of(target, targets),
                    label=target if rows and not seed else None,
                )  # fmt: skip
        label_axis(axis, DRAWN[kind], "epoch")
        _whole_epochs(axis)
    legend_below(figure, axes, len(targets))
    return to_png(figure, f"{title}: training")


def _whole_epochs(axis: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
