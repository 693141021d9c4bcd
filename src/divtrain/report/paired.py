"""Two targets, or one in two runs, compared on the same images."""

import statistics
from collections.abc import Sequence

from jaxtyping import Bool
from torch import Tensor

from divtrain.evaluation import Evaluation, Threat, paired_interval
from divtrain.report.rows import Cell


def kept_images(
    evaluation: Evaluation, threat: Threat, eps: float, source: str = ""
) -> Bool[Tensor, "image"] | None:
    """Which images are right when clean and under every attack of a threat, as in the worst case.

    Args:
        evaluation: Of one target and seed.
        threat: The adversary; a white-box one has every other attack too.
        eps: Radius.
        source: The surrogate, for transferred attacks from one alone; all of them if empty.

    Returns:
        None where there was no such attack.
    """
    runs = evaluation.adversary(threat, eps, source)
    return evaluation.kept(runs) if runs else None


def paired_difference(
    one: Sequence[Bool[Tensor, "image"]], other: Sequence[Bool[Tensor, "image"]]
) -> Cell:
    """Difference of two accuracies on the same images: mean over the seeds, with its intervals.

    The interval of 95 % is for other test images. With several seeds it takes the images for as
    many as one seed has, which is wide rather than narrow; the deviation over the seeds is for
    other trainings.

    Args:
        one: For each seed, which images count.
        other: The same for what is taken off.
    """
    images = len(one[0])
    counts = [(int((a & ~b).sum()), int((b & ~a).sum())) for a, b in zip(one, other, strict=True)]
    points = [(gained - lost) / images for gained, lost in counts]
    gained, lost = (statistics.mean(kind) for kind in zip(*counts, strict=True))
    deviation = statistics.stdev(points) if len(points) > 1 else None
    return Cell(statistics.mean(points), deviation, interval=paired_interval(gained, lost, images))
