"""From records to what a reader sees: rows, tables, figures. Knows nothing of run directories."""

from divtrain.report.activation import Histories, activation_figure
from divtrain.report.card import Card, Facts, card_json, card_markdown, make_card
from divtrain.report.card_page import card_html, card_terminal
from divtrain.report.comparison import comparison_csv, comparison_markdown, comparison_terminal
from divtrain.report.detection import DetectionRow, Scored, detection_rows
from divtrain.report.detection_figure import detection_figure
from divtrain.report.detection_tables import (
    detection_csv,
    detection_grids,
    detection_markdown,
    detection_notes,
)
from divtrain.report.figures import (
    GaasPoint,
    accuracy_figure,
    coherence_figure,
    curve_figure,
    gaas_figure,
    transfer_figure,
)
from divtrain.report.grid import Entry, Grid, grid_markdown, grid_terminal
from divtrain.report.published import Claim, Comparison, compare, count_claims
from divtrain.report.rows import Cell, Row, make_rows, surrogate_title
from divtrain.report.run_page import RunFacts, RunResults, coherence_grid, gaas_grid, run_html
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
from divtrain.report.transfer import Answers, TransferCell, compare_surrogates
from divtrain.report.transfer_tables import (
    TRANSFER_LEGEND,
    transfer_csv,
    transfer_grids,
    transfer_sentences,
)

__all__ = [
    "BOLD",
    "LEGEND",
    "TRANSFER_LEGEND",
    "Answers",
    "Card",
    "Cell",
    "Claim",
    "Comparison",
    "DetectionRow",
    "Entry",
    "Facts",
    "GaasPoint",
    "Grid",
    "Histories",
    "Row",
    "RunFacts",
    "RunResults",
    "Scored",
    "SweepPoint",
    "TransferCell",
    "ZeroMeans",
    "Zeros",
    "accuracy_figure",
    "activation_figure",
    "card_html",
    "card_json",
    "card_markdown",
    "card_terminal",
    "coherence_figure",
    "coherence_grid",
    "compare",
    "compare_surrogates",
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
    "detection_grids",
    "detection_markdown",
    "detection_notes",
    "detection_rows",
    "gaas_figure",
    "gaas_grid",
    "grid_markdown",
    "grid_terminal",
    "legend",
    "make_card",
    "make_rows",
    "markdown_table",
    "run_html",
    "surrogate_title",
    "sweep_csv",
    "sweep_figure",
    "sweep_legend",
    "sweep_markdown",
    "sweep_points",
    "sweep_terminal",
    "terminal_table",
    "transfer_csv",
    "transfer_figure",
    "transfer_grids",
    "transfer_sentences",
]
