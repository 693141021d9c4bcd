"""Detection (section 6): AUROC and false alarms of each score."""

import statistics
from collections.abc import Callable, Sequence

from divtrain.analysis import Detection
from divtrain.analysis.detection import TITLES
from divtrain.report.detection import ALL, DetectionRow, Scored, detection_rows
from divtrain.report.figures.roc import detection_figure
from divtrain.report.output import percent
from divtrain.report.report import CsvRow, Entry, Figure, Section, Table
from divtrain.report.rows import over_seeds

KNOWN = "†: the target was trained on inputs of this kind (other images)."
NOTE = (
    "1 - max softmax: of the members' mean softmax. Disagreement: Jensen-Shannon divergence of the"
    " members' answers. Incoherence: minus the coherence of their input gradients towards the"
    " ensemble's answer. Negatives are clean images, right or wrong. All: every adversarial"
    " example; fooling: those that the target gets wrong where it gets the clean image right, other"
    " ones for each target. Intervals take inputs to be independent. No attack here knows of the"
    " detector: an attacker who does can lower the score as well."
)
FALSE_ALARMS = (
    "False alarms: percent of clean images flagged at the threshold that flags 95 % of the unusual"
    " inputs"
)


def detection_section(scored: Sequence[Scored], title: str) -> Section:
    """Return a table of AUROC and one of false alarms; single attacks stand in the CSV only.

    Args:
        scored: Of all targets and seeds, clean inputs among them.
        title: Name of the experiment.
    """
    rows = detection_rows(scored)
    shown = [row for row in rows if row.kind.threat == "outside" or row.kind.name == ALL]
    seeds = max(row.seeds for row in rows)
    over = over_seeds(seeds) if seeds > 1 else "95 % intervals"
    header = ("inputs", "which", "target", "inputs / clean", *TITLES.values())
    tables = [
        Table(name, header, [_entries(row, entry) for row in shown], names=3)
        for name, entry in (
            (f"AUROC in percent ({over}; 50 is chance)", _auroc),
            (FALSE_ALARMS, _false_alarms),
        )
    ]
    notes = [KNOWN, NOTE] if any(row.known for row in rows) else [NOTE]
    alt = "ROC curves of the scores, for each kind of unusual inputs"
    figure = Figure("detection", detection_figure(scored, title), alt)
    return Section(
        "Detection (section 6)", tables=tables, figures=[figure], notes=notes,
        data={"detection.csv": _data(rows)},
    )  # fmt: skip


def _entries(
    row: DetectionRow, entry: Callable[[Sequence[Detection], int], Entry]
) -> Sequence[Entry]:
    found = row.found["disagreement"].values()
    positives, negatives = sum(d.positives for d in found), sum(d.negatives for d in found)
    counts = f"{positives} / {negatives}" if found else "0"
    names = (f"{row.inputs} †" if row.known else row.inputs, row.which, row.target, counts)
    numbers = (entry(list(row.found[score].values()), row.seeds) for score in TITLES)
    return (*map(Entry, names), *numbers)


def _auroc(found: Sequence[Detection], seeds: int) -> Entry:
    if len(found) == seeds == 1:
        low, high = found[0].interval
        return Entry(f"{100 * found[0].auroc:.1f}", f"[{100 * low:.1f}, {100 * high:.1f}]")
    return _mean([each.auroc for each in found], seeds)


def _false_alarms(found: Sequence[Detection], seeds: int) -> Entry:
    return _mean([each.fpr95 for each in found], seeds)


def _mean(values: Sequence[float], seeds: int) -> Entry:
    if not values:
        return Entry("")
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    some = "" if len(values) == seeds else f"({len(values)} of {seeds} seeds)"
    return Entry(f"{100 * statistics.mean(values):.1f}{spread}", some)


def _data(rows: Sequence[DetectionRow]) -> list[CsvRow]:
    """One line for each kind of inputs, target, score and seed."""
    return [
        {
            "threat": row.kind.threat,
            "inputs": row.kind.name,
            "eps": f"{row.kind.eps:g}",
            "which": row.which,
            "target": row.target,
            "trained_on_this_kind": "yes" if row.known else "no",
            "score": score,
            "seed": seed,
            "auroc_percent": percent(each.auroc, 3),
            "low_percent": percent(each.interval[0], 3),
            "high_percent": percent(each.interval[1], 3),
            "fpr95_percent": percent(each.fpr95, 3),
            "positives": each.positives,
            "negatives": each.negatives,
        }
        for row in rows
        for score, found in row.found.items()
        for seed, each in found.items()
    ]
