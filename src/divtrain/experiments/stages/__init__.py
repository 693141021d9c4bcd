"""The stages an experiment is made of, a kind a file."""

from divtrain.experiments.stages.attempt import ATTEMPT, attempt_stage
from divtrain.experiments.stages.coherence import COHERENCE, coherence_stage
from divtrain.experiments.stages.craft import CRAFTED, craft_stage
from divtrain.experiments.stages.detection import DETECTION, detection_stage, read_detection
from divtrain.experiments.stages.evaluate import MASKS, RECORDS, evaluate_stage, read_masks
from divtrain.experiments.stages.gaas import GAAS_FILE, gaas_stage, read_gaas
from divtrain.experiments.stages.given import given_stage
from divtrain.experiments.stages.judge import JUDGED, OUTCOMES, judge_stage
from divtrain.experiments.stages.judged import read_evaluation, read_weights
from divtrain.experiments.stages.stage import (
    ENSEMBLE,
    SCRATCH,
    Context,
    OnProgress,
    Stage,
    open_fabric,
)
from divtrain.experiments.stages.train import HISTORY, STATE, train_stage
from divtrain.experiments.stages.zeros import ZEROS, read_zeros, zeros_stage

__all__ = [
    "ATTEMPT",
    "COHERENCE",
    "CRAFTED",
    "DETECTION",
    "ENSEMBLE",
    "GAAS_FILE",
    "HISTORY",
    "JUDGED",
    "MASKS",
    "OUTCOMES",
    "RECORDS",
    "SCRATCH",
    "STATE",
    "ZEROS",
    "Context",
    "OnProgress",
    "Stage",
    "attempt_stage",
    "coherence_stage",
    "craft_stage",
    "detection_stage",
    "evaluate_stage",
    "gaas_stage",
    "given_stage",
    "judge_stage",
    "open_fabric",
    "read_detection",
    "read_evaluation",
    "read_gaas",
    "read_masks",
    "read_weights",
    "read_zeros",
    "train_stage",
    "zeros_stage",
]
