"""What the pictures of a run show: two targets, one above the other, and a few test images."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from divtrain.analysis import choose_shown
from divtrain.data import Images
from divtrain.ensemble import Ensemble
from divtrain.evaluation import correct_mask
from divtrain.experiments.analysis import Trained
from divtrain.experiments.config import ExperimentConfig
from divtrain.experiments.recipe import BASE
from divtrain.experiments.stage import Context, Stage

LOOKED_AT = 1000
"""Test images among which those to draw are looked for."""
CODE = ("divtrain.analysis.shown", "divtrain.evaluation.classifying")
"""Modules that determine which images are drawn."""


@dataclass(frozen=True)
class Shown:
    """What a stage draws.

    Attributes:
        models: The targets, on the device, by what reports call them.
        images: The images, on the CPU.
        places: Where they are among the test images.
    """

    models: Mapping[str, Ensemble]
    images: Images
    places: Tensor


def shown_targets(config: ExperimentConfig, trained: Trained) -> dict[str, Stage]:
    """Return what to draw of one seed: base and div, or the first two targets where one is missing.

    Nothing for another seed than the first, for a sweep, and where pictures were not asked for.
    """
    if not config.pictures or trained.seed != config.seed or trained.swept:
        return {}
    there = list(trained.targets)
    chosen = [name for name in (BASE, "div") if name in there]
    chosen += [name for name in there if name not in chosen][: 2 - len(chosen)]
    return {name: trained.targets[name] for name in chosen}


def load_shown(context: Context, targets: Mapping[str, Stage], count: int) -> Shown:
    """Load what to draw: images of different classes, if possible right by all the targets.

    Args:
        context: Of the stage, which has the targets among its inputs.
        targets: From `shown_targets`.
        count: Number of images.
    """
    models = {name: context.load_ensemble(stage) for name, stage in targets.items()}
    test = context.dataset.test
    few = Images(test.x[:LOOKED_AT], test.y[:LOOKED_AT])
    right = torch.stack([correct_mask(model, few.x, few.y) for model in models.values()])
    places = choose_shown(right.all(0), few.y, count)
    return Shown(models, Images(test.x[places], test.y[places]), places)
