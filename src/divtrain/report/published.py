"""The paper's Table 2 beside what was measured, and its claims counted over the cells.

Source: Kariyappa and Qureshi, arXiv 1901.09981, Table 2; the numbers are in `data/table2.csv`.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files

from divtrain.errors import unknown_name
from divtrain.evaluation import CLEAN
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


@dataclass(frozen=True)
class Claim:
    """One claim of the paper, counted over the cells where both targets have a number.

    Attributes:
        name: The claim, e.g. ``div > base``.
        published: Cells of the published table in which it holds.
        published_of: Cells there.
        measured: Cells measured in which it holds.
        measured_of: Cells measured.
    """

    name: str
    published: int
    published_of: int
    measured: int
    measured_of: int


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


def count_claims(comparisons: Sequence[Comparison]) -> list[Claim]:
    """Count in how many attacked cells each of the paper's claims holds, there and here."""
    published = {(c.target, c.attack, c.eps): c.published for c in comparisons if c.eps > 0}
    measured = {
        (c.target, c.attack, c.eps): c.measured
        for c in comparisons
        if c.eps > 0 and c.measured is not None
    }
    claims: list[Claim] = []
    for name, better, worse, strictly in CLAIMS:
        counts: list[int] = []
        for cells in (published, measured):
            pairs = [
                (value, cells[worse, attack, eps])
                for (target, attack, eps), value in cells.items()
                if target == better and (worse, attack, eps) in cells
            ]
            holds = sum(a > b if strictly else a >= b for a, b in pairs)
            counts += [holds, len(pairs)]
        claims.append(Claim(name, *counts))
    return claims
