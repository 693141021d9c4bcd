"""Ways to complete a graph of stages: in this process, or on the machines of a Ray cluster."""

from divtrain.experiments.executors.choice import WorkOptions
from divtrain.experiments.executors.executor import Executor, find_stage
from divtrain.experiments.executors.local import LocalExecutor, stage_context
from divtrain.experiments.executors.on_ray import RayExecutor

__all__ = [
    "Executor",
    "LocalExecutor",
    "RayExecutor",
    "WorkOptions",
    "find_stage",
    "stage_context",
]
