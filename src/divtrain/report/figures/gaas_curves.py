"""Figure 5 of the paper: images fooled by at least k orthogonal directions."""

from collections.abc import Sequence

from divtrain.evaluation import wilson_interval
from divtrain.report.figures.canvas import colour_of, label_axis, new_figure, to_png
from divtrain.report.gaas import GaasPoint, objectives_of, pool_seeds
from divtrain.report.rows import one_or_other


def gaas_figure(points: Sequence[GaasPoint], title: str) -> bytes:
    """Draw the share of images fooled by at least k orthogonal directions, a panel for each eps.

    Args:
        points: Counts by target, eps and order; those of several seeds are put together.
        title: Name of the experiment.
    """
    radii = sorted({point.eps for point in points})
    orders = sorted({point.order for point in points})
    targets = list(dict.fromkeys(point.target for point in points))
    counts = pool_seeds(points)
    figure = new_figure(2.6 * len(radii) + 0.8, 2.9)
    axes = figure.subplots(1, len(radii), squeeze=False, sharey=True)[0]
    for axis, eps in zip(axes, radii, strict=True):
        for target in targets:
            own = dict(sorted(counts.get((target, eps), {}).items()))
            ends = [wilson_interval(*pair) for pair in own.values()]
            colour = colour_of(target, targets)
            axis.plot(list(own), [fooled / images for fooled, images in own.values()], "o-",
                      markersize=3, color=colour, label=target)  # fmt: skip
            axis.fill_between(list(own), [low for low, _ in ends], [high for _, high in ends],
                              color=colour, alpha=0.2, linewidth=0)  # fmt: skip
        label_axis(axis, f"eps {eps:g}, L-infinity", "k")
        axis.set_xscale("log", base=2)
        axis.set_xticks(orders, [str(order) for order in orders])
        axis.minorticks_off()
        axis.set_ylim(0, 1)
    axes[0].set_ylabel("share of images with at least k\northogonal fooling directions", fontsize=8)
    axes[-1].legend(fontsize=8, frameon=False)
    told = f"{one_or_other(point.images for point in points)} images, 95 % intervals"
    figure.suptitle(f"{title}: GAAS along {objectives_of(points)} ({told})", fontsize=10)
    return to_png(figure)
