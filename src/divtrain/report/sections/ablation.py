"""The ablation of section 3.4: what the slope below zero does to Diversity Training."""

from collections.abc import Mapping, Sequence

from divtrain.report.figures.ablation import activation_figure
from divtrain.report.output import percent
from divtrain.report.report import Entry, Figure, Section, Table
from divtrain.report.sweep import Histories, SweepPoint, ZeroMeans, Zeros, swept_fields

NOTE = (
    "In percent, exact zeros in eval mode (section 3.4). Zeros: entries of the members' input"
    " gradients. Zero products: terms of the inner products of every two of them. Dead: input"
    " gradients that are zero as a whole. Idle weights: entries of the gradient of GAL at one image"
    " with respect to the weights, mean over some of the images."
)
SHARES = {
    "zeros": "entries",
    "zero products": "products",
    "dead": "dead",
    "idle weights": "idle",
}
"""Headings, with the fields of `ZeroMeans`."""


def ablation_section(
    points: Sequence[SweepPoint],
    coherence: Mapping[str, float],
    zeros: Zeros,
    histories: Histories,
    title: str,
) -> Section:
    """Return the zeros in the gradients of each target, and the ablation as a figure.

    See `divtrain.report.figures.ablation.activation_figure` for the arguments.
    """
    png = activation_figure(points, coherence, zeros, histories, title)
    alt = "Coherence and GAL in training, zeros in gradients and worst-case accuracy, by slope"
    figure = Figure("activation", png, alt)
    fields = swept_fields(points)
    rows = [
        (
            Entry(point.defence),
            *(Entry(f"{point.values[f]:g}" if f in point.values else "") for f in fields),
            *(Entry(percent(share, 2)) for share in _means(zeros, target).values()),
        )
        for target, point in {point.target: point for point in points}.items()
        if zeros.get(target)
    ]
    tables = [Table("Exact zeros, percent", ("target", *fields, *SHARES), rows)] if rows else []
    notes = [NOTE] if rows else []
    return Section("ReLU and LeakyReLU (section 3.4)", (), tables, [figure], notes)


def zero_shares(zeros: Zeros, target: str) -> dict[str, str]:
    """The shares of zeros of a target as columns of a CSV file, in percent."""
    means = _means(zeros, target)
    return {f"{name.replace(' ', '_')}_percent": percent(share) for name, share in means.items()}


def _means(zeros: Zeros, target: str) -> dict[str, float | None]:
    """The mean over the seeds of each share, by heading; None where nobody looked."""
    seeds = zeros.get(target)
    mean = ZeroMeans.over(seeds) if seeds else None
    return {name: mean and getattr(mean, kind) for name, kind in SHARES.items()}
