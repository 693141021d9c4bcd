"""Experiments as graphs of stages; the only part of divtrain that touches a run directory."""

from divtrain.experiments.cards import Cards, rewrite_report
from divtrain.experiments.config import (
    AttackConfig,
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    TrainConfig,
)
from divtrain.experiments.evaluation import EvaluationConfig, defaults_from, evaluate_models
from divtrain.experiments.executors import Executor, LocalExecutor, RayExecutor, WorkOptions
from divtrain.experiments.presets import PRESETS, find_preset
from divtrain.experiments.progress import LineProgress, Progress, TerminalProgress
from divtrain.experiments.run_directory import RunDirectory
from divtrain.experiments.runner import (
    open_dataset,
    run_experiment,
    train_ensembles,
)
from divtrain.experiments.summary import Summary, rewrite_summary
from divtrain.experiments.sweep import SweepConfig, SweepSummary, run_sweep, sweep_flags
from divtrain.experiments.torchrun import by_first, speak_once

__all__ = [
    "PRESETS",
    "AttackConfig",
    "Cards",
    "DataConfig",
    "EvaluationConfig",
    "Executor",
    "ExperimentConfig",
    "LineProgress",
    "LocalExecutor",
    "ModelConfig",
    "Progress",
    "RayExecutor",
    "RunDirectory",
    "Summary",
    "SweepConfig",
    "SweepSummary",
    "TerminalProgress",
    "TrainConfig",
    "WorkOptions",
    "by_first",
    "defaults_from",
    "evaluate_models",
    "find_preset",
    "open_dataset",
    "rewrite_report",
    "rewrite_summary",
    "run_experiment",
    "run_sweep",
    "speak_once",
    "sweep_flags",
    "train_ensembles",
]
