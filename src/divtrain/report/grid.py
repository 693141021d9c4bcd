"""A table as data, rendered once for each place that shows it."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

ROOM = 100
"""Characters of a terminal's line; in a wider table small print goes below."""


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


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        title: Stands above it.
        header: Heading of each column.
        lines: An entry for each column.
        names: How many columns at the left hold names, the others hold numbers.
    """

    title: str
    header: tuple[str, ...]
    lines: tuple[tuple[Entry, ...], ...]
    names: int = 1


def grid_terminal(grids: Sequence[Grid]) -> RenderableType:
    """Render tables for a terminal, one below the other."""
    parts: list[RenderableType] = []
    for grid in grids:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for place, name in enumerate(grid.header):
            table.add_column(name, justify="left" if place < grid.names else "right")
        columns = zip(*grid.lines, strict=True)
        width = sum(max(len(_whole(entry)) for entry in column) + 2 for column in columns)
        between = " " if width <= ROOM else "\n"
        for line in grid.lines:
            table.add_row(*(Text(_whole(e, between), "bold" if e.strong else "") for e in line))
        parts += [Text(grid.title, style="italic"), table]
    return Group(*parts)


def grid_markdown(grids: Sequence[Grid]) -> str:
    """Render tables as Markdown, one below the other."""
    lines: list[str] = []
    for grid in grids:
        lines += [f"**{grid.title}**", "", _line(grid.header)]
        lines.append(_line(["---" if i < grid.names else "---:" for i in range(len(grid.header))]))
        lines += [
            _line([f"**{_whole(e)}**" if e.strong else _whole(e) for e in line])
            for line in grid.lines
        ]
        lines.append("")
    return "\n".join(lines)


def _whole(entry: Entry, between: str = " ") -> str:
    return between.join(part for part in (entry.text, entry.note) if part)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
