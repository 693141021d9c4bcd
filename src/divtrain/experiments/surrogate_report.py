"""Compares the surrogates of a run that has several: transfer.md, transfer.csv and a figure."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from divtrain.evaluation import Record
from divtrain.experiments.graph import SURROGATE
from divtrain.experiments.stages import MASKS, read_masks
from divtrain.experiments.surrogates import BASE
from divtrain.files import reading
from divtrain.report import (
    TRANSFER_LEGEND,
    Answers,
    Row,
    TransferCell,
    compare_surrogates,
    grid_markdown,
    surrogate_title,
    transfer_csv,
    transfer_figure,
    transfer_grids,
    transfer_sentences,
)


def of_base(rows: Iterable[Row]) -> list[Row]:
    """Return the rows of the main table: transfer from the base surrogate, as in Table 2, alone."""
    return [row for row in rows if not row.surrogate.startswith(f"{SURROGATE} ")]


def compare_run(measured: Mapping[Path, Sequence[Record]]) -> list[TransferCell]:
    """Compare the surrogates of a run; empty where it has only one.

    Args:
        measured: The records of each stage, by its folder, which also holds the masks.

    Raises:
        DamagedFileError: when masks are not what a stage wrote.
    """
    answers: list[Answers] = []
    for folder, records in measured.items():
        attacked = [record for record in records if record.threat == "transfer"]
        if attacked:
            one = attacked[0]
            named = {(r.attack, f"{r.eps:g}"): (r.attack, r.eps) for r in attacked}
            clean, masks = read_masks(folder / MASKS, one.images)
            with reading(folder / MASKS):
                right = {named[attack, f"{eps:g}"]: mask for (attack, eps), mask in masks.items()}
                if not right:
                    raise ValueError("it holds no mask of an attack")
            answers.append(
                Answers(surrogate_title(one.surrogate), one.target, one.seed, clean, right)
            )
    several = len({each.surrogate for each in answers}) > 1
    return compare_surrogates(answers, BASE) if several else []


def transfer_files(cells: Sequence[TransferCell], title: str) -> dict[str, bytes]:
    """Return the content of transfer.md, transfer.csv and figures/transfer.png, by file."""
    lines = [*transfer_sentences(cells), grid_markdown(transfer_grids(cells)), TRANSFER_LEGEND]
    return {
        "transfer.md": "\n\n".join([*lines, ""]).encode(),
        "transfer.csv": transfer_csv(cells).encode(),
        "figures/transfer.png": transfer_figure(cells, title),
    }
