"""Attack runs compared on the images that both have; what chance explains is no difference."""

import math
from collections.abc import Sequence

from torch import Tensor

from divtrain.evaluation.plan import AttackRun, chosen_images
from divtrain.evaluation.results import Evaluation
from divtrain.evaluation.threat import Threat

MARGIN = 0.02
"""Differences in accuracy below two points, or two standard errors, are taken as noise."""


def on_target(evaluation: Evaluation, eps: float) -> list[AttackRun]:
    """White-box runs of the table on the whole target."""
    return [run for run in evaluation.runs("white-box", eps) if not run.one_member]


def on_one_member(evaluation: Evaluation, eps: float) -> list[AttackRun]:
    """White-box runs of the table on one member at a time."""
    return [run for run in evaluation.runs("white-box", eps) if run.one_member]


def searches(evaluation: Evaluation, eps: float) -> list[AttackRun]:
    """White-box runs of the table on the whole target whose steps the suite sets."""
    return [r for r in on_target(evaluation, eps) if r.steps and r.family == "iterative"]


def curve_of(evaluation: Evaluation, threat: Threat) -> list[AttackRun]:
    """Runs of the curve of a threat, by rising eps."""
    points = [run for run in evaluation.results if run.sweep and run.threat == threat]
    return sorted(points, key=lambda run: run.eps)


def strongest(evaluation: Evaluation, runs: Sequence[AttackRun]) -> AttackRun | None:
    """The run that leaves least; None of none."""
    return min(
        runs, key=lambda run: evaluation.results[run].correct.float().mean().item(), default=None
    )


def shared_mask(evaluation: Evaluation, run: AttackRun, other: AttackRun) -> Tensor:
    """Mask of a run at those of its images that another run has too."""
    mask = evaluation.results[run].correct
    if run.images == other.images or other.images is None:
        return mask
    return mask[chosen_images(len(mask), other.images)]


def leaves_less(evaluation: Evaluation, one: AttackRun, other: AttackRun) -> bool:
    """Whether a run leaves clearly less than another, on the images both have."""
    return clearly_lower(shared_mask(evaluation, one, other), shared_mask(evaluation, other, one))


def clearly_lower(one: Tensor, other: Tensor, errors: float = 2) -> bool:
    """Whether a mask holds clearly less than another of the same images.

    Args:
        one: Booleans, (image,).
        other: Booleans, (image,).
        errors: Standard errors of the paired difference that it must exceed, beside `MARGIN`.
    """
    difference = other.float() - one.float()
    error = difference.std(correction=0).item() / math.sqrt(len(difference))
    return difference.mean().item() > max(MARGIN, errors * error)


def standard_error(accuracy: float, images: int) -> float:
    """Standard error of an accuracy."""
    return math.sqrt(accuracy * (1 - accuracy) / images)


def share(mask: Tensor) -> str:
    """How much of a mask is true, in percent."""
    return f"{mask.float().mean().item():.1%}"


def percent(evaluation: Evaluation, run: AttackRun, other: AttackRun | None = None) -> str:
    """Accuracy under a run, in percent; on the images that another run has too."""
    return share(shared_mask(evaluation, run, other or run))
