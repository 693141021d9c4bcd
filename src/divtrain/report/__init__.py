"""Reports: built once as data, rendered as terminal text, Markdown and HTML.

`run_report`, `sweep_report` and `card_report` build a `Report` out of `Section`s; `to_terminal`,
`to_markdown` and `to_html` show any of them, and `report_files` returns all its files. Knows
nothing of run directories.
"""

from divtrain.report.card import CardFacts, card_json, card_report
from divtrain.report.detection import Scored
from divtrain.report.formats import FORMATS
from divtrain.report.html import to_html
from divtrain.report.markdown import to_markdown
from divtrain.report.output import report_files
from divtrain.report.report import Entry, Figure, Report, Section, Table
from divtrain.report.rows import make_rows
from divtrain.report.run import RunFacts, run_report, sweep_report
from divtrain.report.sections.coherence import coherence_section
from divtrain.report.sections.defences import Price
from divtrain.report.sections.detection import detection_section
from divtrain.report.sections.gaas import GaasPoint, gaas_section
from divtrain.report.sweep import ZeroMeans, Zeros
from divtrain.report.terminal import to_terminal

__all__ = [
    "FORMATS",
    "CardFacts",
    "Entry",
    "Figure",
    "GaasPoint",
    "Price",
    "Report",
    "RunFacts",
    "Scored",
    "Section",
    "Table",
    "ZeroMeans",
    "Zeros",
    "card_json",
    "card_report",
    "coherence_section",
    "detection_section",
    "gaas_section",
    "make_rows",
    "report_files",
    "run_report",
    "sweep_report",
    "to_html",
    "to_markdown",
    "to_terminal",
]
