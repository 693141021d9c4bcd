"""Surrogates compared: how often examples crafted on each fool each target (section 6)."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from divtrain.evaluation import Evaluation, paired_interval, wilson_interval
from divtrain.report.rows import BASE, Cell

EVERY = "best of all"
"""Name of the attacker who has all surrogates and, image by image, picks the one that fools."""


@dataclass(frozen=True)
class TransferCell:
    """One surrogate against one target at one eps.

    Attributes:
        surrogate: What was attacked, or `EVERY`.
        target: What is fooled or not.
        eps: L-infinity radius in [0, 1] pixel units.
        worst: Share of all images fooled by any of the attacks.
        best_attack: The attack that fools most alone; empty for `EVERY`.
        best: Share that it fools; None for `EVERY`.
        difference: `worst` minus that of the base surrogate, on the same images; None for base.
        best_difference: The same of `best`, between the best attacks of each.
        images: Images in each share's denominator.
        seeds: Seeds averaged over: one has intervals of 95 %, several have deviations.
    """

    surrogate: str
    target: str
    eps: float
    worst: Cell
    best_attack: str
    best: Cell | None
    difference: Cell | None
    best_difference: Cell | None
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
            each.clean & ~torch.stack(
                [each.correct_on_all(run) for run in each.runs("transfer", self.eps)
                 if run.source in self.surrogates and attack in (run.attack, None)]
            ).all(0)
            for each in self.answers
        ]  # fmt: skip

    def best_attack(self) -> str:
        """The attack that fools most images alone."""
        return max(self.attacks(), key=lambda name: int(torch.cat(self.fooled(name)).sum()))


def compare_surrogates(evaluations: Iterable[Evaluation], base: str = BASE) -> list[TransferCell]:
    """Compare surrogates by the share of images that what is crafted on them fools.

    Args:
        evaluations: Of every target and seed.
        base: The surrogate that the others are compared with.

    Returns:
        A cell for each eps, surrogate and target that the base surrogate has been tried on too,
        and for the attacker who has all of them; none where there is one surrogate.
    """
    by_target: dict[str, list[Evaluation]] = {}
    for each in evaluations:
        by_target.setdefault(each.target, []).append(each)
    answers = [each for own in by_target.values() for each in own]
    surrogates = list(dict.fromkeys(name for each in answers for name in _surrogates(each)))
    if len(surrogates) < 2:
        return []
    rivals = sorted([*surrogates, EVERY], key=lambda name: name != base)
    cells: list[TransferCell] = []
    for eps in sorted({eps for each in answers for eps in each.eps()}):
        for surrogate in rivals:
            names = surrogates if surrogate == EVERY else [surrogate]
            for target, own in by_target.items():
                tried = [each for each in own if {*names} <= {*_surrogates(each, eps)}]
                shared = [each for each in tried if base in _surrogates(each, eps)]
                if tried and any(base in _surrogates(each) for each in own):
                    against = Crafted([base], eps, shared) if shared and surrogate != base else None
                    cells.append(_cell(surrogate, target, Crafted(names, eps, tried), against))
    return cells


def _surrogates(evaluation: Evaluation, eps: float | None = None) -> dict[str, None]:
    """Surrogates that a target was attacked from, at one eps or at any, in order."""
    radii = evaluation.eps() if eps is None else [eps]
    return {run.source: None for each in radii for run in evaluation.runs("transfer", each)}


def _cell(surrogate: str, target: str, own: Crafted, base: Crafted | None) -> TransferCell:
    attack = None if surrogate == EVERY else own.best_attack()
    difference = best_difference = None
    if base is not None:
        same = Crafted(own.surrogates, own.eps, base.answers)
        difference = _difference(same.fooled(), base.fooled())
        if attack is not None:
            best_difference = _difference(same.fooled(attack), base.fooled(base.best_attack()))
    return TransferCell(
        surrogate,
        target,
        own.eps,
        _share(own.fooled()),
        attack or "",
        None if attack is None else _share(own.fooled(attack)),
        difference,
        best_difference,
        len(own.answers[0].clean),
        len(own.answers),
    )


def _share(masks: Sequence[Tensor]) -> Cell:
    shares = [int(mask.sum()) / len(mask) for mask in masks]
    if len(shares) > 1:
        return Cell(statistics.mean(shares), statistics.stdev(shares))
    return Cell(shares[0], None, interval=wilson_interval(int(masks[0].sum()), len(masks[0])))


def _difference(mine: Sequence[Tensor], theirs: Sequence[Tensor]) -> Cell:
    pairs = list(zip(mine, theirs, strict=True))
    counts = [(int((a & ~b).sum()), int((b & ~a).sum())) for a, b in pairs]
    images = len(mine[0])
    points = [(gained - lost) / images for gained, lost in counts]
    if len(points) > 1:
        return Cell(statistics.mean(points), statistics.stdev(points))
    return Cell(points[0], None, interval=paired_interval(*counts[0], images))
