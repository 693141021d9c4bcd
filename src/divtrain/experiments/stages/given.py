"""Take a model that is there already instead of training one."""

from typing import Any

from torch import nn

from divtrain.data import Images
from divtrain.ensemble import Ensemble
from divtrain.errors import DivtrainError
from divtrain.evaluation import correct_mask
from divtrain.experiments.sources import Source, behaviour_digest
from divtrain.experiments.stages.stage import ENSEMBLE, Context, Stage
from divtrain.files import write_json
from divtrain.models import Normalized
from divtrain.training import save_ensemble

GIVEN = "given.json"


def given_stage(name: str, source: Source, images: Images, common: dict[str, Any]) -> Stage:
    """Take a model that is there already; writes where it came from, and a copy if it can.

    Args:
        name: Name of the stage.
        source: The model; it must fit the images (see `check_fits`).
        images: Test images; what the model does to a few of them is part of the key.
        common: What every stage depends on: the data's fingerprint, the device.
    """

    def work(context: Context) -> None:
        where = {"where": source.where, "weights": source.digest, "about": source.about}
        write_json(context.folder / GIVEN, where)
        if isinstance(source.model, Ensemble) and _saveable(source.model):
            save_ensemble(context.folder / ENSEMBLE, source.model, source.about)

    behaviour = behaviour_digest(source.model, images)
    config = {**common, "weights": source.digest, "behaviour": behaviour}
    return Stage(name, config, (), work, source.model)


def check_fits(source: Source, images: Images) -> None:
    """Check that a model takes the images and knows their classes.

    Raises:
        DivtrainError: naming the model and what it did instead.
    """
    try:
        correct_mask(source.model, images.x[:1], images.y[:1])
        correct_mask(source.model, images.x[-1:], images.y.max().view(1))
    except Exception as error:  # somebody else's code: it may raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DivtrainError(
            f"{source.where} does not fit the data (chosen with --data.name): {reason}"
        ) from error


def _saveable(model: Ensemble) -> bool:
    members: list[nn.Module] = list(model.members)
    return all(isinstance(member, Normalized) for member in members)
