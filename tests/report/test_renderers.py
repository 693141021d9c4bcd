"""Each renderer shows all of any report, once, and nothing in it is taken for markup."""

import base64
import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from rich.console import Console

from divtrain.evaluation import WarningSign
from divtrain.report import (
    Entry,
    Figure,
    Report,
    Section,
    Table,
    report_files,
    to_html,
    to_markdown,
    to_terminal,
)
from divtrain.report.report import Notice

HOSTILE = "<script>alert(1)</script> [red]x[/red] **b** `c` | [a](b) & \"'"
PNG = b"\x89PNG\r\n\x1a\n picture"
VOID = {"meta", "img"}


def report(word: str = "plain") -> Report:
    rows = [
        (Entry(f"row {word}"), Entry("91.2", "[90.1, 92.3]", strong=True)),
        (Entry("other"), Entry("")),
    ]
    return Report(
        f"title {word}",
        [f"lead {word}"],
        [Notice("threat", f"caution {word}", f"beware {word}", [(f"who {word}", f"knows {word}")])],
        [WarningSign("still-rising", "net", f"it rises {word}")],
        [
            Section(
                f"part {word}",
                [f"sentence {word}"],
                [
                    Table(f"caption {word}", (f"name {word}", "number"), rows),
                    Table("none", ("a",), []),
                ],
                [Figure("shown", PNG, f"alt {word}")],
                [f"note {word}"],
                data={"some.csv": [{"name": word, "low": None}]},
            ),
            Section(f"end {word}", facts=[(f"fact {word}", f"value {word}")]),
        ],
    )  # fmt: skip


def terminal(shown: Report, width: int = 300, colour: bool = False) -> str:
    system = "standard" if colour else None
    console = Console(width=width, force_terminal=colour, color_system=system)
    with console.capture() as capture:
        console.print(to_terminal(shown))
    return capture.get()


