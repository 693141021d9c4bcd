"""Gradient-aligned adversarial subspaces (Figure 5)."""

from collections.abc import Sequence

from divtrain.report.figures.gaas_curves import gaas_figure
from divtrain.report.gaas import GaasPoint, objectives_of, pool_seeds
from divtrain.report.report import Entry, Figure, Section, Table

NOTE = (
    "At how many images, all classified right, k orthogonal directions, all as aligned with the"
    " target's own gradient as k can be, fool the target at once. White-box; k = 1 is FGSM; eps in"
    " [0, 1] pixel units, L-infinity."
)


def gaas_section(points: Sequence[GaasPoint], title: str) -> Section:
    """Return Figure 5: images fooled by at least k directions; seeds put together."""
    orders = sorted({point.order for point in points})
    rows = [
        (Entry(f"{eps:g}"), Entry(target), *(_share(own.get(order)) for order in orders))
        for (target, eps), own in pool_seeds(points).items()
    ]
    along = objectives_of(points)
    table = Table(
        f"GAAS: percent of images that k orthogonal directions all fool, along {along}",
        ("eps", "target", *(f"k = {order}" for order in orders)), rows, names=2,
    )  # fmt: skip
    alt = "Share of the images that at least k orthogonal directions fool, by k, for each target"
    figure = Figure("gaas", gaas_figure(points, title), alt)
    data = {"gaas.csv": [vars(point) for point in points]}
    return Section("GAAS (Figure 5)", tables=[table], figures=[figure], notes=[NOTE], data=data)


def _share(count: tuple[int, int] | None) -> Entry:
    if count is None:
        return Entry("")
    fooled, images = count
    return Entry(f"{100 * fooled / images:.1f}", f"({fooled} of {images})")
