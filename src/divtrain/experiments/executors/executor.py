"""The interface of every executor of a graph of stages."""

import socket
from typing import Protocol, runtime_checkable

from divtrain.errors import DivtrainError
from divtrain.experiments.blueprints import Blueprint
from divtrain.experiments.progress import Progress
from divtrain.experiments.run_directory import RunDirectory
from divtrain.experiments.stage import Graph, Stage


@runtime_checkable
class Executor(Protocol):
    """Completes a graph of stages."""

    def run(
        self, blueprint: Blueprint, graph: Graph, directory: RunDirectory, progress: Progress
    ) -> None:
        """Run every stage that is not done, each after its inputs; return when all are done.

        Args:
            blueprint: What the graph was built from.
            graph: The graph.
            directory: Where the stages write; other processes may work in it too.
            progress: What to show.
        """
        ...


def find_stage(graph: Graph, directory: RunDirectory, name: str, key: str | None = None) -> Stage:
    """Return the stage of a graph that another process built too.

    Args:
        graph: The graph.
        directory: Where the stages write.
        name: Name of the stage.
        key: Its key there, if that is known.

    Raises:
        DivtrainError: when the graph has none with this key, or the run directory is not here.
    """
    for stage in graph.stages if directory.is_open() else []:
        if stage.name == name and key in (None, stage.key):
            return stage
    raise DivtrainError(
        f"stage {name} differs on {socket.gethostname()}: expected the same divtrain, data and run"
        " directory on every machine, and no other command on that directory at the same time"
    )
