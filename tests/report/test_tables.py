import csv
import io
import re

import pytest
from rich.console import Console

from divtrain.evaluation import CLEAN, WORST, Threat, WarningSign
from divtrain.report import (
    LEGEND,
    Cell,
    Row,
    csv_table,
    describe,
    markdown_table,
    terminal_table,
)

COHERENCE = {"base": 0.912, "adv+div": -0.2}
TITLES = {
    "clean": CLEAN, "FGSM": "fgsm", "R-FGSM": "rfgsm", "I-FGSM": "ifgsm", "MI-FGSM": "mifgsm",
    "PGD-CW": "pgdcw", "worst": WORST, "home-made": "home-made",
}  # fmt: skip


def row(
    threat: Threat, target: str, eps: float, seeds: int = 1, images: int = 500, **means: float
) -> Row:
    lowest = min(mean for name, mean in means.items() if name not in (CLEAN, WORST))
    cells = {
        name.replace("_", "-"): Cell(
            mean,
            None if seeds == 1 else mean / 9,
            mean == lowest and name not in (CLEAN, WORST),
        )
        for name, mean in means.items()
    }
    return Row(threat, target, eps, cells, images, seeds)


def table(seeds: int = 1) -> list[Row]:
    return [
        row("transfer", "base", 0.1, seeds, clean=0.991, fgsm=0.8125, pgdcw=0.0, worst=0.0),
        row("transfer", "adv+div", 0.1, seeds, clean=0.402, fgsm=0.9, pgdcw=0.75, worst=0.7),
        row("transfer", "adv+div", 8 / 255, seeds, clean=1.0, fgsm=0.5, pgdcw=2 / 3, worst=0.25),
        row("white-box", "base", 0.3, seeds, clean=0.991, rfgsm=0.6, home_made=0.3, worst=0.1),
    ]


def parse(markdown: str) -> list[dict[str, str]]:
    """Every line of every table, by column title."""
    lines: list[dict[str, str]] = []
    titles: list[str] = []
    for line in markdown.splitlines():
        if not line.startswith("|"):
            titles = []
            continue
        parts = [part.strip() for part in line.strip("|").split("|")]
        titles = titles or parts
        assert len(parts) == len(titles)
        if parts != titles and not parts[0].startswith("---"):
            lines.append(dict(zip(titles, parts, strict=True)))
    return lines


def numbers(cell: str) -> tuple[float, ...]:
    """(mean,) or (mean, deviation) in percent."""
    return tuple(float(part) for part in cell.strip("*").split(" ± "))


@pytest.mark.parametrize("seeds", [1, 3])
def test_markdown_parses_back_to_the_numbers(seeds: int) -> None:
    rows = table(seeds)
    lines = parse(markdown_table(rows, COHERENCE, []))
    assert len(lines) == len(rows)
    for expected, line in zip(rows, lines, strict=True):
        assert line.pop("target") == expected.target
        assert float(line.pop("eps")) == pytest.approx(expected.eps, rel=1e-5)
        assert float(line.pop("coherence")) == pytest.approx(COHERENCE[expected.target], abs=5e-3)
        got = {TITLES[title]: numbers(cell) for title, cell in line.items()}
        assert got == {
            name: pytest.approx(
                [100 * v for v in (cell.mean, cell.deviation) if v is not None], abs=0.05001
            )
            for name, cell in expected.cells.items()
        }


@pytest.mark.parametrize("seeds", [1, 3])
def test_bold_marks_the_lowest_attack_but_never_clean_or_worst(seeds: int) -> None:
    lines = parse(markdown_table(table(seeds), COHERENCE, []))
    bold = [[title for title, cell in line.items() if cell.startswith("**")] for line in lines]
    assert bold == [["PGD-CW"], ["PGD-CW"], ["FGSM"], ["home-made"]]


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("mifgsm", "MI-FGSM"),
        ("mifgsm:ce_of_mean_logit", "MI-FGSM (mean logit)"),
        ("home-made", "home-made"),
        ("home-made:own", "home-made (own)"),
    ],
)
def test_attacks_are_titled_with_their_objective(name: str, title: str) -> None:
    cells = {CLEAN: Cell(1.0, None), name: Cell(0.5, None), WORST: Cell(0.5, None)}
    (line,) = parse(markdown_table([Row("transfer", "t", 0.1, cells, 5, 1)], {}, []))
    assert list(line) == ["eps", "target", "clean", title, "worst", "coherence"]


