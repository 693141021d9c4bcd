"""Take a model that is there already instead of training one."""

from typing import Any

from torch import nn

from divtrain.ensemble import Ensemble
from divtrain.errors import DivtrainError
from divtrain.evaluation import correct_mask
from divtrain.experiments.sources import Source
from divtrain.experiments.stages.stage import ENSEMBLE, Context, Stage
from divtrain.files import write_json
from divtrain.models import Normalized
from divtrain.training import save_ensemble

GIVEN = "given.json"


def given_stage(name: str, source: Source, common: dict[str, Any]) -> Stage:
    """Take a model that is there already; writes where it came from, and a copy if it can."""

    def work(context: Context) -> None:
        check_fits(source, context)
        where = {"where": source.where, "weights": source.digest, "about": source.about}
        write_json(context.folder / GIVEN, where)
        if isinstance(source.model, Ensemble) and _saveable(source.model):
            save_ensemble(context.folder / ENSEMBLE, source.model, source.about)

    return Stage(name, {**common, "weights": source.digest}, (), work, source.model)


def check_fits(source: Source, context: Context) -> None:
    """Check that a model takes the images and knows their classes."""
    images = context.dataset.test
    try:
        correct_mask(source.model, images.x[:1], images.y[:1])
        correct_mask(source.model, images.x[-1:], images.y.max().view(1))
    except (DivtrainError, RuntimeError) as error:
        raise DivtrainError(
            f"{source.where} does not fit the data (chosen with --data.name):"
            f" {str(error).splitlines()[0]}"
        ) from error


def _saveable(model: Ensemble) -> bool:
    members: list[nn.Module] = list(model.members)
    return all(isinstance(member, Normalized) for member in members)
