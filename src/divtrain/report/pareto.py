"""The Pareto front of two values: what no other beats in both."""

from collections.abc import Mapping


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the names of the points that no other has beaten in both values.

    >>> pareto_front({"a": (0.9, 0.1), "b": (0.8, 0.5), "c": (0.7, 0.4)})
    ['a', 'b']
    """

    def beaten(name: str) -> bool:
        x, y = points[name]
        return any(a >= x and b >= y and (a, b) != (x, y) for a, b in points.values())

    return [name for name in points if not beaten(name)]
