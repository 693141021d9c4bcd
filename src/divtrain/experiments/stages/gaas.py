"""Count the orthogonal gradient-aligned directions that fool a target (Figure 5)."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from divtrain.analysis import gaas
from divtrain.errors import DivtrainError
from divtrain.evaluation import correct_mask
from divtrain.evaluation.parts import Part, Parts
from divtrain.experiments.config import GaasConfig
from divtrain.experiments.stages.stage import Context, Stage
from divtrain.files import read_json, write_json

GAAS_FILE = "gaas.json"


def gaas_stage(name: str, target: str, trained: Stage, config: GaasConfig, seed: int) -> Stage:
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
        parts = Parts(context.folder)

        def count(eps: float) -> Part:
            found = gaas(
                ens, test.x[chosen], test.y[chosen], eps, config.orders, config.objective, seed
            )
            counts = {k: round(share * config.images) for k, share in found.probability.items()}
            return {}, [
                {"eps": eps, "order": order, "fooled": fooled, "images": config.images}
                for order, fooled in counts.items()
            ]

        rows: list[dict[str, Any]] = []
        for index, eps in enumerate(config.eps):
            rows += parts.get(index, partial(count, eps))[1]
            context.on_progress(index + 1, len(config.eps), "radii")
        about = {"target": target, "seed": seed, "objective": config.objective, "rows": rows}
        write_json(context.folder / GAAS_FILE, about)

    described = {n: v for n, v in asdict(config).items() if n != "targets"}
    if config.objective == GaasConfig.objective:
        del described["objective"]  # nor have earlier runs one in their keys
    return Stage(name, {"target": target, "seed": seed, **described}, (trained,), work)


def read_gaas(file: Path) -> dict[str, Any]:
    """Read what `gaas_stage` wrote: target, seed, objective, rows of eps, order, fooled, images."""
    return read_json(file)
