"""The report card of one target: everything a reader needs to judge it by, on one page."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from divtrain.evaluation import CLEAN, KNOWLEDGE, WORST, Evaluation, Record, WarningSign
from divtrain.evaluation.evaluation import EVERY_SURROGATE
from divtrain.evaluation.signs import not_asked, warning_signs_of
from divtrain.report.tables import attack_title

DOCUMENTATION = "docs/reading-results.md"
ORDER = ("noise", "query", "transfer", "white-box")
NOT_PROVEN = (
    "Every robust accuracy here is an upper bound: a stronger attack may find more. Transfer"
    " robustness says nothing about an attacker who has the weights."
)


@dataclass(frozen=True)
class Facts:
    """What was evaluated, with what, by which command.

    Attributes:
        command: The command line, or call, that made the card.
        target: Where the target came from, and the hash of its weights.
        surrogates: For each surrogate, in words, what it is, with the hash of its weights.
        data: Data set, number of images out of how many, hash.
        machine: Versions, platform and seconds.
    """

    command: str
    target: dict[str, str]
    surrogates: dict[str, dict[str, str]]
    data: dict[str, str]
    machine: dict[str, str]


@dataclass(frozen=True)
class Line:
    """One line of the card's table: an attack by an adversary, at every radius.

    Attributes:
        threat: What the adversary knows.
        surrogate: What he attacks.
        attack: Heading of the attack.
        cells: A record for each radius; None where it was not tried.
        worst: Whether this is a per-image worst case over the lines above.
    """

    threat: str
    surrogate: str
    attack: str
    cells: tuple[Record | None, ...]
    worst: bool


@dataclass(frozen=True)
class Card:
    """A report card.

    Attributes:
        evaluation: What was measured.
        facts: Of what, with what.
        records: Accuracies of the table.
        curve: Accuracies by eps.
        warnings: Warning signs.
        missing: Signs that could not have fired, with what they need.
    """

    evaluation: Evaluation
    facts: Facts
    records: tuple[Record, ...]
    curve: tuple[Record, ...]
    warnings: tuple[WarningSign, ...]
    missing: dict[str, str]

    @property
    def eps(self) -> list[float]:
        """Radii of the table."""
        return self.evaluation.eps()

    @property
    def clean(self) -> Record:
        """Accuracy without an adversary."""
        return next(record for record in self.records if record.attack == CLEAN)

    def lines(self) -> list[Line]:
        """Return the table's lines, ordered by what the adversary knows, worst cases last."""
        attacked = [record for record in self.records if record.attack != CLEAN]
        keys = dict.fromkeys((r.threat, r.surrogate, r.attack) for r in attacked)
        found = {(r.threat, r.surrogate, r.attack, r.eps): r for r in attacked}
        ordered = sorted(
            keys, key=lambda key: (ORDER.index(key[0]), key[2] == WORST and key[0] == "white-box")
        )
        return [
            Line(
                threat,
                "" if threat in ("noise", "query") else surrogate,
                "worst of all" if attack == WORST else attack_title(attack),
                tuple(found.get((threat, surrogate, attack, eps)) for eps in self.eps),
                attack == WORST,
            )
            for threat, surrogate, attack in ordered
        ]

    def headline(self) -> list[str]:
        """Return the judgement, a sentence for each radius."""
        sentences: list[str] = []
        for eps in self.eps:
            worst = {
                (r.threat, r.surrogate): r
                for r in self.records
                if r.eps == eps and r.attack == WORST
            }
            transfer = [r for (threat, _), r in worst.items() if threat == "transfer"]
            joint = worst.get(("transfer", EVERY_SURROGATE), transfer[0] if transfer else None)
            white = worst.get(("white-box", self.evaluation.target))
            parts = [f"At eps {eps:g} it keeps"]
            if joint is not None:
                parts.append(f"{percent(joint)} against every transferred attack,")
            if white is not None:
                parts.append(f"{percent(white)} against an adversary with its weights,")
            if joint is None and white is None:
                query = [r for r in self.records if r.eps == eps and r.threat == "query"]
                parts.append(f"{percent(query[0])} against queries," if query else "unknown,")
            sentences.append(" ".join([*parts, f"clean {percent(self.clean)}."]))
        return sentences


def percent(record: Record) -> str:
    """Accuracy in percent with Wilson's interval of 95 %, e.g. ``66.0 % [59.2, 72.2]``."""
    low, high = (100 * end for end in record.interval)
    return f"{100 * record.accuracy:.1f} % [{low:.1f}, {high:.1f}]"


def make_card(evaluation: Evaluation, facts: Facts) -> Card:
    """Turn an evaluation into a card."""
    return Card(
        evaluation,
        facts,
        tuple(evaluation.records()),
        tuple(evaluation.curve()),
        tuple(warning_signs_of(evaluation)),
        not_asked(evaluation),
    )


