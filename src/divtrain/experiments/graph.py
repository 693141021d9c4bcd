"""Which stages an experiment has, and what feeds what: Table 2's protocol as a graph."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from divtrain.analysis import InputKind
from divtrain.data import Images
from divtrain.ensemble import Ensemble
from divtrain.evaluation import AttackRun, Suite, make_plan
from divtrain.evaluation.diagnosis import is_differentiable
from divtrain.evaluation.plan import ONE_MEMBER
from divtrain.experiments.config import AttackConfig, DataConfig, ExperimentConfig
from divtrain.experiments.defences import build_defence
from divtrain.experiments.sources import Source
from divtrain.experiments.stages import (
    Stage,
    attempt_stage,
    coherence_stage,
    craft_stage,
    detection_stage,
    evaluate_stage,
    gaas_stage,
    given_stage,
    judge_stage,
    train_stage,
    zeros_stage,
)
from divtrain.experiments.surrogates import Recipe, attackers

SURROGATE = "surrogate"
"""What records call the surrogate trained like base; another is this and its recipe."""
ACTIVATION = "slope"
"""The value whose sweeps are the ablation of section 3.4; slope 0 is ReLU."""


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
class Shown:
    """A target as it is trained and shown.

    Attributes:
        label: What records call it: the defence, with the values that make a difference to it.
        defence: Name of the defence.
        values: Those values.
        config: The experiment it is trained in.
    """

    label: str
    defence: str
    values: Mapping[str, float]
    config: ExperimentConfig


def shown_targets(config: ExperimentConfig, variants: Sequence[Variant]) -> list[Shown]:
    """Return every target once for each of the variants that differ in how it is trained."""
    shown: list[Shown] = []
    for name in config.targets:
        plain = _train(config, name, name, config.seed, {})
        groups: dict[str, list[Variant]] = {plain.key: []} if not variants else {}
        for variant in variants:
            trained = _train(variant.config, name, name, config.seed, {})
            groups.setdefault(trained.key, []).append(variant)
        if list(groups) == [plain.key]:
            shown.append(Shown(name, name, {}, config))
            continue
        for group in groups.values():
            first = group[0]
            values = {
                field: value
                for field, value in first.values.items()
                if all(other.values[field] == value for other in group)
            }
            words = [f"{field}={value:g}" for field, value in values.items()]
            shown.append(Shown(" ".join([name, *words]), name, values, first.config))
    return shown


def makes_a_difference(config: ExperimentConfig, varied: ExperimentConfig) -> bool:
    """Whether any target of two experiments that differ in some values is trained otherwise."""
    return any(
        _train(varied, name, name, config.seed, {}).key
        != _train(config, name, name, config.seed, {}).key
        for name in config.targets
    )


def experiment_graph(
    config: ExperimentConfig, common: dict[str, Any], variants: Sequence[Variant] = ()
) -> list[Stage]:
    """Return the stages of an experiment, each after its inputs.

    For every seed: a surrogate trained like base and those of other defences that are asked for,
    the targets, the sets crafted on the surrogates and shared by all targets, each target's
    white-box sets, evaluations and coherence; where the activation is varied, also how sparse each
    target's input gradients are.

    Args:
        config: The experiment.
        common: What every training depends on beside it: the data's fingerprint, the device.
        variants: Trains the targets in each of these instead, once where variants do not differ;
            the surrogate stays that of `config`.
    """
    stages: list[Stage] = []
    for seed in range(config.seed, config.seed + config.seeds):
        surrogate = _train(config, SURROGATE, "base", seed, common)
        targets = {
            shown.label: _train(shown.config, shown.label, shown.defence, seed, common, config)
            for shown in shown_targets(config, variants)
        }
        static = {each.name: each for target in targets.values() for each in target.inputs}
        stages += [surrogate, *static.values(), *targets.values()]
        surrogates = {SURROGATE: surrogate}
        for recipe in attackers(config.attack.surrogates, config.model, config.train, seed):
            name = f"{SURROGATE} {recipe.name}"
            own = f"train-{file_name(name)}-s{seed}"
            role = f"attacker's {recipe.name}"
            surrogates[name] = _train_recipe(own, recipe, role, config.data, common)
            stages += [*surrogates[name].inputs, surrogates[name]]
        stages += _attack(surrogates, targets, config.attack, seed)
        if any(ACTIVATION in variant.values for variant in variants):
            stages += [
                zeros_stage(f"zeros-{file_name(name)}-s{seed}", name, trained)
                for name, trained in targets.items()
            ]
        if config.gaas.images:
            stages += [
                gaas_stage(f"gaas-{file_name(name)}-s{seed}", name, trained, config.gaas, seed)
                for name, trained in targets.items()
                if name in config.gaas.targets
            ]
        if config.detection.images:
            stages += _detect(surrogate, targets, config, seed)
    return stages


def training_graph(
    config: ExperimentConfig, common: dict[str, Any], names: Sequence[str]
) -> list[Stage]:
    """Return only the training stages of some targets (or ``surrogate``) of an experiment."""
    trained = [
        _train(config, name, "base" if name == SURROGATE else name, seed, common)
        for seed in range(config.seed, config.seed + config.seeds)
        for name in names
    ]
    static = {each.name: each for stage in trained for each in stage.inputs}
    return [*static.values(), *trained]


def evaluation_graph(
    targets: Sequence[Source],
    surrogates: Mapping[str, Sequence[Source | Recipe]],
    suite: Suite,
    data: DataConfig,
    test: Images,
    common: dict[str, Any],
    seed: int,
) -> list[Stage]:
    """Return the stages that evaluate models that are there already.

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

    def keep(stage: Stage) -> Stage:
        for each in stage.inputs:
            stages.setdefault(each.name, each)
        return stages.setdefault(stage.name, stage)

    for target in targets:
        given = keep(given_stage(f"target-{file_name(target.name)}", target, test, common))
        attacked = {target.name: given, ONE_MEMBER: given}
        for surrogate in surrogates[target.name]:
            attacked[surrogate.name] = keep(_surrogate(surrogate, data, test, common))
        members = isinstance(target.model, Ensemble) and len(target.model) > 1
        names = [surrogate.name for surrogate in surrogates[target.name]]
        plan = make_plan(target.name, names, members, suite, is_differentiable(target.model, test))
        crafted: dict[AttackRun, Stage] = {}
        for attempt in plan:
            source = attacked[attempt.source]
            crafted[attempt] = keep(
                attempt_stage(
                    _attempt_name(attempt, source), attempt, source, suite.batch_size, seed
                )
            )
        used = {name: attacked[name] for name in names}
        judged = f"judge-{file_name(target.name)}"
        keep(judge_stage(judged, target.name, given, used, crafted, seed))
    return list(stages.values())


