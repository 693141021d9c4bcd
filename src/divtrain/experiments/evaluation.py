"""Evaluate models that are there already: the report card's experiment."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from divtrain.data import Dataset
from divtrain.errors import DivtrainError
from divtrain.evaluation import Suite, check_suite
from divtrain.evaluation.plan import ONE_MEMBER
from divtrain.evaluation.transfer import check_same_task
from divtrain.experiments.cards import Cards, write_cards, write_facts
from divtrain.experiments.config import (
    Accelerator,
    DataConfig,
    ModelConfig,
    TrainConfig,
    check_training,
    flatten,
)
from divtrain.experiments.defences import check_steps
from divtrain.experiments.executors import Executor, Graph
from divtrain.experiments.graph import evaluation_graph
from divtrain.experiments.progress import Progress
from divtrain.experiments.run_directory import RunDirectory
from divtrain.experiments.runner import common_inputs, open_dataset, run_stages
from divtrain.experiments.sources import Source, is_source, open_source
from divtrain.experiments.stages import open_fabric
from divtrain.experiments.stages.given import check_fits
from divtrain.experiments.surrogates import OWN, Recipe, parse_recipe
from divtrain.experiments.torchrun import by_first
from divtrain.fields import from_json
from divtrain.files import reading
from divtrain.report import Facts
from divtrain.version import versions

ENOUGH = 1000
"""Test images attacked when nothing is said and there are more."""


@dataclass(frozen=True)
class EvaluationConfig:
    """Which models to evaluate, and against what."""

    targets: tuple[str, ...]
    """NAME=CHECKPOINT or NAME=MODULE:ATTRIBUTE of each model to evaluate."""
    surrogates: tuple[str, ...] = ("base",)
    """What attacks are transferred from: NAME=CHECKPOINT, NAME=MODULE:ATTRIBUTE, or recipes that
    are trained first: base, own (the target's own recipe), base+noise, div, each with changes:
    own,members=8  base,relu  base,single  base,model=resnet20  own,epochs=5  own,seed=7."""
    data: DataConfig = field(default_factory=lambda: DataConfig(name=""))
    """--data.name may be left out: the data the first target was trained on."""
    attack: Suite = field(default_factory=Suite)
    model: ModelConfig = field(default_factory=ModelConfig)
    """Of surrogates by recipe; the first target's, if its checkpoint tells."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Of surrogates by recipe; the first target's, if its checkpoint tells."""
    seed: int = 0
    """Of random starts, and of surrogates by recipe."""
    accelerator: Accelerator = "auto"
    """Device to compute on."""


def defaults_from(targets: Sequence[str]) -> EvaluationConfig:
    """Return a config whose data, architecture and training are those of the first target.

    Raises:
        DivtrainError: when a target cannot be loaded.
    """
    first = _open_named("target", targets)[0]
    config = _as_told(first, EvaluationConfig(tuple(targets)))
    name = first.about.get("data")
    data = replace(config.data, name=name if isinstance(name, str) else "", held_out=0)
    return replace(config, data=replace(data, root=DataConfig().root, test_size=None))


@dataclass(frozen=True)
class _Parts:
    """What an evaluation is put together from.

    Attributes:
        targets: The models evaluated.
        surrogates: What each target's attacker crafts on, by the target's name.
        graph: The stages and the data.
        of: Test images there are; the graph may use fewer.
    """

    targets: list[Source]
    surrogates: dict[str, list[Source | Recipe]]
    graph: Graph
    of: int


@dataclass(frozen=True)
class EvaluationBlueprint:
    """The graph of an evaluation.

    Attributes:
        config: Which models, against what.
    """

    config: EvaluationConfig

    def build(self) -> Graph:
        """See `Blueprint.build`."""
        return _assemble(self.config).graph


def evaluate_models(
    config: EvaluationConfig,
    out: Path,
    progress: Progress,
    command: str,
    executor: Executor | None = None,
) -> Cards:
    """Evaluate models by transfer from every surrogate, by queries, and white-box.

    Args:
        config: Which models, against what.
        out: Run directory; the same call goes on where one was stopped.
        progress: What to show.
        command: How it was asked for; it stands on the card.
        executor: What works the stages off; this process if None.

    Raises:
        DivtrainError: for anything the user can mend; what was computed stays on disk.
    """
    parts = _assemble(config)
    graph, directory = parts.graph, RunDirectory(out)
    many = [*parts.targets, *(each for some in parts.surrogates.values() for each in some)]
    weights = {
        f"weights of {each.name}": each.digest[:12] for each in many if isinstance(each, Source)
    }
    facts = {
        target.name: _facts(
            target, parts.surrogates[target.name], graph.dataset, parts.of, config.seed, command
        )
        for target in parts.targets
    }
    described = {"kind": "evaluate", **flatten(config), **weights}

    def report() -> Cards:
        write_facts(directory, facts)
        return write_cards(directory, [directory.folder(stage) for stage in graph.stages])

    by_first(config.accelerator, lambda: directory.enter(described, graph.stages))
    run_stages(EvaluationBlueprint(config), graph, directory, progress, executor)
    return by_first(config.accelerator, report)


def _assemble(config: EvaluationConfig) -> _Parts:
    """Check, load models and data, and build the graph."""
    check_suite(config.attack)
    open_fabric(config.accelerator)
    targets = _open_named("target", config.targets)
    surrogates = {target.name: _surrogates(target, config) for target in targets}
    if any(isinstance(each, Recipe) for many in surrogates.values() for each in many):
        check_training(config.train)
    if not config.data.name:
        raise DivtrainError(
            f"{targets[0].where} does not say what it was trained on; give --data.name"
        )
    if config.data.held_out:
        raise DivtrainError(
            "a report card is about test images, and its models may have been trained on all"
            " training images; leave --data.held-out out"
        )
    dataset, of = _enough(open_dataset(config.data), config.data)
    for target in targets:
        check_fits(target, dataset.test)
        for each in surrogates[target.name]:
            if isinstance(each, Source):
                check_fits(each, dataset.test)
                check_same_task(each.model, target.model, dataset.test, each.name)
            else:
                check_steps(each.defence, each.train, len(dataset.train))
    common = common_inputs(dataset, config.accelerator)
    stages = evaluation_graph(
        targets, surrogates, config.attack, config.data, dataset.test, common, config.seed
    )
    return _Parts(targets, surrogates, Graph(stages, dataset, config.accelerator), of)


def _open_named(what: str, words: Sequence[str]) -> list[Source]:
    found: dict[str, Source] = {}
    for word in words:
        name, separator, where = word.partition("=")
        if not separator or not re.fullmatch(r"[\w.+-]*\w", name) or not where or name in found:
            raise DivtrainError(
                f"expected each {what} once, as NAME=CHECKPOINT or NAME=MODULE:ATTRIBUTE with a"
                f" name of letters, digits and . _ + -, got {word!r}"
            )
        found[name] = open_source(name, where)
    if not found:
        raise DivtrainError(f"expected at least one {what}")
    return list(found.values())


def _surrogates(target: Source, config: EvaluationConfig) -> list[Source | Recipe]:
    found: dict[str, Source | Recipe] = {}
    for word in config.surrogates:
        name, separator, where = word.partition("=")
        if separator and is_source(where):
            each: Source | Recipe = _open_named("surrogate", [word])[0]
        elif is_source(word):
            each = open_source(Path(word).stem, word)
        else:
            defence = target.about.get("defence")
            own = defence if isinstance(defence, str) else None
            usual = _as_told(target, config) if word.split(",")[0] == OWN else config
            each = parse_recipe(word, own, usual.model, usual.train, config.seed)
        name = each.name
        if name in found or name in (target.name, ONE_MEMBER):
            raise DivtrainError(
                f"{name!r} names a surrogate and something else; give surrogates as NAME=CHECKPOINT"
                " with names of their own"
            )
        if isinstance(each, Source) and each.digest == target.digest:
            raise DivtrainError(
                f"surrogate {name!r} has the weights of target {target.name!r} itself: that is"
                " white-box, which is done anyway"
            )
        found[name] = each
    return list(found.values())


def _as_told(target: Source, config: EvaluationConfig) -> EvaluationConfig:
    """Put in what a target's checkpoint tells of its data, architecture and training."""
    about, where = target.about, target.where
    with reading(Path(where)):
        recipe = from_json(dict[str, Any], about.get("recipe", {}), where)
        return replace(
            config,
            data=from_json(DataConfig, recipe["data"], where) if "data" in recipe else config.data,
            model=from_json(ModelConfig, about["model"], where)
            if "model" in about
            else config.model,
            train=from_json(TrainConfig, recipe["train"], where)
            if "train" in recipe
            else config.train,
        )


def _enough(dataset: Dataset, data: DataConfig) -> tuple[Dataset, int]:
    """Draw a thousand test images where nothing is said and there are more."""
    of = len(dataset.test)
    if data.test_size is None and of > ENOUGH:
        return open_dataset(replace(data, test_size=ENOUGH)), of
    return dataset, of


def _facts(
    target: Source,
    surrogates: Sequence[Source | Recipe],
    dataset: Dataset,
    of: int,
    seed: int,
    command: str,
) -> Facts:
    def given(source: Source) -> dict[str, str]:
        told = {n: str(source.about[n]) for n in ("defence", "seed", "epochs") if n in source.about}
        return {"from": source.where, **told, "weights": source.digest[:16]}

    def trained(recipe: Recipe) -> dict[str, str]:
        return {
            "trained here": recipe.defence,
            "members": " ".join(recipe.model.members),
            "activation": recipe.model.activation,
            "epochs": str(recipe.train.epochs),
            "images": str(len(dataset.train)),
            "seed": str(recipe.seed),
        }

    about: Mapping[str, dict[str, str]] = {
        each.name: given(each) if isinstance(each, Source) else trained(each) for each in surrogates
    }
    images = f"{len(dataset.test)} test images" + (f" of {of}" if of > len(dataset.test) else "")
    return Facts(
        command=command,
        target=given(target),
        surrogates=dict(about),
        data={"name": dataset.name, "images": images, "hash": dataset.fingerprint},
        machine={
            **versions(),
            "seed of random starts": str(seed),
        },
    )
