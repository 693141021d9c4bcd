"""Evaluation of existing models: the report card."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from divtrain.data import Dataset
from divtrain.data.datasets import DATASETS
from divtrain.defences import DEFENCES
from divtrain.errors import DivtrainError
from divtrain.evaluation import check_channels, check_other_weights, check_same_task
from divtrain.experiments.config import AUTO, DataConfig, EvaluationConfig, ModelConfig, TrainConfig
from divtrain.experiments.devices import open_fabric
from divtrain.experiments.graph import evaluation_graph
from divtrain.experiments.model_source import ModelSource, is_source, open_model
from divtrain.experiments.open_data import (
    ENOUGH,
    FEW,
    common_inputs,
    open_dataset,
    open_enough,
)
from divtrain.experiments.recipe import OWN, Recipe, is_defence, parse_recipe
from divtrain.experiments.stage import Graph
from divtrain.experiments.stages.pretrained import check_fits
from divtrain.experiments.stages.train import with_other_seed
from divtrain.fields import from_json


@dataclass(frozen=True)
class EvaluationBlueprint:
    """The graph of an evaluation.

    Attributes:
        config: Which models, against what.
        quick: Whether the suite is a quick one, for the card to say so.
    """

    kind: ClassVar[str] = "evaluate"

    config: EvaluationConfig
    quick: bool = False

    def build(self) -> Graph:
        """See `Blueprint.build`."""
        config = self.config
        open_fabric(config.accelerator)
        targets = open_targets(config.targets)
        surrogates = {target.name: open_surrogates(target, config) for target in targets}
        if not config.data.name:
            raise DivtrainError(
                f"{targets[0].where} does not say what it was trained on; give `data.name`"
            )
        dataset, of = open_enough(config.data, FEW if self.quick else ENOUGH)
        check_channels(config.attack, dataset.test.x.shape[1])
        open_once = cache(open_dataset)
        for target in targets:
            _check_same_content(target, config.data, open_once)
            check_fits(target, dataset.test)
            for each in surrogates[target.name]:
                if isinstance(each, ModelSource):
                    check_fits(each, dataset.test)
                    check_same_task(each.model, target.model, dataset.test, each.name)
                else:
                    each.check(dataset, config.data.root, is_target=False)
        common = {**common_inputs(dataset, config.accelerator), "test_of": of}
        stages = evaluation_graph(
            targets, surrogates, config.attack, config.data, dataset.test, common, config.seed
        )
        return Graph(stages, dataset, config.accelerator)


def defaults_from(targets: Sequence[str]) -> EvaluationConfig:
    """Return a config whose data, architecture and training are those of the first target.

    Raises:
        DivtrainError: when a target cannot be loaded.
    """
    (first,) = open_targets(targets[:1])
    config = _as_trained(first, EvaluationConfig(targets=tuple(targets)))
    name = first.about.get("data")
    name = name if isinstance(name, str) else ""
    data = replace(config.data, name=name, root=DataConfig().root, test_size=None)
    return replace(config, data=data)


def _check_same_content(
    target: ModelSource, data: DataConfig, open_once: Callable[[DataConfig], Dataset]
) -> None:
    """Check that a file or folder of a target's training is what it was then.

    Args:
        target: The target.
        data: What it is evaluated on.
        open_once: Opens a data set; targets trained alike share one.

    Raises:
        DivtrainError: when it has changed: what is tested on may have been trained on.
    """
    spec, recipe = target.about.get("spec"), target.about.get("recipe")
    then = recipe.get("data") if isinstance(recipe, dict) else None
    if not isinstance(spec, dict) or target.about.get("data") != data.name or data.name in DATASETS:
        return
    known = from_json(DataConfig, then, target.where)
    if open_once(known).fingerprint != spec.get("fingerprint"):
        raise DivtrainError(
            f"the content of {data.name} has changed since {target.name!r} was trained on it, so"
            " its test images may have been trained on; give the data as they were, or others"
            " under another name, as `data.name`"
        )


def open_targets(words: Sequence[str]) -> list[ModelSource]:
    """Load models given as NAME=CHECKPOINT or NAME=MODULE:ATTRIBUTE.

    Raises:
        DivtrainError: for a word of another form, a name given twice, or none at all.
    """
    found: dict[str, ModelSource] = {}
    for word in words:
        name, separator, where = word.partition("=")
        if not separator or not re.fullmatch(r"[\w.+-]*\w", name) or not where or name in found:
            raise DivtrainError(
                "expected each model once, as NAME=CHECKPOINT or NAME=MODULE:ATTRIBUTE with a name"
                f" of letters, digits and . _ + -, got {word!r}"
            )
        found[name] = open_model(name, where)
    if not found:
        raise DivtrainError("expected at least one target")
    return list(found.values())


def open_surrogates(target: ModelSource, config: EvaluationConfig) -> list[ModelSource | Recipe]:
    """Load, or read the recipes of, what attacks on a target are crafted on.

    Raises:
        DivtrainError: for words it does not know, a name given twice, or the target itself.
    """
    found: dict[str, ModelSource | Recipe] = {}
    for word in config.surrogates:
        _, separator, where = word.partition("=")
        if separator and is_source(where):
            each: ModelSource | Recipe = open_targets([word])[0]
        elif is_source(word) and not is_defence(word):
            each = open_model(Path(word).stem, word)
        else:
            defence = target.about.get("defence")
            # A class that only a checkpoint names is not imported.
            own = defence if defence in DEFENCES else None
            usual = _as_trained(target, config) if word.split(",")[0] == OWN else config
            settings = replace(usual.train, precision=config.train.precision)
            recipe = parse_recipe(word, own, usual.model, settings, config.seed)
            each = with_other_seed(recipe, target.own_seed)
        if each.name in found:
            raise DivtrainError(
                f"{each.name!r} names two surrogates; give surrogates as NAME=CHECKPOINT with names"
                " of their own"
            )
        if isinstance(each, ModelSource):
            check_other_weights(each.model, target.model, each.name, f"target {target.name!r}")
            if each.where == target.where:  # a function, whose weights nobody sees
                raise DivtrainError(
                    f"surrogate {each.name!r} is target {target.name!r} itself: that is white-box,"
                    " which is done anyway"
                )
        found[each.name] = each
    return list(found.values())


def _as_trained(target: ModelSource, config: EvaluationConfig) -> EvaluationConfig:
    """Put in what a target's checkpoint says of its data, architecture and training."""
    recipe = from_json(dict[str, Any], target.about.get("recipe", {}), target.where)
    kinds = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig}
    told: dict[str, Any] = {
        name: from_json(kind, recipe[name], target.where)
        for name, kind in kinds.items()
        if name in recipe
    }
    if "data" in told:  # a card is about test images, whatever was held out in training
        told["data"] = replace(told["data"], held_out=0)
    if "train" in told and told["train"].precision == "bf16":  # which this machine may lack
        told["train"] = replace(told["train"], precision=AUTO)
    return replace(config, **told)
