"""The default: one stage after the other, in this process."""

from divtrain.experiments.executors.executor import Blueprint, Graph
from divtrain.experiments.executors.perform import perform, wait
from divtrain.experiments.progress import Progress
from divtrain.experiments.run_directory import RunDirectory


class LocalExecutor:
    """Does every stage in this process, in order, but for those that other processes have.

    Several processes on one directory divide the stages up: each takes the first that is ready
    and not claimed, and waits when there is none.
    """

    def run(
        self, blueprint: Blueprint, graph: Graph, directory: RunDirectory, progress: Progress
    ) -> None:
        """See `Executor.run`."""
        del blueprint  # the graph is here
        left = {stage.name: stage for stage in graph.stages}
        waited = ""
        while left:
            ready = [s for s in left.values() if not any(each.name in left for each in s.inputs)]
            for stage in ready:
                if perform(stage, graph, directory, progress):
                    del left[stage.name]
                    break
            else:
                if waited != ready[0].name:
                    waited = ready[0].name
                    holder = directory.holder(ready[0]) or "another process"
                    directory.log(f"wait  {waited}, which {holder} has")
                wait(ready[0], directory, progress)
