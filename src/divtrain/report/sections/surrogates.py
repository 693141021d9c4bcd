"""The comparison of surrogates (section 6): which one's examples fool more."""

from collections.abc import Sequence

import torch

from divtrain.attacks import attack_title
from divtrain.report.canvas import label_axis, panels, to_png
from divtrain.report.output import percents
from divtrain.report.report import CsvRow, Entry, Figure, Section, Table
from divtrain.report.rows import Cell, over_seeds
from divtrain.report.transfer import EVERY, Fooled

NOTE = (
    "Copied attacks: the attacker trains other models, the surrogates, and never sees the target's"
    " weights. Fooled: share of all images, in percent, that the target classifies right when clean"
    " and wrong when attacked. Worst case: by any of the attacks, image by image. Best of all: by"
    " any attack on any of the surrogates, image by image. In parentheses: points above what is"
    " crafted on base, on the same images, in brackets a 95 % interval. eps in [0, 1] pixel units,"
    " L-infinity."
)


def surrogates_section(found: Sequence[Fooled], title: str) -> Section:
    """Return, for each eps, surrogate (rows) by target (columns): worst case, best attack.

    Args:
        found: From `compare_surrogates`.
        title: Name of the experiment.
    """
    worst = [each for each in found if each.attack is None]
    best = [each for each in found if each.attack is not None]
    targets = list(dict.fromkeys(each.target for each in found))
    header = ("crafted on", *(f"{target} fooled" for target in targets))
    tables: list[Table] = []
    for eps in dict.fromkeys(each.eps for each in found):
        for name, cells in (
            ("worst case over the attacks", worst),
            ("the best single attack", best),
        ):
            here = {(each.surrogate, each.target): each for each in cells if each.eps == eps}
            rows = [
                (Entry(surrogate), *(_entry(here.get((surrogate, target))) for target in targets))
                for surrogate in dict.fromkeys(surrogate for surrogate, _ in here)
            ]
            tables.append(Table(f"eps {eps:g}, {name}", header, rows))
    alt = "Percent of the images fooled, for each eps, surrogate and target"
    figure = Figure("transfer", transfer_figure(worst, title), alt)
    return Section(
        "Which surrogate transfers better", transfer_sentences(worst), tables, [figure], [NOTE],
        data={"transfer.csv": _data(worst, best)},
    )  # fmt: skip


def transfer_figure(cells: Sequence[Fooled], title: str) -> bytes:
    """Draw surrogates (rows) against targets (columns), a panel for each eps: the worst case."""
    radii = list(dict.fromkeys(cell.eps for cell in cells))
    targets = list(dict.fromkeys(cell.target for cell in cells))
    sources = list(dict.fromkeys(cell.surrogate for cell in cells))
    width = 0.9 * len(targets) * len(radii) + 2.0
    figure, [axes] = panels(max(width, 5.6), 0.55 * len(sources) + 1.4, len(radii))
    for axis, eps in zip(axes, radii, strict=True):
        shares = torch.full((len(sources), len(targets)), float("nan"))
        for cell in (cell for cell in cells if cell.eps == eps):
            row, column = sources.index(cell.surrogate), targets.index(cell.target)
            shares[row, column] = share = 100 * cell.share.mean
            words = [str(cell.share)] + ([cell.difference.signed] if cell.difference else [])
            axis.text(column, row, "\n".join(words), ha="center", va="center", fontsize=7,
                      color="white" if share > 60 else "black")  # fmt: skip
        axis.imshow(shares.tolist(), cmap="Blues", vmin=0, vmax=100, aspect="auto")
        label_axis(axis, f"eps {eps:g}", "target")
        axis.set_xticks(range(len(targets)), targets)
        axis.set_yticks(range(len(sources)), sources)
    axes[0].set_ylabel("crafted on", fontsize=8)
    over = f"{cells[0].images} images, {over_seeds(max(cell.seeds for cell in cells))}"
    return to_png(
        figure, f"{title}: % of images fooled, worst case, and points above base ({over})"
    )


def transfer_sentences(cells: Sequence[Fooled]) -> list[str]:
    """Return the answer in words, by surrogate: counted first, then eps by eps."""
    others = [cell for cell in cells if cell.difference is not None and cell.surrogate != EVERY]
    bases = {(c.target, c.eps): c.share for c in cells if c.difference is None}
    sentences: list[str] = []
    for surrogate in dict.fromkeys(cell.surrogate for cell in others):
        mine = [cell for cell in others if cell.surrogate == surrogate]
        sentences.append(_compared(surrogate, [c.difference for c in mine if c.difference]))
        for eps in dict.fromkeys(cell.eps for cell in mine):
            parts = [
                f"{c.target} at {c.share} % ({bases[c.target, eps]} %)"
                for c in mine
                if c.eps == eps
            ]
            sentences.append(
                f"At eps {eps:g}, examples crafted on {surrogate} (on base) fool"
                f" {', '.join(parts)} of the images."
            )
    return sentences


def _compared(surrogate: str, differences: Sequence[Cell]) -> str:
    more, less = (sum(sign * d.mean > 0 for d in differences) for sign in (1, -1))
    ends = [d.interval for d in differences if d.interval is not None]
    clearly = ""
    if len(ends) == len(differences):
        above, below = sum(low > 0 for low, _ in ends), sum(high < 0 for _, high in ends)
        clearly = f"; clearly so, by the paired intervals of 95 %, in {above} and {below}"
    return (
        f"Examples crafted on {surrogate} fool more images than those crafted on base in {more} of"
        f" {len(differences)} cells (target and eps), fewer in {less}{clearly}."
    )


def _entry(each: Fooled | None) -> Entry:
    if each is None:
        return Entry("")
    attack = "" if each.attack is None else f"{attack_title(each.attack)} "
    return Entry(f"{attack}{each.share}", _points(each.difference))


def _points(difference: Cell | None) -> str:
    """A difference in points, with its deviation or interval: ``(+3.1 [1.0, 5.2])``."""
    if difference is None:
        return ""
    return f"({' '.join(filter(None, (difference.signed, difference.brackets)))})"


def _data(worst: Sequence[Fooled], best: Sequence[Fooled]) -> list[CsvRow]:
    """Percent and points."""
    alone = {(each.surrogate, each.target, each.eps): each for each in best}
    lines: list[CsvRow] = []
    for each in worst:
        own = alone.get((each.surrogate, each.target, each.eps))
        lines.append(
            {
                "surrogate": each.surrogate,
                "target": each.target,
                "eps": f"{each.eps:g}",
                "best_attack": own and own.attack,
                **_numbers("worst", each.share),
                **_numbers("difference", each.difference),
                **_numbers("best", own and own.share),
                **_numbers("best_difference", own and own.difference),
                "images": each.images,
                "seeds": each.seeds,
            }
        )
    return lines


def _numbers(name: str, cell: Cell | None) -> CsvRow:
    names = [f"{name}{end}" for end in ("", "_deviation", "_low", "_high")]
    return percents(names, (None,) * 4 if cell is None else cell.numbers)