def notes(card: Card) -> list[str]:
    """Sentences a reader must not miss: denominators, what was mended, what is missing."""
    total = len(card.evaluation.clean)
    found = [
        "Accuracy in percent over all images, with Wilson's interval of 95 %; passes forward +"
        ' backward through the attacked model, mean per image; "worst" counts an image only if it'
        " withstands everything above it (for the white-box adversary everything in the table,"
        " noise and transfer too).",
        NOT_PROVEN,
    ]
    fewer = sorted({len(o.correct) for o in card.evaluation.results.values()} - {total})
    if fewer:
        found.append(
            f"Lines marked with a number of images are over so many of the {total}, evenly chosen;"
            " in the worst case the others count as not fooled by them."
        )
    mended = {
        f"{attempt.attack} on {attempt.source} at eps {attempt.eps:g}"
        f"{' (curve)' if attempt.sweep else ''}": outcome.violations
        for attempt, outcome in card.evaluation.results.items()
        if any(vars(outcome.violations).values())
    }
    for name, violations in mended.items():
        found.append(
            f"{name} returned {violations.outside_ball} images outside the ball,"
            f" {violations.outside_bounds} outside [0, 1] and {violations.not_finite} not finite;"
            " they were clipped, or the clean image taken."
        )
    if "--quick" in card.facts.command.split():
        found.append("A quick card, to look and not to judge: few images, attacks and steps.")
    if card.missing:
        asked = "; ".join(f"{name} (needs {what})" for name, what in card.missing.items())
        found.append(f"Signs that could not have fired: {asked}.")
    if not card.facts.surrogates:
        found.append("No surrogate was given: nothing here was transferred.")
    if not any(record.threat == "white-box" for record in card.records):
        found.append(
            "No white-box attack was made: what an adversary with the weights can do is unknown."
        )
    return found


def card_json(card: Card) -> dict[str, Any]:
    """Return everything on the card as JSON-able values; accuracies are fractions."""

    def row(record: Record) -> dict[str, Any]:
        low, high = record.interval
        return {**asdict(record), "low": low, "high": high}

    return {
        "format": "divtrain-card-1",
        "target": card.evaluation.target,
        "headline": card.headline(),
        "facts": asdict(card.facts),
        "threat_models": {
            name: KNOWLEDGE[name] for name in ("noise", "query", "transfer", "white-box")
        },
        "norm": "Linf",
        "bounds": [0.0, 1.0],
        "records": [row(record) for record in card.records],
        "curve": [row(record) for record in card.curve],
        "attempts": [
            {
                **asdict(attempt),
                "sha256_of_examples": outcome.digest,
                "violations": asdict(outcome.violations),
                "accuracy_of_the_surrogate": outcome.source,
                "rise_at_the_end": outcome.rise,
                "members": None
                if outcome.members is None
                else outcome.members.float().mean(1).tolist(),
            }
            for attempt, outcome in card.evaluation.results.items()
        ],
        "diagnosis": asdict(card.evaluation.diagnosis),
        "surrogates": {n: asdict(check) for n, check in card.evaluation.surrogates.items()},
        "chance": card.evaluation.chance,
        "warnings": [{**asdict(w), "anchor": w.anchor} for w in card.warnings],
        "signs_not_asked": card.missing,
        "notes": notes(card),
    }


def card_markdown(card: Card, curve: str | None = None) -> str:
    """Render the card as Markdown.

    Args:
        card: The card.
        curve: Path of the curve's image relative to the page; none leaves it out.
    """
    lines = [f"# {card.evaluation.target}: report card", "", *_paragraphs(card.headline())]
    if card.warnings:
        lines += [f"**Warning signs: {len(card.warnings)}. The numbers below flatter.**", ""]
        lines += [f"- `{w.name}` {w.sentence}" for w in card.warnings]
        lines += ["", f"What each means: `{DOCUMENTATION}`, a section each.", ""]
    else:
        lines += ["No warning sign fired.", ""]
    names = ["threat", "crafted on", "attack"]
    names += [f"eps {eps:g}" for eps in card.eps] + ["passes"]
    lines += [_line(names), _line(["---"] * 3 + ["---:"] * (len(names) - 3))]
    lines.append(_line(["clean", "", "", *[percent(card.clean)] * len(card.eps), ""]))
    for each in card.lines():
        mark = "**" if each.worst else ""
        cells = [f"{mark}{cell_text(card, cell)}{mark}" for cell in each.cells]
        lines.append(
            _line([each.threat, each.surrogate, f"{mark}{each.attack}{mark}", *cells, passes(each)])
        )
    lines += ["", *_paragraphs(notes(card))]
    if curve:
        lines += [f"![Accuracy by eps]({curve})", ""]
    lines += ["## Threat models", ""]
    lines += [f"- **{threat}**: knows {KNOWLEDGE[threat]}." for threat in ORDER]
    lines += ["", "All: L-infinity balls of radius eps around the image, pixels in [0, 1].", ""]
    lines += ["## What was evaluated", ""]
    lines += [f"- **{name}**: {value}" for name, value in fact_lines(card)]
    return "\n".join([*lines, ""])


def fact_lines(card: Card) -> list[tuple[str, str]]:
    """Facts as (name, value) pairs, for a page."""
    facts = card.facts
    pairs = [("command", f"`{facts.command}`"), ("target", _join(facts.target))]
    for name, about in facts.surrogates.items():
        check = card.evaluation.surrogates.get(name)
        clean = {} if check is None else {"clean accuracy": f"{check.clean:.1%}"}
        pairs.append((f"surrogate {name}", _join(about | clean)))
    return [*pairs, ("data", _join(facts.data)), ("run", _join(facts.machine))]


def cell_text(card: Card, record: Record | None) -> str:
    """One accuracy, with its interval, and its denominator where that is not all images."""
    if record is None:
        return ""
    some = "" if record.images == len(card.evaluation.clean) else f" ({record.images} images)"
    return percent(record) + some


def passes(line: Line) -> str:
    """Passes forward + backward at each radius, e.g. ``20+20 / 9+8``."""
    counted = [f"{r.forward:.0f}+{r.backward:.0f}" for r in line.cells if r is not None]
    return " / ".join(dict.fromkeys(counted)) if any(r and r.forward for r in line.cells) else ""


def _paragraphs(sentences: Sequence[str]) -> list[str]:
    return [part for sentence in sentences for part in (sentence, "")]


def _join(about: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in about.items())


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
