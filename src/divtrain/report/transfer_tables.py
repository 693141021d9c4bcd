"""The comparison of surrogates in words, as tables and as CSV."""

import csv
import io
from collections.abc import Sequence

from divtrain.report.grid import Entry, Grid
from divtrain.report.rows import Cell
from divtrain.report.tables import attack_title
from divtrain.report.transfer import EVERY, TransferCell

TRANSFER_LEGEND = (
    "Transfer threat model: the attacker trains surrogates of his own and never sees the target's"
    " weights. *fooled*: share of all images, in percent, that the target classifies right"
    " when clean and wrong when attacked. *worst case*: by any of the attacks, image by image."
    " *best of all*: by any attack on any of the surrogates, image by image. In parentheses: points"
    " above what is crafted on base, on the same images, in brackets a 95 % interval. eps in [0, 1]"
    " pixel units, L-infinity."
)


def transfer_grids(cells: Sequence[TransferCell]) -> list[Grid]:
    """Return two tables an eps, surrogate (rows) by target (columns): worst case, best attack."""
    targets = list(dict.fromkeys(cell.target for cell in cells))
    grids: list[Grid] = []
    for eps in dict.fromkeys(cell.eps for cell in cells):
        here = {(cell.surrogate, cell.target): cell for cell in cells if cell.eps == eps}
        surrogates = list(dict.fromkeys(surrogate for surrogate, _ in here))
        header = ("crafted on", *(f"{target} fooled" for target in targets))
        for title, entry, without in (
            ("worst case over the attacks", _worst, ""),
            ("the best single attack", _best, EVERY),
        ):
            lines = tuple(
                (Entry(surrogate), *(entry(here.get((surrogate, target))) for target in targets))
                for surrogate in surrogates
                if surrogate != without
            )
            grids.append(Grid(f"eps {eps:g}, {title}", header, lines))
    return grids


def _worst(cell: TransferCell | None) -> Entry:
    return Entry("") if cell is None else Entry(str(cell.worst), points(cell.difference))


def _best(cell: TransferCell | None) -> Entry:
    if cell is None:
        return Entry("")
    return Entry(f"{attack_title(cell.best_attack)} {cell.best}", points(cell.best_difference))


def points(difference: Cell | None) -> str:
    """A difference in points, with its deviation or interval: ``(+3.1 [1.0, 5.2])``."""
    if difference is None:
        return ""
    spread = "" if difference.deviation is None else f" ± {100 * difference.deviation:.1f}"
    if difference.interval is not None:
        spread = f" [{', '.join(f'{100 * end:.1f}' for end in difference.interval)}]"
    return f"({100 * difference.mean:+.1f}{spread})"


def transfer_sentences(cells: Sequence[TransferCell]) -> list[str]:
    """Return the answer in words, by surrogate: counted first, then eps by eps."""
    others = [cell for cell in cells if cell.difference is not None and cell.surrogate != EVERY]
    bases = {(c.target, c.eps): c.worst for c in cells if c.difference is None}
    sentences: list[str] = []
    for surrogate in dict.fromkeys(cell.surrogate for cell in others):
        mine = [cell for cell in others if cell.surrogate == surrogate]
        sentences.append(_counted(surrogate, [c.difference for c in mine if c.difference]))
        for eps in dict.fromkeys(cell.eps for cell in mine):
            parts = [
                f"{c.target} at {c.worst} % ({bases[c.target, eps]} %)"
                for c in mine
                if c.eps == eps
            ]
            sentences.append(
                f"At eps {eps:g}, examples crafted on {surrogate} (on base) fool"
                f" {', '.join(parts)} of the images."
            )
    return sentences


def _counted(surrogate: str, differences: Sequence[Cell]) -> str:
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


def transfer_csv(cells: Sequence[TransferCell]) -> str:
    """Render one line a surrogate, target and eps, in percent and points."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    measures = ("worst", "difference", "best", "best_difference")
    ends = ("", "_deviation", "_low", "_high")
    writer.writerow(
        ["surrogate", "target", "eps", "best_attack"]
        + [f"{name}{end}" for name in measures for end in ends]
        + ["images", "seeds"]
    )
    for cell in cells:
        values = [_numbers(getattr(cell, name)) for name in measures]
        writer.writerow(
            [cell.surrogate, cell.target, f"{cell.eps:g}", cell.best_attack]
            + [number for numbers in values for number in numbers]
            + [cell.images, cell.seeds]
        )
    return out.getvalue()


def _numbers(cell: Cell | None) -> list[str]:
    """Mean, deviation, low and high, in percent; empty where there are none."""
    if cell is None:
        return [""] * 4
    low, high = cell.interval or (None, None)
    return [
        "" if value is None else f"{100 * value:.4f}"
        for value in (cell.mean, cell.deviation, low, high)
    ]
