"""Provenance of a run: preset, differences from the paper's experiment, machine."""

import inspect
from collections.abc import Sequence
from dataclasses import replace

from divtrain.experiments.config import AUTO, ExperimentConfig, differences, flat
from divtrain.experiments.manifest import FinishedStage
from divtrain.experiments.presets import PRESETS
from divtrain.report.sections.settings import Setting


def describe_preset(config: ExperimentConfig) -> str:
    """Return the first line of the preset's method section, or how a run differs from the preset.

    Empty for a preset that is not known.
    """
    if config.preset not in PRESETS:
        return ""
    changes = _list_changes(config, _usual(config))
    if changes:
        return f"{config.preset}, but for {'; '.join(changes)}."
    return (inspect.getdoc(PRESETS[config.preset]) or "").splitlines()[0]


def _usual(config: ExperimentConfig) -> ExperimentConfig:
    """Return the preset that a config started from, with the precision that ``auto`` came to."""
    usual = PRESETS[config.preset]() if config.preset in PRESETS else config
    if usual.train.precision == AUTO:
        usual = replace(usual, train=replace(usual.train, precision=config.train.precision))
    return usual


def reductions(config: ExperimentConfig) -> list[str]:
    """Describe where a run differs from the paper's experiment that it is compared with."""
    papers = [
        preset()
        for name, preset in PRESETS.items()
        if config.group and preset().group == config.group and not name.endswith("-quick")
    ]
    if not papers:
        return []
    return _list_changes(config, papers[0])


def _list_changes(config: ExperimentConfig, usual: ExperimentConfig) -> list[str]:
    """Describe where an experiment differs from another, as flags."""
    return [
        f"--{name.replace('_', '-')} {_words(name, here)}, not {_words(name, there)}"
        for name, (here, there) in differences(config, usual, aside=False).items()
    ]


def describe_settings(config: ExperimentConfig) -> list[Setting]:
    """Return every option of an experiment beside its preset's value."""
    preset = _usual(config)
    values, usual = flat(config), flat(preset)
    counted = differences(config, preset, aside=False)
    return [
        Setting(f"--{name.replace('_', '-')}", _words(name, value), _words(name, usual[name]),
                name in counted)
        for name, value in values.items()
        if name not in ("preset", "group")
    ]  # fmt: skip


def _words(name: str, value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return "all" if value is None and name.endswith("_size") else str(value)


def read_machines(stages: Sequence[FinishedStage]) -> dict[str, str]:
    """Return the machines of a run's stages, and how long they took in all."""
    told: dict[str, dict[str, None]] = {}
    for stage in stages:
        for name, value in stage.versions.items():
            told.setdefault(name, {})[value] = None
        if "precision" in stage.spec:
            told.setdefault("trained in", {})[stage.spec["precision"]] = None
    seconds = sum(stage.seconds for stage in stages)
    spent = f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
    return {name: " or ".join(values) for name, values in told.items()} | {"all stages": spent}
