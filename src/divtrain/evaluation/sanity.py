"""Warning signs: what in an evaluation says that its own attacks were too weak to trust."""

from collections.abc import Iterable
from dataclasses import dataclass

from divtrain.evaluation.records import CLEAN, WORST, Record

ONE_STEP = ("fgsm", "rfgsm")
MANY_STEPS = ("ifgsm", "mifgsm", "pgdcw")
MARGIN = 0.02
"""Differences in accuracy below two points are taken as noise."""


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


def warning_signs(records: Iterable[Record]) -> list[WarningSign]:
    """Look for warning signs in records of one or several seeds (each seed for itself).

    * ``transfer-beats-white-box``: some attack on a surrogate fools the target more often than
      the same attack on the target itself, so the target's gradients mislead their attacker and
      its white-box accuracy is not robustness (Athalye et al., 2018).
    * ``one-step-beats-many``: the best one-step attack fools more than the best iterative one in
      the same threat model.
    """
    by_run: dict[tuple[int, str, float], dict[tuple[str, str], float]] = {}
    for record in records:
        if record.attack not in (CLEAN, WORST):
            run = by_run.setdefault((record.seed, record.target, record.eps), {})
            known = run.get((record.threat, record.attack), 1.0)
            run[record.threat, record.attack] = min(known, record.accuracy)
    found: list[WarningSign] = []
    for (seed, target, eps), run in by_run.items():
        where = f"{target}, eps {eps:g}, seed {seed}"
        for (threat, attack), accuracy in run.items():
            transfer = run.get(("transfer", attack), 1.0)
            if threat == "white-box" and transfer < accuracy - MARGIN:
                found.append(
                    WarningSign(
                        "transfer-beats-white-box",
                        target,
                        f"{where}: {attack} leaves {accuracy:.1%} when crafted on the target"
                        f" itself, but {transfer:.1%} when transferred; the white-box number is"
                        " not robustness, its attack fails.",
                    )
                )
        for threat in ("transfer", "white-box"):
            one = [a for (t, name), a in run.items() if t == threat and name in ONE_STEP]
            many = [a for (t, name), a in run.items() if t == threat and name in MANY_STEPS]
            if one and many and min(one) < min(many) - MARGIN:
                found.append(
                    WarningSign(
                        "one-step-beats-many",
                        target,
                        f"{where}: one-step {threat} attacks leave {min(one):.1%}, iterative ones"
                        f" {min(many):.1%}; the iterative attacks are weaker than they should be.",
                    )
                )
    return found
