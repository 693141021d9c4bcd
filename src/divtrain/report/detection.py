"""Section 6 as tables and a figure: how well scores tell unusual inputs from clean ones."""

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from divtrain.analysis import Detection, InputKind, detect, roc_curve
from divtrain.analysis.detection import TITLES
from divtrain.report.drawing import colour_of, new_figure, to_png
from divtrain.report.tables import attack_title

ALL = "all attacks"
"""Name of the pseudo-attack that puts the examples of all attacks together."""

Which = Literal["all", "fooling"]

LEGEND = (
    "*1 - max softmax*: of the members' mean softmax. *disagreement*: Jensen-Shannon divergence of"
    " the members' answers. *incoherence*: minus the coherence of their input gradients towards the"
    " ensemble's answer. Negatives are clean test images, right or wrong. *all*: every adversarial"
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
    unusual = [each for each in _with_pooled(scored) if each.kind.threat != "clean"]
    targets = list(dict.fromkeys(each.target for each in scored))
    rows: list[DetectionRow] = []
    for kind in sorted(dict.fromkeys(each.kind for each in unusual), key=_order):
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
                known = any(each.trained_outside == kind.name for each in mine)
                known = known and kind.threat == "outside"
                if mine:
                    rows.append(DetectionRow(kind, which, target, known, found, len(mine)))
    return rows


def _order(kind: InputKind) -> tuple[int, float, bool]:
    """Kinds in order; those that this does not tell apart keep theirs."""
    threats = ("clean", "outside", "transfer", "white-box")
    return threats.index(kind.threat), kind.eps, kind.name != ALL


def _with_pooled(scored: Sequence[Scored]) -> list[Scored]:
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


def detection_markdown(rows: Sequence[DetectionRow]) -> str:
    """Render AUROC, then false alarms, as Markdown; single attacks stand in the CSV only."""
    shown = [row for row in rows if row.kind.threat == "outside" or row.kind.name == ALL]
    seeds = max(row.seeds for row in rows)
    over = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "95 % intervals"
    head = ["inputs", "which", "target", "inputs / clean", *TITLES.values()]
    marks = ["---", "---", "---", "---:", *["---:"] * len(TITLES)]
    lines: list[str] = []
    for title, cell in (
        (f"AUROC in percent ({over}; 50 is chance)", _auroc),
        (FALSE_ALARMS, _fpr),
    ):
        lines += [f"**{title}**", "", _line(head), _line(marks)]
        lines += [
            _line([_inputs(row), row.which, row.target, _counts(row),
                   *(cell(list(row.found[score].values())) for score in TITLES)])
            for row in shown
        ]  # fmt: skip
        lines.append("")
    if any(row.known for row in shown):
        lines += ["†: the target was trained on inputs of this kind (other images).", ""]
    return "\n".join([*lines, LEGEND, ""])


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


GRID = torch.linspace(0, 1, 201, dtype=torch.float64)
"""False positive rates at which curves of several seeds are averaged."""


def detection_figure(scored: Sequence[Scored], title: str) -> bytes:
    """Draw ROC curves, a panel a kind of inputs, the attacks of one eps together, as PNG bytes.

    Every target's disagreement; the softmax of base, or the first; the incoherence of detector, or
    the last. Of several seeds the mean true positive rate.
    """
    clean = {(s.target, s.seed): s for s in scored if s.kind.threat == "clean"}
    pooled = [s for s in _with_pooled(scored) if s.kind.name == ALL or s.kind.threat == "outside"]
    kinds = sorted(dict.fromkeys(each.kind for each in pooled), key=_order)
    targets = list(dict.fromkeys(each.target for each in scored))
    baseline = "base" if "base" in targets else targets[0]
    ours = "detector" if "detector" in targets else targets[-1]
    lines = [(baseline, "max_softmax"), *((target, "disagreement") for target in targets)]
    lines.append((ours, "incoherence"))
    styles = {"max_softmax": "--", "disagreement": "-", "incoherence": ":"}
    down = -(-len(kinds) // 4)
    across = -(-len(kinds) // down)
    figure = new_figure(2.5 * across + 0.4, 2.6 * down + 0.9)
    axes = figure.subplots(down, across, squeeze=False, sharey=True)
    for axis, kind in zip(axes.flat, kinds, strict=False):
        for target, score in lines:
            mine = [each for each in pooled if (each.kind, each.target) == (kind, target)]
            curves = [
                _on_grid(*roc_curve(each.scores[score], clean[target, each.seed].scores[score]))
                for each in mine
            ]
            axis.plot(GRID, torch.stack(curves).mean(0), styles[score], linewidth=1.3,
                      color=colour_of(target, targets),
                      label=f"{target}: {TITLES[score]}")  # fmt: skip
        axis.plot([0, 1], [0, 1], color="#BBBBBB", linewidth=0.7, zorder=0)
        known = any(each.trained_outside == kind.name for each in pooled if each.kind == kind)
        note = "\n(detector trained on this kind)" if known else ""
        name = (
            short_name(kind.name)
            if kind.threat == "outside"
            else f"{kind.threat}, eps {kind.eps:g}"
        )
        axis.set_title(name + note, fontsize=8, loc="left")
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("share of clean images flagged", fontsize=7)
    for axis in axes.flat[len(kinds) :]:
        axis.set_visible(False)
    for line in axes:
        line[0].set_ylabel("share of these inputs flagged", fontsize=7)
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    images = sorted({len(each.scores["disagreement"]) for each in clean.values()})
    over = f"{' or '.join(map(str, images))} clean images"
    seeds = len({each.seed for each in scored})
    over += f", mean of {seeds} seeds" if seeds > 1 else ""
    figure.suptitle(f"{title}: detection ({over}; all attacks together)", fontsize=10)
    return to_png(figure)


def _on_grid(false: Tensor, true: Tensor) -> Tensor:
    """The curve's true positive rate at each rate of `GRID`, straight between its points."""
    after = torch.searchsorted(false, GRID, right=True).clamp(1, len(false) - 1)
    low, high = false[after - 1], false[after]
    share = torch.where(high > low, (GRID - low) / (high - low).clamp_min(1e-300), 1.0)
    return true[after - 1] + share.clamp(0, 1) * (true[after] - true[after - 1])


def short_name(name: str) -> str:
    """Name of what is outside, without the folders of a path."""
    return Path(name).name


def _inputs(row: DetectionRow) -> str:
    return f"{row.inputs} †" if row.known else row.inputs


def _counts(row: DetectionRow) -> str:
    """Positives and negatives, over all seeds."""
    found = row.found["disagreement"].values()
    if not found:
        return "0"
    return f"{sum(d.positives for d in found)} / {sum(d.negatives for d in found)}"


def _auroc(found: Sequence[Detection]) -> str:
    if len(found) == 1:
        low, high = found[0].interval
        return f"{100 * found[0].auroc:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    return _spread([each.auroc for each in found])


def _fpr(found: Sequence[Detection]) -> str:
    return _spread([each.fpr95 for each in found])


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
