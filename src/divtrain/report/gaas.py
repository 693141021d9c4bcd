"""The numbers of Figure 5: images that several orthogonal directions fool at once."""

from collections.abc import Sequence
from dataclasses import dataclass

from divtrain.attacks import ObjectiveName


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
"""Images fooled and images looked at, by order, of each target at each eps."""


def pool_seeds(points: Sequence[GaasPoint]) -> Counts:
    """Put the points of several seeds together, ordered by eps."""
    counts: Counts = {}
    for p in sorted(points, key=lambda point: point.eps):
        own = counts.setdefault((p.target, p.eps), {})
        fooled, images = own.get(p.order, (0, 0))
        own[p.order] = fooled + p.fooled, images + p.images
    return counts


def objectives_of(points: Sequence[GaasPoint]) -> str:
    """Whose gradients the directions of some points follow."""
    return " and ".join(dict.fromkeys(point.objective for point in points))
