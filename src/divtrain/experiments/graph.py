"""The stages of an experiment, each after its inputs: Table 2's protocol as a graph."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from divtrain.data import Images
from divtrain.errors import DivtrainError, unknown_name
from divtrain.evaluation import AttackRun, Suite, has_members, is_differentiable, make_plan
from divtrain.experiments.analyses import find_analysis
from divtrain.experiments.analysis import Trained
from divtrain.experiments.config import DataConfig, ExperimentConfig
from divtrain.experiments.model_source import ModelSource
from divtrain.experiments.recipe import BASE, Recipe, attackers, target_recipe
from divtrain.experiments.stage import Stage
from divtrain.experiments.stages.attack import attack_stage
from divtrain.experiments.stages.diagnose import diagnose_stage
from divtrain.experiments.stages.evaluate import evaluate_stage
from divtrain.experiments.stages.pretrained import pretrained_stage
from divtrain.experiments.stages.train import SURROGATE, TARGET, train_recipe

TABLE2 = "table2"


@dataclass(frozen=True)
class Variant:
    """An experiment with some values changed.

    Attributes:
        values: The values by field, e.g. gal_weight.
        config: The experiment with them.
    """

    values: Mapping[str, float]
    config: ExperimentConfig


@dataclass(frozen=True)
class TargetVariant:
    """A target with the values it is trained with.

    Attributes:
        label: What records call it: the defence, with the values that make a difference to it.
        defence: Name of the defence, with any settings of its own: ``div,gal_weight=1``.
        values: Those values.
        config: The experiment it is trained in.
    """

    label: str
    defence: str
    values: Mapping[str, float]
    config: ExperimentConfig


def target_variants(
    config: ExperimentConfig, variants: Sequence[Variant] = ()
) -> list[TargetVariant]:
    """Return every target once for each of the variants that differ in how it is trained."""
    found: list[TargetVariant] = []
    for name in config.targets:
        plain = _training_key(config, name)
        groups: dict[str, list[Variant]] = {} if variants else {plain: []}
        for variant in variants:
            groups.setdefault(_training_key(variant.config, name), []).append(variant)
        if list(groups) == [plain]:
            found.append(TargetVariant(name, name, {}, config))
            continue
        for group in groups.values():
            values = {
                field: value
                for field, value in group[0].values.items()
                if all(other.values[field] == value for other in group)
            }
            label = " ".join([name, *(f"{field}={value:g}" for field, value in values.items())])
            found.append(TargetVariant(label, name, values, group[0].config))
    return found


def makes_a_difference(config: ExperimentConfig, varied: ExperimentConfig) -> bool:
    """Whether any target of two experiments that differ in some values is trained differently."""
    return any(
        _training_key(varied, name) != _training_key(config, name) for name in config.targets
    )


def experiment_graph(
    config: ExperimentConfig, common: Mapping[str, Any], variants: Sequence[Variant] = ()
) -> list[Stage]:
    """Return the stages of an experiment, each after its inputs.

    For every seed: the surrogates, the targets, the attacks on the surrogates, shared by all
    targets, those on each target itself, the evaluation of each target, and the analyses.

    Args:
        config: The experiment.
        common: What every training depends on beside it: the data's fingerprint, the device.
        variants: Trains the targets in each of these instead, once where variants do not differ;
            the surrogates stay those of `config`.
    """
    stages: dict[str, Stage] = {}
    for seed in range(config.seed, config.seed + config.seeds):
        surrogates = {
            recipe.name: _add(stages, train_recipe(recipe, SURROGATE, config.data, common))
            for recipe in attackers(config.surrogates, config.model, config.train, seed)
        }
        targets = {
            each.label: _add(stages, _train_target(each, config.data, common, seed))
            for each in target_variants(config, variants)
        }
        attacks = {
            label: _attack_and_evaluate(stages, label, trained, surrogates, config.attack, seed)
            for label, trained in targets.items()
        }
        swept = sorted({field for variant in variants for field in variant.values})
        found = Trained(seed, targets, attacks, swept)
        for name in config.analyses:
            for stage in find_analysis(name).stages(config, found):
                _add(stages, stage)
    return list(stages.values())


def training_graph(
    config: ExperimentConfig, common: Mapping[str, Any], names: Sequence[str]
) -> list[Stage]:
    """Return only the stages that train given targets, or ``surrogate``, of an experiment."""
    stages: dict[str, Stage] = {}
    for seed in range(config.seed, config.seed + config.seeds):
        for name in names:
            if name == SURROGATE:
                (recipe,) = attackers((BASE,), config.model, config.train, seed)
                _add(stages, train_recipe(recipe, SURROGATE, config.data, common))
            else:
                target = TargetVariant(name, name, {}, config)
                _add(stages, _train_target(target, config.data, common, seed))
    return list(stages.values())


def evaluation_graph(
    targets: Sequence[ModelSource],
    surrogates: Mapping[str, Sequence[ModelSource | Recipe]],
    suite: Suite,
    data: DataConfig,
    test: Images,
    common: Mapping[str, Any],
    seed: int,
) -> list[Stage]:
    """Return the stages that evaluate models that exist already.

    Surrogates by recipe are trained; a surrogate, and what is crafted on it, is shared by all
    targets that ask for the same.

    Args:
        targets: Models to evaluate.
        surrogates: For each target's name, what its attacker crafts on.
        suite: Attacks and budgets.
        data: Augmentation in the surrogates' training.
        test: The test images.
        common: What every stage depends on: the data's fingerprint, the device.
        seed: Of random starts.
    """
    stages: dict[str, Stage] = {}
    for target in targets:
        model = _add(stages, pretrained_stage(target, TARGET, test, common, seed))
        used = {
            each.name: _add(
                stages,
                pretrained_stage(each, SURROGATE, test, common, seed)
                if isinstance(each, ModelSource)
                else train_recipe(each, SURROGATE, data, common),
            )
            for each in surrogates[target.name]
        }
        members = has_members(target.model)
        gradients = is_differentiable(target.model, test)
        opaque = [
            each.name
            for each in surrogates[target.name]
            if isinstance(each, ModelSource) and not is_differentiable(each.model, test)
        ]
        _attack_and_evaluate(
            stages, target.name, model, used, suite, seed, members, gradients, opaque
        )
    return list(stages.values())


def select_parts(
    stages: Sequence[Stage], names: Sequence[str], analyses: Sequence[str]
) -> list[Stage]:
    """Return the stages of the given parts of the paper, with their inputs, in the graph's order.

    Args:
        stages: The whole graph, inputs first.
        names: ``table2`` or names of analyses; all stages if empty.
        analyses: The analyses that were asked for.

    Raises:
        DivtrainError: for an unknown part, or one of which the graph has nothing.
    """
    if not names:
        return list(stages)
    asked = {TABLE2: "some `targets`"}
    asked |= {found.name: found.ask for found in map(find_analysis, analyses)}
    wanted: set[str] = set()
    for name in names:
        if name not in asked:
            raise unknown_name("part of the paper in `only`", name, asked)
        kind = "evaluate" if name == TABLE2 else name
        own = [stage.name for stage in stages if stage.kind == kind]
        if not own:
            raise DivtrainError(
                f"`only` {name} asks for what this run does not have; give {asked[name]}"
            )
        wanted.update(own)
    for stage in reversed(stages):  # a stage that needs another comes after it
        if stage.name in wanted:
            wanted.update(each.name for each in stage.inputs)
    return [stage for stage in stages if stage.name in wanted]


def _add(stages: dict[str, Stage], stage: Stage) -> Stage:
    """Put a stage into the graph, after its inputs, unless it is there; return it."""
    for each in stage.inputs:
        stages.setdefault(each.name, each)
    return stages.setdefault(stage.name, stage)


def _attack_and_evaluate(
    stages: dict[str, Stage],
    label: str,
    target: Stage,
    surrogates: Mapping[str, Stage],
    suite: Suite,
    seed: int,
    members: bool = True,
    gradients: bool = True,
    opaque: Sequence[str] = (),
) -> dict[AttackRun, Stage]:
    """Add the attacks of a target's evaluation, and the evaluation; return the attacks."""
    attacks: dict[AttackRun, Stage] = {}
    for run in make_plan(label, list(surrogates), members, suite, gradients, opaque):
        source = surrogates[run.source] if run.threat == "transfer" else target
        attacks[run] = _add(
            stages, attack_stage(run, source, suite.batch_size, seed, _name(source))
        )
    diagnoses = {
        name: _add(stages, diagnose_stage(each, seed, _name(each)))
        for name, each in surrogates.items()
    }
    _add(stages, evaluate_stage(label, target, surrogates, diagnoses, attacks, seed))
    return attacks


def _name(model: Stage) -> str:
    """The part of a stage's name that stands for the model it works on."""
    return " ".join(word for word in (model.detail, model.target) if word)


def _train_target(
    target: TargetVariant, data: DataConfig, common: Mapping[str, Any], seed: int
) -> Stage:
    config = target.config
    recipe = target_recipe(target.defence, target.label, config.model, config.train, seed)
    return train_recipe(recipe, TARGET, data, common)


def _training_key(config: ExperimentConfig, name: str) -> str:
    """Spec of a target's training, whatever the data and the label."""
    target = TargetVariant(name, name, {}, config)
    return _train_target(target, config.data, {}, config.seed).key
