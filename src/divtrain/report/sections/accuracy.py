"""Clean and robust accuracy of each target: a table for each threat and surrogate."""

from collections.abc import Mapping, Sequence

from divtrain.attacks import attack_title
from divtrain.evaluation import EVERY_SURROGATE, ONE_MEMBER, Threat
from divtrain.report.figures.accuracy_bars import accuracy_figure
from divtrain.report.output import percent
from divtrain.report.report import CsvRow, Entry, Figure, Section, Table
from divtrain.report.rows import THREATS, Cell, Row, columns_of, describe, main_rows

TITLES: dict[Threat, str] = {
    "noise": "Noise: random, no adversary",
    "query": "Query: from the target's answers alone",
    "transfer": "Transfer: crafted on the surrogate, the target's weights unknown",
    "white-box": "White-box: crafted on the target itself",
}
LEGEND = (
    "Accuracy in percent over all images; eps in [0, 1] pixel units, L-infinity. Worst: share of"
    " images right when clean and under every attack of the row; for the white-box adversary, who"
    " can transfer attacks too, also under those. Coherence: mean over the images. Transfer"
    " robustness says nothing about white-box robustness. Bold: the attack that leaves least. In"
    " brackets: Wilson's interval of 95 %."
)
HELD_OUT = (
    "The images were held out of the training images, to choose by: Table 2 of the paper, which is"
    " about test images, is not compared with."
)


def accuracy_section(rows: Sequence[Row], coherence: Mapping[str, float], title: str) -> Section:
    """Return every accuracy, with a figure of the main rows.

    Args:
        rows: From `make_rows`.
        coherence: Mean coherence on the images, by target; may be empty.
        title: Name of the experiment.
    """
    tables: list[Table] = []
    for threat in THREATS:
        there = [row for row in rows if row.threat == threat]
        sources = list(dict.fromkeys(r.surrogate if threat == "transfer" else "" for r in there))
        for source in sources:
            mine = [row for row in there if source in ("", row.surrogate)]
            where = f" ({_crafted_on(source)})" if len(sources) > 1 else ""
            tables.append(_table(f"{TITLES[threat]}{where}; {describe(mine)}", mine, coherence))
    alt = "Bars of clean and robust accuracy, for each threat, eps, attack and target"
    figure = Figure("accuracy", accuracy_figure(main_rows(rows), title), alt)
    held_out = [] if all(row.split == "test" for row in rows) else [HELD_OUT]
    data = {"table.csv": _data(rows)}
    return Section(
        "Accuracy", tables=tables, figures=[figure], notes=[LEGEND, *held_out], data=data
    )


def _crafted_on(source: str) -> str:
    if source == EVERY_SURROGATE:
        return "on any of the surrogates, image by image"
    return f"trained as {source}"


def _table(title: str, rows: Sequence[Row], coherence: Mapping[str, float]) -> Table:
    columns = columns_of(rows)
    lines = [
        (
            Entry(f"{row.eps:g}"),
            Entry(f"{row.target}, {ONE_MEMBER}" if row.surrogate == ONE_MEMBER else row.target),
            *(_accuracy(row.cells.get(name)) for name in columns),
            Entry(f"{coherence[row.target]:.2f}" if row.target in coherence else ""),
        )
        for row in rows
    ]
    header = ("eps", "target", *map(attack_title, columns), "coherence")
    return Table(title, header, lines, names=2)


def _accuracy(cell: Cell | None) -> Entry:
    return Entry("") if cell is None else Entry(str(cell), cell.brackets, cell.strongest)


def _data(rows: Sequence[Row]) -> list[CsvRow]:
    """Percent, with Wilson's interval of one seed or the deviation of several."""
    return [
        {
            "threat": row.threat,
            "target": row.target,
            "surrogate": row.surrogate,
            "eps": f"{row.eps:g}",
            "attack": name,
            "accuracy_percent": percent(cell.mean),
            "deviation_percent": percent(cell.deviation),
            "low_percent": percent(cell.interval[0] if cell.interval else None),
            "high_percent": percent(cell.interval[1] if cell.interval else None),
            "images": row.images,
            "seeds": row.seeds,
        }
        for row in rows
        for name, cell in row.cells.items()
    ]
