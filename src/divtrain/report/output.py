"""The files of a report: a page, Markdown, pictures and tables of numbers."""

import csv
import io
from collections.abc import Iterable, Sequence

from divtrain.report.html import to_html
from divtrain.report.markdown import to_markdown
from divtrain.report.report import CsvRow, Report


def report_files(report: Report) -> dict[str, bytes]:
    """Return the content of every file of a report, by its path below the run directory.

    These are NAME.html and NAME.md, with the name of the report, figures/FIGURE.png for each
    picture, and the CSV files of its sections.
    """
    texts = {f"{report.name}.html": to_html(report), f"{report.name}.md": to_markdown(report)}
    texts |= {name: to_csv(rows) for name, rows in report.data.items()}
    pictures = {f"figures/{figure.name}.png": figure.png for figure in report.figures}
    # Words of a config may be no text.
    return {name: text.encode(errors="replace") for name, text in texts.items()} | pictures


def to_csv(rows: Sequence[CsvRow]) -> str:
    r"""Render rows of the same columns as CSV, their names first; None is an empty field.

    >>> to_csv([{"eps": "0.1", "low": None}])
    'eps,low\n0.1,\n'
    """
    if not rows:
        return ""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def percents(
    names: Iterable[str], shares: Iterable[float | None], digits: int = 4
) -> dict[str, str]:
    """Return shares as columns of a CSV file, in percent; None is an empty field.

    >>> percents(["a", "b"], [0.5, None], 2)
    {'a': '50.00', 'b': ''}
    """
    texts = ("" if share is None else f"{100 * share:.{digits}f}" for share in shares)
    return dict(zip(names, texts, strict=True))
