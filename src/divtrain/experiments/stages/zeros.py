"""Measure how sparse the input gradients of an ensemble are (section 3.4)."""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from divtrain.analysis import ZeroShares, zero_shares
from divtrain.data import Images
from divtrain.evaluation.parts import Part, Parts
from divtrain.experiments.stages.stage import Context, Stage
from divtrain.fields import from_json
from divtrain.files import read_tensors, reading, write_tensors

ZEROS = "zeros.safetensors"
BATCH = 256
"""Images at a time."""


def zeros_stage(name: str, target: str, trained: Stage) -> Stage:
    """Count the zeros in a target's input gradients at every test image, in eval mode."""

    def work(context: Context) -> None:
        ens, test, parts = (
            context.load_ensemble(trained), context.dataset.test, Parts(context.folder)
        )  # fmt: skip

        def measure(x: Tensor, y: Tensor) -> Part:
            return vars(zero_shares(ens, Images(x, y), BATCH)), None

        found: list[dict[str, Tensor]] = []
        for index, batch in enumerate(zip(test.x.split(BATCH), test.y.split(BATCH), strict=True)):
            found.append(parts.get(index, partial(measure, *batch))[0])
            context.on_progress(sum(t["entries"].shape[1] for t in found), len(test), "images")
        whole = {kind: torch.cat([t[kind] for t in found], dim=1) for kind in found[0]}
        write_tensors(context.folder / ZEROS, whole, {"target": target})

    return Stage(name, {"target": target}, (trained,), work)


def read_zeros(file: Path) -> tuple[str, ZeroShares]:
    """Read what `zeros_stage` wrote: the target, and the shares at every image.

    Raises:
        DamagedFileError: when the file does not hold shares of every member and pair.
    """
    tensors, about = read_tensors(file)
    with reading(file):
        target = from_json(str, about["target"], file)
        shares = ZeroShares(tensors["entries"], tensors["products"])
        members, images = shares.entries.shape
        if shares.products.shape != (members * (members - 1) // 2, images) or not images:
            raise ValueError("expected a share for every member and pair at every image")
        for share in (shares.entries, shares.products):
            if not share.is_floating_point() or not ((share >= 0) & (share <= 1)).all():
                raise ValueError("shares of zeros are not in [0, 1]")
    return target, shares
