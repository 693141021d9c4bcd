"""Train an ensemble."""

import zlib
from dataclasses import asdict
from typing import Any

import torch

from divtrain.data import Dataset, Stream
from divtrain.ensemble import Ensemble
from divtrain.errors import DamagedFileError
from divtrain.experiments.config import DataConfig, ModelConfig, TrainConfig
from divtrain.experiments.defences import build_defence
from divtrain.experiments.stages.stage import ENSEMBLE, Context, Stage
from divtrain.files import write_json_lines
from divtrain.models import build
from divtrain.training import TrainingSettings, save_ensemble, train
from divtrain.version import versions

HISTORY = "history.jsonl"
STATE = "training-state.safetensors"


def train_stage(
    name: str,
    defence: str,
    role: str,
    seed: int,
    data: DataConfig,
    model: ModelConfig,
    settings: TrainConfig,
    common: dict[str, Any],
    static: Stage | None = None,
) -> Stage:
    """Train an ensemble; writes its checkpoint and its history.

    Args:
        name: Name of the stage.
        defence: Name of the defence.
        role: ``target``, ``surrogate`` or ``static``: targets of one seed share their initial
            weights, and those with as many views the order of images; the others share nothing.
        seed: Seed of the experiment.
        data: Augmentation.
        model: Architecture of the members.
        settings: How to train.
        common: What every stage depends on: the data's fingerprint, the device.
        static: The stage that trained the static nets, for defences that need them.
    """
    built = build_defence(defence, settings)
    own_seed = zlib.crc32(f"{seed} {role}".encode())
    optimisation = TrainingSettings(
        settings.epochs,
        settings.learning_rate,
        settings.schedule,
        settings.save_every,
        settings.by_member,
    )

    def work(context: Context) -> None:
        dataset, fabric = context.dataset, context.fabric(settings.precision)
        with torch.random.fork_rng():
            torch.manual_seed(own_seed)
            ens = build_ensemble(model, dataset)
        images = dataset.train.to(fabric.device)
        defended = built
        if static is not None:
            defended = built.with_static_nets(context.load_ensemble(static).members)
        stream = Stream(
            images, settings.batch_size, defended.views, data.shift, data.flip, seed=own_seed
        )

        def show(step: int, steps: int, means: dict[str, float]) -> None:
            shown = {"loss": "loss", "gal": "GAL", "coherence": "coherence", "accuracy": "accuracy"}
            parts = [f"{word} {means[n]:.3f}" for n, word in shown.items() if n in means]
            context.on_progress(step, steps, "  ".join(parts))

        state = context.folder / STATE
        try:
            history = train(ens, stream, built.terms, optimisation, fabric, state, show)
        except DamagedFileError as error:  # told before anything of it was taken up
            context.log(f"begin {name} again from the first step: {error}")
            state.unlink(missing_ok=True)
            history = train(ens, stream, built.terms, optimisation, fabric, state, show)
        recipe = {"train": asdict(settings), "data": asdict(data)}
        about = {"name": name, "defence": defence, "seed": seed, **config, "recipe": recipe}
        about["versions"] = versions()
        save_ensemble(context.folder / ENSEMBLE, ens, about)
        write_json_lines(context.folder / HISTORY, history)
        state.unlink(missing_ok=True)

    config = {
        **common,
        "terms": [repr(term) for term in built.terms],
        "views": [repr(view) for view in built.views],
        "shift": data.shift,
        "flip": data.flip,
        "model": asdict(model),
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "schedule": settings.schedule,
        "precision": settings.precision,
        "own_seed": own_seed,
    }
    return Stage(name, config, () if static is None else (static,), work)


def build_ensemble(model: ModelConfig, dataset: Dataset) -> Ensemble:
    """Build the members for the images of a data set, normalised by its training images."""
    _, channels, size, _ = dataset.train.x.shape
    mean, std = dataset.channel_mean, dataset.channel_std
    members = [
        build(
            name, channels, size, dataset.classes, model.activation, model.slope,
            mean, std,
        )
        for name in model.members
    ]  # fmt: skip
    return Ensemble(members, model.aggregate)
