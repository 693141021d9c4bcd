"""The reports of a run and of a sweep: everything their targets went through, part by part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from divtrain.evaluation import KNOWLEDGE, Evaluation, Threat, WarningSign
from divtrain.report.headline import run_headline
from divtrain.report.report import Notice, Report, Section
from divtrain.report.rows import THREATS, Row, describe, main_rows, make_rows
from divtrain.report.sections.ablation import ablation_section
from divtrain.report.sections.accuracy import accuracy_section
from divtrain.report.sections.defences import Price, defences_section
from divtrain.report.sections.settings import Setting, settings_section
from divtrain.report.sections.surrogates import surrogates_section
from divtrain.report.sections.table2 import compare, table2_section
from divtrain.report.sections.trade_off import trade_off_section
from divtrain.report.sections.training import training_section
from divtrain.report.sweep import SLOPE, Histories, Zeros, sweep_points
from divtrain.report.transfer import compare_surrogates
from divtrain.report.words import words_section


@dataclass(frozen=True)
class RunFacts:
    """What a run or a sweep was.

    Attributes:
        title: Name of the experiment.
        about: What it is, in a sentence; may be empty.
        group: Group of Table 2 it is compared with; empty for none.
        reduced: Where it differs from the paper's experiment, in words.
        command: What it comes from; empty where nobody knows.
        machine: Versions, platform, time.
        settings: Every option with its value.
        seeds: Seeds of the experiment.
    """

    title: str
    about: str = ""
    group: str = ""
    reduced: Sequence[str] = ()
    command: str = ""
    machine: Mapping[str, str] = field(default_factory=dict)
    settings: Sequence[Setting] = ()
    seeds: Sequence[int] = ()


def run_report(
    facts: RunFacts,
    evaluations: Sequence[Evaluation] = (),
    coherence: Mapping[str, float] | None = None,
    analyses: Sequence[Section] = (),
    histories: Histories | None = None,
    prices: Mapping[str, Price] | None = None,
) -> Report:
    """Report what a run measured; what it did not measure is left out.

    Args:
        facts: What the run was.
        evaluations: Of each target and seed.
        coherence: Mean coherence by target, which stands beside the accuracies.
        analyses: A section for each analysis that was made.
        histories: What training logged of each target, for each seed.
        prices: What training each target costs.
    """
    title = facts.title
    rows = make_rows([record for each in evaluations for record in each.records()])
    sections: list[Section] = []
    if rows:
        sections.append(accuracy_section(rows, coherence or {}, title))
    if found := compare_surrogates(evaluations):
        known = evaluations, prices or {}, histories or {}, coherence or {}
        sections.insert(0, defences_section(rows, *known))
        sections.append(surrogates_section(found, title))
    if facts.group and rows and rows[0].split == "test":
        sections.append(table2_section(facts.group, compare(facts.group, main_rows(rows))))
    cautions = [*_threats(rows), *_reduced(facts)]
    warnings = _warnings(evaluations) if rows else None
    if (curves := training_section(histories or {}, title)) is not None:
        analyses = [*analyses, curves]
    lead = [*run_headline(rows, evaluations), *_lead(facts, rows)]
    return Report(f"{title}: report", lead, cautions, warnings,
                  [*sections, *analyses, *_folded(facts, rows), _again(facts)])  # fmt: skip


def sweep_report(
    facts: RunFacts,
    evaluations: Sequence[Evaluation],
    swept: Mapping[str, tuple[str, Mapping[str, float]]],
    coherence: Mapping[str, float] | None = None,
    zeros: Zeros | None = None,
    histories: Histories | None = None,
) -> Report:
    """Report what a sweep measured; one over the slope has the ablation of section 3.4.

    Args:
        facts: What the sweep was.
        evaluations: Of each target and seed; those of targets not swept are left out.
        swept: Defence and values of each target, in the order to show them.
        coherence: Mean coherence by target.
        zeros: How sparse the input gradients of each target are, for each seed.
        histories: What training logged of each target, for each seed.
    """
    title, zeros = facts.title, zeros or {}
    shown = [each for each in evaluations if each.target in swept]
    rows = make_rows([record for each in shown for record in each.records()])
    points, means = sweep_points(rows, swept), coherence or {}
    sections = [trade_off_section(points, means, zeros, title)]
    if any(SLOPE in point.values for point in points):
        sections.append(ablation_section(points, means, zeros, histories or {}, title))
    cautions = [*_threats(rows), *_reduced(facts)]
    return Report(f"{title}: sweep", _lead(facts, rows), cautions, _warnings(shown),
                  [*sections, *_folded(facts, rows), _again(facts)])  # fmt: skip


def _lead(facts: RunFacts, rows: Sequence[Row]) -> list[str]:
    first, *more = facts.seeds or [0]
    seeds = f"Seeds {first} to {more[-1]}." if more else f"Seed {first}." if facts.seeds else ""
    over = f"{describe(rows)}." if rows else ""
    numbers = " ".join(part for part in (over, seeds) if part)
    return [line for line in (facts.about and f"Preset: {facts.about}", numbers) if line]


def _threats(rows: Sequence[Row]) -> list[Notice]:
    """Say who the adversaries are."""
    threats: list[Threat] = [each for each in THREATS if any(row.threat == each for row in rows)]
    if "transfer" not in threats:
        return []
    beside = "; the white-box rows are about that" if "white-box" in threats else ""
    return [
        Notice(
            "threat",
            "Transfer threat model.",
            "The main numbers are about an attacker who knows the data and the method and trains"
            " other models to make attacks on, but never sees the target's weights or answers. They"
            f" say nothing about an attacker who has the weights{beside}.",
            [(threat, f"knows {KNOWLEDGE[threat]}") for threat in threats],
        )
    ]


def _reduced(facts: RunFacts) -> list[Notice]:
    """Say how the run differs from the paper's."""
    if facts.reduced:
        title = "Not the paper's experiment in full."
        sentence = "What is different here; the paper's numbers are not to be expected:"
        return [Notice("reduced", title, sentence, [("", line) for line in facts.reduced])]
    if facts.group:
        return []
    title = "Not an experiment of the paper:"
    changed = [
        ("", f"{each.option} {each.value}, not {each.preset}")
        for each in facts.settings
        if each.value != each.preset and each.changes
    ]
    sentence = "there is no published number to compare with."
    return [
        Notice("reduced", title, f"{sentence}{' Changed from the preset:' if changed else ''}",
               changed)
    ]  # fmt: skip


def _warnings(evaluations: Sequence[Evaluation]) -> list[WarningSign]:
    """The warning signs of all evaluations, each with its seed where there are several."""
    several = len({each.seed for each in evaluations}) > 1
    return [
        replace(sign, sentence=f"seed {each.seed}: {sign.sentence}") if several else sign
        for each in evaluations
        for sign in each.warnings()
    ]


def _folded(facts: RunFacts, rows: Sequence[Row]) -> list[Section]:
    """The words and the settings, to be opened by who asks."""
    targets = [row.target.partition(" ")[0] for row in rows]  # a sweep's have values behind
    words = [words_section(targets, [name for row in rows for name in row.cells])] if rows else []
    return [*words, *([settings_section(facts.settings)] if facts.settings else [])]


def _again(facts: RunFacts) -> Section:
    command = [("command", facts.command)] if facts.command else []
    return Section("Run it again", facts=[*command, *facts.machine.items()])
