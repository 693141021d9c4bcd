"""Measure how sparse input gradients, and the gradient of GAL, are (section 3.4)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from divtrain.analysis import ZeroShares, idle_weights, zero_shares
from divtrain.data import Images
from divtrain.ensemble import Ensemble
from divtrain.experiments.analysis import Analysis, Trained
from divtrain.experiments.config import ExperimentConfig
from divtrain.experiments.manifest import FinishedStage
from divtrain.experiments.per_image import per_image_stage, read_per_image
from divtrain.experiments.stage import Stage
from divtrain.report import ZeroMeans, Zeros

IDLE_IMAGES = 64
"""Images, the first, at which the gradient of GAL is measured: each takes a double backward."""
ACTIVATION = "slope"
"""The value whose sweeps are the ablation of section 3.4; slope 0 is ReLU."""


def measure_zeros(ens: Ensemble, images: Images, batch: int) -> dict[str, Tensor]:
    """Count the zeros in the input gradients, and the weights that GAL does not move.

    The former at every image, the latter at the first `IDLE_IMAGES` of the first batch.
    """
    values = dict(vars(zero_shares(ens, images, len(images))))
    if batch == 0:
        few = Images(images.x[:IDLE_IMAGES], images.y[:IDLE_IMAGES])
        values["idle"] = idle_weights(ens, few)
    else:
        values["idle"] = torch.zeros(len(ens), 0, dtype=torch.float64)
    return values


def read_zeros(stages: Sequence[FinishedStage]) -> Zeros:
    """Read the mean shares of zeros of each target, seed by seed.

    Raises:
        DamagedFileError: when a file does not hold shares.
    """
    means: dict[str, list[ZeroMeans]] = {}
    for stage in stages:
        values = read_per_image([stage], 0, 1)[stage.target]
        shares = ZeroShares(values["entries"], values["products"])
        parts = (shares.entries, shares.products, shares.dead.double(), values["idle"])
        means.setdefault(stage.target, []).append(ZeroMeans(*(p.mean().item() for p in parts)))
    return means


def _stages(config: ExperimentConfig, trained: Trained) -> list[Stage]:
    del config
    if ACTIVATION not in trained.swept:
        return []
    code = ("divtrain.analysis.zeros",)
    return [
        per_image_stage("zeros", measure_zeros, name, stage, trained.seed, code)
        for name, stage in trained.targets.items()
    ]


ZEROS = Analysis("zeros", _stages, lambda stages, title: None, "a sweep over --slope")
"""Its numbers stand in the table and the figure of the sweep, not in a section of their own."""
