"""From records to what a reader sees: rows, tables, figures. Knows nothing of run directories."""

from divtrain.report.activation import Histories, activation_figure
from divtrain.report.card import Card, Facts, card_json, card_markdown, make_card
from divtrain.report.card_page import card_html, card_terminal
from divtrain.report.comparison import comparison_csv, comparison_markdown, comparison_terminal
from divtrain.report.figures import (
    GaasPoint,
    accuracy_figure,
    coherence_figure,
    curve_figure,
    gaas_figure,
)
from divtrain.report.published import Claim, Comparison, compare, count_claims
from divtrain.report.rows import Cell, Row, make_rows
from divtrain.report.sweep import (
    SweepPoint,
    ZeroMeans,
    Zeros,
    describe_sweep,
    sweep_csv,
    sweep_legend,
    sweep_markdown,
    sweep_points,
    sweep_terminal,
)
from divtrain.report.tables import (
    BOLD,
    LEGEND,
    csv_table,
    describe,
    legend,
    markdown_table,
    terminal_table,
)
from divtrain.report.trade_off import sweep_figure

__all__ = [
    "BOLD",
    "LEGEND",
    "Card",
    "Cell",
    "Claim",
    "Comparison",
    "Facts",
    "GaasPoint",
    "Histories",
    "Row",
    "SweepPoint",
    "ZeroMeans",
    "Zeros",
    "accuracy_figure",
    "activation_figure",
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
    "gaas_figure",
    "legend",
    "make_card",
    "make_rows",
    "markdown_table",
    "sweep_csv",
    "sweep_figure",
    "sweep_legend",
    "sweep_markdown",
    "sweep_points",
    "sweep_terminal",
    "terminal_table",
]
