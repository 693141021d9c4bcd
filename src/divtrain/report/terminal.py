"""A report on a terminal: everything but its pictures and facts, which stand in its files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from divtrain.report.report import Entry, Notice, Report, Table

STYLES = {"threat": "", "reduced": "yellow", "warning": "yellow", "fine": ""}


def to_terminal(report: Report) -> RenderableType:
    """Return a report in a form that a `rich.console.Console` prints, fitted to its width."""
    parts: list[RenderableType] = [Text(report.title, "bold"), *map(Text, report.lead)]
    for notice in report.notices:
        parts += ["", *_notice(notice)]
    for section in (each for each in report.sections if not each.folded):
        body = [
            *map(Text, section.sentences),
            *map(FittedTable, section.tables),
            *(Text(note, "dim") for note in section.notes if section.tables),
        ]
        if body:
            parts += ["", Text(section.title, "bold"), *body]
    return Group(*parts)


@dataclass(frozen=True)
class FittedTable:
    """A table that breaks its entries where it is too wide, small print first, words last."""

    table: Table

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Yield the title and the table."""
        table, room = self.table, options.max_width - len(self.table.header) + 1
        separator, widths = " ", _widths(table, lambda entry: [entry.joined()])
        if sum(widths) > room:
            separator, widths = "\n", _widths(table, lambda entry: [entry.text, entry.note])
            if sum(widths) > room and table.extra:
                last = len(table.header) - table.extra
                rows = [row[:last] for row in table.rows]
                yield from FittedTable(
                    replace(table, header=table.header[:last], rows=rows, extra=0)
                ).__rich_console__(console, options)
                return
            least = _widths(table, lambda entry: entry.joined().split())
            while sum(widths) > room and widths != least:
                slack = [width - low for width, low in zip(widths, least, strict=True)]
                numbers = [0] * table.names + slack[table.names :]
                # Small print breaks first; a name is read as a whole.
                widths[slack.index(max(slack)) if not any(numbers) else
                       numbers.index(max(numbers))] -= 1  # fmt: skip
        free = room - sum(widths)
        padding = (0, int(free >= len(table.header)), 0, 0)  # beside the blank of the box
        found = RichTable(box=box.SIMPLE_HEAD, padding=padding, show_edge=False)
        for column, (name, width) in enumerate(zip(table.header, widths, strict=True)):
            found.add_column(
                Text(name, overflow="fold"),
                overflow="fold",
                justify="left" if column < table.names else "right",
                width=width if free >= 0 else None,
            )
        for row in table.rows:
            found.add_row(*(_text(entry, separator) for entry in row))
        yield Text(table.title, "italic")
        yield found


def _widths(table: Table, parts: Callable[[Entry], Sequence[str]]) -> list[int]:
    """Width of each column where its heading breaks at blanks, and its entries into parts."""
    return [
        max(map(len, [*name.split(), *(part for row in table.rows for part in parts(row[index]))]))
        for index, name in enumerate(table.header)
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
