"""Count the orthogonal gradient-aligned directions that fool a target (Figure 5)."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from divtrain.analysis import gaas
from divtrain.errors import DivtrainError
from divtrain.evaluation import correct_mask
from divtrain.experiments.analysis import Analysis, Trained
from divtrain.experiments.batch_cache import BatchResult
from divtrain.experiments.config import ExperimentConfig, GaasConfig
from divtrain.experiments.manifest import FinishedStage
from divtrain.experiments.stage import Context, Stage
from divtrain.fields import from_json
from divtrain.files import read_json, reading, write_json
from divtrain.report import GaasPoint, Section, gaas_section

FILE = "gaas.json"


def gaas_stage(target: str, trained: Stage, config: GaasConfig, seed: int) -> Stage:
    """Analyse a target at test images it classifies right; writes counts by eps and order."""

    def work(context: Context) -> None:
        ens, test = context.load_ensemble(trained), context.dataset.test
        right = correct_mask(ens, test.x, test.y).nonzero().squeeze(1)
        if len(right) < config.images:
            raise DivtrainError(
                f"GAAS was asked for at {config.images} images, but {target} classifies only"
                f" {len(right)} of {len(test)} test images right; give --gaas.images {len(right)}"
                " or more test images"
            )
        chosen = right[: config.images]

        def count(eps: float) -> BatchResult:
            found = gaas(
                ens, test.x[chosen], test.y[chosen], eps, config.orders, config.objective, seed
            )
            return {}, [
                asdict(GaasPoint(target, eps, order, round(share * config.images), config.images,
                                 config.objective))
                for order, share in found.probability.items()
            ]  # fmt: skip

        points: list[dict[str, Any]] = []
        for index, eps in enumerate(config.eps):
            points += context.cache.get(index, partial(count, eps))[1]
            context.on_progress(index + 1, len(config.eps), "")
        write_json(context.folder / FILE, points)

    spec = {name: value for name, value in asdict(config).items() if name != "targets"}
    code = ("divtrain.analysis.gaas", "divtrain.evaluation.classifying")
    return Stage("gaas", target, seed, spec, (trained,), work, code)


def read_gaas(stages: Sequence[FinishedStage]) -> list[GaasPoint]:
    """Read the counts of every target and seed.

    Raises:
        DamagedFileError: when a file does not hold counts.
    """
    points: list[GaasPoint] = []
    for stage in stages:
        file = stage.file(FILE)
        found = from_json(list[GaasPoint], read_json(file), file)
        with reading(file):
            for point in found:
                if not 0 <= point.fooled <= point.images or point.order < 1 or not point.images:
                    raise ValueError(f"no such count: {point}")
        points += found
    return points


def _stages(config: ExperimentConfig, trained: Trained) -> list[Stage]:
    if not config.gaas.images:
        return []
    return [
        gaas_stage(name, stage, config.gaas, trained.seed)
        for name, stage in trained.targets.items()
        if name in config.gaas.targets
    ]


def _section(stages: Sequence[FinishedStage], title: str) -> Section:
    return gaas_section(read_gaas(stages), title)


GAAS = Analysis(
    "gaas", _stages, _section,
    "--gaas.images N, e.g. 100, and in --gaas.targets some that --targets has too",
)  # fmt: skip
