"""Stages as tasks of a Ray cluster, whose machines share the run directory."""

import importlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from divtrain.allocator import keep_freed_memory
from divtrain.errors import DivtrainError
from divtrain.experiments.executors.executor import Blueprint, Graph
from divtrain.experiments.executors.perform import perform, wait
from divtrain.experiments.progress import Progress
from divtrain.experiments.run_directory import RunDirectory
from divtrain.experiments.stages import Stage

LOOK_EVERY = 0.5
"""Seconds between two looks at how far the workers are."""
LAST_WORDS = 30.0
"""Seconds that workers have to save their state when a run is stopped."""


@dataclass(frozen=True)
class RayExecutor:
    """A task a stage, on whatever machine of a Ray cluster is free.

    A worker builds the graph from the blueprint, once, and picks its stage by name; it claims the
    stage as every process does, so what is written is what `LocalExecutor` writes. A stage whose
    worker or machine is lost is done again elsewhere, from what the lost one had saved.

    Attributes:
        address: The cluster, as ``ray start`` tells it; None for the one in RAY_ADDRESS, or else
            one of this machine alone for the time of the run.
        cpus: CPUs of a stage, also its threads.
        gpus: GPUs of a stage, may be a fraction; None for one where the cluster has any and the
            accelerator may be one.
        retries: How often a stage is tried again after its worker was lost.
    """

    address: str | None = None
    cpus: float = 1.0
    gpus: float | None = None
    retries: int = 3

    def run(
        self, blueprint: Blueprint, graph: Graph, directory: RunDirectory, progress: Progress
    ) -> None:
        """See `Executor.run`.

        Raises:
            DivtrainError: when Ray is not installed, the cluster is not there or has no machine
                that is large enough, a stage raises it, or its workers are lost too often.
        """
        ray = _import_ray()
        left = {stage.name: stage for stage in graph.stages}
        for stage in graph.stages:
            if directory.is_done(stage):
                directory.tidy(stage)
                progress.reused(stage.name)
                del left[stage.name]
        if left:
            with _connected(ray, self.address):
                resources = self._resources(ray, graph.accelerator)
                _Run(ray, blueprint, directory, progress, resources, self.retries).work_off(left)

    def _resources(self, ray: ModuleType, accelerator: str) -> dict[str, float]:
        """CPUs and GPUs of a stage, checked against what is there."""
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = self.gpus
        if gpus is None:
            some = any(each.get("GPU", 0) >= 1 for each in machines)
            gpus = 1.0 if accelerator == "cuda" or (accelerator == "auto" and some) else 0.0
        if not any(each.get("CPU", 0) >= self.cpus and each.get("GPU", 0) >= gpus
                   for each in machines):  # fmt: skip
            there = "; ".join(
                f"{m.get('CPU', 0):g} CPUs, {m.get('GPU', 0):g} GPUs" for m in machines
            )
            raise DivtrainError(
                f"no machine of the Ray cluster has the {self.cpus:g} CPUs and {gpus:g} GPUs that a"
                f" stage asks for (--cpus, --gpus); there are: {there}"
            )
        return {"num_cpus": self.cpus, "num_gpus": gpus}


class _Run:
    """One graph on its way through a cluster."""

    def __init__(
        self,
        ray: ModuleType,
        blueprint: Blueprint,
        directory: RunDirectory,
        progress: Progress,
        resources: dict[str, float],
        retries: int,
    ):
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        self._ray = ray
        self._progress = progress
        self._board: Any = ray.remote(_Board).options(num_cpus=0, scheduling_strategy=here).remote()
        self._task: Any = ray.remote(_do)
        self._options = {"max_retries": retries, **resources}
        self._place = (blueprint, str(directory.path.resolve()), str(Path.cwd()), self._board)
        self._running: dict[Any, Stage] = {}
        self._begun: set[str] = set()

    def work_off(self, left: dict[str, Stage]) -> None:
        """Give out what is ready until nothing is left."""
        try:
            while left:
                given = {stage.name for stage in self._running.values()}
                for stage in left.values():
                    if stage.name not in given and not any(i.name in left for i in stage.inputs):
                        task = self._task.options(name=stage.name, **self._options)
                        self._running[task.remote(stage.name, stage.key, *self._place)] = stage
                ended, _ = self._ray.wait(list(self._running), timeout=LOOK_EVERY)
                self._show()
                for task in ended:
                    stage = self._running.pop(task)
                    self._end(stage, task)
                    del left[stage.name]
        except BaseException:
            self._stop()
            raise
        finally:
            with suppress(Exception):
                self._ray.kill(self._board)

    def _end(self, stage: Stage, task: Any) -> None:
        try:
            seconds = self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, DivtrainError):
                raise DivtrainError(str(error.cause)) from error
            raise
        except self._ray.exceptions.RayError as error:
            raise DivtrainError(
                f"the workers of {stage.name} were lost ({type(error).__name__}), also when it was"
                " tried again; look at `ray status` and the memory of the machines, then give the"
                " same command again: it goes on"
            ) from error
        if seconds is None:
            self._progress.reused(stage.name)
        else:
            self._progress.end(stage.name, seconds)

    def _show(self) -> None:
        running = {stage.name for stage in self._running.values()}
        for stage, news in self._ray.get(self._board.take.remote()).items():
            if stage not in running:
                continue  # it was overtaken by the news that it is done
            if stage not in self._begun:
                self._begun.add(stage)
                self._progress.begin(stage)
            if news is not None:
                self._progress.update(stage, *news)

    def _stop(self) -> None:
        """Let the workers stop as on Ctrl-C: training saves its state."""
        with suppress(self._ray.exceptions.RayError):
            for task in self._running:
                self._ray.cancel(task)
            if self._running:
                self._ray.wait(
                    list(self._running), num_returns=len(self._running), timeout=LAST_WORDS
                )


