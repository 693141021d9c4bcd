"""A report as Markdown, its pictures beside it in a folder of figures."""

import re
from collections.abc import Sequence

from divtrain.report.report import Entry, Notice, Report, Section, Table


def to_markdown(report: Report) -> str:
    """Render a report; its pictures are looked for in ``figures/NAME.png``."""
    blocks = [f"# {_text(report.title)}", *map(_text, report.lead)]
    blocks += [_notice(notice) for notice in report.notices]
    blocks += [block for section in report.sections for block in _section(section)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _section(section: Section) -> list[str]:
    return [
        f"## {_text(section.title)}",
        *map(_text, section.explained),
        *map(_text, section.sentences),
        *map(_table, section.tables),
        *(f"![{_text(each.alt)}](figures/{each.name}.png)" for each in section.figures),
        *map(_text, section.notes),
        _items(section.facts),
    ]


def _notice(notice: Notice) -> str:
    head = " ".join(filter(None, (f"**{_text(notice.title)}**", _text(notice.sentence))))
    return "\n\n".join(filter(None, (head, _items(notice.items), _text(notice.note))))


def _items(items: Sequence[tuple[str, str]]) -> str:
    return "\n".join(
        f"- **{_text(name)}**: {_text(text)}" if name else f"- {_text(text)}"
        for name, text in items
    )


def _table(table: Table) -> str:
    rule = ["---" if column < table.names else "---:" for column in range(len(table.header))]
    lines = [[_text(name) for name in table.header], rule]
    lines += [[_entry(entry) for entry in row] for row in table.rows]
    rows = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([f"**{_text(table.title)}**", "", *rows])


def _entry(entry: Entry) -> str:
    text = _text(entry.joined())
    return f"**{text}**" if entry.strong and text else text


def _text(text: str) -> str:
    r"""Text on one line that Markdown shows as it is.

    >>> _text("a|b *c*\n<d>")
    'a\\|b \\*c\\* \\<d>'
    """
    return re.sub(r"([\\`*<|]|\](?=\())", r"\\\1", " ".join(text.split()))
