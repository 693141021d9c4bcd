"""One training loop for every defence."""

from divtrain.training.checkpoint import Factory, load_ensemble, load_weights, save_ensemble
from divtrain.training.export import export_model, image_shape
from divtrain.training.loggers import LoggerName, TensorBoard, WandB, build_logger
from divtrain.training.loop import adam, train
from divtrain.training.parallel import (
    Strategy,
    check_devices,
    leave_group,
    torchrun_processes,
    training_processes,
)
from divtrain.training.schedule import ScheduleName
from divtrain.training.state import History
from divtrain.training.step import step_by_member, step_together

__all__ = [
    "Factory",
    "History",
    "LoggerName",
    "ScheduleName",
    "Strategy",
    "TensorBoard",
    "WandB",
    "adam",
    "build_logger",
    "check_devices",
    "export_model",
    "image_shape",
    "leave_group",
    "load_ensemble",
    "load_weights",
    "save_ensemble",
    "step_by_member",
    "step_together",
    "torchrun_processes",
    "train",
    "training_processes",
]
