"""Defences side by side: each column from the rows it says, the front by hand."""

import pytest

from divtrain.evaluation import EVERY_SURROGATE
from divtrain.report.pareto import pareto_front
from divtrain.report.report import Table
from divtrain.report.rows import make_rows
from divtrain.report.sections.defences import Price, defences_section
from report.judged import judged

PRICES = {"base": Price(1.0, 8.0), "div": Price(2.0, 16.0)}
HISTORIES = {
    "base": [[{"step": 5, "seconds": 1.0}, {"step": 10, "seconds": 1.0}]],
    "div": [[{"step": 10, "seconds": 5.0}]],
}


def column(table: Table, name: str) -> list[str]:
    place = list(table.header).index(name)
    return [row[place].text for row in table.rows]


def test_each_column_is_the_worst_case_from_what_it_names() -> None:
    evaluations = [judged(name, surrogates=("base", "div", "large")) for name in ("base", "div")]
    rows = make_rows([record for each in evaluations for record in each.records()])
    section = defences_section(rows, evaluations, PRICES, HISTORIES, {"div": 0.25})
    (table,) = section.tables
    assert table.header == [
        "target", "clean", "noise", "from base", "from own", "from large", "from all", "query",
        "white-box", "price", "training", "seconds", "coherence", "signs",
    ]  # fmt: skip
    # Of 100 images noise leaves 90, base 85, div 80, large 75; their worst cases are nested.
    assert column(table, "clean") == ["95.0", "95.0"]
    assert column(table, "noise") == ["90.0", "90.0"]
    assert column(table, "from base") == ["85.0", "85.0"]
    assert column(table, "from own") == ["85.0", "80.0"]
    assert column(table, "from large") == column(table, "from all") == ["75.0", "75.0"]
    worst = {row.target: row.cells["worst"] for row in rows if row.threat == "white-box"}
    assert column(table, "white-box") == [str(worst[name]) for name in ("base", "div")]
    assert column(table, "price") == ["1.00", "2.00"]
    assert column(table, "training") == ["8.0", "16.0"]
    assert column(table, "seconds") == ["1.00", "2.50"]
    assert column(table, "coherence") == ["", "0.25"]
    signs = [len({sign.name for sign in each.warnings()}) for each in evaluations]
    assert column(table, "signs") == [str(count) for count in signs]
    # Equal in both values: neither is beaten.
    assert column(table, "target") == ["base *", "div *"]
    line = section.data["defences.csv"][1]
    assert (line["target"], line["from_own_percent"], line["on_front"]) == ("div", "80.0000", True)
    assert EVERY_SURROGATE not in table.header


def test_where_there_is_one_surrogate_all_is_that_one_and_unknown_prices_stay_empty() -> None:
    evaluation = judged("base", surrogates=("base",))
    section = defences_section(make_rows(evaluation.records()), [evaluation], {}, {}, {})
    assert column(section.tables[0], "from all") == column(section.tables[0], "from base")
    assert column(section.tables[0], "price") == column(section.tables[0], "seconds") == [""]


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ({"a": (0.9, 0.1), "b": (0.8, 0.5), "c": (0.7, 0.4)}, ["a", "b"]),
        ({"a": (0.9, 0.5), "b": (0.9, 0.4)}, ["a"]),
        ({"a": (0.9, 0.5), "b": (0.9, 0.5)}, ["a", "b"]),
        ({}, []),
    ],
)
def test_the_front_is_what_nothing_beats_in_both(
    points: dict[str, tuple[float, float]], front: list[str]
) -> None:
    assert pareto_front(points) == front
