"""Train an ensemble."""

import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from divtrain.data import Dataset, Outside, Stream, check_outside
from divtrain.defences import Defence, build_defence
from divtrain.ensemble import Ensemble
from divtrain.errors import DamagedFileError
from divtrain.experiments.config import DataConfig, ModelConfig, TrainConfig
from divtrain.experiments.stages.launch import launch
from divtrain.experiments.stages.stage import (
    ENSEMBLE,
    SCRATCH,
    Context,
    OnProgress,
    Stage,
    load_trained,
)
from divtrain.files import write_json_lines
from divtrain.identity import spec_of
from divtrain.models import build
from divtrain.training import (
    adam,
    save_ensemble,
    torchrun_processes,
    train,
    training_processes,
)
from divtrain.version import versions

if TYPE_CHECKING:
    from lightning_fabric import Fabric

HISTORY = "history.jsonl"
STATE = f"{SCRATCH[0]}.safetensors"


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
    built = build_defence(defence, **vars(settings)).with_outside(data.root)
    own_seed = zlib.crc32(f"{seed} {role}".encode())
    config = {
        **common,
        "defence": spec_of(built),
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
    recipe = {
        "train": asdict(replace(settings, devices=1, strategy="ddp")),
        "data": asdict(data),
    }
    about = {**config, "name": name, "defence": defence, "seed": seed, "recipe": recipe}
    devices = training_processes(settings.devices)
    if settings.strategy == "members":  # static nets and surrogates may have fewer
        fewer = min(devices, len(model.members))
        devices = fewer if torchrun_processes() in (1, fewer) else 1

    def work(context: Context) -> None:
        fed = None if static is None else context.inputs[static.name]
        training = Training(
            built, model, settings, data, own_seed, about, context.dataset, context.folder, fed
        )
        where = devices, context.accelerator, settings.precision
        state = context.folder / STATE
        if state.exists():
            context.log(f"      {name} resumes from its saved state")
        try:
            launch(training, *where, context.on_progress)
        except DamagedFileError as error:  # told before anything of it was taken up
            context.log(f"begin {name} again from the first step: {error}")
            state.unlink(missing_ok=True)
            launch(training, *where, context.on_progress)

    return Stage(name, config, () if static is None else (static,), work)


@dataclass(frozen=True)
class Training:
    """What a process does, alone or as one of several, to train an ensemble; picklable.

    Attributes:
        defence: Without its static nets, which are yet to be loaded.
        model: Architecture of the members.
        settings: How to train.
        data: Augmentation.
        own_seed: Of weights, order of images, augmentation.
        about: What the checkpoint says about itself.
        dataset: The images.
        folder: Where checkpoint, history and state are kept.
        static: Folder of the stage that trained the static nets, for defences that need them.
    """

    defence: Defence
    model: ModelConfig
    settings: TrainConfig
    data: DataConfig
    own_seed: int
    about: dict[str, Any]
    dataset: Dataset
    folder: Path
    static: Path | None

    def __call__(self, fabric: "Fabric", on_progress: OnProgress) -> None:
        """Train; the first process writes the files."""
        settings, defended = self.settings, self.defence
        with torch.random.fork_rng():
            torch.manual_seed(self.own_seed)
            ens = build_ensemble(self.model, self.dataset)
        if self.static is not None:
            defended = defended.with_static_nets(load_trained(self.static, fabric.device).members)
        if isinstance(defended.outside, Outside):
            check_outside(defended.outside, self.dataset)
        stream = Stream(
            self.dataset.train.to(fabric.device),
            settings.batch_size,
            shift=self.data.shift,
            flip=self.data.flip,
            seed=self.own_seed,
        )
        history = train(
            ens,
            stream,
            defended,
            settings.epochs,
            adam(settings.learning_rate),
            settings.schedule,
            [Shown(on_progress)],
            fabric=fabric,
            state_file=self.folder / STATE,
            save_every=settings.save_every,
            by_member=settings.by_member,
            strategy=settings.strategy,
        )
        if fabric.is_global_zero:
            about = {**self.about, "versions": versions()}
            save_ensemble(self.folder / ENSEMBLE, ens, about)
            write_json_lines(self.folder / HISTORY, history)


@dataclass(frozen=True)
class Shown:
    """A callback that shows how far a training is.

    Attributes:
        on_progress: Is told steps done, steps in all, and a line.
    """

    on_progress: OnProgress

    def on_step(self, step: int, steps: int, means: dict[str, float]) -> None:
        """Show the running means of the epoch."""
        shown = {"loss": "loss", "gal": "GAL", "coherence": "coherence", "accuracy": "accuracy"}
        parts = [f"{word} {means[name]:.3f}" for name, word in shown.items() if name in means]
        self.on_progress(step, steps, "  ".join(parts))


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
