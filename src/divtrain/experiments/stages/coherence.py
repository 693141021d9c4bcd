"""Measure the coherence of an ensemble at every test image (Figure 4)."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from divtrain.analysis import coherence_distribution
from divtrain.data import Images
from divtrain.experiments.analysis import Analysis, Trained
from divtrain.experiments.batch_cache import BatchResult
from divtrain.experiments.config import ExperimentConfig
from divtrain.experiments.finished import FinishedStage
from divtrain.experiments.stage import Context, Stage
from divtrain.files import read_tensors, reading, write_tensors
from divtrain.report import Section, coherence_section

FILE = "coherence.safetensors"
BATCH = 256
"""Images at a time."""


def coherence_stage(target: str, trained: Stage, seed: int) -> Stage:
    """Measure the coherence of a target at every test image, in eval mode."""

    def work(context: Context) -> None:
        ens, test = context.load_ensemble(trained), context.dataset.test

        def measure(x: Tensor, y: Tensor) -> BatchResult:
            return {"coherence": coherence_distribution(ens, Images(x, y), BATCH)}, None

        found: list[Tensor] = []
        for index, batch in enumerate(zip(test.x.split(BATCH), test.y.split(BATCH), strict=True)):
            tensors, _ = context.cache.get(index, partial(measure, *batch))
            found.append(tensors["coherence"])
            context.on_progress(sum(map(len, found)), len(test), "images")
        write_tensors(context.folder / FILE, {"coherence": torch.cat(found)}, None)

    code = ("divtrain.analysis.coherence",)
    return Stage("coherence", target, seed, {"batch": BATCH}, (trained,), work, code)


def read_coherence(stages: Sequence[FinishedStage]) -> dict[str, Tensor]:
    """Read the coherence at the test images, of all seeds, (image,), by target.

    Raises:
        DamagedFileError: when a file does not hold one coherence per image.
    """
    found: dict[str, list[Tensor]] = {}
    for stage in stages:
        file = stage.file(FILE)
        tensors, _ = read_tensors(file)
        with reading(file):
            values = tensors["coherence"]
            if values.ndim != 1 or not (values.abs() <= 1.001).all():  # a cosine, rounded; no NaN
                raise ValueError("expected one coherence in [-1, 1] per image")
        found.setdefault(stage.target, []).append(values)
    return {target: torch.cat(parts) for target, parts in found.items()}


def _stages(config: ExperimentConfig, trained: Trained) -> list[Stage]:
    del config
    return [coherence_stage(name, stage, trained.seed) for name, stage in trained.targets.items()]


def _section(stages: Sequence[FinishedStage], title: str) -> Section:
    return coherence_section(read_coherence(stages), title)


COHERENCE = Analysis("coherence", _stages, _section, "some --targets")
