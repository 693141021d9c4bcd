"""Measure how sparse input gradients, and the gradient of GAL, are (section 3.4)."""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from divtrain.analysis import ZeroShares, idle_weights, zero_shares
from divtrain.data import Images
from divtrain.evaluation.parts import Part, Parts
from divtrain.experiments.stages.stage import Context, Stage
from divtrain.fields import from_json
from divtrain.files import read_tensors, reading, write_tensors

ZEROS = "zeros.safetensors"
BATCH = 256
"""Images at a time."""
IDLE_IMAGES = 64
"""Images, the first, at which the gradient of GAL is looked at: each takes a double backward."""


def zeros_stage(name: str, target: str, trained: Stage) -> Stage:
    """Count the zeros in a target's input gradients, and the weights that GAL does not move.

    The input gradients are those at every test image, in eval mode; GAL's are at some.
    """

    def work(context: Context) -> None:
        ens, test, parts = (
            context.load_ensemble(trained), context.dataset.test, Parts(context.folder)
        )  # fmt: skip

        def measure(x: Tensor, y: Tensor) -> Part:
            return vars(zero_shares(ens, Images(x, y), BATCH)), None

        def look(place: int) -> Part:
            one = Images(test.x[place : place + 1], test.y[place : place + 1])
            return {"idle": idle_weights(ens, one)}, None

        found: list[dict[str, Tensor]] = []
        for index, batch in enumerate(zip(test.x.split(BATCH), test.y.split(BATCH), strict=True)):
            found.append(parts.get(index, partial(measure, *batch))[0])
            context.on_progress(sum(t["entries"].shape[1] for t in found), len(test), "images")
        whole = {kind: torch.cat([t[kind] for t in found], dim=1) for kind in found[0]}
        some = range(min(IDLE_IMAGES, len(test)))
        idle = [parts.named("idle").get(place, partial(look, place))[0]["idle"] for place in some]
        whole["idle"] = torch.cat(idle, dim=1)
        write_tensors(context.folder / ZEROS, whole, {"target": target})

    return Stage(name, {"target": target, "idle_images": IDLE_IMAGES}, (trained,), work)


def read_zeros(file: Path) -> tuple[str, ZeroShares, Tensor]:
    """Read what `zeros_stage` wrote.

    Returns:
        The target; the shares of zeros at every image; the shares of weights that GAL does not
        move at some images, (member, image).

    Raises:
        DamagedFileError: when the file does not hold shares of every member and pair.
    """
    tensors, about = read_tensors(file)
    with reading(file):
        target = from_json(str, about["target"], file)
        shares, idle = ZeroShares(tensors["entries"], tensors["products"]), tensors["idle"]
        members, images = shares.entries.shape
        if shares.products.shape != (members * (members - 1) // 2, images) or not images:
            raise ValueError("expected a share for every member and pair at every image")
        if idle.ndim != 2 or len(idle) != members or not 1 <= idle.shape[1] <= images:
            raise ValueError("expected a share of weights for every member at some images")
        for share in (shares.entries, shares.products, idle):
            if not share.is_floating_point() or not ((share >= 0) & (share <= 1)).all():
                raise ValueError("shares of zeros are not in [0, 1]")
    return target, shares, idle
