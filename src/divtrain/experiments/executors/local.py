"""The default executor: one stage after the other, in this process."""

import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from divtrain.errors import DivtrainError
from divtrain.experiments.blueprints import Blueprint
from divtrain.experiments.progress import Progress
from divtrain.experiments.run_directory import RunDirectory
from divtrain.experiments.stage import Context, Graph, OnProgress, Stage
from divtrain.experiments.torchrun import by_first, is_first
from divtrain.training import torchrun_processes

POLL = 0.2
"""Seconds between two looks at a stage that another process has."""


class LocalExecutor:
    """Completes every stage in this process, in order, except those others have claimed.

    Several processes on one directory divide the stages up: each takes the first that is ready
    and not claimed, and waits when there is none. Those that torchrun started act as one.
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
                wait(ready[0], directory, progress, told=waited == ready[0].name)
                waited = ready[0].name


def perform(stage: Stage, graph: Graph, directory: RunDirectory, progress: Progress) -> bool:
    """Complete a stage whose inputs are done, unless it is done or claimed by another process.

    Returns:
        Whether it is done now.

    Raises:
        DivtrainError: as the stage does; what it has saved so far stays. Also when another command
            has replaced one of its inputs.
        KeyboardInterrupt: when it was stopped; what it has saved stays.
    """

    def claim() -> bool | None:
        """Whether the stage is done; None if it is claimed now, to be done here."""
        if not directory.is_done(stage):
            if not held.enter_context(directory.claimed(stage)):
                return False
            if not directory.is_done(stage):  # by another process, a moment ago
                return None
        directory.tidy(stage)
        progress.reused(stage.name)
        return True

    with ExitStack() as held:
        done = by_first(graph.accelerator, claim)
        if done is None:
            _work(stage, graph, directory, progress)
        return done is not False


def wait(stage: Stage, directory: RunDirectory, progress: Progress, told: bool) -> None:
    """Wait a moment for a stage that another process has; the log says so unless it is told."""
    if is_first():
        holder = str(directory.holder(stage) or "another process")
        progress.waiting(stage.name, holder)
        if not told:
            directory.log(f"wait  {stage.name}, which {holder} has")
    time.sleep(POLL)


def stage_context(
    stage: Stage, graph: Graph, directory: RunDirectory, on_progress: OnProgress
) -> Context:
    """Return the context of a stage in this process; of several, only the first writes the log."""
    inputs = {each.name: directory.folder(each) for each in stage.inputs}
    log = directory.log if is_first() else _no_log
    folder = directory.folder(stage)
    return Context(graph.dataset, graph.accelerator, folder, inputs, on_progress, log)


def _work(stage: Stage, graph: Graph, directory: RunDirectory, progress: Progress) -> None:
    first, started = partial(by_first, graph.accelerator), time.monotonic()
    show = _logged(partial(progress.update, stage.name), directory.log, stage.name)
    context = stage_context(stage, graph, directory, show)

    def begin() -> None:
        directory.check_unchanged(stage.inputs)
        progress.begin(stage.name)
        directory.begin(stage)
        directory.log(f"begin {stage.name} in process {os.getpid()} on {socket.gethostname()}")

    def finish() -> None:
        directory.check_unchanged(stage.inputs)
        seconds = time.monotonic() - started
        directory.finish(stage, seconds)
        directory.log(f"done  {stage.name} in {seconds:.1f} s")
        progress.end(stage.name, seconds)

    first(begin)
    try:
        if stage.devices == 1:
            first(lambda: stage.work(context))
        elif torchrun_processes() > 1:
            stage.work(context)
        else:
            from divtrain.experiments.launch import launch

            launch(directory.path, stage.name, stage.devices, show)
    except KeyboardInterrupt:
        context.log(f"stopped in {stage.name}")
        raise
    except DivtrainError as error:
        context.log(f"failed in {stage.name}: {error}")
        raise
    first(finish)


def _logged(update: OnProgress, log: Callable[[str], None], stage: str) -> OnProgress:
    """Also log the progress of a long stage, once a minute."""
    last = time.monotonic()

    def both(done: int, total: int, detail: str) -> None:
        nonlocal last
        update(done, total, detail)
        if time.monotonic() - last >= 60:
            last = time.monotonic()
            log(f"  at  {stage}: {done} of {total}  {detail}")

    return both


def _no_log(line: str) -> None:
    del line
