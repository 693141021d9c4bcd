"""The report card on a terminal and as one HTML page that needs no other file."""

import base64

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from divtrain.evaluation import KNOWLEDGE
from divtrain.report.card import (
    DOCUMENTATION,
    ORDER,
    Card,
    cell_text,
    fact_lines,
    notes,
    passes,
    percent,
)


def card_terminal(card: Card) -> RenderableType:
    """Render the card for a terminal."""
    parts: list[RenderableType] = [Text(f"{card.evaluation.target}: report card", style="bold")]
    parts += [Text(sentence) for sentence in card.headline()]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("threat", "crafted on", "attack"):
        table.add_column(name)
    for eps in card.eps:
        table.add_column(f"eps {eps:g}", justify="right", no_wrap=True)
    table.add_column("passes", justify="right")
    table.add_row("clean", "", "", *[percent(card.clean)] * len(card.eps), "")
    for line in card.lines():
        cells = [cell_text(card, cell).replace(" images)", ")") for cell in line.cells]
        table.add_row(
            line.threat, line.surrogate, line.attack, *map(escape, cells), passes(line),
            style="bold" if line.worst else None, end_section=line.worst,
        )  # fmt: skip
    parts.append(table)
    parts += [Text(note, style="dim") for note in notes(card)]
    if card.warnings:
        parts.append(Text(f"\nWarning signs: {len(card.warnings)}. The numbers flatter", "yellow"))
        for sign in card.warnings:
            parts.append(Text.assemble(("  " + sign.name + " ", "yellow"), sign.sentence))
    else:
        parts.append(Text("\nNo warning sign fired."))
    return Group(*parts)


def card_html(card: Card, curve: bytes | None) -> str:
    """Render the card as one HTML page, the curve (PNG) inside it."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("divtrain.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    image = None if curve is None else base64.b64encode(curve).decode()
    return environment.get_template("card.html.jinja").render(
        card=card,
        knowledge=[(threat, KNOWLEDGE[threat]) for threat in ORDER],
        cell=lambda record: cell_text(card, record),
        clean=percent(card.clean),
        passes=passes,
        notes=notes(card),
        facts=[(name, value.strip("`")) for name, value in fact_lines(card)],
        curve=image,
        documentation=DOCUMENTATION,
    )