def test_an_attack_that_a_target_lacks_leaves_its_cell_empty() -> None:
    rows = [
        row("transfer", "base", 0.1, clean=1.0, fgsm=0.5, worst=0.5),
        row("transfer", "div", 0.1, clean=0.9, ifgsm=0.4, worst=0.4),
    ]
    first, second = parse(markdown_table(rows, {}, []))
    assert list(first) == ["eps", "target", "clean", "FGSM", "I-FGSM", "worst", "coherence"]
    assert (first["I-FGSM"], first["FGSM"], first["coherence"]) == ("", "**50.0**", "")
    assert (second["FGSM"], second["worst"]) == ("", "40.0")


def test_markdown_has_one_table_a_threat_with_its_title_and_the_legend() -> None:
    text = markdown_table(table(), COHERENCE, [])
    assert text.count("**Transfer: crafted on the surrogate") == 1
    assert (
        text.count(
            "**White-box: crafted on the target itself** (500 test images, 1 seed, L-infinity)"
        )
        == 1
    )
    assert LEGEND in text
    assert "Warning signs" not in text


def test_markdown_lists_every_warning_sign_below_the_tables() -> None:
    signs = [WarningSign("one-step-beats-many", "div", f"Seen {i}.") for i in range(2)]
    text = markdown_table(table(), COHERENCE, signs)
    below = text.split("Warning signs:")[1]
    assert [line for line in below.splitlines() if line] == [
        "- `one-step-beats-many` Seen 0.",
        "- `one-step-beats-many` Seen 1.",
    ]


@pytest.mark.parametrize("seeds", [1, 3])
def test_csv_reads_back_to_the_rows(seeds: int) -> None:
    rows = [*table(seeds), row("transfer", 'a, "b"', 0.2, seeds, fgsm=1 / 3)]
    lines = list(csv.DictReader(io.StringIO(csv_table(rows))))
    expected = [(each, name, cell) for each in rows for name, cell in each.cells.items()]
    for line, (each, name, cell) in zip(lines, expected, strict=True):
        assert (line["threat"], line["target"], line["attack"]) == (each.threat, each.target, name)
        assert (int(line["images"]), int(line["seeds"])) == (each.images, seeds)
        assert float(line["eps"]) == pytest.approx(each.eps, rel=1e-5)
        assert float(line["accuracy_percent"]) == pytest.approx(100 * cell.mean, abs=1e-4)
        if cell.deviation is None:
            assert line["deviation_percent"] == ""
        else:
            deviation = float(line["deviation_percent"])
            assert deviation == pytest.approx(100 * cell.deviation, abs=1e-4)


@pytest.mark.parametrize(("seeds", "width"), [(1, 80), (1, 200), (3, 200)])
def test_terminal_shows_every_number(seeds: int, width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as capture:
        console.print(terminal_table(table(seeds), COHERENCE))
    lines = [line.split("  ") for line in capture.get().splitlines()]
    shown = [[part.strip() for part in line if part.strip()] for line in lines]
    for each in table(seeds):
        wanted = [str(cell) for cell in each.cells.values()]
        end = f"{COHERENCE[each.target]:.2f}"
        assert any(
            line[-1:] == [end] and all(str(cell) in " ".join(line) for cell in wanted)
            for line in shown
        ), each


def test_terminal_shows_the_lowest_attack_bold() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system="standard")
    with console.capture() as capture:
        console.print(terminal_table([table()[1]], COHERENCE))
    assert re.findall(r"\x1b\[1m *([0-9.]+)", capture.get()) == ["75.0"]


@pytest.mark.parametrize(
    ("images", "seeds", "expected"),
    [
        ((500, 500), 1, "500 test images, 1 seed, L-infinity"),
        ((500, 100), 1, "100 or 500 test images, 1 seed, L-infinity"),
        ((500, 500), 3, "500 test images, mean ± standard deviation over 3 seeds, L-infinity"),
    ],
)
def test_description_says_what_the_numbers_are_over(
    images: tuple[int, int], seeds: int, expected: str
) -> None:
    rows = [row("transfer", "t", 0.1, seeds, count, fgsm=0.5) for count in images]
    assert describe(rows) == expected
