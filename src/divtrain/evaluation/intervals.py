"""Confidence intervals of 95 % of an accuracy, and of a difference of two."""

import math

Z95 = 1.959963984540054
"""Quantile of the standard normal distribution for a two-sided interval of 95 %."""


def wilson_interval(correct: float, images: int) -> tuple[float, float]:
    """Interval for an accuracy estimated from `correct` of `images` (Wilson, 1927).

    Args:
        correct: Images classified right; a mean over seeds may be a fraction.
        images: Images in all, at least 1.

    Returns:
        (low, high), inside [0, 1]; unlike the usual interval not empty at 0 and 1.

    >>> [round(end, 4) for end in wilson_interval(8, 10)]
    [0.4902, 0.9433]
    """
    share = correct / images
    spread = Z95**2 / images
    centre = (share + spread / 2) / (1 + spread)
    half = Z95 / (1 + spread) * math.sqrt(share * (1 - share) / images + spread / (4 * images))
    # Rounding alone can put the share itself outside.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def paired_interval(gained: float, lost: float, images: int) -> tuple[float, float]:
    """Interval for the difference of two shares of the same images (Agresti and Min, 2005).

    Wald's interval with half an image added to each of the four outcomes.

    Args:
        gained: Images that count in the first share only.
        lost: Images that count in the second share only.
        images: Images in all, at least 1.

    Returns:
        (low, high) for first minus second, inside [-1, 1]; not empty where nothing differs.

    >>> [round(end, 4) for end in paired_interval(30, 10, 200)]
    [0.0384, 0.1596]
    """
    total = images + 2
    difference = (gained - lost) / total
    variance = ((gained + lost + 1) / total - difference**2) / total
    half = Z95 * math.sqrt(max(variance, 0.0))
    return max(-1.0, difference - half), min(1.0, difference + half)
