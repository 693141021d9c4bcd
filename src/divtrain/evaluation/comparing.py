"""Attack runs compared on the images that both have, beyond what chance explains."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from divtrain.evaluation.plan import AttackRun, chosen_images
from divtrain.evaluation.results import Evaluation
from divtrain.evaluation.threat import Threat

MARGIN = 0.02
"""Differences in accuracy below two points, or two standard errors, are taken as noise."""

Sign = Callable[[Evaluation], Iterator[str]]
"""Maps an evaluation to a sentence for each time that the sign fires."""


@dataclass(frozen=True)
class Comparison:
    """The attack runs of an evaluation, as signs compare them."""

    evaluation: Evaluation

    def left(self, run: AttackRun, other: AttackRun | None = None) -> Tensor:
        """Which images a run leaves right; of those that another run has, too."""
        mask = self.evaluation.results[run].correct
        if other is None or other.images is None or run.images == other.images:
            return mask
        return mask[chosen_images(len(mask), other.images)]

    def percent(self, run: AttackRun, other: AttackRun | None = None) -> str:
        """How much a run leaves; of the images that another run has, too."""
        return percent(self.left(run, other))

    def less(self, one: AttackRun, other: AttackRun) -> bool:
        """Whether a run leaves clearly less than another, on the images both have."""
        return clearly_lower(self.left(one, other), self.left(other, one))

    def strongest(self, runs: Sequence[AttackRun]) -> AttackRun | None:
        """The run that leaves least; None of none."""
        return min(runs, key=lambda run: self.left(run).float().mean().item(), default=None)

    def curve(self, threat: Threat) -> list[AttackRun]:
        """Runs of the curve of a threat, by rising eps."""
        points = [run for run in self.evaluation.results if run.sweep and run.threat == threat]
        return sorted(points, key=lambda run: run.eps)


@dataclass(frozen=True)
class Radius(Comparison):
    """The runs of the table at one radius."""

    eps: float

    def runs(self, threat: Threat) -> list[AttackRun]:
        """Runs of a threat."""
        return self.evaluation.runs(threat, self.eps)

    @property
    def own(self) -> list[AttackRun]:
        """White-box runs on the whole target."""
        return [run for run in self.runs("white-box") if not run.one_member]

    @property
    def alone(self) -> list[AttackRun]:
        """White-box runs on one member at a time."""
        return [run for run in self.runs("white-box") if run.one_member]

    @property
    def best(self) -> AttackRun | None:
        """The strongest run on the whole target."""
        return self.strongest(self.own)

    @property
    def searches(self) -> list[AttackRun]:
        """White-box runs on the whole target whose steps the suite sets."""
        return [run for run in self.own if run.steps and run.family == "iterative"]


def at_each_radius(look: Callable[[Radius], Iterator[str]]) -> Sign:
    """Make a sign that looks at each radius of the table, which its sentences name."""

    def sign(evaluation: Evaluation) -> Iterator[str]:
        for eps in evaluation.eps():
            for sentence in look(Radius(evaluation, eps)):
                yield f"eps {eps:g}: {sentence}"

    return sign


def clearly_lower(one: Tensor, other: Tensor, errors: float = 2) -> bool:
    """Whether a mask has significantly fewer images than another of the same images.

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


def percent(mask: Tensor) -> str:
    """Percentage of a mask that is true."""
    return f"{mask.float().mean().item():.1%}"
