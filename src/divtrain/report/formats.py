"""The numbers of a run for papers and programs: LaTeX, CSV, JSON."""

import json
from collections.abc import Callable, Mapping, Sequence

from divtrain.attacks import attack_title
from divtrain.evaluation import CLEAN, WORST
from divtrain.report.output import to_csv
from divtrain.report.rows import THREATS, Row, columns_of, describe
from divtrain.report.sections.accuracy import accuracy_data

COLUMNS = {
    "threat": "what the attacker has: transfer (copied attacks), white-box (direct), query, noise",
    "target": "the defence attacked",
    "surrogate": "what the attack was made on",
    "eps": "largest change of a pixel, pixels in [0, 1]",
    "attack": "name of the attack; clean: none; worst: all of the row, image by image",
    "accuracy_percent": "images that stay right, mean over the seeds",
    "deviation_percent": "standard deviation over the seeds (other trainings); empty for one seed",
    "low_percent": "lower end of the 95 % interval for other test images (Wilson's)",
    "high_percent": "upper end of it",
    "images": "images in the denominator: all of them, right or wrong when clean",
    "seeds": "seeds averaged over",
    "split": "which images: test, or held out of the training images",
    "coherence": "largest cosine between two members' input gradients, mean over images and seeds",
}
"""The columns of `table.csv`, and of ``divtrain report RUN --format csv | json``."""


def to_latex(rows: Sequence[Row], coherence: Mapping[str, float], title: str) -> str:
    r"""Return a table for each adversary, for the package booktabs.

    Bold: the best target of each column at each eps. Underlined: the strongest attack of each row,
    which leaves least. ± is the standard deviation over the seeds.

    Args:
        rows: From `make_rows`.
        coherence: Mean coherence by target; may be empty.
        title: Name of the experiment.
    """
    parts = [
        "% \\usepackage{booktabs}",
        *(f"% {line}" for line in (
            "Percent of images that stay right; bold: best target of the column at that eps;",
            "underlined: strongest attack of the row; mean and standard deviation over the seeds.",
        )),
    ]  # fmt: skip
    for threat in THREATS:
        for source in dict.fromkeys(r.surrogate for r in rows if r.threat == threat):
            mine = [r for r in rows if (r.threat, r.surrogate) == (threat, source)]
            alike = threat != "transfer" and source in {r.target for r in mine}
            if alike:  # each target is its own source
                mine = [r for r in rows if r.threat == threat and r.surrogate == r.target]
                if source != mine[0].surrogate:
                    continue
            where = "" if alike else f", made on {source}"
            parts += _table(mine, coherence, f"{title}, {threat}{where}: {describe(mine)}")
    return "\n".join(parts) + "\n"


def _table(rows: Sequence[Row], coherence: Mapping[str, float], caption: str) -> list[str]:
    columns = columns_of(rows)
    known = any(row.target in coherence for row in rows)
    heads = ["$\\epsilon$", "target", *(_text(attack_title(name)) for name in columns)]
    heads += ["coherence"] if known else []
    lines = [
        "\\begin{table}", "\\centering", f"\\caption{{{_text(caption)}}}",
        f"\\begin{{tabular}}{{ll{'r' * (len(heads) - 2)}}}", "\\toprule",
        " & ".join(heads) + " \\\\",
    ]  # fmt: skip
    for eps in dict.fromkeys(row.eps for row in rows):
        lines.append("\\midrule")
        here = [row for row in rows if row.eps == eps]
        best = {
            name: max(round(100 * r.cells[name].mean, 1) for r in here if name in r.cells)
            for name in columns
            if any(name in r.cells for r in here)
        }
        for row in here:
            cells = [_cell(row, name, best, len(here) > 1) for name in columns]
            if known:
                cells.append(f"{coherence[row.target]:.2f}" if row.target in coherence else "")
            lines.append(" & ".join([f"{eps:g}", _text(row.target), *cells]) + " \\\\")
    return [*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}"]


def _cell(row: Row, name: str, best: Mapping[str, float], several: bool) -> str:
    cell = row.cells.get(name)
    if cell is None:
        return ""
    number = f"{100 * cell.mean:.1f}"
    if several and float(number) == best[name]:
        number = f"\\textbf{{{number}}}"
    if cell.strongest and name not in (CLEAN, WORST):
        number = f"\\underline{{{number}}}"
    spread = "" if cell.deviation is None else f" $\\pm$ {100 * cell.deviation:.1f}"
    return number + spread


def _text(text: str) -> str:
    r"""Text that LaTeX shows as it is.

    >>> _text("a_b 5% & #1")
    'a\\_b 5\\% \\& \\#1'
    """
    special = {c: f"\\{c}" for c in "_%&#${}"}
    special |= {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
                "±": "$\\pm$"}  # fmt: skip
    return "".join(special.get(character, character) for character in text)


def _csv(rows: Sequence[Row], coherence: Mapping[str, float], title: str) -> str:
    del title
    return to_csv(accuracy_data(rows, coherence))


def _json(rows: Sequence[Row], coherence: Mapping[str, float], title: str) -> str:
    found = {"title": title, "columns": COLUMNS, "rows": accuracy_data(rows, coherence)}
    return json.dumps(found, indent=1) + "\n"


FORMATS: dict[str, Callable[[Sequence[Row], Mapping[str, float], str], str]] = {
    "latex": to_latex, "csv": _csv, "json": _json,
}  # fmt: skip
"""How to write the accuracies of a run, by the name of the format."""
