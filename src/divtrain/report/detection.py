"""Section 6 as rows: how well scores tell unusual inputs from clean ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from divtrain.analysis import Detection, InputKind, detect
from divtrain.analysis.detection import TITLES
from divtrain.attacks import attack_title
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

    @property
    def inputs(self) -> str:
        """What the inputs are called."""
        if self.kind.threat == "outside":
            return short_name(self.kind.name)
        attack = ALL if self.kind.name == ALL else attack_title(self.kind.name)
        return f"{self.kind.threat}, eps {self.kind.eps:g}, {attack}"


def detection_rows(scored: Sequence[Scored]) -> list[DetectionRow]:
    """Judge every score of every target at every kind of inputs.

    Args:
        scored: Of all targets and seeds, clean inputs among them.

    Returns:
        By kind, those from outside first, then for each threat and eps all attacks together and
        each attack; all and fooling; by target.
    """
    clean = {(s.target, s.seed): s for s in scored if s.kind.threat == "clean"}
    unusual = [each for each in with_pooled(scored) if each.kind.threat != "clean"]
    targets = list(dict.fromkeys(each.target for each in scored))
    rows: list[DetectionRow] = []
    for kind in sorted(dict.fromkeys(each.kind for each in unusual), key=kind_order):
        for which in ("all", "fooling") if kind.threat != "outside" else ("all",):
            for target in targets:
                mine = [s for s in unusual if (s.kind, s.target) == (kind, target)]
                found: dict[str, dict[int, Detection]] = {score: {} for score in TITLES}
                for each in mine:
                    for score, values in each.scores.items():
                        if which == "fooling" and each.fooled is not None:
                            values = values[each.fooled]
                        if len(values):
                            negatives = clean[target, each.seed].scores[score]
                            found[score][each.seed] = detect(values, negatives)
                known = any(trained_on(each, kind) for each in mine)
                if mine:
                    rows.append(DetectionRow(kind, which, target, known, found, len(mine)))
    return rows


def trained_on(scored: Scored, kind: InputKind) -> bool:
    """Whether the target was trained on inputs of a kind, though never on these."""
    return kind.threat == "outside" and same_source(scored.trained_outside, kind.name)


def kind_order(kind: InputKind) -> tuple[int, float, bool]:
    """Kinds in order; those that this does not tell apart keep theirs."""
    threats = ("clean", "outside", "transfer", "white-box")
    return threats.index(kind.threat), kind.eps, kind.name != ALL


def with_pooled(scored: Sequence[Scored]) -> list[Scored]:
    """Add, for each threat and eps, the examples of all attacks together."""
    groups: dict[tuple[object, ...], list[Scored]] = {}
    for each in scored:
        if each.fooled is not None:
            place = (each.target, each.seed, each.kind.threat, each.kind.eps)
            groups.setdefault(place, []).append(each)
    pooled = [
        Scored(
            group[0].target,
            group[0].seed,
            group[0].trained_outside,
            InputKind(group[0].kind.threat, ALL, group[0].kind.eps),
            {score: torch.cat([each.scores[score] for each in group]) for score in TITLES},
            torch.cat([each.fooled for each in group if each.fooled is not None]),
        )
        for group in groups.values()
    ]
    return [*scored, *pooled]


def short_name(name: str) -> str:
    """Name of what is outside, without the folders of a path."""
    return Path(name).name
