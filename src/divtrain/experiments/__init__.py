"""Experiments as graphs of stages; the only part of divtrain that touches a run directory."""

from divtrain.experiments.config import (
    DataConfig,
    DetectionConfig,
    EvaluationConfig,
    ExperimentConfig,
    GaasConfig,
    ModelConfig,
    SweepConfig,
    TrainConfig,
    differences,
)
from divtrain.experiments.options import build, parse, read, with_flags
from divtrain.experiments.presets import PRESETS, find_preset

__all__ = [
    "PRESETS",
    "DataConfig",
    "DetectionConfig",
    "EvaluationConfig",
    "ExperimentConfig",
    "GaasConfig",
    "ModelConfig",
    "SweepConfig",
    "TrainConfig",
    "build",
    "differences",
    "find_preset",
    "parse",
    "read",
    "with_flags",
]
