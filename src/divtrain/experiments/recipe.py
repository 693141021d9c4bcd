"""Recipes: how a target, a surrogate or a static net is trained."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from divtrain.data import Dataset, Outside, check_outside
from divtrain.defences import DEFENCES, Defence, build_defence
from divtrain.ensemble import Ensemble
from divtrain.errors import DivtrainError, arguments_as, unknown_name
from divtrain.experiments.config import AUTO, ModelConfig, TrainConfig
from divtrain.forward import leading
from divtrain.models import ARCHITECTURES, build
from divtrain.training import build_logger, check_devices, training_processes

BASE = "base"
OWN = "own"
CHANGES = ("relu", "single", "members=N", "model=NAME", "seed=N", "SETTING=VALUE")
"""What may follow a defence in a recipe."""
SETTINGS = tuple(each.name for each in fields(TrainConfig) if not isinstance(each.default, tuple))


@dataclass(frozen=True)
class Recipe:
    """How to train a target or a surrogate.

    Attributes:
        name: The words it was asked for with, e.g. ``own,members=8``.
        defence: Name of the defence.
        model: Architecture.
        train: Training settings.
        seed: Seed; a surrogate shares nothing with a target of the same seed.
    """

    name: str
    defence: str
    model: ModelConfig
    train: TrainConfig
    seed: int

    def build_defence(self) -> Defence:
        """Return the defence with its settings.

        Raises:
            DivtrainError: for a name that is none.
        """
        settings = vars(self.train)
        if self.train.crafted_eps is None:
            settings = settings | {"crafted_eps": self.train.noise}
        return build_defence(self.defence, **settings)

    @property
    def epochs(self) -> int:
        """Passes over the training images: as many as the budget pays for, if there is one."""
        if self.train.budget is None:
            return self.train.epochs
        defence = self.build_defence()
        price = defence.cost(len(self.model.members)) * visits(defence)
        return max(1, math.floor(self.train.budget / price + 0.5))

    def build_ensemble(self, dataset: Dataset) -> Ensemble:
        """Build the members for the images of a data set, normalised by its training images."""
        _, channels, height, width = dataset.train.x.shape
        size = height if height == width else (height, width)
        model, mean, std = self.model, dataset.channel_mean, dataset.channel_std
        members = [
            build(name, channels, size, dataset.classes, model.activation, model.slope, mean, std)
            for name in model.members
        ]
        return Ensemble(members, model.aggregate)

    def check(self, dataset: Dataset, root: str, is_target: bool = True) -> None:
        """Check that it can be trained on a data set.

        Args:
            dataset: The images.
            root: Where torchvision's files are, for images from outside.
            is_target: Whether every device needs a member; surrogates of fewer members than
                devices are trained on one.

        Raises:
            DivtrainError: naming what does not fit.
        """
        defence, train = self.build_defence().with_outside(root), self.train
        names = ("devices", "strategy", "batch_size", "gal_every", "gal_part", "logger")
        with arguments_as(**{name: f"train.{name}" for name in names}):
            with torch.device("meta"):  # an outline, without weights
                defence.check_ensemble(self.build_ensemble(dataset))
            defence.check_classes(len(self.model.members), dataset.classes)
            steps = defence.steps_per_epoch(len(dataset.train), train.batch_size)
            defence.check_steps(self.epochs * steps)
            outside = leading(defence.outside_share, train.batch_size)
            devices, members = training_processes(train.devices), len(self.model.members)
            if is_target or train.strategy == "ddp" or members >= devices:
                parts = outside, defence.crafter
                check_devices(devices, train.strategy, members, train.batch_size, *parts)
            build_logger(train.logger, Path(), "")  # whether its library is there
        if isinstance(defence.outside, Outside):
            check_outside(defence.outside, dataset)
        for nets in static_recipes(self):
            nets.check(dataset, root, is_target=False)


def visits(defence: Defence) -> float:
    """Images of the batches of an epoch, per training image: one for each view, and outside."""
    return len(defence.views) / (1 - defence.outside_share)


def is_defence(word: str) -> bool:
    """Whether a word names a defence of one's own, ``MODULE:CLASS``."""
    if ":" not in word:
        return False
    try:
        return bool(build_defence(word))
    except DivtrainError:
        return False


