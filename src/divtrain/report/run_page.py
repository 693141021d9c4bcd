"""The report of a run as one HTML page that needs no other file."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from divtrain.evaluation import CLEAN, KNOWLEDGE, WarningSign
from divtrain.report.card import DOCUMENTATION
from divtrain.report.comparison import LEGEND as COMPARISON_LEGEND
from divtrain.report.comparison import claim_lines
from divtrain.report.detection import DetectionRow
from divtrain.report.detection_tables import detection_grids, detection_notes
from divtrain.report.figures import GaasPoint, along
from divtrain.report.grid import Entry, Grid
from divtrain.report.published import Comparison, count_claims
from divtrain.report.rows import THREATS, Cell, Row, surrogate_title
from divtrain.report.tables import attack_title, columns_of, describe, legend
from divtrain.report.transfer import TransferCell
from divtrain.report.transfer_tables import (
    TRANSFER_LEGEND,
    transfer_grids,
    transfer_sentences,
)


@dataclass(frozen=True)
class RunFacts:
    """What a run was.

    Attributes:
        title: Name of the experiment.
        about: What it is, in a sentence; may be empty.
        group: Group of Table 2 it is compared with; empty for none.
        reduced: Where it differs from the paper's experiment, in words.
        command: What it comes from; empty where nobody knows.
        machine: Versions, platform, time.
    """

    title: str
    about: str
    group: str
    reduced: Sequence[str]
    command: str
    machine: Mapping[str, str]


@dataclass(frozen=True)
class RunResults:
    """What a run measured; what it did not measure is empty.

    Attributes:
        rows: Every row of accuracy, of all surrogates.
        coherence: Mean coherence on the images, by target.
        warnings: Warning signs.
        comparisons: Table 2's group beside what was measured; none for held-out training images.
        points: GAAS.
        transfers: The surrogates compared, where there are several.
        detections: How well scores tell unusual inputs from clean ones.
    """

    rows: Sequence[Row] = ()
    coherence: Mapping[str, float] = field(default_factory=dict)
    warnings: Sequence[WarningSign] = ()
    comparisons: Sequence[Comparison] = ()
    points: Sequence[GaasPoint] = ()
    transfers: Sequence[TransferCell] = ()
    detections: Sequence[DetectionRow] = ()


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: Heading.
        sentences: What to say first.
        grids: Tables.
        figure: A PNG, or None.
        notes: Small print: units, denominators.
    """

    title: str
    sentences: Sequence[str] = ()
    grids: Sequence[Grid] = ()
    figure: bytes | None = None
    notes: Sequence[str] = ()

    @property
    def image(self) -> str:
        """The figure for a data URL."""
        return "" if self.figure is None else base64.b64encode(self.figure).decode()


def accuracy_grids(rows: Sequence[Row], coherence: Mapping[str, float]) -> list[Grid]:
    """Return a table of accuracy for each threat, and for each surrogate of a transfer."""
    grids: list[Grid] = []
    for threat, title in THREATS.items():
        there = [row for row in rows if row.threat == threat]
        sources = list(dict.fromkeys("" if threat != "transfer" else r.surrogate for r in there))
        for source in sources:
            mine = [row for row in there if source in ("", row.surrogate)]
            columns = columns_of(mine)
            header = ("eps", "target", *map(attack_title, columns), "coherence")
            lines = tuple(
                (
                    Entry(f"{row.eps:g}"),
                    Entry(row.target),
                    *(_accuracy(row.cells.get(name)) for name in columns),
                    Entry(f"{coherence[row.target]:.2f}" if row.target in coherence else ""),
                )
                for row in mine
            )
            where = f" (trained as {surrogate_title(source)})" if len(sources) > 1 else ""
            grids.append(Grid(f"{title}{where}; {describe(mine)}", header, lines, names=2))
    return grids


def _accuracy(cell: Cell | None) -> Entry:
    if cell is None:
        return Entry("")
    ends = (
        "" if cell.interval is None else f"[{', '.join(f'{100 * e:.1f}' for e in cell.interval)}]"
    )
    return Entry(str(cell), ends, cell.strongest)


def comparison_grid(comparisons: Sequence[Comparison]) -> Grid:
    """Return Table 2's group as a table: measured / published, and the difference in points."""
    cells = {(c.target, c.attack, c.eps): c for c in comparisons}
    columns = list(dict.fromkeys(c.attack for c in comparisons))
    lines = tuple(
        (
            Entry(f"{eps:g}"),
            Entry(target),
            *(_compared(cells.get((target, a, 0.0 if a == CLEAN else eps))) for a in columns),
        )
        for eps in sorted({c.eps for c in comparisons if c.eps > 0})
        for target in dict.fromkeys(c.target for c in comparisons)
    )
    header = ("eps", "target", *map(attack_title, columns))
    return Grid("measured / published, in percent (difference in points)", header, lines, names=2)


