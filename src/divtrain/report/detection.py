"""Section 6 as rows: how well scores tell unusual inputs from clean ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from divtrain.analysis import Detection, InputKind, detect
from divtrain.analysis.detection import TITLES
from divtrain.data import same_source

ALL = "all attacks"
"""Name of the pseudo-attack that puts the examples of all attacks together."""

Which = Literal["all", "fooling"]


@dataclass(frozen=True)
class Scored:
    """What a target's scores are at inputs of a kind.

    Attributes:
        target: Which target.
        seed: Seed of the experiment.
        trained_outside: Images from outside that the target was trained on; empty for none.
        kind: Which inputs.
        scores: (image,) by score.
        fooled: Which of them fool the target, (image,); None where nothing was attacked.
    """

    target: str
    seed: int
    trained_outside: str
    kind: InputKind
    scores: dict[str, Tensor]
    fooled: Tensor | None

    @property
    def known(self) -> bool:
        """Whether the target was trained on inputs of this kind (never on these)."""
        outside = self.kind.threat == "outside"
        return outside and same_source(self.trained_outside, self.kind.name)


@dataclass(frozen=True)
class DetectionRow:
    """One target at inputs of one kind.

    Attributes:
        kind: The inputs; the name is `ALL` for those of all attacks together.
        which: All of them, or those that fool the target.
        target: Which target.
        known: Whether the target was trained on inputs of this kind (never on these).
        found: By score, and by those of the seeds that have such inputs.
        seeds: Seeds in all.
    """

    kind: InputKind
    which: Which
    target: str
    known: bool
    found: dict[str, dict[int, Detection]]
    seeds: int


def detection_rows(scored: Sequence[Scored]) -> list[DetectionRow]:
    """Judge every score of every target at every kind of inputs.

    Args:
        scored: Of all targets and seeds, clean inputs among them.

    Returns:
        By kind, as `unusual_kinds` orders them; all and fooling; by target.
    """
    clean, unusual = clean_scores(scored), with_pooled(scored)
    targets = list(dict.fromkeys(each.target for each in scored))
    rows: list[DetectionRow] = []
    for kind in unusual_kinds(unusual):
        for which in ("all", "fooling") if kind.threat != "outside" else ("all",):
            for target in targets:
                mine = [each for each in unusual if (each.kind, each.target) == (kind, target)]
                found: dict[str, dict[int, Detection]] = {score: {} for score in TITLES}
                for each in mine:
                    for score, values in each.scores.items():
                        if which == "fooling" and each.fooled is not None:
                            values = values[each.fooled]
                        if len(values):
                            negatives = clean[target, each.seed][score]
                            found[score][each.seed] = detect(values, negatives)
                known = any(each.known for each in mine)
                if mine:
                    rows.append(DetectionRow(kind, which, target, known, found, len(mine)))
    return rows


def clean_scores(scored: Sequence[Scored]) -> dict[tuple[str, int], dict[str, Tensor]]:
    """Scores at clean inputs, by target and seed."""
    return {(s.target, s.seed): s.scores for s in scored if s.kind.threat == "clean"}


def unusual_kinds(scored: Sequence[Scored]) -> list[InputKind]:
    """Kinds of inputs from outside, then by threat and eps all attacks together and each attack."""
    threats = ("outside", "transfer", "white-box")
    kinds = dict.fromkeys(each.kind for each in scored if each.kind.threat != "clean")
    return sorted(kinds, key=lambda k: (threats.index(k.threat), k.eps, k.name != ALL))


def with_pooled(scored: Sequence[Scored]) -> list[Scored]:
    """Add, for each threat and eps, the examples of all attacks together."""
    groups: dict[tuple[object, ...], list[Scored]] = {}
    for each in scored:
        if each.fooled is not None:
            place = (each.target, each.seed, each.kind.threat, each.kind.eps)
            groups.setdefault(place, []).append(each)
    pooled = [
        replace(
            group[0],
            kind=replace(group[0].kind, name=ALL),
            scores={score: torch.cat([each.scores[score] for each in group]) for score in TITLES},
            fooled=torch.cat([each.fooled for each in group if each.fooled is not None]),
        )
        for group in groups.values()
    ]
    return [*scored, *pooled]


def title_of(kind: InputKind) -> str:
    """What inputs from outside, or all attacks of a threat at an eps, are called."""
    return Path(kind.name).name if kind.threat == "outside" else f"{kind.threat}, eps {kind.eps:g}"
