"""The stages an experiment is made of: train, craft, evaluate, coherence.

A stage is named, configured and fed by other stages; its key is the hash of all that determines
its result. It reads its inputs' files and writes its own, nothing else.
"""

import hashlib
import json
import logging
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from divtrain.analysis import coherence_distribution
from divtrain.attacks import build_attack
from divtrain.data import Dataset, Images, Stream
from divtrain.ensemble import Ensemble
from divtrain.errors import DivtrainError
from divtrain.evaluation import correct_mask, craft, make_records
from divtrain.experiments.config import DataConfig, ModelConfig, TrainConfig
from divtrain.experiments.defences import build_defence
from divtrain.files import read_tensors, write_json_lines, write_tensors
from divtrain.models import build
from divtrain.training import TrainingSettings, load_ensemble, save_ensemble, train

if TYPE_CHECKING:
    from lightning_fabric import Fabric

ENSEMBLE = "ensemble.safetensors"
HISTORY = "history.jsonl"
STATE = "training-state.safetensors"
CRAFTED = "crafted.safetensors"
MASKS = "masks.safetensors"
RECORDS = "records.jsonl"
COHERENCE = "coherence.safetensors"

OnProgress = Callable[[int, int, str], None]
"""Called with (done, total, a few words on how it goes)."""


@dataclass(frozen=True)
class Context:
    """What a stage works with.

    Attributes:
        dataset: Training and test images, subsets already drawn.
        accelerator: Device, in Fabric's words.
        folder: The stage's own folder.
        inputs: The folders of its inputs, by stage name.
        on_progress: For showing progress.
    """

    dataset: Dataset
    accelerator: str
    folder: Path
    inputs: dict[str, Path]
    on_progress: OnProgress

    def fabric(self, precision: str = "fp32") -> "Fabric":
        """Return a device with a precision.

        Raises:
            DivtrainError: when this machine has no such device.
        """
        from lightning_fabric import Fabric  # here: it takes longer to import than torch

        logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
        words = {"fp32": "32-true", "bf16": "bf16-mixed"}
        try:
            return Fabric(accelerator=self.accelerator, devices=1, precision=words[precision])  # pyright: ignore
        except (RuntimeError, ValueError) as error:
            raise DivtrainError(
                f"cannot compute on --accelerator {self.accelerator}: {error}; `divtrain doctor`"
                " tells what is here"
            ) from error

    def load(self, stage: "Stage") -> Ensemble:
        """Load the ensemble that an input stage trained, on the device, laid out for speed."""
        ens, _ = load_ensemble(self.inputs[stage.name] / ENSEMBLE)
        ens.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return ens.to(self.fabric().device)