def _compared(each: Comparison | None) -> Entry:
    if each is None:
        return Entry("")
    if each.measured is None or each.difference is None:
        return Entry(f"- / {100 * each.published:.1f}")
    pair = f"{100 * each.measured:.1f} / {100 * each.published:.1f}"
    return Entry(pair, f"({100 * each.difference:+.1f})")


def coherence_grid(coherence: Mapping[str, float]) -> Grid:
    """Return the mean coherence of each target as a table."""
    lines = tuple((Entry(target), Entry(f"{mean:.3f}")) for target, mean in coherence.items())
    return Grid("Coherence (Eq. 7), mean over the images", ("target", "coherence"), lines)


def gaas_grid(points: Sequence[GaasPoint]) -> Grid:
    """Return Figure 5 as a table: images fooled by at least k directions; seeds put together."""
    orders = sorted({point.order for point in points})
    counts: dict[tuple[str, float], dict[int, tuple[int, int]]] = {}
    for p in points:
        own = counts.setdefault((p.target, p.eps), {})
        fooled, images = own.get(p.order, (0, 0))
        own[p.order] = fooled + p.fooled, images + p.images
    lines = tuple(
        (
            Entry(f"{eps:g}"),
            Entry(target),
            *(
                Entry(f"{100 * own[k][0] / own[k][1]:.1f}", f"({own[k][0]} of {own[k][1]})")
                if k in own
                else Entry("")
                for k in orders
            ),
        )
        for (target, eps), own in sorted(counts.items(), key=lambda item: item[0][1])
    )
    header = ("eps", "target", *(f"k = {k}" for k in orders))
    title = f"GAAS: percent of images that k orthogonal directions all fool, along {along(points)}"
    return Grid(title, header, lines, 2)


def run_html(facts: RunFacts, results: RunResults, figures: Mapping[str, bytes]) -> str:
    """Render the report of a run; what was not measured is left out.

    Args:
        facts: What the run was.
        results: What it measured.
        figures: PNGs by name: accuracy, coherence, gaas, transfer, detection.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("divtrain.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    rows = results.rows
    return environment.get_template("run.html.jinja").render(
        facts=facts,
        described=describe(rows) if rows else "",
        threats=[(t, KNOWLEDGE[t]) for t in THREATS if any(row.threat == t for row in rows)],
        warnings=results.warnings,
        sections=_sections(facts, results, figures),
        documentation=DOCUMENTATION,
    )


def _sections(facts: RunFacts, results: RunResults, figures: Mapping[str, bytes]) -> list[Section]:
    """Return a section for each thing that was measured."""
    rows, coherence = results.rows, results.coherence
    sections: list[Section] = []
    if rows:
        note = f"{legend(rows).replace('*', '')} Bold: the attack that leaves least. In brackets:"
        note = f"{note} Wilson's interval of 95 %."
        grids = accuracy_grids(rows, coherence)
        sections.append(Section("Accuracy", (), grids, figures.get("accuracy"), (note,)))
    if results.transfers:
        sections.append(
            Section(
                "Which surrogate transfers better",
                transfer_sentences(results.transfers),
                transfer_grids(results.transfers),
                figures.get("transfer"),
                (TRANSFER_LEGEND.replace("*", ""),),
            )
        )
    if results.comparisons:
        claims = claim_lines(count_claims(results.comparisons))
        grid, title = comparison_grid(results.comparisons), f"Table 2, {facts.group}"
        sections.append(Section(title, claims, (grid,), None, (COMPARISON_LEGEND,)))
    if coherence:
        note = (
            "The largest cosine between two members' input gradients at an image, in eval mode. 1:"
            " some two gradients agree; near 0: no two do."
        )
        grid = coherence_grid(coherence)
        sections.append(Section("Coherence", (), (grid,), figures.get("coherence"), (note,)))
    if results.points:
        note = (
            "At how many images, all classified right, k orthogonal directions, all as aligned with"
            " the target's own gradient as k can be, fool the target at once. White-box; k = 1 is"
            " FGSM; eps in [0, 1] pixel units, L-infinity."
        )
        grid = gaas_grid(results.points)
        sections.append(Section("GAAS (Figure 5)", (), (grid,), figures.get("gaas"), (note,)))
    if results.detections:
        notes = tuple(note.replace("*", "") for note in detection_notes(results.detections))
        tables, drawn = detection_grids(results.detections), figures.get("detection")
        sections.append(Section("Detection (section 6)", (), tables, drawn, notes))
    return sections
