"""Clean and robust accuracy of each target: a table for each threat and surrogate."""

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from divtrain.attacks import attack_title
from divtrain.evaluation import CLEAN, EVERY_SURROGATE, KNOWLEDGE, ONE_MEMBER, WORST, Threat
from divtrain.report.canvas import colour_of, label_axis, legend_below, marker_of, panels, to_png
from divtrain.report.output import percents
from divtrain.report.pareto import pareto_front
from divtrain.report.report import CsvRow, Entry, Figure, Section, Table
from divtrain.report.rows import THREATS, Row, columns_of, describe, main_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_BARS = 6
"""Bars of more targets, side by side, cannot be told apart."""
NEAR = 5.0
"""Points of clean accuracy below the median target that the figure shows; who is further below is
named."""
TITLES: dict[Threat, str] = {
    "transfer": "Transfer: copied attacks, made on the surrogate without the target's weights",
    "white-box": "White-box: direct attacks, made on the target itself",
    "query": "Query: attacks that see the target's answers only",
    "noise": "Noise: random, no attacker",
}
ANY = "on any of the surrogates, image by image"
LEGEND = (
    "Percent of all images that stay right; eps in [0, 1] pixel units, L-infinity. Worst: an image"
    " counts only if it is right when clean and no attack of the row fools the target on it; an"
    " attacker who has the weights (white-box) may use the attacks of the other tables too."
    " Coherence: mean over the images. Whoever withstands copied attacks need not withstand direct"
    " ones. Bold: the strongest attack of the row. In brackets: 95 % intervals, for other test"
    " images (Wilson's); ±: standard deviation over seeds, for other trainings."
)
HELD_OUT = (
    "The images were held out of the training images, to choose by: Table 2 of the paper, which is"
    " about test images, is not compared with."
)


def accuracy_section(rows: Sequence[Row], coherence: Mapping[str, float], title: str) -> Section:
    """Return every accuracy, with bars of the main rows of a few targets, and clean against worst.

    The worst case of transfer in that picture is from all surrogates where there are several.

    Args:
        rows: From `make_rows`.
        coherence: Mean coherence on the images, by target; may be empty.
        title: Name of the experiment.
    """
    tables: list[Table] = []
    for threat in THREATS:
        there = [row for row in rows if row.threat == threat]
        sources = list(dict.fromkeys(r.surrogate if threat == "transfer" else "" for r in there))
        for source in sources:
            mine = [row for row in there if source in ("", row.surrogate)]
            how = ANY if source == EVERY_SURROGATE else f"trained as {source}"
            where = f" ({how})" if len(sources) > 1 else ""
            tables.append(_table(f"{TITLES[threat]}{where}; {describe(mine)}", mine, coherence))
    alt = "Bars of clean and robust accuracy, for each threat, eps, attack and target"
    main = main_rows(rows)
    few = len({row.target for row in main}) <= MOST_BARS
    figures = [Figure("accuracy", accuracy_figure(main, title), alt)] if few else []
    every = {(row.target, row.eps): row for row in rows if row.surrogate == EVERY_SURROGATE}
    hardest = [every.get((r.target, r.eps), r) if r.threat == "transfer" else r for r in main]
    if both := [row for row in hardest if WORST in row.cells]:
        told = "; ".join(
            f"{r.threat}, eps {r.eps:g}, {r.target}: {r.cells[CLEAN]} clean, {r.cells[WORST]} worst"
            for r in both
        )
        told += f"; transfer is from {EVERY_SURROGATE}" if every else ""
        png = clean_worst_figure(both, title)
        figures.append(Figure("clean-worst", png, f"Clean against worst case, percent. {told}."))
    held_out = [] if all(row.split == "test" for row in rows) else [HELD_OUT]
    data = {"table.csv": accuracy_data(rows, coherence)}
    return Section("Accuracy", tables=tables, figures=figures, notes=[LEGEND, *held_out], data=data)


def accuracy_figure(rows: Sequence[Row], title: str) -> bytes:
    """Draw bars of accuracy under each attack, a panel for each eps (down) and threat (across)."""
    radii = sorted({row.eps for row in rows})
    names = {
        threat: columns_of([row for row in rows if row.threat == threat])
        for threat in dict.fromkeys(row.threat for row in rows)
    }
    width = 2.0 + 0.75 * sum(map(len, names.values()))
    ratios = {"width_ratios": [len(columns) for columns in names.values()]}
    figure, axes = panels(width, 2.4 * len(radii) + 0.9, len(names), len(radii), gridspec_kw=ratios)
    targets = list(dict.fromkeys(row.target for row in rows))
    for line, eps in zip(axes, radii, strict=True):
        for axis, (threat, columns) in zip(line, names.items(), strict=True):
            for row in (row for row in rows if (row.threat, row.eps) == (threat, eps)):
                _bars(axis, row, columns, targets)
            first = axis is line[0]
            label_axis(axis, f"{threat}, eps {eps:g}", y="accuracy, %" if first else "")
            ticks = [attack_title(name).replace(" (", "\n(") for name in columns]
            axis.set_xticks(range(len(ticks)), ticks)
            axis.set_ylim(0, 118)
            axis.set_yticks(range(0, 101, 25))
    legend_below(figure, axes.flat, len(targets))
    return to_png(figure, f"{title} ({describe(rows, which=False)})")


