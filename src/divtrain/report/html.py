"""A report as one HTML page that needs no other file."""

import base64

from divtrain.report.report import Report


def to_html(report: Report) -> str:
    """Render a report, its pictures inside the page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("divtrain.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("report.html.jinja").render(
        report=report, base64=lambda png: base64.b64encode(png).decode()
    )
