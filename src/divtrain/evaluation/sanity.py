"""Warning signs: what in an evaluation says that its own attacks were too weak to trust."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from divtrain.evaluation.records import CLEAN, WORST, Record

ONE_STEP = ("fgsm", "rfgsm")
MANY_STEPS = (
    "ifgsm", "mifgsm", "pgdcw", "pgd", "apgd", "apgdt", "autoattack",
    "nifgsm", "difgsm", "tifgsm", "vmifgsm",
)  # fmt: skip
MARGIN = 0.02
"""Differences in accuracy below two points, or two standard errors, are taken as noise."""


@dataclass(frozen=True)
class WarningSign:
    """One warning sign.

    Attributes:
        name: Short name, as in the documentation.
        target: The target it concerns.
        sentence: What was seen, with its numbers, and what it means.
    """

    name: str
    target: str
    sentence: str

    @property
    def anchor(self) -> str:
        """Where the documentation explains it."""
        return f"docs/reading-results.md#{self.name}"


def warning_signs(records: Iterable[Record]) -> list[WarningSign]:
    """Look for warning signs in records of one or several seeds (each seed for itself).

    * ``transfer-beats-white-box``: some attack on a surrogate fools the target more often than
      the same attack on the target itself, so the target's gradients mislead their attacker and
      its white-box accuracy is not robustness (Athalye et al., 2018).
    * ``one-step-beats-many``: the best one-step attack fools more than the best iterative one in
      the same threat model.
    * ``label-leaking``: a step that makes the true label likelier to the surrogate, ``reversed``,
      takes accuracy from the target, which then reads labels off attacks (Kurakin et al., 2017).

    Differences that chance explains (see `MARGIN`) raise no warning.
    """
    runs: dict[tuple[int, str, float], list[Record]] = {}
    clean: dict[tuple[int, str], Record] = {}
    for record in records:
        if record.attack == CLEAN:
            clean[record.seed, record.target] = record
        if record.attack not in (CLEAN, WORST):
            runs.setdefault((record.seed, record.target, record.eps), []).append(record)
    found: list[WarningSign] = []
    for (seed, target, eps), run in runs.items():
        where = f"{target}, eps {eps:g}, seed {seed}"
        for own in (r for r in run if r.threat == "white-box"):
            same = [r for r in run if r.threat == "transfer" and r.attack == own.attack]
            if same and _clearly_lower(_strongest(same), own):
                found.append(
                    WarningSign(
                        "transfer-beats-white-box",
                        target,
                        f"{where}: {own.attack} leaves {own.accuracy:.1%} when crafted on the"
                        f" target itself, but {_strongest(same).accuracy:.1%} when transferred;"
                        " the white-box number is not robustness, its attack fails.",
                    )
                )
        for back in (r for r in run if (r.threat, _kind(r)) == ("transfer", "reversed")):
            untouched = clean.get((seed, target))
            if untouched and _clearly_lower(back, untouched):
                found.append(
                    WarningSign(
                        "label-leaking",
                        target,
                        f"{where}: {leaking(back.surrogate, back.accuracy, untouched.accuracy)}"
                        " A run has no random noise of that size to compare with; `divtrain"
                        " evaluate` has.",
                    )
                )
        for threat in ("transfer", "white-box"):
            mine = [r for r in run if r.threat == threat]
            one = [r for r in mine if _kind(r) in ONE_STEP]
            many = [r for r in mine if _kind(r) in MANY_STEPS]
            if one and many and _clearly_lower(_strongest(one), _strongest(many)):
                found.append(
                    WarningSign(
                        "one-step-beats-many",
                        target,
                        f"{where}: one-step {threat} attacks leave"
                        f" {_strongest(one).accuracy:.1%}, iterative ones"
                        f" {_strongest(many).accuracy:.1%}; the iterative attacks are weaker than"
                        " they should be.",
                    )
                )
    return found


def leaking(surrogate: str, left: float, clean: float) -> str:
    """Say what a step back on a surrogate left of a target's accuracy, and what that means."""
    return (
        f"a step on {surrogate} that makes the true label *likelier* leaves {left:.1%}, none"
        f" {clean:.1%}; the target reads the label off the attacks it was trained on, so what it"
        " withstands of those is not robustness."
    )


def _kind(record: Record) -> str:
    """The attack's name without its objective."""
    return record.attack.partition(":")[0]


def _strongest(records: list[Record]) -> Record:
    return min(records, key=lambda record: record.accuracy)


def _clearly_lower(one: Record, other: Record) -> bool:
    """Whether an accuracy lies below another by more than chance explains."""
    variance = sum(r.accuracy * (1 - r.accuracy) / r.images for r in (one, other))
    return other.accuracy - one.accuracy > max(MARGIN, 2 * math.sqrt(variance))
