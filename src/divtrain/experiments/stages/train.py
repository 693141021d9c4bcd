"""Train an ensemble."""

import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from divtrain.data import Dataset, Outside, OutsidePart, Stream, check_outside, open_outside
from divtrain.ensemble import Ensemble
from divtrain.errors import DamagedFileError
from divtrain.experiments.config import DataConfig, ModelConfig, TrainConfig
from divtrain.experiments.defences import OUTSIDE_SHARE, Defence, build_defence
from divtrain.experiments.stages.stage import (
    ENSEMBLE,
    SCRATCH,
    Context,
    OnProgress,
    Stage,
    load_trained,
)
from divtrain.files import write_json_lines
from divtrain.models import build
from divtrain.training import (
    TrainingSettings,
    save_ensemble,
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
    built = build_defence(defence, settings)
    own_seed = zlib.crc32(f"{seed} {role}".encode())
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
    if built.outside is not None:
        config["outside"] = repr(open_outside(built.outside, data.root))
    recipe = {
        "train": asdict(replace(settings, devices=1, strategy="ddp", cuda_graph=False)),
        "data": asdict(data),
    }
    about = {"name": name, "defence": defence, "seed": seed, **config, "recipe": recipe}
    devices = training_processes(settings.devices)
    if settings.strategy == "members" and devices > len(model.members):
        devices = 1  # static nets and surrogates may have fewer members

    def work(context: Context) -> None:
        fed, outside = None if static is None else context.inputs[static.name], None
        if built.outside is not None:  # opened twice, rather than held all the while
            outside = open_outside(built.outside, data.root, config["outside"])
        training = Training(
            built, model, settings, data, own_seed, about, context.dataset, context.folder, fed,
            outside,
        )  # fmt: skip
        fabric = context.fabric(settings.precision, devices)
        fabric.launch()
        state = context.folder / STATE
        if state.exists():
            context.log(f"      {name} resumes from its saved state")
        try:
            training(fabric, context.on_progress)
        except DamagedFileError as error:  # in every process, before anything of it was taken up
            context.log(f"begin {name} again from the first step: {error}")
            if fabric.is_global_zero:
                state.unlink(missing_ok=True)
            fabric.barrier()
            training(fabric, context.on_progress)

    inputs = () if static is None else (static,)
    return Stage(name, config, inputs, work, devices=devices)


@dataclass(frozen=True)
class Training:
    """What a process does, alone or as one of several, to train an ensemble.

    Attributes:
        defence: Terms and views; static nets are yet to be loaded.
        model: Architecture of the members.
        settings: How to train.
        data: Augmentation.
        own_seed: Of weights, order of images, augmentation.
        about: What the checkpoint says about itself.
        dataset: The images.
        folder: Where checkpoint, history and state are kept.
        static: Folder of the stage that trained the static nets, for defences that need them.
        outside: Images from outside the training distribution, for defences that need them.
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
    outside: Outside | None = None

    def __call__(self, fabric: "Fabric", on_progress: OnProgress) -> None:
        """Train; the first process writes the files."""
        settings, defended = self.settings, self.defence
        with torch.random.fork_rng():
            torch.manual_seed(self.own_seed)
            ens = build_ensemble(self.model, self.dataset)
        if self.static is not None:
            defended = defended.with_static_nets(load_trained(self.static, fabric.device).members)
        stream = Stream(
            self.dataset.train.to(fabric.device),
            settings.batch_size,
            defended.views,
            self.data.shift,
            self.data.flip,
            self.own_seed,
            None if self.outside is None else self._outside_part(self.outside),
        )
        optimisation = TrainingSettings(
            settings.epochs,
            settings.learning_rate,
            settings.schedule,
            settings.save_every,
            settings.by_member,
            settings.strategy,
            settings.cuda_graph,
        )

        def show(step: int, steps: int, means: dict[str, float]) -> None:
            shown = {"loss": "loss", "gal": "GAL", "coherence": "coherence", "accuracy": "accuracy"}
            parts = [f"{word} {means[n]:.3f}" for n, word in shown.items() if n in means]
            on_progress(step, steps, "  ".join(parts))

        state = self.folder / STATE
        history = train(ens, stream, defended.terms, optimisation, fabric, state, show)
        if fabric.is_global_zero:
            about = {**self.about, "versions": versions()}
            save_ensemble(self.folder / ENSEMBLE, ens, about)
            write_json_lines(self.folder / HISTORY, history)

    def _outside_part(self, outside: Outside) -> OutsidePart:
        check_outside(outside, self.dataset)
        return OutsidePart(outside, OUTSIDE_SHARE, self.dataset.classes)


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
