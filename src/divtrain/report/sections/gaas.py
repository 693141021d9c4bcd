"""Gradient-aligned adversarial subspaces (Figure 5): images several directions fool at once."""

from collections.abc import Sequence
from dataclasses import dataclass

from divtrain.attacks import ObjectiveName
from divtrain.evaluation import wilson_interval
from divtrain.report.canvas import band, colour_of, label_axis, panels, to_png
from divtrain.report.report import Entry, Figure, Section, Table
from divtrain.report.rows import one_or_other

NOTE = (
    "Percent of images, all right when clean, at which k changes of size eps all fool the target."
    " The k directions are at right angles to each other, and each lies as close to the target's"
    " own gradient as k such directions can. The attacker has the weights; k = 1 is FGSM; eps in"
    " [0, 1] pixel units, L-infinity."
)


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


Counts = dict[tuple[str, float], dict[int, tuple[int, int]]]
"""Images fooled and images looked at, by rising order, of each target at each eps."""


def gaas_section(points: Sequence[GaasPoint], title: str) -> Section:
    """Return Figure 5: images fooled by at least k directions; seeds put together."""
    counts = _pool_seeds(points)
    orders = sorted({point.order for point in points})
    rows = [
        (Entry(f"{eps:g}"), Entry(target), *(_share(own.get(order)) for order in orders))
        for (target, eps), own in counts.items()
    ]
    along = "along " + " and ".join(dict.fromkeys(point.objective for point in points))
    table = Table(
        f"GAAS: percent of images that k orthogonal directions all fool, {along}",
        ("eps", "target", *(f"k = {order}" for order in orders)), rows, names=2,
    )  # fmt: skip
    told = f"{one_or_other(point.images for point in points)} images, 95 % intervals"
    alt = "Share of the images that at least k orthogonal directions fool, by k, for each target"
    figure = Figure("gaas", gaas_figure(counts, f"{title}: GAAS {along} ({told})"), alt)
    data = {"gaas.csv": [vars(point) for point in points]}
    return Section("GAAS (Figure 5)", tables=[table], figures=[figure], notes=[NOTE], data=data)


def gaas_figure(counts: Counts, title: str) -> bytes:
    """Draw the share of images fooled by at least k orthogonal directions, a panel for each eps."""
    radii = sorted({eps for _, eps in counts})
    orders = sorted({order for own in counts.values() for order in own})
    targets = list(dict.fromkeys(target for target, _ in counts))
    figure, [axes] = panels(2.6 * len(radii) + 0.8, 2.9, len(radii))
    for (target, eps), own in counts.items():
        shares = [fooled / images for fooled, images in own.values()]
        ends = [wilson_interval(*pair) for pair in own.values()]
        band(axes[radii.index(eps)], list(own), shares, ends, colour_of(target, targets), target)
    for axis, eps in zip(axes, radii, strict=True):
        label_axis(axis, f"eps {eps:g}, L-infinity", "k")
        axis.set_xscale("log", base=2)
        axis.set_xticks(orders, [str(order) for order in orders])
        axis.minorticks_off()
        axis.set_ylim(0, 1)
    axes[0].set_ylabel("share of images with at least k\northogonal fooling directions", fontsize=8)
    axes[-1].legend(fontsize=8, frameon=False)
    return to_png(figure, title)


def _pool_seeds(points: Sequence[GaasPoint]) -> Counts:
    """Put the points of several seeds together, ordered by eps."""
    counts: Counts = {}
    for p in sorted(points, key=lambda point: (point.eps, point.order)):
        own = counts.setdefault((p.target, p.eps), {})
        fooled, images = own.get(p.order, (0, 0))
        own[p.order] = fooled + p.fooled, images + p.images
    return counts


def _share(count: tuple[int, int] | None) -> Entry:
    if count is None:
        return Entry("")
    fooled, images = count
    return Entry(f"{100 * fooled / images:.1f}", f"({fooled} of {images})")