def parse_recipe(
    word: str,
    own_defence: str | None,
    model: ModelConfig,
    train: TrainConfig,
    seed: int,
    role: str = "surrogate",
) -> Recipe:
    """Read a recipe: ``[DEFENCE][,CHANGE]...``, changes to what the target's own recipe says.

    ``base`` (or nothing) is plain training, ``own`` the target's defence, or name any defence, your
    own as ``MODULE:CLASS``.
    Changes: ``relu``; ``single`` (one member); ``members=N`` (the target's architectures in turn);
    ``model=NAME`` (every member of that architecture); ``seed=N``; ``SETTING=VALUE`` for any
    setting of training, such as ``epochs=5`` or ``gal_weight=1``.

    Args:
        word: The recipe.
        own_defence: The target's defence; None when it is not known.
        model: The target's architecture.
        train: The target's training settings.
        seed: Seed when the recipe names none.
        role: What messages call it: a surrogate or a target.

    Raises:
        DivtrainError: for words it does not know, or ``own`` where the defence is not known.

    >>> recipe = parse_recipe("own,members=8", "div", ModelConfig(), TrainConfig(), 0)
    >>> recipe.defence, len(recipe.model.members)
    ('div', 8)
    """
    parts = word.split(",")
    defence = "base"
    if parts[0] == OWN:
        if own_defence is None:
            raise DivtrainError(
                "surrogate 'own' needs the target's training recipe, which its checkpoint does not"
                f" contain; name the defence instead: {', '.join(DEFENCES)}, MODULE:CLASS"
            )
        defence, parts = own_defence, parts[1:]
    elif parts[0] in DEFENCES or ":" in parts[0]:  # whether it can be imported is told later
        defence, parts = parts[0], parts[1:]
    first = parts[0] if parts and len(parts) == len(word.split(",")) else ""  # no defence yet
    for part in parts:
        key, _, value = part.partition("=")
        if part == "relu":
            model = replace(model, activation="relu")
        elif part == "single":
            model = replace(model, members=model.members[:1])
        elif key == "model" and value in ARCHITECTURES:
            model = replace(model, members=(value,) * len(model.members))
        elif key == "model":
            raise unknown_name("model", value, ARCHITECTURES)
        elif key in ("members", "seed") and value.isdecimal():
            number = int(value)
            if key == "seed":
                seed = number
            elif number < 1:
                raise DivtrainError(f"expected {key} >= 1 in {role} {word!r}, got {number}")
            else:
                turns = (model.members * number)[:number]
                model = replace(model, members=turns)
        elif part == f"precision={AUTO}":
            raise DivtrainError(
                f"{role} {word!r}: {part} is for a run as a whole, as --train.precision {AUTO}"
            )
        elif key in SETTINGS and value:
            with arguments_as(**{key: f"{key} in {word}"}):
                train = replace(train, **{key: value})
            if key == "epochs":
                train = replace(train, budget=None)  # its own epochs come before any budget
        else:
            what = f"part of {role} {word!r}:"
            if value and role == "target":  # of which a setting is all that can change
                raise unknown_name(what, part, [f"{setting}={value}" for setting in SETTINGS])
            changes = [each.removesuffix("N") + value if each.endswith("=N") and value.isdecimal()
                       else each for each in CHANGES]  # fmt: skip
            defences = [OWN, *DEFENCES, "a checkpoint", "MODULE:NAME"] if part == first else []
            raise unknown_name(what, part, [*defences, *changes])
    return Recipe(word, defence, model, train, seed)


def static_recipes(recipe: Recipe) -> list[Recipe]:
    """Return how the static nets are trained, kind by kind, that its defence crafts examples on.

    Raises:
        DivtrainError: for a kind that needs static nets itself.
    """
    if not recipe.build_defence().needs_static_nets:
        return []
    found: list[Recipe] = []
    for kind in recipe.train.static_recipes:
        least = max(recipe.train.static_nets, build_defence(kind).least_members)
        few = replace(recipe.model, members=(recipe.model.members * least)[:least])
        nets = replace(recipe, name="static", defence=kind, model=few)
        if nets.build_defence().needs_static_nets:
            raise DivtrainError(
                "expected `static_recipes` that need no static nets themselves, got"
                f" {kind}; take base, base+noise, div, pgd-at or another"
            )
        found.append(nets)
    return found


def target_recipe(
    word: str, label: str, model: ModelConfig, train: TrainConfig, seed: int
) -> Recipe:
    """Parse a target of an experiment: ``DEFENCE[,SETTING=VALUE]...``.

    Args:
        word: What stands in ``--targets``.
        label: What records call it.
        model: The targets' architecture, which it cannot change.
        train: The targets' training settings.
        seed: Of the experiment.

    Raises:
        DivtrainError: for another word, and as `parse_recipe` does.

    >>> recipe = target_recipe("div,gal_weight=1", "div", ModelConfig(), TrainConfig(), 0)
    >>> recipe.defence, recipe.train.gal_weight
    ('div', 1.0)
    """
    recipe = parse_recipe(word, None, model, train, seed, "target")
    if recipe.model != model or recipe.seed != seed or word.split(",")[0] != recipe.defence:
        raise DivtrainError(
            f"expected a target to be a defence, with any settings of training, such as"
            f" div,gal_weight=1, got {word!r}: architecture and seed are those of the experiment"
        )
    return replace(recipe, name=label)


def attackers(
    words: Sequence[str], model: ModelConfig, train: TrainConfig, seed: int
) -> list[Recipe]:
    """Parse the surrogates of an experiment.

    Args:
        words: ``base`` and other recipes, from ``--surrogates``.
        model: The targets' architecture.
        train: The targets' training settings.
        seed: Seed of the experiment.

    Raises:
        DivtrainError: without ``base``, for one given twice, for ``own`` and seeds, and as
            `parse_recipe` does.

    >>> [each.defence for each in attackers(("base", "div"), ModelConfig(), TrainConfig(), 0)]
    ['base', 'div']
    """
    for word in words:
        if word.split(",")[0] == OWN:
            raise DivtrainError(
                f"surrogate {word!r}: the targets differ in their defence, so name one of"
                f" {', '.join(DEFENCES)}"
            )
        if any(part.startswith("seed=") for part in word.split(",")):
            raise DivtrainError(
                f"surrogate {word!r}: its seed follows from the experiment's; leave it out"
            )
    if BASE not in words or len(set(words)) < len(words):
        raise DivtrainError(
            f"expected surrogates to name {BASE}, which the others are compared with, and"
            f" each other once, got {' '.join(words) or 'none'}"
        )
    return [parse_recipe(word, None, model, train, seed) for word in words]