def file_name(text: str) -> str:
    """Return a name that can be part of a file's name everywhere."""
    return re.sub(r"[^\w.+=-]", "-", text)


def _surrogate(
    surrogate: Source | Recipe, data: DataConfig, test: Images, common: dict[str, Any]
) -> Stage:
    if isinstance(surrogate, Source):
        return given_stage(f"surrogate-{file_name(surrogate.name)}", surrogate, test, common)
    described = repr((surrogate.defence, surrogate.model, surrogate.train, surrogate.seed))
    if surrogate.defence == "detector":
        described += surrogate.train.outside
    if surrogate.train.adv_step != "fgsm":
        described += surrogate.train.adv_step
    digest = hashlib.sha256(described.encode()).hexdigest()[:8]
    name = f"surrogate-{file_name(surrogate.name)}-{digest}"
    return _train_recipe(name, surrogate, f"attacker's {surrogate.name}", data, common)


def _attempt_name(attempt: AttackRun, source: Stage) -> str:
    parts = ["craft", source.name, attempt.attack, f"{attempt.eps:g}"]
    if attempt.source == ONE_MEMBER:
        parts.insert(2, "members")
    if attempt.images is not None:
        parts.append(f"on{attempt.images}")
    return file_name("-".join(parts))


def _train(
    config: ExperimentConfig,
    name: str,
    defence: str,
    seed: int,
    common: dict[str, Any],
    plain: ExperimentConfig | None = None,
) -> Stage:
    """Return the stage that trains a target, or the surrogate; `plain` is what is varied."""
    role = SURROGATE if name == SURROGATE else "target"
    recipe, usual = (
        Recipe(defence, defence, each.model, each.train, seed) for each in (config, plain or config)
    )
    name = f"train-{file_name(name)}-s{seed}"
    return _train_recipe(name, recipe, role, config.data, common, usual)


