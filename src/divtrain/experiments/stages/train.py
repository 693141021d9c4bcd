"""Train an ensemble."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from divtrain.data import Stream
from divtrain.defences import Defence
from divtrain.errors import DamagedFileError, DivtrainError
from divtrain.evaluation.classifying import correct_batch
from divtrain.experiments.config import DataConfig
from divtrain.experiments.manifest import FinishedStage
from divtrain.experiments.recipe import BASE, Recipe, static_recipes
from divtrain.experiments.stage import ENSEMBLE, OWN_SEED, Context, OnProgress, Stage, load_trained
from divtrain.fields import from_json, to_json
from divtrain.files import read_json_lines, write_json_lines
from divtrain.identity import key_of, spec_of
from divtrain.training import (
    History,
    adam,
    build_logger,
    save_ensemble,
    train,
    training_processes,
)
from divtrain.version import versions

if TYPE_CHECKING:
    from lightning_fabric import Fabric

TARGET, SURROGATE, STATIC = "target", "surrogate", "static"
HISTORY = "history.jsonl"
STATE = "training-state.safetensors"


def train_recipe(recipe: Recipe, role: str, data: DataConfig, common: Mapping[str, Any]) -> Stage:
    """Return the stage that trains a recipe, fed by its static nets where it needs them.

    Targets of one seed share their initial weights and their static nets, and those with as many
    views the order of images; a surrogate shares nothing with them, nor with another surrogate.

    Args:
        recipe: What to train.
        role: `TARGET` or `SURROGATE`.
        data: Augmentation.
        common: What every stage depends on: the data's fingerprint, the device.
    """
    drawn = _drawn(recipe, role)
    defence = recipe.build_defence().with_outside(data.root)
    static: list[Stage] = []
    for nets in static_recipes(recipe):
        own = STATIC if role == TARGET else f"{drawn} {STATIC}"
        own = own if nets.defence == BASE else f"{own} {nets.defence}"
        built = nets.build_defence().with_outside(data.root)
        static.append(_train_stage(nets, built, STATIC, own, data, common))
    return _train_stage(recipe, defence, role, drawn, data, common, static)


def with_other_seed(recipe: Recipe, taken: object) -> Recipe:
    """Return a surrogate's recipe with the next seed, if its own draws what a target drew.

    Args:
        recipe: The surrogate.
        taken: What the target's `OWN_SEED` is, if known.
    """
    if _own_seed(recipe, _drawn(recipe, SURROGATE)) != taken:
        return recipe
    if "seed=" in recipe.name:
        raise DivtrainError(
            f"surrogate {recipe.name!r} would begin with the target's own initial weights, since"
            " the target was trained with that recipe and seed; leave the seed out, or name another"
        )
    return replace(recipe, seed=recipe.seed + 1)


def _drawn(recipe: Recipe, role: str) -> str:
    """What determines, with the seed, all that a training draws at random."""
    return f"attacker's {recipe.name}" if role == SURROGATE and recipe.name != BASE else role


def _own_seed(recipe: Recipe, drawn: str) -> int:
    return zlib.crc32(f"{recipe.seed} {drawn}".encode())


def _train_stage(
    recipe: Recipe,
    defence: Defence,
    role: str,
    drawn: str,
    data: DataConfig,
    common: Mapping[str, Any],
    static: Sequence[Stage] = (),
) -> Stage:
    """Train an ensemble; writes its checkpoint and its history.

    Args:
        recipe: What to train.
        defence: The recipe's, without static nets.
        role: For the name of the stage.
        drawn: With the seed it determines all that is drawn at random.
        data: Augmentation.
        common: What every stage depends on.
        static: The stages that train the static nets, for defences that need them.
    """
    model, settings = recipe.model, recipe.train
    own_seed = _own_seed(recipe, drawn)
    spec = {
        **common,
        "defence": {"name": recipe.defence, **spec_of(defence)},
        "shift": data.shift,
        "flip": data.flip,
        "model": to_json(model),
        "epochs": recipe.epochs,
        "batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "schedule": settings.schedule,
        "precision": settings.precision,
        OWN_SEED: own_seed,
    }
    told = {
        "name": recipe.name,
        "defence": recipe.defence,
        "seed": recipe.seed,
        "data": common.get("data", ""),
        "epochs": recipe.epochs,
        "spec": spec,
        "recipe": {
            "data": to_json(data),
            "model": to_json(model),
            "train": to_json(replace(settings, devices=1, strategy="ddp", logger="none")),
        },
    }
    devices = training_processes(settings.devices)
    if settings.strategy == "members" and devices > len(model.members):
        devices = 1  # static nets and surrogates may have fewer members than the targets

    def work(context: Context) -> None:
        fabric = context.fabric(settings.precision, devices)
        fabric.launch()
        state = context.folder / STATE
        if state.exists():
            context.log(f"      {stage.name} resumes from its saved state")
        try:
            _train(recipe, defence, own_seed, data, told, context, static, fabric)
        except DamagedFileError as error:  # raised before anything of it was used
            context.log(f"begin {stage.name} again from the first step: {error}")
            if fabric.is_global_zero:
                state.unlink(missing_ok=True)
            fabric.barrier()
            _train(recipe, defence, own_seed, data, told, context, static, fabric)

    stage = Stage(
        "train", recipe.name, recipe.seed, spec, tuple(static), work,
        code=("divtrain.training", "divtrain.models", type(defence).__module__), devices=devices,
    )  # fmt: skip
    if role == TARGET:
        return stage
    # Nobody looks for these by name; a hash keeps those of different settings apart. It leaves the
    # code out, so that what other code trained is replaced, and the log says so.
    settings_hash = key_of(spec)[:8]
    return replace(stage, detail=settings_hash if role == STATIC else f"{role} {settings_hash}")


def _train(
    recipe: Recipe,
    defence: Defence,
    own_seed: int,
    data: DataConfig,
    about: Mapping[str, Any],
    context: Context,
    static: Sequence[Stage],
    fabric: "Fabric",
) -> None:
    """Train in this process, alone or as one of several; the first one writes the files."""
    settings, dataset = recipe.train, context.dataset
    with torch.random.fork_rng():
        torch.manual_seed(own_seed)
        ens = recipe.build_ensemble(dataset)
    nets: list[torch.nn.Module] = []
    for stage in static:
        trained = load_trained(context.inputs[stage.name], fabric.device)
        nets += list(trained.members)[: settings.static_nets]
    if nets:
        defence = defence.with_static_nets(nets)
    stream = Stream(
        dataset.train.to(fabric.device),
        settings.batch_size,
        shift=data.shift,
        flip=data.flip,
        seed=own_seed,
    )
    run, stage = context.folder.parents[1], context.folder.name
    logger = build_logger(settings.logger, run, stage)
    history = train(
        ens,
        stream,
        defence,
        recipe.epochs,
        adam(settings.learning_rate),
        settings.schedule,
        [ShowProgress(context.on_progress), *([] if logger is None else [logger])],
        fabric=fabric,
        state_file=context.folder / STATE,
        save_every=settings.save_every,
        by_member=settings.by_member,
        strategy=settings.strategy,
    )
    if fabric.is_global_zero:
        if nets:
            wrong = sum(_share_wrong(net, stream) for net in nets) / len(nets)
            history = [{**row, "static_net_error": wrong} for row in history]
            context.log(
                f"      {recipe.name}: its static nets answer {wrong:.2%} of the augmented training"
                " images wrongly; there the predicted label is not the true one"
            )
        save_ensemble(context.folder / ENSEMBLE, ens, {**about, "versions": versions()})
        write_json_lines(context.folder / HISTORY, history)


def _share_wrong(net: torch.nn.Module, stream: Stream) -> float:
    """Return the fraction of an epoch's augmented images that a net classifies wrong."""
    batches = map(stream.batch, range(stream.steps_per_epoch))
    right = torch.cat([correct_batch(net, batch.x, batch.y) for batch in batches])
    return 1 - right.float().mean().item()


@dataclass(frozen=True)
class ShowProgress:
    """A callback of training that shows how far it is.

    Attributes:
        on_progress: Is told steps done, steps in all, and a line.
    """

    on_progress: OnProgress

    def on_step(self, step: int, steps: int, means: dict[str, float]) -> None:
        """Show the running means of the epoch."""
        shown = {"accuracy": "accuracy", "coherence": "coherence", "gal": "GAL", "loss": "loss"}
        parts = [f"{word} {means[name]:.3f}" for name, word in shown.items() if name in means]
        self.on_progress(step, steps, "  ".join(parts))


def read_history(stage: FinishedStage) -> History:
    """Read what a training logged, a row per epoch.

    Raises:
        DamagedFileError: when the file does not hold such rows.
    """
    file = stage.file(HISTORY)
    return from_json(History, read_json_lines(file), file)
