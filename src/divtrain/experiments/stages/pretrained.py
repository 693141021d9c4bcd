"""Use an existing model instead of training one."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from divtrain.data import Images
from divtrain.errors import DivtrainError, first_line
from divtrain.evaluation import correct_mask
from divtrain.experiments.manifest import FinishedStage
from divtrain.experiments.model_source import ModelSource, behaviour_digest
from divtrain.experiments.stage import OWN_SEED, Context, Stage
from divtrain.fields import from_json
from divtrain.files import read_json, write_json

FILE = "source.json"


@dataclass(frozen=True)
class Source:
    """Where a model came from.

    Attributes:
        where: A path, or MODULE:NAME.
        about: What its checkpoint says about it; empty for imported ones.
    """

    where: str
    about: dict[str, Any]


def pretrained_stage(
    source: ModelSource, role: str, images: Images, common: Mapping[str, Any], seed: int
) -> Stage:
    """Use an existing model; writes where it came from.

    Args:
        source: The model; it must fit the images (see `check_fits`).
        role: ``target`` or ``surrogate``, for the name of the stage.
        images: Test images; what the model does to a few of them is part of the key.
        common: What every stage depends on: the data's fingerprint, the device.
        seed: Of the evaluation.
    """

    def work(context: Context) -> None:
        write_json(context.folder / FILE, asdict(Source(source.where, source.about)))

    behaviour = behaviour_digest(source.model, images)
    spec = {**common, "weights": source.digest, "behaviour": behaviour}
    if source.own_seed is not None:
        spec[OWN_SEED] = source.own_seed
    return Stage("pretrained", source.name, seed, spec, (), work, detail=role, model=source.model)


def read_source(stage: FinishedStage) -> Source:
    """Read where a model came from."""
    file = stage.file(FILE)
    return from_json(Source, read_json(file), file)


def check_fits(source: ModelSource, images: Images) -> None:
    """Check that a model takes the images and knows their classes.

    Raises:
        DivtrainError: naming the model and what it did instead.
    """
    try:
        correct_mask(source.model, images.x[:1], images.y[:1])
        correct_mask(source.model, images.x[-1:], images.y.max().view(1))
    except Exception as error:  # somebody else's code: it may raise anything
        raise DivtrainError(
            f"{source.where} does not fit the data (chosen with `data.name`): {first_line(error)}"
        ) from error
