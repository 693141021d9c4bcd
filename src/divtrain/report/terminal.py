"""A report on a terminal: everything but its pictures and facts, which stand in its files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from divtrain.report.report import Entry, Notice, Report, Table

STYLES = {"threat": "", "reduced": "yellow", "warning": "yellow", "fine": ""}
GAP = 1
"""Blank columns between two columns of a table."""


def to_terminal(report: Report) -> RenderableType:
    """Return a report in a form that a `rich.console.Console` prints, fitted to its width."""
    parts: list[RenderableType] = [Text(report.title, "bold"), *map(Text, report.lead)]
    for notice in report.notices:
        parts += ["", *_notice(notice)]
    for section in report.sections:
        body = [
            *map(Text, section.sentences),
            *map(FittedTable, section.tables),
            *(Text(note, "dim") for note in section.notes),
        ]
        if body:
            parts += ["", Text(section.title, "bold"), *body]
    return Group(*parts)


@dataclass(frozen=True)
class FittedTable:
    """A table that sets small print below its numbers where there is no room beside them."""

    table: Table

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Yield the title and the table."""
        table = self.table
        fits = sum(_widths(table)) + GAP * len(table.header) <= options.max_width
        separator = " " if fits else "\n"
        found = RichTable(box=box.SIMPLE_HEAD, padding=(0, GAP, 0, 0), show_edge=False)
        for column, name in enumerate(table.header):
            found.add_column(
                Text(name, overflow="fold"),
                overflow="fold",
                justify="left" if column < table.names else "right",
            )
        for row in table.rows:
            found.add_row(*(_text(entry, separator) for entry in row))
        yield Text(table.title, "italic")
        yield found


def _widths(table: Table) -> list[int]:
    """Width of each column when small print stands beside its number; headings may be broken."""
    columns = [[row[index].joined() for row in table.rows] for index in range(len(table.header))]
    return [
        max(map(len, [*name.split(), *column, ""]))
        for name, column in zip(table.header, columns, strict=True)
    ]


def _text(entry: Entry, separator: str) -> Text:
    return Text(entry.joined(separator), "bold" if entry.strong else "")


def _notice(notice: Notice) -> Sequence[RenderableType]:
    style = STYLES[notice.kind]
    title = Text.assemble((notice.title, style), " " if notice.sentence else "", notice.sentence)
    items = [
        Padding(Text.assemble((f"{name} " if name else "", style), text), (0, 0, 0, 2))
        for name, text in notice.items
    ]
    return [title, *items, *([Text(notice.note, "dim")] if notice.note else [])]
