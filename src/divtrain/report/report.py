"""A report as data, independent of how it is shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from divtrain.evaluation import WarningSign

CsvRow = Mapping[str, object]
"""One line of a CSV file by column; None is an empty field."""


@dataclass(frozen=True)
class Entry:
    """One place in a table.

    Attributes:
        text: What stands there.
        note: What stands there in small print, such as an interval.
        strong: Whether it is set in bold.
    """

    text: str
    note: str = ""
    strong: bool = False

    def joined(self, separator: str = " ") -> str:
        """Text and note."""
        return separator.join(part for part in (self.text, self.note) if part)


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: Stands above it.
        header: Heading of each column.
        rows: For each row an entry per column.
        names: How many columns at the left hold names; the others hold numbers.
        extra: How many columns at the right a narrow terminal may leave out.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Entry]]
    names: int = 1
    extra: int = 0


@dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes:
        name: Of its file, without the ending.
        png: The picture as a PNG file holds it.
        alt: What it shows, for a reader who does not see it.
    """

    name: str
    png: bytes
    alt: str


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        title: Heading.
        sentences: What was found, in words.
        tables: Tables.
        figures: Pictures.
        notes: Small print: units, denominators.
        facts: Names and values, as in a dictionary.
        data: The numbers of the section, as rows of CSV files by file name.
        explained: What the section shows, for a reader of the page who has to be told.
        folded: Whether a page opens it only when asked; a terminal leaves it out.
    """

    title: str
    sentences: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    notes: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    data: Mapping[str, Sequence[CsvRow]] = field(default_factory=dict)
    explained: Sequence[str] = ()
    folded: bool = False


@dataclass(frozen=True)
class Notice:
    """Something a reader must know before the numbers, set apart from the text.

    Attributes:
        kind: What it is about, which chooses its colour.
        title: In bold.
        sentence: What follows the title.
        items: A list below: a name, which may be empty, and a text.
        note: Small print below the list.
    """

    kind: Literal["threat", "reduced", "warning", "fine"]
    title: str
    sentence: str = ""
    items: Sequence[tuple[str, str]] = ()
    note: str = ""


@dataclass(frozen=True)
class Report:
    """A report: everything a command shows.

    Attributes:
        title: Heading.
        lead: First sentences.
        cautions: What limits the numbers: the adversary, how the run differs from the paper's.
        warnings: Warning signs that fired; None where nobody looked for them.
        sections: The parts.
        name: Of its files, without the ending.
    """

    title: str
    lead: Sequence[str] = ()
    cautions: Sequence[Notice] = ()
    warnings: Sequence[WarningSign] | None = None
    sections: Sequence[Section] = ()
    name: str = "report"

    @property
    def notices(self) -> list[Notice]:
        """The cautions, then what the warning signs say."""
        if self.warnings is None:
            return [*self.cautions]
        if not self.warnings:
            return [*self.cautions, Notice("fine", "No warning sign fired.")]
        count = len(self.warnings)
        several = f"{count} warning sign{'s' if count > 1 else ''}"
        return [
            *self.cautions,
            Notice(
                "warning",
                f"{several}: some numbers below are probably too high.",
                items=[(sign.name, sign.sentence) for sign in self.warnings],
                note="What each means: "
                + ", ".join(dict.fromkeys(sign.anchor for sign in self.warnings)),
            ),
        ]

    @property
    def figures(self) -> list[Figure]:
        """The pictures of all sections."""
        return [figure for section in self.sections for figure in section.figures]

    @property
    def data(self) -> dict[str, Sequence[CsvRow]]:
        """The rows of the CSV files of all sections, by file name."""
        return {name: rows for each in self.sections for name, rows in each.data.items()}