@dataclass(frozen=True)
class Stage:
    """One node of the graph.

    Attributes:
        name: Names its folder; unique in a graph.
        config: All that determines its result beside its inputs; JSON-able.
        inputs: Stages whose files it reads.
        work: Does it.
    """

    name: str
    config: dict[str, Any]
    inputs: tuple["Stage", ...]
    work: Callable[[Context], None]

    @cached_property
    def key(self) -> str:
        """Hash of name, config and the keys of the inputs."""
        parts = [self.name, self.config, [stage.key for stage in self.inputs]]
        text = json.dumps(parts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def train_stage(
    name: str,
    defence: str,
    role: str,
    seed: int,
    data: DataConfig,
    model: ModelConfig,
    settings: TrainConfig,
    common: dict[str, Any],
) -> Stage:
    """Train an ensemble; writes its checkpoint and its history.

    Args:
        name: Name of the stage.
        defence: Name of the defence.
        role: ``target`` or ``surrogate``: targets of one seed share their initial weights, and
            those with as many views the order of images; the surrogate shares nothing.
        seed: Seed of the experiment.
        data: Augmentation.
        model: Architecture of the members.
        settings: How to train.
        common: What every stage depends on: the data's fingerprint, the device.
    """
    built = build_defence(defence, settings)
    own_seed = zlib.crc32(f"{seed} {role}".encode())
    optimisation = TrainingSettings(
        settings.epochs, settings.learning_rate, settings.schedule, settings.save_every
    )

    def work(context: Context) -> None:
        dataset, fabric = context.dataset, context.fabric(settings.precision)
        with torch.random.fork_rng():
            torch.manual_seed(own_seed)
            ens = build_ensemble(model, dataset)
        images = dataset.train.to(fabric.device)
        stream = Stream(
            images, settings.batch_size, built.views, data.shift, data.flip, seed=own_seed
        )

        def show(step: int, steps: int, means: dict[str, float]) -> None:
            shown = {"loss": "loss", "gal": "GAL", "coherence": "coherence", "accuracy": "accuracy"}
            parts = [f"{word} {means[n]:.3f}" for n, word in shown.items() if n in means]
            context.on_progress(step, steps, "  ".join(parts))

        state = context.folder / STATE
        history = train(ens, stream, built.terms, optimisation, fabric, state, show)
        about = {"name": name, "defence": defence, "seed": seed, **config}
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
    return Stage(name, config, (), work)


def build_ensemble(model: ModelConfig, dataset: Dataset) -> Ensemble:
    """Build the members for the images of a data set, normalised by its training images."""
    _, channels, size, _ = dataset.train.x.shape
    members = [
        build(
            name, channels, size, dataset.classes, model.activation, model.slope,
            dataset.channel_mean, dataset.channel_std,
        )
        for name in model.members
    ]  # fmt: skip
    return Ensemble(members, model.aggregate)


def craft_stage(
    name: str, attacked: Stage, attack: str, eps: float, batch_size: int, seed: int
) -> Stage:
    """Attack every test image on the ensemble of `attacked`; writes the crafted set."""
    built = build_attack(attack, eps)

    def work(context: Context) -> None:
        def show(done: int, total: int) -> None:
            context.on_progress(done, total, "images")

        ens = context.load(attacked)
        x_adv, violations = craft(built, ens, context.dataset.test, batch_size, seed, show)
        about = {"attack": repr(built), "on": attacked.name, "violations": asdict(violations)}
        write_tensors(context.folder / CRAFTED, {"x_adv": x_adv}, about)

    config = {"attack": repr(built), "batch_size": batch_size, "seed": seed}
    return Stage(name, config, (attacked,), work)


def evaluate_stage(
    name: str,
    target: str,
    trained: Stage,
    surrogate: str,
    crafted: dict[tuple[str, float], Stage],
    seed: int,
    also: Stage | None = None,
) -> Stage:
    """Let a target classify clean and crafted images; writes success masks and records.

    Args:
        name: Name of the stage.
        target: What records call the target.
        trained: The stage that trained it.
        surrogate: What records call the attacked ensemble; the target's name means white-box.
        crafted: The crafted sets by (attack, eps).
        seed: Seed of the experiment.
        also: An earlier evaluation of the same target whose attacks this adversary has too: they
            count in the worst case. Who knows the target's weights can transfer attacks as well.
    """

    def work(context: Context) -> None:
        ens, test = context.load(trained), context.dataset.test
        clean = correct_mask(ens, test.x, test.y)
        masks = {}
        for done, (key, stage) in enumerate(crafted.items(), start=1):
            tensors, _ = read_tensors(context.inputs[stage.name] / CRAFTED)
            masks[key] = correct_mask(ens, tensors["x_adv"], test.y)
            context.on_progress(done, len(crafted), "crafted sets")
        named = {f"{attack} {eps:g}": mask for (attack, eps), mask in masks.items()}
        write_tensors(context.folder / MASKS, {"clean": clean, **named}, {"target": target})
        others = _read_masks(context.inputs[also.name] / MASKS) if also is not None else {}
        records = make_records(target, surrogate, clean, masks, seed, others)
        write_json_lines(context.folder / RECORDS, [asdict(record) for record in records])

    config = {"target": target, "surrogate": surrogate, "seed": seed}
    earlier = (also,) if also is not None else ()
    return Stage(name, config, (trained, *crafted.values(), *earlier), work)


def _read_masks(file: Path) -> dict[tuple[str, float], torch.Tensor]:
    tensors, _ = read_tensors(file)
    pairs = {tuple(name.split(" ")): mask for name, mask in tensors.items() if name != "clean"}
    return {(attack, float(eps)): mask for (attack, eps), mask in pairs.items()}


def coherence_stage(name: str, trained: Stage) -> Stage:
    """Measure coherence at every test image, in eval mode."""

    def work(context: Context) -> None:
        values = coherence_distribution(context.load(trained), context.dataset.test)
        write_tensors(context.folder / COHERENCE, {"coherence": values}, {"of": trained.name})

    return Stage(name, {}, (trained,), work)


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
