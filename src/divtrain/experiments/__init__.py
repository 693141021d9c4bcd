"""Experiments as graphs of stages; the only part of divtrain that touches a run directory."""

from divtrain.experiments.config import (
    AttackConfig,
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    TrainConfig,
)
from divtrain.experiments.presets import PRESETS, find_preset
from divtrain.experiments.progress import Progress, TerminalProgress
from divtrain.experiments.run_directory import RunDirectory
from divtrain.experiments.runner import (
    SavedEnsembles,
    evaluate_saved,
    open_dataset,
    run_experiment,
    train_ensembles,
)
from divtrain.experiments.summary import Summary, rewrite_summary

__all__ = [
    "PRESETS",
    "AttackConfig",
    "DataConfig",
    "ExperimentConfig",
    "ModelConfig",
    "Progress",
    "RunDirectory",
    "SavedEnsembles",
    "Summary",
    "TerminalProgress",
    "TrainConfig",
    "evaluate_saved",
    "find_preset",
    "open_dataset",
    "rewrite_summary",
    "run_experiment",
    "train_ensembles",
]
