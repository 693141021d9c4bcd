"""One loop; a defence is a list of loss terms and a stream of views."""

from divtrain.training.adversarial import Adversarial, AdversarialLeastLikely
from divtrain.training.checkpoint import load_ensemble, load_weights, save_ensemble
from divtrain.training.cuda_graph import check_cuda_graph
from divtrain.training.devices import (
    Strategy,
    check_devices,
    leave_group,
    torchrun_processes,
    training_processes,
)
from divtrain.training.loop import Schedule, TrainingSettings, train
from divtrain.training.state import History
from divtrain.training.step import StepResult, step_by_member, step_together
from divtrain.training.terms import (
    CrossEntropy,
    GradientAlignment,
    InsideCrossEntropy,
    Term,
    total_loss,
)

__all__ = [
    "Adversarial",
    "AdversarialLeastLikely",
    "CrossEntropy",
    "GradientAlignment",
    "History",
    "InsideCrossEntropy",
    "Schedule",
    "StepResult",
    "Strategy",
    "Term",
    "TrainingSettings",
    "check_cuda_graph",
    "check_devices",
    "leave_group",
    "load_ensemble",
    "load_weights",
    "save_ensemble",
    "step_by_member",
    "step_together",
    "torchrun_processes",
    "total_loss",
    "train",
    "training_processes",
]
