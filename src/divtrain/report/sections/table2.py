"""Table 2 of the paper, as published and as measured."""

from collections.abc import Sequence

from divtrain.attacks import attack_title
from divtrain.evaluation import CLEAN
from divtrain.report.output import percents
from divtrain.report.published import Comparison, count_claims
from divtrain.report.report import CsvRow, Entry, Section, Table

NOTE = (
    "measured / published, in percent; the attacks' transfer from a base surrogate of the same"
    " architecture (arXiv 1901.09981, Table 2). A cell that was not measured holds the published"
    " number alone."
)


def table2_section(group: str, comparisons: Sequence[Comparison]) -> Section:
    """Return a group of Table 2 beside what was measured, and the paper's claims counted.

    Args:
        group: The group's name.
        comparisons: Its cells, from `compare`.
    """
    cells = {(c.target, c.attack, c.eps): c for c in comparisons}
    columns = list(dict.fromkeys(c.attack for c in comparisons))
    rows = [
        (
            Entry(f"{eps:g}"),
            Entry(target),
            *(_entry(cells.get((target, a, 0.0 if a == CLEAN else eps))) for a in columns),
        )
        for eps in sorted({c.eps for c in comparisons if c.eps > 0})
        for target in dict.fromkeys(c.target for c in comparisons)
    ]
    title = "measured / published, in percent (difference in points)"
    table = Table(title, ("eps", "target", *map(attack_title, columns)), rows, names=2)
    claims = [
        f"{claim.name}: {claim.measured} of {claim.measured_of} cells measured,"
        f" {claim.published} of {claim.published_of} published"
        for claim in count_claims(comparisons)
        if claim.measured_of
    ]
    data = {"table2.csv": _data(comparisons)}
    return Section(f"Table 2, {group}", claims, [table], notes=[NOTE], data=data)


def _entry(each: Comparison | None) -> Entry:
    if each is None:
        return Entry("")
    if each.measured is None or each.difference is None:
        return Entry(f"- / {100 * each.published:.1f}")
    pair = f"{100 * each.measured:.1f} / {100 * each.published:.1f}"
    return Entry(pair, f"({100 * each.difference:+.1f})")


def _data(comparisons: Sequence[Comparison]) -> list[CsvRow]:
    """Percent; empty where nothing was measured."""
    names = ("measured_percent", "published_percent", "difference")
    return [
        {
            "target": each.target,
            "attack": each.attack,
            "eps": f"{each.eps:g}",
            **percents(names, (each.measured, each.published, each.difference), 2),
        }
        for each in comparisons
    ]
