"""From records to what a reader sees: rows, tables, figures. Knows nothing of run directories."""

from divtrain.report.card import Card, Facts, card_json, card_markdown, make_card
from divtrain.report.card_page import card_html, card_terminal
from divtrain.report.comparison import comparison_csv, comparison_markdown, comparison_terminal
from divtrain.report.detection import (
    DetectionRow,
    Scored,
    detection_csv,
    detection_figure,
    detection_markdown,
    detection_rows,
)
from divtrain.report.figures import (
    GaasPoint,
    accuracy_figure,
    coherence_figure,
    curve_figure,
    gaas_figure,
    sweep_figure,
)
from divtrain.report.published import Claim, Comparison, compare, count_claims
from divtrain.report.rows import Cell, Row, make_rows
from divtrain.report.sweep import (
    SWEEP_LEGEND,
    SweepPoint,
    describe_sweep,
    sweep_csv,
    sweep_markdown,
    sweep_points,
    sweep_terminal,
)
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
    "SWEEP_LEGEND",
    "Card",
    "Cell",
    "Claim",
    "Comparison",
    "DetectionRow",
    "Facts",
    "GaasPoint",
    "Row",
    "Scored",
    "SweepPoint",
    "accuracy_figure",
    "card_html",
    "card_json",
    "card_markdown",
    "card_terminal",
    "coherence_figure",
    "compare",
    "comparison_csv",
    "comparison_markdown",
    "comparison_terminal",
    "count_claims",
    "csv_table",
    "curve_figure",
    "describe",
    "describe_sweep",
    "detection_csv",
    "detection_figure",
    "detection_markdown",
    "detection_rows",
    "gaas_figure",
    "make_card",
    "make_rows",
    "markdown_table",
    "sweep_csv",
    "sweep_figure",
    "sweep_markdown",
    "sweep_points",
    "sweep_terminal",
    "terminal_table",
]
