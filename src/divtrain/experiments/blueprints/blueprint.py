"""From configs to a graph of stages: the same in every process.

Stages hold functions and data and stay in their process; a blueprint is what travels: as JSON in
the run directory, to the processes of a training on several devices, to workers of a Ray cluster.
"""

from typing import ClassVar, Protocol, runtime_checkable

from divtrain.experiments.stage import Graph


@runtime_checkable
class Blueprint(Protocol):
    """A frozen dataclass of configs."""

    kind: ClassVar[str]

    def build(self) -> Graph:
        """Load the data and build the graph.

        Raises:
            DivtrainError: for anything that cannot work, before anything is computed.
        """
        ...
