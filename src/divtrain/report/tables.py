"""The table of clean and robust accuracy: for the terminal, as Markdown and as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from divtrain.evaluation import CLEAN, WORST, WarningSign
from divtrain.report.rows import THREATS, Cell, Row

TITLES = {
    CLEAN: "clean",
    "fgsm": "FGSM",
    "rfgsm": "R-FGSM",
    "ifgsm": "I-FGSM",
    "mifgsm": "MI-FGSM",
    "pgdcw": "PGD-CW",
    "pgd": "PGD",
    "apgd": "APGD",
    "apgdt": "APGD-T",
    "square": "Square",
    "noise": "noise",
    "reversed": "FGSM reversed",
    "nifgsm": "NI-FGSM",
    "difgsm": "DI-FGSM",
    "tifgsm": "TI-FGSM",
    "vmifgsm": "VMI-FGSM",
    "autoattack": "AutoAttack",
    WORST: "worst",
}

OBJECTIVES = {
    "mean_member_ce": "mean CE",
    "ce_of_mean_prob": "mean prob",
    "ce_of_mean_logit": "mean logit",
    "margin": "hinge",
    "dlr": "DLR",
    "reweighted": "reweighted",
}

BOLD = "**Bold**: the attack that leaves least."
LEGEND = (
    "Accuracy in percent over all images; eps in [0, 1] pixel units, L-infinity. *worst*: share of"
    " images right when clean and under every attack of the row; for the white-box adversary, who"
    " can transfer attacks too, also under those. *coherence*: mean over the images. Transfer"
    " robustness says nothing about white-box robustness."
)
HELD_OUT = (
    "The images were held out of the training images, to choose by: Table 2 of the paper, which is"
    " about test images, is not compared with."
)

CSV_COLUMNS = (
    "threat",
    "target",
    "surrogate",
    "eps",
    "attack",
    "accuracy_percent",
    "deviation_percent",
    "low_percent",
    "high_percent",
    "images",
    "seeds",
)


def attack_title(name: str) -> str:
    """Heading of an attack's column: ``mifgsm:ce_of_mean_logit`` is MI-FGSM (mean logit)."""
    attack, _, objective = name.partition(":")
    title = TITLES.get(attack, attack)
    return f"{title} ({OBJECTIVES.get(objective, objective)})" if objective else title


def describe(rows: Sequence[Row]) -> str:
    """One line on what the numbers of the table are over."""
    images = sorted({row.images for row in rows})
    seeds = max(row.seeds for row in rows)
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "1 seed"
    split = " or ".join(sorted({row.split for row in rows}))
    return f"{' or '.join(map(str, images))} {split} images, {spread}, L-infinity"


def legend(rows: Sequence[Row]) -> str:
    """What the numbers of the table mean."""
    return LEGEND if all(row.split == "test" for row in rows) else f"{LEGEND} {HELD_OUT}"


def terminal_table(rows: Sequence[Row], coherence: Mapping[str, float]) -> RenderableType:
    """Render the rows for a terminal, a section a threat.

    Args:
        rows: From `make_rows`.
        coherence: Mean coherence of each target on the test images; may be empty.
    """
    tables: list[RenderableType] = []
    for threat, title in THREATS.items():
        mine = [row for row in rows if row.threat == threat]
        if not mine:
            continue
        columns = columns_of(mine)
        table = Table(box=box.SIMPLE_HEAD, padding=0)
        for name in ("eps", "target", *map(attack_title, columns), "coherence"):
            table.add_column(name, justify="left" if name == "target" else "right")
        for index, row in enumerate(mine):
            cells = [_rich(row.cells.get(name)) for name in columns]
            table.add_row(
                f"{row.eps:g}", row_name(row, mine), *cells, _coherence(coherence, row.target),
                end_section=index + 1 < len(mine) and mine[index + 1].eps != row.eps,
            )  # fmt: skip
        tables += [Text(title, style="italic"), table]
    return Group(*tables)


def markdown_table(
    rows: Sequence[Row], coherence: Mapping[str, float], warnings: Sequence[WarningSign]
) -> str:
    """Render the rows as Markdown, with the legend and the warning signs below."""
    lines: list[str] = []
    for threat, title in THREATS.items():
        mine = [row for row in rows if row.threat == threat]
        if not mine:
            continue
        columns = columns_of(mine)
        names = ["eps", "target", *map(attack_title, columns), "coherence"]
        lines += [f"**{title}** ({describe(mine)})", "", _line(names)]
        lines.append(_line(["---:" if name != "target" else "---" for name in names]))
        for row in mine:
            cells = [_markdown(row.cells.get(name)) for name in columns]
            lines.append(
                _line(
                    [f"{row.eps:g}", row_name(row, mine), *cells, _coherence(coherence, row.target)]
                )
            )
        lines.append("")
    lines += [f"{legend(rows)} {BOLD}", ""]
    if warnings:
        lines += ["Warning signs:", "", *(f"- `{w.name}` {w.sentence}" for w in warnings), ""]
    return "\n".join(lines)


def csv_table(rows: Sequence[Row]) -> str:
    """Render one line an accuracy, in percent, with Wilson's interval or a deviation.

    One seed has an interval of 95 % and no deviation, several have a deviation and no interval.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in rows:
        for name, cell in row.cells.items():
            deviation = "" if cell.deviation is None else f"{100 * cell.deviation:.4f}"
            mean = f"{100 * cell.mean:.4f}"
            ends = [f"{100 * end:.4f}" for end in cell.interval or ()] or ["", ""]
            writer.writerow(
                [
                    row.threat,
                    row.target,
                    row.surrogate,
                    f"{row.eps:g}",
                    name,
                    mean,
                    deviation,
                    *ends,
                    row.images,
                    row.seeds,
                ]
            )
    return out.getvalue()


def row_name(row: Row, rows: Sequence[Row]) -> str:
    """The target; with its surrogate where the table has several for one target."""
    several = len({other.surrogate for other in rows if other.target == row.target}) > 1
    return f"{row.target} (from {row.surrogate})" if several else row.target


def columns_of(rows: Sequence[Row]) -> list[str]:
    """Attacks of some rows, clean first and the worst case last."""
    names = list(dict.fromkeys(name for row in rows for name in row.cells))
    return sorted(names, key=lambda name: name == WORST)


def _rich(cell: Cell | None) -> Text:
    return Text("") if cell is None else Text(str(cell), style="bold" if cell.strongest else "")


def _markdown(cell: Cell | None) -> str:
    if cell is None:
        return ""
    return f"**{cell}**" if cell.strongest else str(cell)


def _coherence(coherence: Mapping[str, float], target: str) -> str:
    return f"{coherence[target]:.2f}" if target in coherence else ""


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
