"""Ways to work a graph of stages off: in this process, or on the machines of a Ray cluster."""

from divtrain.experiments.executors.choice import WorkOptions
from divtrain.experiments.executors.executor import Blueprint, Executor, Graph
from divtrain.experiments.executors.local import LocalExecutor
from divtrain.experiments.executors.on_ray import RayExecutor

__all__ = ["Blueprint", "Executor", "Graph", "LocalExecutor", "RayExecutor", "WorkOptions"]
