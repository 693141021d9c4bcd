"""What an executor is given: a graph of stages, and a blueprint to build the same elsewhere."""

import socket
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from divtrain.data import Dataset
from divtrain.errors import DivtrainError
from divtrain.experiments.progress import Progress
from divtrain.experiments.run_directory import RunDirectory
from divtrain.experiments.stages import Stage


@dataclass(frozen=True)
class Graph:
    """Stages, each after its inputs, and what they work with.

    Attributes:
        stages: The stages; inputs come first.
        dataset: Training and test images, subsets already drawn.
        accelerator: Device, in Fabric's words.
    """

    stages: list[Stage]
    dataset: Dataset
    accelerator: str


@runtime_checkable
class Blueprint(Protocol):
    """A description from which every process builds the same graph: picklable and hashable.

    Stages hold functions and data and stay in their process; a blueprint is what travels.
    """

    def build(self) -> Graph:
        """Load the data and build the graph."""
        ...

    def __hash__(self) -> int: ...


@runtime_checkable
class Executor(Protocol):
    """Works a graph off."""

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


def find_stage(graph: Graph, directory: RunDirectory, name: str, key: str) -> Stage:
    """Return a stage of a graph that was built elsewhere too.

    Raises:
        DivtrainError: when the graph has none with this key, or the run directory is not here.
    """
    for stage in graph.stages if directory.is_open() else []:
        if stage.name == name and stage.key == key:
            return stage
    raise DivtrainError(
        f"{socket.gethostname()} does not see what the process that started it sees of {name}:"
        " expected the same divtrain, data and run directory on every machine, and no other command"
        " on that directory meanwhile"
    )
