"""Measure how sparse input gradients, and the gradient of GAL, are (section 3.4)."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from divtrain.analysis import ZeroShares, idle_weights, zero_shares
from divtrain.data import Images
from divtrain.experiments.analysis import Analysis, Trained
from divtrain.experiments.batch_cache import BatchResult
from divtrain.experiments.config import ExperimentConfig
from divtrain.experiments.finished import FinishedStage
from divtrain.experiments.stage import Context, Stage
from divtrain.files import read_tensors, reading, write_tensors
from divtrain.report import ZeroMeans, Zeros

FILE = "zeros.safetensors"
BATCH = 256
"""Images at a time."""
IDLE_IMAGES = 64
"""Images, the first, at which the gradient of GAL is measured: each takes a double backward."""
ACTIVATION = "slope"
"""The value whose sweeps are the ablation of section 3.4; slope 0 is ReLU."""


def zeros_stage(target: str, trained: Stage, seed: int) -> Stage:
    """Count the zeros in a target's input gradients, and the weights that GAL does not move.

    The input gradients are those at every test image, in eval mode; GAL's are at the first few.
    """

    def work(context: Context) -> None:
        ens, test = context.load_ensemble(trained), context.dataset.test

        def measure(x: Tensor, y: Tensor) -> BatchResult:
            return vars(zero_shares(ens, Images(x, y), BATCH)), None

        def measure_idle(place: int) -> BatchResult:
            one = Images(test.x[place : place + 1], test.y[place : place + 1])
            return {"idle": idle_weights(ens, one)}, None

        found: list[dict[str, Tensor]] = []
        for index, batch in enumerate(zip(test.x.split(BATCH), test.y.split(BATCH), strict=True)):
            found.append(context.cache.get(index, partial(measure, *batch))[0])
            context.on_progress(sum(t["entries"].shape[1] for t in found), len(test), "images")
        joined = {kind: torch.cat([t[kind] for t in found], dim=1) for kind in found[0]}
        cache = context.cache.named("idle")
        idle = [
            cache.get(place, partial(measure_idle, place))[0]["idle"]
            for place in range(min(IDLE_IMAGES, len(test)))
        ]
        joined["idle"] = torch.cat(idle, dim=1)
        write_tensors(context.folder / FILE, joined, None)

    code = ("divtrain.analysis.zeros",)
    spec = {"batch": BATCH, "idle_images": IDLE_IMAGES}
    return Stage("zeros", target, seed, spec, (trained,), work, code)


def read_zeros(stages: Sequence[FinishedStage]) -> Zeros:
    """Read the mean shares of zeros of each target, seed by seed.

    Raises:
        DamagedFileError: when a file does not hold shares of every member and pair.
    """
    means: dict[str, list[ZeroMeans]] = {}
    for stage in stages:
        file = stage.file(FILE)
        tensors, _ = read_tensors(file)
        with reading(file):
            shares, idle = ZeroShares(tensors["entries"], tensors["products"]), tensors["idle"]
            for share in (shares.entries, shares.products, idle):
                if share.ndim != 2 or not ((share >= 0) & (share <= 1)).all():
                    raise ValueError("expected shares of zeros in [0, 1]")
        parts = (shares.entries, shares.products, shares.dead.double(), idle)
        means.setdefault(stage.target, []).append(ZeroMeans(*(p.mean().item() for p in parts)))
    return means


def _stages(config: ExperimentConfig, trained: Trained) -> list[Stage]:
    del config
    if ACTIVATION not in trained.swept:
        return []
    return [zeros_stage(name, stage, trained.seed) for name, stage in trained.targets.items()]


ZEROS = Analysis("zeros", _stages, lambda stages, title: None, "a sweep over --slope")
"""Its numbers stand in the table and the figure of the sweep, not in a section of their own."""
