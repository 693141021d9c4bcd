"""Detection (section 6): AUROC and false alarms of each score, ROC curves."""

import statistics
from collections.abc import Sequence

import numpy as np

from divtrain.analysis import roc_curve
from divtrain.analysis.detection import TITLES
from divtrain.report.canvas import colour_of, label_axis, legend_below, panels, to_png
from divtrain.report.detection import (
    ALL,
    DetectionRow,
    Scored,
    clean_scores,
    detection_rows,
    title_of,
    unusual_kinds,
    with_pooled,
)
from divtrain.report.output import percents
from divtrain.report.report import CsvRow, Entry, Figure, Section, Table
from divtrain.report.rows import one_or_other, over_seeds

KNOWN = "†: the target was trained on inputs of this kind (other images)."
NOTE = (
    "1 - max softmax: of the members' mean softmax. Disagreement: Jensen-Shannon divergence of the"
    " members' answers. Incoherence: minus the coherence of their input gradients towards the"
    " ensemble's answer. Negatives are clean images, right or wrong. All: every adversarial"
    " example, of all attacks; fooling: those that the target gets wrong where it gets the clean"
    " image right, other ones for each target. Intervals take inputs to be independent. No attack"
    " here knows of the detector: an attacker who does can lower the score as well."
)
FALSE_ALARMS = (
    "False alarms: percent of clean images flagged at the threshold that flags 95 % of the unusual"
    " inputs"
)
LINES = {"max_softmax": "--", "disagreement": "-", "incoherence": ":"}
GRID = np.linspace(0, 1, 201)
"""False positive rates at which curves of several seeds are averaged."""


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
    auroc = f"AUROC in percent ({over}; 50 is chance)"
    tables = [
        Table(name, header, [_entries(row, number) for row in shown], names=3)
        for name, number in ((auroc, "auroc"), (FALSE_ALARMS, "fpr95"))
    ]
    notes = [KNOWN, NOTE] if any(row.known for row in rows) else [NOTE]
    alt = "ROC curves of the scores, for each kind of unusual inputs"
    figure = Figure("detection", detection_figure(scored, title), alt)
    return Section(
        "Detection (section 6)", tables=tables, figures=[figure], notes=notes,
        data={"detection.csv": _data(rows)},
    )  # fmt: skip


def detection_figure(scored: Sequence[Scored], title: str) -> bytes:
    """Draw ROC curves, a panel for each kind of inputs, the attacks of one eps together, as PNG.

    Every target's disagreement; the softmax of base, or the first; the incoherence of detector, or
    the last. Of several seeds the mean true positive rate.
    """
    clean = clean_scores(scored)
    pooled = [s for s in with_pooled(scored) if s.kind.name == ALL or s.kind.threat == "outside"]
    kinds = unusual_kinds(pooled)
    targets = list(dict.fromkeys(each.target for each in scored))
    baseline = "base" if "base" in targets else targets[0]
    ours = "detector" if "detector" in targets else targets[-1]
    lines = [(baseline, "max_softmax"), *((target, "disagreement") for target in targets)]
    lines.append((ours, "incoherence"))
    down = -(-len(kinds) // 4)
    across = -(-len(kinds) // down)
    figure, axes = panels(2.5 * across + 0.4, 2.6 * down + 0.9, across, down)
    for axis, kind in zip(axes.flat, kinds, strict=False):
        for target, score in lines:
            rates = [
                np.interp(GRID, *roc_curve(each.scores[score], clean[target, each.seed][score]))
                for each in pooled
                if (each.kind, each.target) == (kind, target)
            ]
            if rates:
                axis.plot(GRID, np.mean(rates, 0), LINES[score], linewidth=1.3,
                          color=colour_of(target, targets),
                          label=f"{target}: {TITLES[score]}")  # fmt: skip
        axis.plot([0, 1], [0, 1], color="#BBBBBB", linewidth=0.7, zorder=0)
        known = any(each.known for each in pooled if each.kind == kind)
        note = "\n(detector trained on this kind)" if known else ""
        label_axis(axis, title_of(kind) + note, "share of clean images flagged")
    for axis in axes.flat[len(kinds) :]:
        axis.set_visible(False)
    for line in axes:
        line[0].set_ylabel("share of these inputs flagged", fontsize=8)
    legend_below(figure, axes.flat, 3)
    images = one_or_other(len(scores["disagreement"]) for scores in clean.values())
    seeds = len({each.seed for each in scored})
    over = f"{images} clean images{f', mean of {seeds} seeds' if seeds > 1 else ''}"
    return to_png(figure, f"{title}: detection ({over}; all attacks together)")


def _entries(row: DetectionRow, number: str) -> Sequence[Entry]:
    """Names, counts and a number (a field of `Detection`) of each score."""
    found = row.found["disagreement"].values()
    positives, negatives = sum(d.positives for d in found), sum(d.negatives for d in found)
    counts = f"{positives} / {negatives}" if found else "0"
    name = title_of(row.kind) + (" †" if row.known else "")
    entries = [Entry(each) for each in (name, row.which, row.target, counts)]
    for seeds in row.found.values():
        values = [getattr(each, number) for each in seeds.values()]
        notes = [f"± {100 * statistics.stdev(values):.1f}"] if len(values) > 1 else []
        if values and len(values) < row.seeds:
            notes.append(f"({len(values)} of {row.seeds} seeds)")
        elif number == "auroc" and row.seeds == 1 and values:
            low, high = next(iter(seeds.values())).interval
            notes.append(f"[{100 * low:.1f}, {100 * high:.1f}]")
        text = f"{100 * statistics.mean(values):.1f}" if values else ""
        entries.append(Entry(text, " ".join(notes)))
    return entries


def _data(rows: Sequence[DetectionRow]) -> list[CsvRow]:
    """One line for each kind of inputs, target, score and seed."""
    names = ("auroc_percent", "low_percent", "high_percent", "fpr95_percent")
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
            **percents(names, (each.auroc, *each.interval, each.fpr95), 3),
            "positives": each.positives,
            "negatives": each.negatives,
        }
        for row in rows
        for score, found in row.found.items()
        for seed, each in found.items()
    ]
