"""Analyses that measure something at every test image of every target, batch by batch."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any

import torch
from torch import Tensor

from divtrain.data import Images
from divtrain.ensemble import Ensemble
from divtrain.errors import DivtrainError
from divtrain.evaluation import split_images
from divtrain.experiments.analysis import Analysis, Trained
from divtrain.experiments.batch_cache import BatchResult
from divtrain.experiments.config import ExperimentConfig
from divtrain.experiments.manifest import FinishedStage
from divtrain.experiments.stage import Context, Stage
from divtrain.files import read_tensors, reading, write_tensors
from divtrain.identity import spec_of
from divtrain.module_state import device_of, eval_mode
from divtrain.report import Section

FILE = "values.safetensors"
BATCH = 256
"""Images at a time."""

Measure = Callable[[Ensemble, Images, int], Mapping[str, Tensor]]
"""What to measure: maps a target in eval mode, a batch of images on its device, and the number of
the batch to values by name, whose last dimension is over images."""


Show = Callable[[Mapping[str, Mapping[str, Tensor]], str], Section | None]
"""How to show it: maps the values of each target, of all seeds, and the report's title to a section
of the report."""


def per_image_analysis(
    name: str, measure: Measure, show: Show, low: float, high: float, code: tuple[str, ...] = ()
) -> Analysis:
    """Return the analysis that measures something at every test image of every target.

    Args:
        name: Its name.
        measure: What to measure, a function at the top of a module.
        show: How to show it.
        low: Lowest value that makes sense.
        high: Highest value that makes sense.
        code: Modules of divtrain whose code determines the values.
    """

    def stages(config: ExperimentConfig, trained: Trained) -> list[Stage]:
        del config
        return [
            per_image_stage(name, measure, target, stage, trained.seed, code, low, high)
            for target, stage in trained.targets.items()
        ]

    def section(finished: Sequence[FinishedStage], title: str) -> Section | None:
        return show(read_per_image(finished, low, high), title)

    return Analysis(name, stages, section, "some --targets")


def per_image_stage(
    name: str,
    measure: Measure,
    target: str,
    trained: Stage,
    seed: int,
    code: tuple[str, ...] = (),
    low: float = -inf,
    high: float = inf,
) -> Stage:
    """Measure something at every test image; writes the values.

    Args:
        name: Name of the analysis.
        measure: What to measure, a function at the top of a module.
        target: What the report calls the target.
        trained: The stage that trained it.
        seed: Of the experiment.
        code: Modules of divtrain whose code determines the values.
        low: Lowest value that makes sense.
        high: Highest value that makes sense.
    """

    def work(context: Context) -> None:
        ens, test = context.load_ensemble(trained), context.dataset.test
        found: list[Mapping[str, Tensor]] = []
        done = 0
        for index, batch in enumerate(split_images(test.to(device_of(ens)), BATCH)):
            found.append(context.cache.get(index, partial(compute, ens, batch, index))[0])
            done += len(batch)
            context.on_progress(done, len(test), "")
        joined = {kind: torch.cat([each[kind] for each in found], dim=-1) for kind in found[0]}
        for kind, values in joined.items():
            if not ((values >= low) & (values <= high)).all():  # nor is NaN
                raise DivtrainError(
                    f"analysis {name} of {target}: expected {kind} in [{low:g}, {high:g}], got"
                    f" values from {values.min():g} to {values.max():g}; a diverged training is the"
                    " usual reason (lower the learning rate), or bounds that are too narrow"
                )
        means = (f"mean {kind} {values.float().mean():.3g}" for kind, values in joined.items())
        context.on_progress(len(test), len(test), ", ".join(means))
        write_tensors(context.folder / FILE, joined, None, sealed=False)

    def compute(ens: Ensemble, batch: Images, index: int) -> BatchResult:
        with eval_mode(ens):
            measured: Any = measure(ens, batch, index)
        if not isinstance(measured, Mapping):
            raise DivtrainError(
                f"analysis {name}: expected its measure to return a dictionary of tensors by name,"
                f" got {type(measured).__name__}"
            )
        return {kind: values.detach() for kind, values in measured.items()}, None

    spec = {"batch": BATCH, "measure": spec_of(measure)}
    return Stage(name, target, seed, spec, (trained,), work, code)


def read_per_image(
    stages: Sequence[FinishedStage], low: float, high: float
) -> dict[str, dict[str, Tensor]]:
    """Read what was measured, by target; the values of several seeds are put together.

    Args:
        stages: The stages that measured.
        low: Lowest value that makes sense.
        high: Highest value that makes sense.

    Raises:
        DamagedFileError: when a file holds other values.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for stage in stages:
        file = stage.file(FILE)
        tensors, _ = read_tensors(file)
        before = found.setdefault(stage.target, {})
        with reading(file):
            for name, values in tensors.items():
                if not ((values >= low) & (values <= high)).all():  # nor is NaN
                    raise ValueError(f"expected {name} in [{low}, {high}]")
                joined = [before[name], values] if name in before else [values]
                before[name] = torch.cat(joined, dim=-1)
    return found
