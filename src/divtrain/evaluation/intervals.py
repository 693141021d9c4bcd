"""How sure an accuracy is: Wilson's score interval."""

import math

Z95 = 1.959963984540054
"""Quantile of the standard normal distribution for a two-sided interval of 95 %."""


def wilson_interval(correct: int, images: int, z: float = Z95) -> tuple[float, float]:
    """Interval for an accuracy estimated from `correct` of `images` (Wilson, 1927).

    Args:
        correct: Images classified right.
        images: Images in all, at least 1.
        z: Normal quantile; 1.96 for 95 %.

    Returns:
        (low, high), inside [0, 1]; unlike the usual interval not empty at 0 and 1.

    >>> [round(end, 4) for end in wilson_interval(8, 10)]
    [0.4902, 0.9433]
    """
    share = correct / images
    spread = z**2 / images
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / images + spread / (4 * images))
    return max(0.0, centre - half), min(1.0, centre + half)
