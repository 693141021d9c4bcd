"""From records to what a reader sees: rows, tables, figures. Knows nothing of run directories."""

from divtrain.report.figures import accuracy_figure, coherence_figure
from divtrain.report.rows import Cell, Row, make_rows
from divtrain.report.tables import (
    BOLD,
    LEGEND,
    csv_table,
    describe,
    markdown_table,
    terminal_table,
)

__all__ = [
    "BOLD",
    "LEGEND",
    "Cell",
    "Row",
    "accuracy_figure",
    "coherence_figure",
    "csv_table",
    "describe",
    "make_rows",
    "markdown_table",
    "terminal_table",
]