class Page(HTMLParser):
    """The tags and the text of a page; refuses what loads or runs anything."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.text: list[str] = []
        self.alts: list[str] = []
        self.images: list[bytes] = []
        self.strong: list[str] = []
        self._open: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        assert not [name for name in given if name.startswith("on") or name == "href"]
        if tag == "img":
            kind, _, content = given["src"].partition(",")
            assert kind == "data:image/png;base64"
            self.images.append(base64.b64decode(content))
            self.alts.append(given["alt"])
        if tag not in VOID:
            self._open.append((tag, given.get("class", "")))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1][0] == "style":
            assert "url(" not in data
            assert "@import" not in data
            return
        self.text.append(data)
        if self._open and self._open[-1][0] == "td" and "strong" in self._open[-1][1]:
            self.strong.append(data)


def html(shown: Report) -> str:
    page = Page(to_html(shown))
    return " ".join([*page.text, *page.alts])


def unescaped(shown: Report) -> str:
    return re.sub(r"\\(.)", r"\1", to_markdown(shown))


FORMS: dict[str, Callable[[Report], str]] = {
    "terminal": terminal, "markdown": unescaped, "html": html
}  # fmt: skip
WORDS = ("title", "lead", "caution", "beware", "who", "knows", "it rises", "part", "sentence",
         "caption", "name", "row", "note")  # fmt: skip
ON_PAGES = ("alt", "end", "fact", "value")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("word", ["plain", HOSTILE])
def test_nothing_is_lost_and_nothing_is_markup(form: str, word: str) -> None:
    text = " ".join(FORMS[form](report(word)).split())
    for each in (*WORDS, *(ON_PAGES if form != "terminal" else ())):
        assert text.count(f"{each} {word}") >= 1, each
    for each in ("91.2", "[90.1, 92.3]", "number", "none", "still-rising", "other"):
        assert each in text
    assert "docs/reading-results.md#still-rising" in text
    assert "1 warning sign: some numbers below are probably too high." in text


def test_hostile_words_add_no_tag_and_no_cell() -> None:
    assert Page(to_html(report(HOSTILE))).tags == Page(to_html(report())).tags
    (line,) = [each for each in to_markdown(report(HOSTILE)).splitlines() if "row <" in
               each.replace("\\", "")]  # fmt: skip
    assert len(re.findall(r"(?<!\\)\|", line)) == 3
    assert not re.search(r"(?<!\\)(<script|`c|\]\(b)", to_markdown(report(HOSTILE)))


def test_strong_entries_and_no_others_are_bold() -> None:
    assert Page(to_html(report())).strong == ["91.2 "]
    assert "| row plain | **91.2 [90.1, 92.3]** |\n| other |  |" in to_markdown(report())
    assert re.findall(r"\x1b\[1m *([0-9.]+)", terminal(report(), colour=True)) == ["91.2"]


@pytest.mark.parametrize(("width", "beside"), [(80, True), (25, False)])
def test_small_print_goes_below_where_a_terminal_is_narrow(width: int, beside: bool) -> None:
    text = terminal(report(), width)
    assert ("91.2 [90.1, 92.3]" in text) == beside
    assert "[90.1, 92.3]" in text
    assert max(map(len, text.splitlines())) <= width


def test_a_terminal_of_80_columns_breaks_intervals_before_words_and_numbers() -> None:
    header = ("eps", "target", "clean", *(f"{name}-FGSM" for name in "ABCDE"), "coherence")
    row = (Entry("0.1"), Entry("detector"), *[Entry("95.0", "[92.7, 96.6]")] * 6, Entry("0.86"))
    text = terminal(Report("t", sections=[Section("s", tables=[Table("c", header, [row], 2)])]), 80)
    assert max(map(len, text.splitlines())) <= 80
    words = text.split()
    assert {*header, "detector"} <= {*words}
    assert [words.count(each) for each in ("95.0", "[92.7,", "96.6]")] == [6, 6, 6]


def test_a_narrow_terminal_leaves_columns_out_before_it_breaks_a_name() -> None:
    header = ("threat", "crafted on", "attack", "eps 0.1", "eps 0.3", "passes")
    names = ("white-box", "one member at a time", "MI-FGSM (mean logit)")
    row = (*map(Entry, names), *[Entry("85.4 %", "[81.2, 88.6]")] * 2, Entry("143+54 / 136+50"))
    wanted = Table("c", header, [row], names=3, extra=1)
    text = terminal(Report("t", sections=[Section("s", tables=[wanted])]), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert all(name in text for name in (*names, "85.4 %"))
    assert "143" not in text
    assert "143+54" in terminal(Report("t", sections=[Section("s", tables=[wanted])]), 120)


def test_what_is_folded_is_on_the_page_alone_and_opens_there() -> None:
    folded = Section("words", facts=[("eps", "a size")], folded=True, explained=["read this"])
    shown = Report("t", sections=[folded, Section("open", ["seen"], explained=["also read"])])
    page = Page(to_html(shown))
    assert page.tags.count("details") == page.tags.count("summary") == 1
    for word in ("words", "a size", "read this", "open", "seen", "also read"):
        assert word in " ".join(page.text)
        assert word in to_markdown(shown)
    text = terminal(shown)
    assert "seen" in text
    assert not any(word in text for word in ("a size", "read this", "also read"))


@pytest.mark.parametrize("form", FORMS)
def test_no_warning_differs_from_none_looked_for(form: str) -> None:
    calm, silent = (FORMS[form](Report("t", warnings=signs)) for signs in ([], None))
    assert "No warning sign fired." in calm
    assert "arning sign" not in silent


def test_the_files_are_page_markdown_pictures_and_numbers() -> None:
    files = report_files(report())
    assert set(files) == {"report.html", "report.md", "figures/shown.png", "some.csv"}
    assert files["figures/shown.png"] == PNG
    assert files["some.csv"] == b"name,low\nplain,\n"
    assert "![alt plain](figures/shown.png)" in files["report.md"].decode()
    assert Page(files["report.html"].decode()).images == [PNG]
    assert b"title ?" in report_files(report("\udce9"))["report.html"]  # no text, yet no error
