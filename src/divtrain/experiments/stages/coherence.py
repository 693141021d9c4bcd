"""Measure the coherence of an ensemble."""

from functools import partial

import torch
from torch import Tensor

from divtrain.analysis import coherence_distribution
from divtrain.data import Images
from divtrain.evaluation.parts import Part, Parts
from divtrain.experiments.stages.stage import Context, Stage
from divtrain.files import write_tensors

COHERENCE = "coherence.safetensors"
BATCH = 256
"""Images at a time."""


def coherence_stage(name: str, target: str, trained: Stage) -> Stage:
    """Measure the coherence of a target at every test image, in eval mode."""

    def work(context: Context) -> None:
        ens, test, parts = (
            context.load_ensemble(trained), context.dataset.test, Parts(context.folder)
        )  # fmt: skip

        def measure(x: Tensor, y: Tensor) -> Part:
            return {"coherence": coherence_distribution(ens, Images(x, y), BATCH)}, None

        found: list[Tensor] = []
        for index, batch in enumerate(zip(test.x.split(BATCH), test.y.split(BATCH), strict=True)):
            tensors, _ = parts.get(index, partial(measure, *batch))
            found.append(tensors["coherence"])
            context.on_progress(sum(map(len, found)), len(test), "images")
        values = torch.cat(found)
        write_tensors(context.folder / COHERENCE, {"coherence": values}, {"target": target})

    return Stage(name, {"target": target}, (trained,), work)