def clean_worst_figure(rows: Sequence[Row], title: str) -> bytes:
    """Draw clean against worst-case accuracy, a point for each target, a panel for each eps.

    A line joins the targets that no other beats in both, the Pareto front. Targets far less
    accurate than most, on clean images, are named below a panel and not drawn.

    Args:
        rows: Rows that have a worst case.
        title: Name of the experiment.
    """
    places = sorted({(row.threat, row.eps) for row in rows})
    targets = list(dict.fromkeys(row.target for row in rows))
    figure, [axes] = panels(2.6 * len(places) + 0.8, 3.0 + 0.05 * len(targets), len(places))
    for axis, (threat, eps) in zip(axes, places, strict=True):
        here = [row for row in rows if (row.threat, row.eps) == (threat, eps)]
        points = {r.target: (100 * r.cells[WORST].mean, 100 * r.cells[CLEAN].mean) for r in here}
        usual = statistics.median(clean for _, clean in points.values())
        far = [name for name, (_, clean) in points.items() if clean < usual - NEAR]
        front = sorted(points[name] for name in pareto_front(points) if name not in far)
        axis.plot(*zip(*front, strict=True), "--", color="#BBBBBB", linewidth=1, zorder=0,
                  label="not beaten in both" if len(front) > 1 else None)  # fmt: skip
        for row in (row for row in here if row.target not in far):
            worst, clean = points[row.target]
            axis.errorbar(
                [worst], [clean],
                xerr=[[end] for end in row.cells[WORST].bar],
                yerr=[[end] for end in row.cells[CLEAN].bar],
                fmt=marker_of(row.target, targets), markersize=5, elinewidth=0.8, capsize=2,
                color=colour_of(row.target, targets), label=row.target,
            )  # fmt: skip
        below = "\n".join(f"not drawn: {name}, clean {points[name][1]:.1f}" for name in far)
        whose = " from all" if any(r.surrogate == EVERY_SURROGATE for r in here) else ""
        label_axis(axis, f"{threat}{whose}, eps {eps:g}", f"worst case, %\n{below}".rstrip())
        axis.margins(0.15)
    axes[0].set_ylabel("clean, %", fontsize=8)
    legend_below(figure, axes, len(targets) + 1)
    return to_png(figure, f"{title}: clean against worst case")


def _bars(axis: "Axes", row: Row, names: Sequence[str], targets: Sequence[str]) -> None:
    """Draw one target's bars beside those of the others."""
    place, width = targets.index(row.target), 0.84 / len(targets)
    shown = [(i, row.cells[name]) for i, name in enumerate(names) if name in row.cells]
    bars = axis.bar(
        [i + width * (place - (len(targets) - 1) / 2) for i, _ in shown],
        [100 * cell.mean for _, cell in shown],
        width,
        yerr=[100 * (cell.deviation or 0) for _, cell in shown] if row.seeds > 1 else None,
        color=colour_of(row.target, targets),
        label=row.target,
        capsize=2,
    )
    upright = 90 if len(targets) > 3 else 0  # numbers side by side would run into each other
    axis.bar_label(bars, fmt="%.1f", fontsize=5.5, padding=2, rotation=upright)


def _table(title: str, rows: Sequence[Row], coherence: Mapping[str, float]) -> Table:
    columns = columns_of(rows)
    known = [row.target for row in rows if row.target in coherence]
    lines = [
        (
            Entry(f"{row.eps:g}"),
            Entry(f"{row.target}, {ONE_MEMBER}" if row.surrogate == ONE_MEMBER else row.target),
            *(row.cells[name].entry if name in row.cells else Entry("") for name in columns),
            *(
                [Entry(f"{coherence[row.target]:.2f}" if row.target in known else "")]
                if known
                else ()
            ),
        )
        for row in rows
    ]
    header = ["eps", "target", *map(attack_title, columns), *(["coherence"] if known else [])]
    return Table(title, header, lines, names=2)


def accuracy_data(rows: Sequence[Row], coherence: Mapping[str, float]) -> list[CsvRow]:
    """Percent, with Wilson's interval of one seed or the deviation of several; weakest first."""
    weakest_first = sorted(rows, key=lambda row: list(KNOWLEDGE).index(row.threat))
    names = ("accuracy_percent", "deviation_percent", "low_percent", "high_percent")
    return [
        {
            "threat": row.threat,
            "target": row.target,
            "surrogate": row.surrogate,
            "eps": f"{row.eps:g}",
            "attack": name,
            **percents(names, cell.numbers),
            "images": row.images,
            "seeds": row.seeds,
            "split": row.split,
            "coherence": f"{coherence[row.target]:.4f}" if row.target in coherence else None,
        }
        for row in weakest_first
        for name, cell in row.cells.items()
    ]
