"""The published Table 2, and what was measured beside it."""

import csv

import pytest

import divtrain as dt
from divtrain.report.output import to_csv
from divtrain.report.rows import Cell, Row
from divtrain.report.sections.table2 import GROUPS, compare, count_claims, table2_section

ATTACKS = ("fgsm", "rfgsm", "ifgsm", "mifgsm", "pgdcw")


def row(target: str, eps: float, value: float, threat: str = "transfer") -> Row:
    cells = {"clean": Cell(0.99, None), **{name: Cell(value, None) for name in ATTACKS}}
    return Row(threat, target, eps, {**cells, "worst": Cell(value / 2, None)}, 100, 1)  # pyright: ignore


def test_the_paper_is_there_whole() -> None:
    for group in GROUPS:
        cells = compare(group, [])
        assert len(cells) == 4 * (1 + 5 * 2)
        assert {cell.target for cell in cells} == {"base", "div", "adv", "adv+div"}
        assert all(0 < cell.published < 1 and cell.measured is None for cell in cells)
    found = {(c.target, c.attack, c.eps): c.published for c in compare("Conv3", [])}
    assert found["base", "clean", 0.0] == pytest.approx(0.994)
    assert found["div", "mifgsm", 0.3] == pytest.approx(0.169)
    with pytest.raises(dt.DivtrainError, match="unknown group of Table 2"):
        compare("Conv2", [])


def test_the_papers_claims_are_counted_as_the_specification_says() -> None:
    """40 of 40, 40 of 40, and 39 of 40 for adv+div against both of its parts."""
    counts = [count_claims(compare(group, []), "published") for group in GROUPS]
    total = {name: tuple(map(sum, zip(*(c[name] for c in counts), strict=True)))
             for name in counts[0]}  # fmt: skip
    assert total == {
        "div > base": (40, 40), "adv > div": (40, 40),
        "adv+div >= div": (40, 40), "adv+div >= adv": (39, 40),
    }  # fmt: skip


def test_measured_cells_are_put_beside_their_own() -> None:
    rows = [row("base", 0.1, 0.5), row("div", 0.1, 0.7), row("div", 0.2, 0.7),
            row("div", 0.3, 0.7, "white-box"), row("base+noise", 0.1, 0.6)]  # fmt: skip
    found = {(c.target, c.attack, c.eps): c for c in compare("Conv3", rows)}
    cell = found["div", "fgsm", 0.1]
    assert (cell.measured, cell.published) == (0.7, pytest.approx(0.971))
    assert cell.difference == pytest.approx(0.7 - 0.971)
    assert found["div", "clean", 0.0].measured == 0.99
    here = {(c.target, c.eps) for c in found.values() if c.measured is not None}
    assert here == {("base", 0.0), ("base", 0.1), ("div", 0.0), ("div", 0.1)}
    assert found["base", "fgsm", 0.3].difference is None


def test_claims_are_counted_over_the_cells_both_targets_have() -> None:
    rows = [row(t, e, v) for t, e, v in (("base", 0.1, 0.5), ("base", 0.3, 0.5), ("div", 0.1, 0.5),
                                         ("adv", 0.1, 0.6))]  # fmt: skip
    claims = count_claims(compare("Conv3", rows), "measured")
    assert claims["div > base"] == (0, 5)
    assert claims["adv > div"] == (5, 5)
    assert claims["adv+div >= adv"] == (0, 0)


def test_the_section_holds_both_numbers_their_difference_and_the_claims() -> None:
    found = table2_section("Conv3", compare("Conv3", [row("div", 0.1, 0.7), row("base", 0.1, 0.5)]))
    (table,) = found.tables
    rows = {(each[0].text, each[1].text): [e.joined() for e in each[2:]] for each in table.rows}
    assert rows["0.1", "div"][:2] == ["99.0 / 99.2 (-0.2)", "70.0 / 97.1 (-27.1)"]
    assert rows["0.3", "base"][0] == "99.0 / 99.4 (-0.4)"
    assert rows["0.1", "adv"][0].startswith("- / ")
    assert found.sentences == ["div > base: 5 of 5 cells measured, 10 of 10 published"]
    lines = list(csv.DictReader(to_csv(found.data["table2.csv"]).splitlines()))
    assert len(lines) == 44
    (one,) = [r for r in lines if (r["target"], r["attack"], r["eps"]) == ("div", "fgsm", "0.1")]
    assert (one["measured_percent"], one["published_percent"]) == ("70.00", "97.10")
    assert float(one["difference"]) == pytest.approx(-27.1)
