"""Surrogates compared: how often examples crafted on each fool each target (section 6)."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from divtrain.errors import DivtrainError
from divtrain.evaluation import Evaluation, paired_interval, wilson_interval
from divtrain.report.rows import BASE, Cell

EVERY = "best of all"
"""Name of the attacker who has all surrogates and, image by image, picks the one that fools."""


@dataclass(frozen=True)
class Answers:
    """What a target of one seed answered to all that was crafted on one surrogate.

    Attributes:
        surrogate: The surrogate.
        target: The target.
        seed: Seed of the experiment.
        clean: Which clean images it classifies right.
        right: Which crafted ones, by (attack, eps).
    """

    surrogate: str
    target: str
    seed: int
    clean: Bool[Tensor, "image"]
    right: Mapping[tuple[str, float], Bool[Tensor, "image"]]

    def fooled(self, eps: float, attack: str | None = None) -> Bool[Tensor, "image"]:
        """Images right when clean and wrong under an attack, or under any of them."""
        masks = [m for (name, at), m in self.right.items() if at == eps and attack in (name, None)]
        return self.clean & ~torch.stack(masks).all(0)


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


def answers_of(evaluation: Evaluation) -> list[Answers]:
    """Return what the target of an evaluation answered, for each surrogate."""
    right: dict[str, dict[tuple[str, float], Tensor]] = {}
    for eps in evaluation.eps():
        for run in evaluation.runs("transfer", eps):
            masks = right.setdefault(run.source, {})
            masks[run.attack, eps] = evaluation.correct_on_all(run)
    target, seed, clean = evaluation.target, evaluation.seed, evaluation.clean
    return [Answers(source, target, seed, clean, masks) for source, masks in right.items()]


def compare_surrogates(answers: Iterable[Answers], base: str = BASE) -> list[TransferCell]:
    """Compare surrogates by the share of images that what is crafted on them fools.

    Args:
        answers: Of every target to every surrogate, for each seed.
        base: The surrogate that the others are compared with.

    Returns:
        A cell for each eps, surrogate and target that the base surrogate has been tried on too;
        with several surrogates also for the attacker who has all of them.

    Raises:
        DivtrainError: when two answers are not about the same images.
    """
    by_seed: dict[tuple[str, str], dict[int, Answers]] = {}
    for each in answers:
        by_seed.setdefault((each.surrogate, each.target), {})[each.seed] = each
    surrogates = list(dict.fromkeys(surrogate for surrogate, _ in by_seed))
    targets = [target for surrogate, target in by_seed if surrogate == base]
    for target in targets if len(surrogates) > 1 else ():
        by_seed[EVERY, target] = _joined([by_seed.get((s, target), {}) for s in surrogates])
    radii = sorted({eps for own in by_seed.values() for a in own.values() for _, eps in a.right})
    return [
        _cell(eps, by_seed[surrogate, target], None if surrogate == base else by_seed[base, target])
        for eps in radii
        for surrogate in sorted(dict.fromkeys(s for s, _ in by_seed), key=lambda s: s != base)
        for target in targets
        if by_seed.get((surrogate, target)) and _has(eps, by_seed[surrogate, target])
    ]


def _has(eps: float, own: Mapping[int, Answers]) -> bool:
    return all(eps in {at for _, at in each.right} for each in own.values())


def _joined(surrogates: Sequence[Mapping[int, Answers]]) -> dict[int, Answers]:
    """Answers to everything crafted on any of some surrogates, for the seeds that all have."""
    seeds = [seed for seed in surrogates[0] if all(seed in own for own in surrogates)]
    joint: dict[int, Answers] = {}
    for seed in seeds:
        parts = [own[seed] for own in surrogates]
        right = {
            (f"{name} on {part.surrogate}", eps): mask
            for part in parts
            for (name, eps), mask in part.right.items()
        }
        joint[seed] = replace(parts[0], surrogate=EVERY, right=right)
    return joint


def _cell(
    eps: float, own: Mapping[int, Answers], base: Mapping[int, Answers] | None
) -> TransferCell:
    some = next(iter(own.values()))
    every = some.surrogate == EVERY
    attack = None if every else _best_attack(eps, own)
    shared = {} if base is None else {seed: base[seed] for seed in own if seed in base}
    for seed, other in shared.items():
        if not torch.equal(own[seed].clean, other.clean):
            raise DivtrainError(
                f"{some.target} of seed {seed} was not asked the same images with {some.surrogate}"
                f" as with {other.surrogate}; run the same command again"
            )
    difference = best_difference = None
    if shared:
        difference = _difference(own, shared, lambda each: each.fooled(eps))
        if attack is not None:
            theirs = _best_attack(eps, shared)
            best_difference = _difference(
                own,
                shared,
                lambda each: each.fooled(
                    eps, attack if each.surrogate == some.surrogate else theirs
                ),
            )
    return TransferCell(
        some.surrogate,
        some.target,
        eps,
        _share([each.fooled(eps) for each in own.values()]),
        attack or "",
        None if attack is None else _share([each.fooled(eps, attack) for each in own.values()]),
        difference,
        best_difference,
        len(some.clean),
        len(own),
    )


def _best_attack(eps: float, own: Mapping[int, Answers]) -> str:
    names = dict.fromkeys(name for each in own.values() for name, at in each.right if at == eps)
    return max(names, key=lambda name: sum(int(a.fooled(eps, name).sum()) for a in own.values()))


def _share(masks: Sequence[Tensor]) -> Cell:
    shares = [int(mask.sum()) / len(mask) for mask in masks]
    if len(shares) > 1:
        return Cell(statistics.mean(shares), statistics.stdev(shares))
    return Cell(shares[0], None, interval=wilson_interval(int(masks[0].sum()), len(masks[0])))


def _difference(
    own: Mapping[int, Answers], base: Mapping[int, Answers], fooled: Callable[[Answers], Tensor]
) -> Cell:
    pairs = [(fooled(own[seed]), fooled(base[seed])) for seed in base]
    gained = [int((mine & ~theirs).sum()) for mine, theirs in pairs]
    lost = [int((theirs & ~mine).sum()) for mine, theirs in pairs]
    images = len(pairs[0][0])
    points = [(more - less) / images for more, less in zip(gained, lost, strict=True)]
    if len(points) > 1:
        return Cell(statistics.mean(points), statistics.stdev(points))
    return Cell(points[0], None, interval=paired_interval(gained[0], lost[0], images))