class _Board:
    """Where workers write how far they are and the driver reads it; lives on its machine."""

    def __init__(self) -> None:
        self._news: dict[str, tuple[int, int, str] | None] = {}

    def tell(self, stage: str, news: tuple[int, int, str] | None) -> None:
        """The stage is at so much of so much; None when it begins."""
        self._news[stage] = news

    def take(self) -> dict[str, tuple[int, int, str] | None]:
        """What came in since the last time."""
        news, self._news = self._news, {}
        return news


class _Teller(Progress):
    """A worker's progress: to the board, not more often than it is looked at."""

    def __init__(self, board: Any):
        self.seconds: float | None = None
        self._board = board
        self._last = 0.0

    def begin(self, stage: str) -> None:
        self._board.tell.remote(stage, None)

    def update(self, stage: str, done: int, total: int, detail: str) -> None:
        if time.monotonic() - self._last >= LOOK_EVERY:
            self._last = time.monotonic()
            self._board.tell.remote(stage, (done, total, detail))

    def end(self, stage: str, seconds: float) -> None:
        self.seconds = seconds


def _do(
    name: str, key: str, blueprint: Blueprint, path: str, folder: str, board: Any
) -> float | None:
    """Do a stage, in a worker; returns the seconds it took, None if another process did it."""
    keep_freed_memory()
    try:
        os.chdir(folder)  # where relative paths of the config start
    except OSError as error:
        raise DivtrainError(
            f"no folder {folder} on {os.uname().nodename}: start from a folder that every machine"
            " of the Ray cluster sees, and put --out and --data.root there too"
        ) from error
    if "" not in sys.path:
        sys.path.insert(0, "")  # where MODULE:ATTRIBUTE is looked for
    graph, directory = _graph(blueprint), RunDirectory(Path(path))
    stage = next((stage for stage in graph.stages if stage.name == name), None)
    if stage is None or stage.key != key or not directory.is_open():
        raise DivtrainError(
            f"{os.uname().nodename} does not see what the others see of {name}: expected the same"
            f" divtrain, the same data and the run directory {path} on every machine of the cluster"
        )
    teller = _Teller(board)
    while not perform(stage, graph, directory, teller):
        wait(stage, directory, teller)
    return teller.seconds


@lru_cache(maxsize=1)
def _graph(blueprint: Blueprint) -> Graph:
    """Build the graph and load its data, once a worker."""
    return blueprint.build()


def _import_ray() -> ModuleType:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    try:
        ray = importlib.import_module("ray")  # pyright does without the library, too
        importlib.import_module("ray.util.scheduling_strategies")
    except ImportError as error:
        raise DivtrainError(
            "--executor ray needs Ray, which is not installed; `pip install --editable '.[ray]'` in"
            " a clone"
        ) from error
    return ray


@contextmanager
def _connected(ray: ModuleType, address: str | None) -> Iterator[None]:
    """Be connected while the context is open; a connection that is there is used and kept."""
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(address, logging_level="warning", log_to_driver=False, include_dashboard=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise DivtrainError(
            f"no Ray cluster at {address or os.environ.get('RAY_ADDRESS', 'this machine')}:"
            f" {str(error).splitlines()[0]}. Start one with `ray start --head`, or leave --address"
            " out for one of this machine alone"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