def _train_recipe(
    name: str,
    recipe: Recipe,
    role: str,
    data: DataConfig,
    common: dict[str, Any],
    usual: Recipe | None = None,
) -> Stage:
    """Return the stage that trains a recipe, fed by its static nets where it needs them."""

    def nets(recipe: Recipe, name: str) -> Stage:
        count, members = recipe.train.static_nets, recipe.model.members
        few = replace(recipe.model, members=(members * count)[:count])
        own = "static" if role == "target" else f"{role} static"
        return train_stage(name, "base", own, recipe.seed, data, few, recipe.train, common)

    static = None
    if build_defence(recipe.defence, recipe.train).needs_static_nets:
        # A surrogate's static nets are its attacker's own; targets of a seed share theirs.
        alone = f"train-static-s{recipe.seed}" if role == "target" else f"{name}-static"
        static = nets(recipe, alone)
        if usual is not None and nets(usual, alone).key != static.key:
            static = nets(recipe, f"{alone}-{static.key[:8]}")
    return train_stage(
        name, recipe.defence, role, recipe.seed, data, recipe.model, recipe.train, common, static
    )


def _attack(
    surrogates: Mapping[str, Stage], targets: Mapping[str, Stage], attack: AttackConfig, seed: int
) -> list[Stage]:
    shared = {
        name: _craft(name, trained, attack.names, attack, seed)
        for name, trained in surrogates.items()
    }
    stages = [stage for crafted in shared.values() for stage in crafted.values()]
    for name, trained in targets.items():
        folder = f"{file_name(name)}-s{seed}"
        transfers: list[Stage] = []
        for surrogate, crafted in shared.items():
            source = "" if surrogate == SURROGATE else f"-from-{file_name(surrogate)}"
            transfer = f"transfer-{file_name(name)}{source}-s{seed}"
            transfers.append(evaluate_stage(transfer, name, trained, surrogate, crafted, seed))
        stages += transfers
        if attack.white_box:
            own = _craft(name, trained, attack.white_box, attack, seed)
            stages += own.values()
            stages.append(
                evaluate_stage(f"white-box-{folder}", name, trained, name, own, seed, transfers)
            )
        stages.append(coherence_stage(f"coherence-{folder}", name, trained))
    return stages


def _detect(
    surrogate: Stage, targets: Mapping[str, Stage], config: ExperimentConfig, seed: int
) -> list[Stage]:
    """Score what `_attack` crafted, by the targets asked for; crafts nothing of its own."""
    attack, detection, stages = config.attack, config.detection, list[Stage]()
    shared = _craft(SURROGATE, surrogate, attack.names, attack, seed)
    for name, trained in targets.items():
        if name not in detection.targets:
            continue
        own = _craft(name, trained, attack.white_box, attack, seed)
        crafted = {InputKind("transfer", *key): stage for key, stage in shared.items()}
        crafted |= {InputKind("white-box", *key): stage for key, stage in own.items()}
        stage, outside = f"detection-{file_name(name)}-s{seed}", build_defence(name, config.train)
        stages.append(
            detection_stage(
                stage, name, trained, crafted, detection, config.data.root, outside.outside or "",
                seed,
            )
        )  # fmt: skip
    return stages


def _craft(
    name: str, attacked: Stage, attacks: Sequence[str], config: AttackConfig, seed: int
) -> dict[tuple[str, float], Stage]:
    return {
        (attack, eps): craft_stage(
            f"craft-{file_name(name)}-{attack.replace(':', '-')}-{eps:g}-s{seed}",
            attacked,
            attack,
            eps,
            config.batch_size,
            seed,
        )
        for attack in attacks
        for eps in config.eps
    }
