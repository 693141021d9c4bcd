"""Table 2 of the paper, as published and as measured, and the paper's claims counted over it.

Source: Kariyappa and Qureshi, arXiv 1901.09981, Table 2; the numbers are in `data/table2.csv`.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

from divtrain.attacks import attack_title
from divtrain.errors import unknown_name
from divtrain.evaluation import CLEAN
from divtrain.report.output import percents
from divtrain.report.report import CsvRow, Entry, Section, Table
from divtrain.report.rows import Row

GROUPS = ("Conv3", "Conv4", "ResNet20", "Mix")
"""Groups of Table 2: an architecture each, Conv3 on MNIST, the others on CIFAR-10."""

CLAIMS = (
    ("div > base", "div", "base", True),
    ("adv > div", "adv", "div", True),
    ("adv+div >= div", "adv+div", "div", False),
    ("adv+div >= adv", "adv+div", "adv", False),
)
"""Name, the target that should be better, the other, and whether strictly."""
NOTE = (
    "measured / published, in percent; the attacks' transfer from a base surrogate of the same"
    " architecture (arXiv 1901.09981, Table 2). A cell that was not measured holds the published"
    " number alone."
)


@dataclass(frozen=True)
class Comparison:
    """One cell of Table 2.

    Attributes:
        target: base, div, adv or adv+div.
        attack: clean, or an attack.
        eps: L-infinity radius in [0, 1] pixel units; 0 when clean.
        published: Accuracy in the paper, in [0, 1].
        measured: Accuracy measured, mean over the seeds; None where it was not.
    """

    target: str
    attack: str
    eps: float
    published: float
    measured: float | None

    @property
    def difference(self) -> float | None:
        """Measured minus published."""
        return None if self.measured is None else self.measured - self.published


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
    published, measured = (count_claims(comparisons, each) for each in ("published", "measured"))
    claims = [
        f"{name}: {here} of {of} cells measured, {there} of {all_there} published"
        for (name, (here, of)), (there, all_there) in zip(
            measured.items(), published.values(), strict=True
        )
        if of
    ]
    data = {"table2.csv": _data(comparisons)}
    return Section(f"Table 2, {group}", claims, [table], notes=[NOTE], data=data)


def compare(group: str, rows: Iterable[Row]) -> list[Comparison]:
    """Put the transfer rows of a run beside a group of Table 2.

    Args:
        group: One of `GROUPS`.
        rows: From `make_rows`; white-box rows, and targets the paper lacks, are left out.

    Raises:
        DivtrainError: for an unknown group.
    """
    if group not in GROUPS:
        raise unknown_name("group of Table 2", group, GROUPS)
    measured: dict[tuple[str, str, float], float] = {}
    for row in rows:
        if row.threat == "transfer":
            for attack, cell in row.cells.items():
                eps = 0.0 if attack == CLEAN else row.eps
                measured[row.target, attack, round(eps, 6)] = cell.mean
    text = files("divtrain.report").joinpath("data/table2.csv").read_text()
    return [
        Comparison(
            line["target"],
            line["attack"],
            float(line["eps"]),
            float(line["accuracy_percent"]) / 100,
            measured.get((line["target"], line["attack"], round(float(line["eps"]), 6))),
        )
        for line in csv.DictReader(text.splitlines())
        if line["model"] == group
    ]


def count_claims(
    comparisons: Iterable[Comparison], which: Literal["published", "measured"]
) -> dict[str, tuple[int, int]]:
    """Count in how many attacked cells each claim holds, and in how many both have a number."""
    found = {(c.target, c.attack, c.eps): getattr(c, which) for c in comparisons if c.eps > 0}
    counts: dict[str, tuple[int, int]] = {}
    for name, better, worse, strictly in CLAIMS:
        pairs = [
            (value, found[worse, attack, eps])
            for (target, attack, eps), value in found.items()
            if target == better and None not in (value, found[worse, attack, eps])
        ]
        counts[name] = sum(a > b if strictly else a >= b for a, b in pairs), len(pairs)
    return counts


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
