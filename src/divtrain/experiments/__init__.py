"""Experiments as graphs of stages; only this package touches a run directory."""

from divtrain.experiments.blueprints.evaluate import defaults_from
from divtrain.experiments.compare import compare_runs
from divtrain.experiments.config import (
    DataConfig,
    DetectionConfig,
    EvaluationConfig,
    ExperimentConfig,
    GaasConfig,
    ModelConfig,
    SweepConfig,
    TrainConfig,
)
from divtrain.experiments.executors import Executor, LocalExecutor, RayExecutor, WorkOptions
from divtrain.experiments.presets import PRESETS, find_preset
from divtrain.experiments.progress import LineProgress, Progress, TerminalProgress
from divtrain.experiments.reports import Written, write_as, write_reports
from divtrain.experiments.run_directory import RunDirectory
from divtrain.experiments.runner import (
    evaluate_models,
    run_experiment,
    run_sweep,
    train_ensembles,
)
from divtrain.experiments.show import show_run
from divtrain.experiments.torchrun import speak_once

__all__ = [
    "PRESETS",
    "DataConfig",
    "DetectionConfig",
    "EvaluationConfig",
    "Executor",
    "ExperimentConfig",
    "GaasConfig",
    "LineProgress",
    "LocalExecutor",
    "ModelConfig",
    "Progress",
    "RayExecutor",
    "RunDirectory",
    "SweepConfig",
    "TerminalProgress",
    "TrainConfig",
    "WorkOptions",
    "Written",
    "compare_runs",
    "defaults_from",
    "evaluate_models",
    "find_preset",
    "run_experiment",
    "run_sweep",
    "show_run",
    "speak_once",
    "train_ensembles",
    "write_as",
    "write_reports",
]
