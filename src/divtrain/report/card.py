"""The report card of one target: everything a reader needs to judge it by, on one page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from divtrain.attacks import attack_title
from divtrain.errors import DivtrainError
from divtrain.evaluation import (
    CLEAN,
    EVERY_SURROGATE,
    KNOWLEDGE,
    WORST,
    Evaluation,
    Record,
    Threat,
    wilson_interval,
)
from divtrain.files import make_folder, write_bytes
from divtrain.report.curve import curve_figure
from divtrain.report.html import to_html
from divtrain.report.paired import kept_images
from divtrain.report.report import Entry, Figure, Report, Section, Table
from divtrain.report.rows import Cell
from divtrain.report.words import words_section
from divtrain.version import versions

THREATS: list[Threat] = [threat for threat in KNOWLEDGE if threat != CLEAN]
"""Adversaries, the weakest first."""
REFERENCE = "reference"
"""In the place of a threat: rows to compare the target with."""
MEANING = (
    "Percent of all images that stay right, with Wilson's interval of 95 %. Worst of all: an image"
    " counts only if nothing above it in the table fools the target on it (for the white-box"
    " attacker everything in the table, noise and copied attacks too). Passes: forward + backward"
    " passes through the attacked model that an attack took, mean per image. Reference: other"
    " models, to compare with; a surrogate itself stands there under the attack made on it."
)
NOT_PROVEN = (
    "A stronger attack may fool the target on more images: numbers under attack are upper bounds."
    " Whoever withstands copied attacks need not withstand somebody with the weights."
)
QUICK = "A quick card, to look and not to judge: few images, attacks and steps."
NO_SURROGATE = "No surrogate was given: no copied attack was tried."
NO_WHITE_BOX = "No white-box attack was made: what an attacker with the weights can do is unknown."


@dataclass(frozen=True)
class CardFacts:
    """What was evaluated, with what, by which command.

    Attributes:
        command: The command line, or call, that made the card.
        target: Where the target came from, and the hash of its weights.
        surrogates: For each surrogate, in words, what it is, with the hash of its weights.
        data: Data set, number of images out of how many, hash.
        machine: Versions, platform and seconds.
        quick: Whether only a few images, attacks and steps were asked for.
    """

    command: str
    target: Mapping[str, str]
    surrogates: Mapping[str, Mapping[str, str]]
    data: Mapping[str, str]
    machine: Mapping[str, str]
    quick: bool = False


def card_report(
    evaluation: Evaluation,
    facts: CardFacts,
    name: str = "card",
    reference: Evaluation | None = None,
) -> Report:
    """Report what one target withstands.

    Args:
        evaluation: What was measured.
        facts: Of what, with what.
        name: Of the files of the report, and of its figure.
        reference: Of another target on the same images, e.g. base, to compare with.
    """
    threats = [(threat, f"knows {KNOWLEDGE[threat]}") for threat in THREATS]
    ball = "L-infinity balls of radius eps around the image, pixels in [0, 1]"
    figures: list[Figure] = []
    if curve := evaluation.curve():
        png = curve_figure(
            curve, evaluation.target, evaluation.chance, _reference_curves(evaluation)
        )
        figures = [Figure(name, png, f"Accuracy of {evaluation.target} by eps")]
    return Report(
        f"{evaluation.target}: report card",
        lead=headline(evaluation),
        warnings=evaluation.warnings(),
        sections=[
            Section(
                "Accuracy", tables=[_table(evaluation, reference)], figures=figures,
                notes=card_notes(evaluation, facts),
            ),
            Section("Threat models", facts=[*threats, ("all", ball)]),
            words_section([evaluation.target], [run.attack for run in evaluation.results]),
            Section("What was evaluated", facts=_facts(evaluation, facts)),
        ],
        name=name,
    )  # fmt: skip


def save_card(evaluation: Evaluation, path: str | Path, reference: Evaluation | None) -> Path:
    """Write the card of an evaluation made from Python; see `Evaluation.save_html`."""
    path = Path(path)
    if reference is not None and (
        (len(reference.clean), reference.images) != (len(evaluation.clean), evaluation.images)
    ):
        raise DivtrainError(
            f"expected a `reference` on the same {len(evaluation.clean)} images, got one on"
            f" {len(reference.clean)} others"
        )
    facts = CardFacts(
        "divtrain.evaluation.evaluate(...)",
        {"name": evaluation.target},
        {name: {} for name in evaluation.surrogates},
        {"images": f"{len(evaluation.clean)} {evaluation.split} images"},
        {**versions(), "seed of random starts": str(evaluation.seed)},
    )
    make_folder(path.parent)
    page = to_html(card_report(evaluation, facts, path.stem, reference))
    write_bytes(path, page.encode(errors="replace"))
    return path


def headline(evaluation: Evaluation) -> list[str]:
    """Return the judgement, a sentence for each radius."""
    records = evaluation.records()
    clean = _percent(records[0])
    sentences: list[str] = []
    for eps in evaluation.eps():
        here = [record for record in records if record.eps == eps]
        worst = {(r.threat, r.surrogate): r for r in here if r.attack == WORST}
        transfer = [r for (threat, _), r in worst.items() if threat == "transfer"]
        joint = worst.get(("transfer", EVERY_SURROGATE), transfer[0] if transfer else None)
        white = worst.get(("white-box", evaluation.target))
        query = [record for record in here if record.threat == "query"]
        parts = [f"At eps {eps:g} it keeps"]
        if joint is not None:
            parts.append(f"{_percent(joint)} against every copied attack,")
        if white is not None:
            parts.append(f"{_percent(white)} against an attacker with its weights,")
        if joint is None and white is None:
            parts.append(f"{_percent(query[0])} against queries," if query else "unknown,")
        sentences.append(" ".join([*parts, f"clean {clean}."]))
    return sentences


def card_notes(evaluation: Evaluation, facts: CardFacts) -> list[str]:
    """Sentences a reader must not miss: denominators, what was corrected, what is missing."""
    total, notes = len(evaluation.clean), [MEANING, NOT_PROVEN]
    if {len(result.correct) for result in evaluation.results.values()} - {total}:
        notes.append(
            f"Numbers of images are given where they are not all {total}; those were evenly chosen,"
            " and in the worst case the others count as not fooled by that attack."
        )
    for run, result in evaluation.results.items():
        violations = result.violations
        if any(vars(violations).values()):
            curve = " (curve)" if run.sweep else ""
            notes.append(
                f"{run.attack} on {run.source} at eps {run.eps:g}{curve} returned"
                f" {violations.outside_ball} images outside the ball, {violations.outside_bounds}"
                f" outside [0, 1] and {violations.not_finite} not finite; they were clipped, or the"
                " clean image taken."
            )
    if facts.quick:
        notes.append(QUICK)
    if missing := evaluation.not_asked():
        asked = "; ".join(f"{name} (needs {what})" for name, what in missing.items())
        notes.append(f"Signs that could not have fired: {asked}.")
    if not facts.surrogates:
        notes.append(NO_SURROGATE)
    if not any(run.threat == "white-box" and not run.sweep for run in evaluation.results):
        notes.append(NO_WHITE_BOX)
    return notes


def card_json(evaluation: Evaluation, facts: CardFacts) -> dict[str, Any]:
    """Return everything on the card as JSON-able values; accuracies are fractions."""

    def row(record: Record) -> dict[str, Any]:
        low, high = record.interval
        return {**asdict(record), "low": low, "high": high}

    return {
        "format": "divtrain-card-1",
        "target": evaluation.target,
        "headline": headline(evaluation),
        "facts": asdict(facts),
        "threat_models": {name: KNOWLEDGE[name] for name in THREATS},
        "norm": "Linf",
        "bounds": [0.0, 1.0],
        "records": [row(record) for record in evaluation.records()],
        "curve": [row(record) for record in evaluation.curve()],
        "runs": [
            {
                **asdict(run),
                "sha256_of_examples": result.digest,
                "violations": asdict(result.violations),
                "accuracy_of_the_surrogate": result.source,
                "rise_at_the_end": result.rise,
                "members": None
                if result.members is None
                else result.members.float().mean(1).tolist(),
            }
            for run, result in evaluation.results.items()
        ],
        "diagnosis": asdict(evaluation.diagnosis),
        "surrogates": {n: asdict(check) for n, check in evaluation.surrogates.items()},
        "chance": evaluation.chance,
        "warnings": [{**asdict(w), "anchor": w.anchor} for w in evaluation.warnings()],
        "signs_not_asked": evaluation.not_asked(),
        "notes": card_notes(evaluation, facts),
    }


def _table(evaluation: Evaluation, reference: Evaluation | None = None) -> Table:
    """An attack by an adversary in each row, a radius in each column, worst cases last."""
    clean, *attacked = evaluation.records()
    radii, total = evaluation.eps(), len(evaluation.clean)
    found: dict[tuple[Threat, str, str], dict[float, Record]] = {}
    for record in attacked:
        place = (record.threat, record.surrogate, record.attack)
        found.setdefault(place, {})[record.eps] = record
    keys = sorted(
        found, key=lambda key: (THREATS.index(key[0]), key[2] == WORST and key[0] == "white-box")
    )
    rows: list[Sequence[Entry]] = [
        (Entry(CLEAN), Entry(""), Entry(""), *[_entry(clean, total)] * len(radii), Entry(""))
    ]
    for key in keys:
        (threat, surrogate, attack), by_eps = key, found[key]
        worst = attack == WORST
        rows.append(
            (
                Entry(threat),
                Entry("" if threat in ("noise", "query") else surrogate),
                Entry("worst of all" if worst else attack_title(attack), strong=worst),
                *(_entry(by_eps.get(eps), total) for eps in radii),
                Entry(_passes(list(by_eps.values()))),
            )
        )
    rows += _reference_rows(evaluation, reference)
    header = ("threat", "crafted on", "attack", *(f"eps {eps:g}" for eps in radii), "passes")
    title = f"Accuracy on {total} {clean.split} images, percent"
    return Table(title, header, rows, names=3, extra=1)


def _reference_rows(evaluation: Evaluation, reference: Evaluation | None) -> list[Sequence[Entry]]:
    """What others keep: each surrogate under the strongest attack on itself, another target."""
    radii, rows = evaluation.eps(), list[Sequence[Entry]]()
    for name in evaluation.surrogates:
        least: dict[float, Cell] = {}
        for run, result in evaluation.results.items():
            if (run.threat, run.source, run.sweep) == ("transfer", name, False) and (
                result.source is not None
                and (run.eps not in least or result.source < least[run.eps].mean)
            ):
                images = len(result.correct)
                interval = wilson_interval(result.source * images, images)
                least[run.eps] = Cell(result.source, None, interval=interval)
        if least:
            told = "its strongest attack"
            rows.append(_reference(f"{name} itself", told, [least.get(eps) for eps in radii]))
    for threat in ("transfer", "white-box") if reference is not None else ():
        assert reference is not None
        masks = [kept_images(reference, threat, eps) for eps in radii]
        cells = [
            None if mask is None else Cell(
                mask.float().mean().item(), None,
                interval=wilson_interval(int(mask.sum()), len(mask)),
            )
            for mask in masks
        ]  # fmt: skip
        if any(cells):
            rows.append(_reference(reference.target, f"worst of all, {threat}", cells))
    return rows


def _reference(name: str, attack: str, cells: Sequence[Cell | None]) -> Sequence[Entry]:
    entries = [Entry("") if c is None else Entry(f"{c} %", c.brackets) for c in cells]
    return (Entry(REFERENCE), Entry(name), Entry(attack), *entries, Entry(""))


def _reference_curves(evaluation: Evaluation) -> dict[str, dict[float, float]]:
    """What each surrogate keeps by eps under the attack on itself, where it was looked up."""
    found: dict[str, dict[float, float]] = {}
    for run, result in evaluation.results.items():
        if run.sweep and run.threat == "transfer" and result.source is not None:
            name = f"{run.source} itself: {attack_title(run.attack)}"
            found.setdefault(name, {})[run.eps] = result.source
    return found


def _entry(record: Record | None, total: int) -> Entry:
    """One accuracy, with its interval, and its denominator where that is not all images."""
    if record is None:
        return Entry("")
    some = "" if record.images == total else f" ({record.images} images)"
    share = _cell(record)
    return Entry(f"{share} %", share.brackets + some, record.attack == WORST)


def _cell(record: Record) -> Cell:
    return Cell(record.accuracy, None, interval=record.interval)


def _percent(record: Record) -> str:
    """Accuracy in percent with Wilson's interval of 95 %, e.g. ``66.0 % [59.2, 72.2]``."""
    return f"{_cell(record)} % {_cell(record).brackets}"


def _passes(records: Sequence[Record]) -> str:
    """Passes forward + backward at each radius, e.g. ``20+20 / 9+8``."""
    counted = [f"{record.forward:.0f}+{record.backward:.0f}" for record in records]
    return " / ".join(dict.fromkeys(counted)) if any(r.forward for r in records) else ""


def _facts(evaluation: Evaluation, facts: CardFacts) -> list[tuple[str, str]]:
    """What was evaluated, as names and values."""
    pairs = [("command", facts.command), ("target", _join(facts.target))]
    for name, about in facts.surrogates.items():
        check = evaluation.surrogates.get(name)
        clean = {} if check is None else {"clean accuracy": f"{check.clean:.1%}"}
        pairs.append((f"surrogate {name}", _join({**about, **clean})))
    return [*pairs, ("data", _join(facts.data)), ("run", _join(facts.machine))]


def _join(about: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in about.items())
