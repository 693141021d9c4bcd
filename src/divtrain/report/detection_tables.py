"""Section 6 as tables: AUROC and false alarms of each score, for the page, Markdown and CSV."""

import csv
import io
import statistics
from collections.abc import Callable, Sequence

from divtrain.analysis import Detection
from divtrain.analysis.detection import TITLES
from divtrain.report.detection import ALL, DetectionRow
from divtrain.report.grid import Entry, Grid, grid_markdown

DETECTION_LEGEND = (
    "*1 - max softmax*: of the members' mean softmax. *disagreement*: Jensen-Shannon divergence of"
    " the members' answers. *incoherence*: minus the coherence of their input gradients towards the"
    " ensemble's answer. Negatives are clean images, right or wrong. *all*: every adversarial"
    " example; *fooling*: those that the target gets wrong where it gets the clean image right,"
    " other ones for each target. Intervals take inputs to be independent. No attack here knows of"
    " the detector: an attacker who does can lower the score as well."
)
FALSE_ALARMS = (
    "False alarms: percent of clean images flagged at the threshold that flags 95 % of the unusual"
    " inputs"
)

CSV_COLUMNS = (
    "threat",
    "inputs",
    "eps",
    "which",
    "target",
    "trained_on_this_kind",
    "score",
    "seed",
    "auroc_percent",
    "low_percent",
    "high_percent",
    "fpr95_percent",
    "positives",
    "negatives",
)


def detection_grids(rows: Sequence[DetectionRow]) -> list[Grid]:
    """Return a table of AUROC and one of false alarms; single attacks stand in the CSV only."""
    shown = [row for row in rows if row.kind.threat == "outside" or row.kind.name == ALL]
    seeds = max(row.seeds for row in rows)
    over = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "95 % intervals"
    header = ("inputs", "which", "target", "inputs / clean", *TITLES.values())
    return [
        Grid(title, header, tuple(_entries(row, cell) for row in shown), names=3)
        for title, cell in (
            (f"AUROC in percent ({over}; 50 is chance)", _auroc),
            (FALSE_ALARMS, _fpr),
        )
    ]


def detection_notes(rows: Sequence[DetectionRow]) -> list[str]:
    """Return what is to be said below the tables."""
    known = "†: the target was trained on inputs of this kind (other images)."
    return [*([known] if any(row.known for row in rows) else []), DETECTION_LEGEND]


def detection_markdown(rows: Sequence[DetectionRow]) -> str:
    """Render the tables as Markdown, with what they mean."""
    return "\n".join([grid_markdown(detection_grids(rows)), "\n\n".join(detection_notes(rows)), ""])


def detection_csv(rows: Sequence[DetectionRow]) -> str:
    """Render one line for each seed, kind of inputs, target and score."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in rows:
        about = [row.kind.threat, row.kind.name, f"{row.kind.eps:g}", row.which, row.target]
        for score, found in row.found.items():
            for seed, each in found.items():
                shares = (each.auroc, *each.interval, each.fpr95)
                numbers = [*(f"{100 * s:.3f}" for s in shares), each.positives, each.negatives]
                writer.writerow([*about, "yes" if row.known else "no", score, seed, *numbers])
    return out.getvalue()


def _entries(
    row: DetectionRow, cell: Callable[[Sequence[Detection], int], Entry]
) -> tuple[Entry, ...]:
    numbers = (cell(list(row.found[score].values()), row.seeds) for score in TITLES)
    names = (_inputs(row), row.which, row.target, _counts(row))
    return (*map(Entry, names), *numbers)


def _inputs(row: DetectionRow) -> str:
    return f"{row.inputs} †" if row.known else row.inputs


def _counts(row: DetectionRow) -> str:
    """Positives and negatives, over all seeds."""
    found = row.found["disagreement"].values()
    if not found:
        return "0"
    return f"{sum(d.positives for d in found)} / {sum(d.negatives for d in found)}"


def _auroc(found: Sequence[Detection], seeds: int) -> Entry:
    if len(found) == seeds == 1:
        low, high = found[0].interval
        return Entry(f"{100 * found[0].auroc:.1f}", f"[{100 * low:.1f}, {100 * high:.1f}]")
    return _spread([each.auroc for each in found], seeds)


def _fpr(found: Sequence[Detection], seeds: int) -> Entry:
    return _spread([each.fpr95 for each in found], seeds)


def _spread(values: Sequence[float], seeds: int) -> Entry:
    if not values:
        return Entry("")
    mean = f"{100 * statistics.mean(values):.1f}"
    more = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return Entry(
        f"{mean}{more}", "" if len(values) == seeds else f"({len(values)} of {seeds} seeds)"
    )
