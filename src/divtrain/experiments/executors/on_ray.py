"""Stages as tasks of a Ray cluster, whose machines share the run directory."""

import importlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from divtrain.allocator import keep_freed_memory
from divtrain.errors import DivtrainError, first_line
from divtrain.experiments.blueprints import Blueprint
from divtrain.experiments.executors.executor import find_stage
from divtrain.experiments.executors.local import perform, wait
from divtrain.experiments.progress import Progress
from divtrain.experiments.run_directory import LOG, RunDirectory
from divtrain.experiments.stage import Graph

NEWS = re.compile(r"[\d-]+ [\d:]+ (?:begin (\S+) in process|  at  (\S+): (\d+) of (\d+)  (.*))")
"""Lines of the log that tell progress."""
RETRIES = 3
"""How often a stage is tried again after its worker was lost."""
LOOK_EVERY = 0.5
"""Seconds between two looks at tasks and log."""
LAST_WORDS = 30.0
"""Seconds that workers have to save their state when a run is stopped."""


@dataclass(frozen=True)
class RayExecutor:
    """One task per stage, on whatever machine of a Ray cluster is free.

    A task waits for those of its inputs, builds the graph from the blueprint and does its stage as
    `LocalExecutor` would. One whose worker or machine is lost is done again elsewhere, from what
    the lost one had saved. Progress is read from the run directory's log.

    Attributes:
        address: The cluster, as ``ray start`` tells it; None for the one in RAY_ADDRESS, or else
            one of this machine alone for the time of the run.
        cpus: CPUs per stage, also its threads.
        gpus: GPUs per stage, may be a fraction; None for one where the cluster has any and the
            accelerator may be one.
    """

    address: str | None = None
    cpus: float = 1.0
    gpus: float | None = None

    def run(
        self, blueprint: Blueprint, graph: Graph, directory: RunDirectory, progress: Progress
    ) -> None:
        """See `Executor.run`.

        Raises:
            DivtrainError: when Ray is not installed, the cluster is not there or has no machine
                that is large enough, a stage raises it, or its workers are lost too often.
        """
        ray = _import_ray()
        with _connected(ray, self.address), (directory.path / LOG).open("a+") as log:
            options = {"max_retries": RETRIES, **self._resources(ray, graph.accelerator)}
            place = (blueprint, str(directory.path.resolve()), str(Path.cwd()))
            do: Any = ray.remote(_do)
            tasks: dict[str, Any] = {}
            for stage in graph.stages:
                inputs = [tasks[each.name] for each in stage.inputs if each.name in tasks]
                if directory.is_done(stage):
                    directory.tidy(stage)
                    progress.reused(stage.name)
                else:
                    task = do.options(name=stage.name, **options)
                    tasks[stage.name] = task.remote(*place, stage.name, stage.key, *inputs)
            running = {task: name for name, task in tasks.items()}
            try:
                while running:
                    ended, _ = ray.wait(list(running), timeout=LOOK_EVERY)
                    _show(log, progress)
                    for task in ended:
                        name = running.pop(task)
                        seconds = _result(ray, task, name)
                        if seconds is None:
                            progress.reused(name)
                        else:
                            progress.end(name, seconds)
            except BaseException:
                _stop(ray, list(tasks.values()))
                raise

    def _resources(self, ray: ModuleType, accelerator: str) -> dict[str, float]:
        """Return CPUs and GPUs per stage, checked against those of the cluster."""
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


def _show(log: IO[str], progress: Progress) -> None:
    """Show new lines of the log."""
    for line in log:
        if news := NEWS.match(line):
            begun, stage, done, total, detail = news.groups()
            if begun:
                progress.begin(begun)
            else:
                progress.update(stage, int(done), int(total), detail)


def _result(ray: ModuleType, task: Any, stage: str) -> float | None:
    """Return the result of a stage's task, or raise its error."""
    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, DivtrainError):
            raise DivtrainError(str(error.cause)) from error
        raise
    except ray.exceptions.RayError as error:
        raise DivtrainError(
            f"the workers of {stage} were lost ({type(error).__name__}), also when it was tried"
            " again; look at `ray status` and the memory of the machines, then give the same"
            " command again: it resumes"
        ) from error


def _stop(ray: ModuleType, tasks: list[Any]) -> None:
    """Stop the workers as Ctrl-C does: training saves its state."""
    with suppress(ray.exceptions.RayError):
        for task in reversed(tasks):
            ray.cancel(task)
        ray.wait(tasks, num_returns=len(tasks), timeout=LAST_WORDS)


def _do(
    blueprint: Blueprint, path: str, folder: str, name: str, key: str, *inputs: object
) -> float | None:
    """Complete a stage, in a worker; returns its seconds, None if another process completed it.

    Args:
        blueprint: What the graph is built from.
        path: The run directory.
        folder: Where relative paths of the config start.
        name: Of the stage.
        key: Of the stage.
        inputs: What the tasks of its inputs returned; Ray waits for them.
    """
    del inputs
    keep_freed_memory()
    try:
        os.chdir(folder)
    except OSError as error:
        raise DivtrainError(
            f"no folder {folder} on {os.uname().nodename}: start from a folder that every machine"
            " of the Ray cluster sees, and put --out and --data.root there too"
        ) from error
    if "" not in sys.path:
        sys.path.insert(0, "")  # where MODULE:ATTRIBUTE is looked for
    graph, directory, seconds = _graph(blueprint), RunDirectory(Path(path)), _Seconds()
    stage = find_stage(graph, directory, name, key)
    told = False
    while not perform(stage, graph, directory, seconds):
        wait(stage, directory, seconds, told)
        told = True
    return seconds.taken


class _Seconds(Progress):
    """Records how long a stage took."""

    taken: float | None = None

    def end(self, stage: str, seconds: float) -> None:
        """See `Progress`."""
        del stage
        self.taken = seconds


@lru_cache(maxsize=1)
def _graph(blueprint: Blueprint) -> Graph:
    """Build the graph and load its data, once per worker."""
    return blueprint.build()


def _import_ray() -> ModuleType:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    try:
        return importlib.import_module("ray")  # pyright does without the library, too
    except ImportError as error:
        raise DivtrainError(
            "--executor ray needs Ray, which is not installed; `pip install --editable '.[ray]'` in"
            " a clone"
        ) from error


@contextmanager
def _connected(ray: ModuleType, address: str | None) -> Iterator[None]:
    """Context with a connection to Ray; an existing connection is used, and kept."""
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(address, logging_level="warning", log_to_driver=False, include_dashboard=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise DivtrainError(
            f"no Ray cluster at {address or os.environ.get('RAY_ADDRESS', 'this machine')}:"
            f" {first_line(error)}. Start one with `ray start --head`, or leave --address"
            " out for one of this machine alone"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
