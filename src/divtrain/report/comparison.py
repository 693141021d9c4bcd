"""Table 2 as published and as measured, for the terminal, as Markdown and as CSV."""

import csv
import io
from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from divtrain.evaluation import CLEAN
from divtrain.report.published import Claim, Comparison
from divtrain.report.tables import attack_title

LEGEND = (
    "measured / published, in percent; the attacks' transfer from a base surrogate of the same"
    " architecture (arXiv 1901.09981, Table 2). A cell that was not measured holds the published"
    " number alone."
)


def comparison_terminal(
    group: str,
    comparisons: Sequence[Comparison],
    claims: Sequence[Claim],
    reduced: Sequence[str] = (),
) -> RenderableType:
    """Render Table 2's group beside what was measured for a terminal.

    Args:
        group: The group's name.
        comparisons: Its cells.
        claims: The paper's claims, counted over them.
        reduced: Where the run differs from the paper's experiment, in words.
    """
    columns = _columns(comparisons)
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    for name in ("eps", "target", *map(attack_title, columns)):
        table.add_column(name, justify="left" if name == "target" else "right")
    for eps, target, cells in _lines(comparisons, columns):
        table.add_row(f"{eps:g}", target, *cells)
    title = Text(f"Table 2, {group}: measured / published", style="italic")
    said = [Text(_reduced(reduced), style="yellow")] if reduced else []
    return Group(title, table, *map(Text, claim_lines(claims)), *said)


def comparison_markdown(
    group: str,
    comparisons: Sequence[Comparison],
    claims: Sequence[Claim],
    reduced: Sequence[str] = (),
) -> str:
    """Render Table 2's group beside what was measured as Markdown; see `comparison_terminal`."""
    columns = _columns(comparisons)
    names = ["eps", "target", *map(attack_title, columns)]
    lines = [f"**Table 2, {group}: measured / published**", "", _line(names)]
    lines.append(_line(["---" if name == "target" else "---:" for name in names]))
    lines += [
        _line([f"{eps:g}", target, *cells]) for eps, target, cells in _lines(comparisons, columns)
    ]
    said = [f"**{_reduced(reduced)}**", ""] if reduced else []
    below = [LEGEND, "", *said, *(f"- {line}" for line in claim_lines(claims)), ""]
    return "\n".join([*lines, "", *below])


def comparison_csv(comparisons: Sequence[Comparison]) -> str:
    """Render one line a cell of Table 2, in percent; empty where nothing was measured."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["target", "attack", "eps", "measured_percent", "published_percent", "difference"]
    )
    for each in comparisons:
        writer.writerow(
            [each.target, each.attack, f"{each.eps:g}", _percent(each.measured),
             _percent(each.published), _percent(each.difference)]
        )  # fmt: skip
    return out.getvalue()


def _reduced(differences: Sequence[str]) -> str:
    return (
        "Not the paper's experiment in full, so its numbers are not to be expected: "
        + "; ".join(differences)
    )


def claim_lines(claims: Sequence[Claim]) -> list[str]:
    """Return a sentence for each claim that could be looked at."""
    return [
        f"{claim.name}: {claim.measured} of {claim.measured_of} cells measured,"
        f" {claim.published} of {claim.published_of} published"
        for claim in claims
        if claim.measured_of
    ]


def _columns(comparisons: Sequence[Comparison]) -> list[str]:
    return list(dict.fromkeys(each.attack for each in comparisons))


def _lines(
    comparisons: Sequence[Comparison], columns: Sequence[str]
) -> list[tuple[float, str, list[str]]]:
    """Rows of the table: eps, target, a cell for each column."""
    cells = {(c.target, c.attack, c.eps): c for c in comparisons}
    radii = sorted({c.eps for c in comparisons if c.eps > 0})
    targets = list(dict.fromkeys(c.target for c in comparisons))
    return [
        (
            eps,
            target,
            [_cell(cells.get((target, name, 0.0 if name == CLEAN else eps))) for name in columns],
        )
        for eps in radii
        for target in targets
    ]


def _cell(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    measured = "-" if comparison.measured is None else f"{100 * comparison.measured:.1f}"
    return f"{measured} / {100 * comparison.published:.1f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
