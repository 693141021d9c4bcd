"""Take an ensemble from a checkpoint instead of training it."""

import hashlib
from pathlib import Path
from typing import Any

from divtrain.data import Images
from divtrain.ensemble import Ensemble
from divtrain.errors import DivtrainError
from divtrain.evaluation import correct_mask
from divtrain.experiments.stages.stage import ENSEMBLE, Context, Stage
from divtrain.training import load_ensemble, save_ensemble


def given_stage(name: str, checkpoint: Path, common: dict[str, Any]) -> Stage:
    """Take an ensemble from a checkpoint instead of training it; writes a checked copy."""
    ens, about = load_ensemble(checkpoint)
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()

    def work(context: Context) -> None:
        check_fits(ens, context.dataset.test, checkpoint)
        save_ensemble(context.folder / ENSEMBLE, ens, about)

    return Stage(name, {**common, "checkpoint": digest}, (), work)


def check_fits(ens: Ensemble, images: Images, checkpoint: Path) -> None:
    """Check that an ensemble takes the images and knows their classes."""
    try:
        correct_mask(ens, images.x[:1], images.y[:1])
        correct_mask(ens, images.x[-1:], images.y.max().view(1))
    except DivtrainError as error:
        raise DivtrainError(
            f"{checkpoint} does not fit the data (chosen with --data.name): {error}"
        ) from error
