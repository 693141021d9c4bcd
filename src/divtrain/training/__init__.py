"""One training loop for every defence."""

from divtrain.training.checkpoint import load_ensemble, load_weights, save_ensemble
from divtrain.training.loop import adam, train
from divtrain.training.parallel import (
    Strategy,
    check_devices,
    leave_group,
    torchrun_processes,
    training_processes,
)
from divtrain.training.schedule import ScheduleName, rate_at
from divtrain.training.state import History
from divtrain.training.step import StepResult, step_by_member, step_together

__all__ = [
    "History",
    "ScheduleName",
    "StepResult",
    "Strategy",
    "adam",
    "check_devices",
    "leave_group",
    "load_ensemble",
    "load_weights",
    "rate_at",
    "save_ensemble",
    "step_by_member",
    "step_together",
    "torchrun_processes",
    "train",
    "training_processes",
]
