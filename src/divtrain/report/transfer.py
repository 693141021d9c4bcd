"""Surrogates compared: how often examples crafted on each fool each target (section 6)."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from divtrain.evaluation import Evaluation, wilson_interval
from divtrain.report.paired import paired_difference
from divtrain.report.rows import BASE, Cell

EVERY = "best of all"
"""Name of the attacker who has all surrogates and, image by image, picks the one that fools."""


@dataclass(frozen=True)
class Fooled:
    """How many images of a target one attack on some surrogate fools, or all of them together.

    Attributes:
        surrogate: What was attacked, or `EVERY`.
        target: What is fooled or not.
        eps: L-infinity radius in [0, 1] pixel units.
        attack: The attack that fools most alone; None for any of them, image by image.
        share: Share of all images fooled.
        difference: `share` minus that of the base surrogate, of the attack that is best there, on
            the same images; None for base.
        images: Images in each share's denominator.
        seeds: Seeds averaged over.
    """

    surrogate: str
    target: str
    eps: float
    attack: str | None
    share: Cell
    difference: Cell | None
    images: int
    seeds: int


@dataclass(frozen=True)
class Crafted:
    """What was crafted on some surrogates at one eps, and the answers of a target, seed by seed."""

    surrogates: Sequence[str]
    eps: float
    answers: Sequence[Evaluation]

    def attacks(self) -> list[str]:
        """Names of the attacks of all seeds."""
        runs = (run for each in self.answers for run in each.runs("transfer", self.eps))
        return list(dict.fromkeys(run.attack for run in runs if run.source in self.surrogates))

    def fooled(self, attack: str | None = None) -> list[Bool[Tensor, "image"]]:
        """For each seed, images right when clean, wrong under an attack, or under any of them."""
        return [
            each.clean & ~each.kept(
                [run for run in each.runs("transfer", self.eps)
                 if run.source in self.surrogates and attack in (run.attack, None)]
            )
            for each in self.answers
        ]  # fmt: skip

    def best_attack(self) -> str:
        """The attack that fools most images alone."""
        return max(self.attacks(), key=lambda name: int(torch.cat(self.fooled(name)).sum()))


def compare_surrogates(evaluations: Iterable[Evaluation]) -> list[Fooled]:
    """Compare surrogates by the share of images that what is crafted on them fools.

    Args:
        evaluations: Of every target and seed.

    Returns:
        For each eps, surrogate and target that base has been tried on too, the worst case over the
        attacks, then the best single one; the worst case also for the attacker who has all
        surrogates. Nothing where there is one surrogate.
    """
    by_target: dict[str, list[Evaluation]] = {}
    for each in evaluations:
        by_target.setdefault(each.target, []).append(each)
    answers = [each for own in by_target.values() for each in own]
    surrogates = list(dict.fromkeys(name for each in answers for name in _surrogates(each)))
    if len(surrogates) < 2:
        return []
    rivals = sorted([*surrogates, EVERY], key=lambda name: name != BASE)
    found: list[Fooled] = []
    for eps in sorted({eps for each in answers for eps in each.eps()}):
        for surrogate in rivals:
            names = surrogates if surrogate == EVERY else [surrogate]
            for target, own in by_target.items():
                tried = [each for each in own if {*names} <= {*_surrogates(each, eps)}]
                shared = [each for each in tried if BASE in _surrogates(each, eps)]
                if tried and any(BASE in _surrogates(each) for each in own):
                    mine = Crafted(names, eps, tried)
                    against = Crafted([BASE], eps, shared) if shared and surrogate != BASE else None
                    for attack in (None,) if surrogate == EVERY else (None, mine.best_attack()):
                        share = _share(mine.fooled(attack))
                        difference = against and _difference(mine, attack, against)
                        found.append(
                            Fooled(surrogate, target, eps, attack, share, difference,
                                   len(tried[0].clean), len(tried))
                        )  # fmt: skip
    return found


def _surrogates(evaluation: Evaluation, eps: float | None = None) -> dict[str, None]:
    """Surrogates that a target was attacked from, at one eps or at any, in order."""
    radii = evaluation.eps() if eps is None else [eps]
    return {run.source: None for each in radii for run in evaluation.runs("transfer", each)}


def _share(masks: Sequence[Tensor]) -> Cell:
    shares = [int(mask.sum()) / len(mask) for mask in masks]
    if len(shares) > 1:
        return Cell(statistics.mean(shares), statistics.stdev(shares))
    return Cell(shares[0], None, interval=wilson_interval(int(masks[0].sum()), len(masks[0])))


def _difference(own: Crafted, attack: str | None, base: Crafted) -> Cell:
    mine = replace(own, answers=base.answers).fooled(attack)
    return paired_difference(mine, base.fooled(attack and base.best_attack()))
