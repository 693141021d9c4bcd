"""Which stages an experiment has, and what feeds what: Table 2's protocol as a graph."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from divtrain.errors import DivtrainError
from divtrain.experiments.config import AttackConfig, ExperimentConfig
from divtrain.experiments.stages import (
    Stage,
    coherence_stage,
    craft_stage,
    evaluate_stage,
    given_stage,
    train_stage,
)

SURROGATE = "surrogate"


def experiment_graph(config: ExperimentConfig, common: dict[str, Any]) -> list[Stage]:
    """Return the stages of an experiment, each after its inputs.

    For every seed: a surrogate trained like base, the targets, the sets crafted on the surrogate
    and shared by all targets, each target's white-box sets, evaluations and coherence.

    Args:
        config: The experiment.
        common: What every training depends on beside it: the data's fingerprint, the device.
    """
    stages: list[Stage] = []
    for seed in range(config.seed, config.seed + config.seeds):
        surrogate = _train(config, SURROGATE, "base", seed, common)
        targets = {name: _train(config, name, name, seed, common) for name in config.targets}
        stages += [surrogate, *targets.values()]
        stages += _attack(surrogate, targets, config.attack, seed)
    return stages


def training_graph(
    config: ExperimentConfig, common: dict[str, Any], names: Sequence[str]
) -> list[Stage]:
    """Return only the training stages of some targets (or ``surrogate``) of an experiment."""
    return [
        _train(config, name, "base" if name == SURROGATE else name, seed, common)
        for seed in range(config.seed, config.seed + config.seeds)
        for name in names
    ]


def evaluation_graph(
    surrogate: Path,
    targets: Mapping[str, Path],
    attack: AttackConfig,
    seed: int,
    common: dict[str, Any],
) -> list[Stage]:
    """Return the stages that evaluate saved ensembles instead of training any."""
    if SURROGATE in targets:
        raise DivtrainError(f"{SURROGATE!r} names the surrogate; call the target otherwise")
    given = given_stage(f"given-{SURROGATE}-s{seed}", surrogate, common)
    loaded = {
        name: given_stage(f"given-{name}-s{seed}", path, common) for name, path in targets.items()
    }
    return [given, *loaded.values(), *_attack(given, loaded, attack, seed)]


def _train(
    config: ExperimentConfig, name: str, defence: str, seed: int, common: dict[str, Any]
) -> Stage:
    role = SURROGATE if name == SURROGATE else "target"
    return train_stage(
        f"train-{name}-s{seed}",
        defence,
        role,
        seed,
        config.data,
        config.model,
        config.train,
        common,
    )


def _attack(
    surrogate: Stage, targets: Mapping[str, Stage], attack: AttackConfig, seed: int
) -> list[Stage]:
    shared = _craft(SURROGATE, surrogate, attack.names, attack, seed)
    stages: list[Stage] = list(shared.values())
    for name, trained in targets.items():
        transfer = evaluate_stage(
            f"transfer-{name}-s{seed}", name, trained, SURROGATE, shared, seed
        )
        stages.append(transfer)
        if attack.white_box:
            own = _craft(name, trained, attack.white_box, attack, seed)
            stages += own.values()
            stages.append(
                evaluate_stage(
                    f"white-box-{name}-s{seed}", name, trained, name, own, seed, transfer
                )
            )
        stages.append(coherence_stage(f"coherence-{name}-s{seed}", name, trained))
    return stages


def _craft(
    name: str, attacked: Stage, attacks: Sequence[str], config: AttackConfig, seed: int
) -> dict[tuple[str, float], Stage]:
    return {
        (attack, eps): craft_stage(
            f"craft-{name}-{attack.replace(':', '-')}-{eps:g}-s{seed}",
            attacked,
            attack,
            eps,
            config.batch_size,
            seed,
        )
        for attack in attacks
        for eps in config.eps
    }
