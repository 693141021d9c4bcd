"""From records to the rows of a table: means over seeds, the strongest attack marked."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from divtrain.data import Split
from divtrain.evaluation import CLEAN, ONE_MEMBER, WORST, Record, Threat, wilson_interval
from divtrain.report.report import Entry

BASE = "base"
"""The surrogate that Table 2 of the paper transfers from, and others are compared with."""

THREATS: tuple[Threat, ...] = ("transfer", "white-box", "query", "noise")
"""Adversaries, in the order in which the report of a run has them."""


@dataclass(frozen=True)
class Cell:
    """One accuracy, or a difference of two.

    Attributes:
        mean: Mean over the seeds, in [0, 1].
        deviation: Sample standard deviation over the seeds; None for one seed.
        strongest: Whether this attack leaves the lowest accuracy of its row.
        interval: Interval of 95 % for other test images; None where it was not computed. Of several
            seeds it takes the images for as many as one seed has: wide rather than narrow.
    """

    mean: float
    deviation: float | None
    strongest: bool = False
    interval: tuple[float, float] | None = None

    @property
    def numbers(self) -> tuple[float | None, ...]:
        """Mean, deviation, lower and upper end of the interval; None where there is none."""
        return self.mean, self.deviation, *(self.interval or (None, None))

    @property
    def bar(self) -> tuple[float, float]:
        """How far an error bar reaches down and up, in percent: the deviation, or the interval."""
        if self.interval is None or self.deviation is not None:
            return 100 * (self.deviation or 0), 100 * (self.deviation or 0)
        low, high = self.interval
        return 100 * (self.mean - low), 100 * (high - self.mean)

    @property
    def brackets(self) -> str:
        """The interval in percent, e.g. ``[59.2, 72.2]``; empty where there is none."""
        ends = ", ".join(f"{100 * end:.1f}" for end in self.interval or ())
        return f"[{ends}]" if ends else ""

    @property
    def signed(self) -> str:
        """Points with their sign, with the deviation where there is one."""
        return f"{100 * self.mean:+.1f}{self._spread}"

    @property
    def _spread(self) -> str:
        return "" if self.deviation is None else f" ± {100 * self.deviation:.1f}"

    def __str__(self) -> str:
        """Percent, with the deviation where there is one."""
        return f"{100 * self.mean:.1f}{self._spread}"

    @property
    def entry(self) -> Entry:
        """Percent, in bold if the strongest attack's; in small print deviation and interval."""
        note = " ".join(part for part in (self._spread.strip(), self.brackets) if part)
        return Entry(f"{100 * self.mean:.1f}", note, self.strongest)


@dataclass(frozen=True)
class Row:
    """One target under one threat at one eps.

    Attributes:
        threat: Which adversary.
        target: Which target.
        eps: L-infinity radius in [0, 1] pixel units.
        cells: By attack name, ``clean`` first and ``worst`` last.
        images: Images in each accuracy's denominator.
        seeds: Seeds averaged over.
        surrogate: What was attacked.
        split: Which images: the test images, or some held out of the training images.
    """

    threat: Threat
    target: str
    eps: float
    cells: dict[str, Cell]
    images: int
    seeds: int
    surrogate: str = ""
    split: Split = "test"


def make_rows(records: Iterable[Record]) -> list[Row]:
    """Group records into rows, ordered by threat, eps and first appearance of the target."""
    records = list(records)
    clean: dict[str, list[Record]] = {}
    groups: dict[tuple[Threat, float, str, str], dict[str, list[Record]]] = {}
    for record in records:
        if record.attack == CLEAN:
            clean.setdefault(record.target, []).append(record)
        else:
            place = (record.threat, record.eps, record.target, record.surrogate)
            groups.setdefault(place, {}).setdefault(record.attack, []).append(record)
    targets = list(dict.fromkeys(record.target for record in records))
    order = sorted(groups, key=lambda k: (THREATS.index(k[0]), k[1], targets.index(k[2])))
    rows: list[Row] = []
    for threat, eps, target, surrogate in order:
        group = groups[threat, eps, target, surrogate]
        means = {name: statistics.mean(r.accuracy for r in group[name]) for name in group}
        lowest = min((mean for name, mean in means.items() if name != WORST), default=None)
        cells = {CLEAN: _cell(clean.get(target, []), None)}
        for name in sorted(group, key=lambda name: name == WORST):
            cells[name] = _cell(group[name], None if name == WORST else lowest)
        seeds = {record.seed for attacked in group.values() for record in attacked}
        one = next(iter(group.values()))[0]
        rows.append(Row(threat, target, eps, cells, one.images, len(seeds), surrogate, one.split))
    return rows


def main_rows(rows: Sequence[Row]) -> list[Row]:
    """Return one row for each threat, target and eps: transfer from the base surrogate alone.

    Attacks on one member at a time have rows of their own and are left out too.
    """
    base = transfer_source(rows)
    return [
        row
        for row in rows
        if (row.surrogate == base if row.threat == "transfer" else row.surrogate != ONE_MEMBER)
    ]


def transfer_source(rows: Sequence[Row]) -> str:
    """The surrogate of the main rows: base, or the first where it is missing."""
    sources = list(dict.fromkeys(row.surrogate for row in rows if row.threat == "transfer"))
    return BASE if BASE in sources else next(iter(sources), "")


def columns_of(rows: Sequence[Row]) -> list[str]:
    """Attacks of some rows, clean first and the worst case last."""
    names = list(dict.fromkeys(name for row in rows for name in row.cells))
    return sorted(names, key=lambda name: name == WORST)


def one_or_other(values: Iterable[object]) -> str:
    """Each value once, in order, e.g. ``100 or 500``."""
    return " or ".join(map(str, sorted(set(values))))  # pyright: ignore[reportArgumentType]


def over_seeds(seeds: int) -> str:
    """What a number is the mean over."""
    return f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "1 seed"


def describe(rows: Iterable[Row], which: bool = True) -> str:
    """What the numbers of some rows are over, and which images these are if so asked."""
    rows = list(rows)
    images = one_or_other(row.images for row in rows)
    split = f"{one_or_other(row.split for row in rows)} " if which else ""
    return f"{images} {split}images, {over_seeds(max(row.seeds for row in rows))}, L-infinity"


def _cell(records: list[Record], lowest: float | None) -> Cell:
    # Records of several evaluations of a target may hold its clean record once for each.
    values = list({record.seed: record.accuracy for record in records}.values())
    mean = statistics.mean(values) if values else float("nan")
    deviation = statistics.stdev(values) if len(values) > 1 else None
    images = records[-1].images if records else 0
    interval = wilson_interval(mean * images, images) if images else None
    return Cell(mean, deviation, lowest is not None and mean == lowest, interval)
