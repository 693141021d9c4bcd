"""One stage, in the process that calls: claimed, done unless it is done, written down."""

import os
import socket
import time
from collections.abc import Callable
from functools import partial

from divtrain.errors import DivtrainError
from divtrain.experiments.executors.executor import Graph
from divtrain.experiments.progress import Progress
from divtrain.experiments.run_directory import RunDirectory
from divtrain.experiments.stages import Context, OnProgress, Stage

POLL = 0.2
"""Seconds between two looks at a stage that another process has."""


def perform(stage: Stage, graph: Graph, directory: RunDirectory, progress: Progress) -> bool:
    """Do a stage whose inputs are done, unless it is done or another process has claimed it.

    Returns:
        Whether it is done now.

    Raises:
        DivtrainError: as the stage does; what it has saved so far stays.
        KeyboardInterrupt: as above.
    """
    if directory.is_done(stage):
        directory.tidy(stage)
        progress.reused(stage.name)
        return True
    with directory.claimed(stage) as mine:
        if not mine:
            return False
        if directory.is_done(stage):  # by another process, a moment ago
            progress.reused(stage.name)
        else:
            _work(stage, graph, directory, progress)
        return True


def wait(stage: Stage, directory: RunDirectory, progress: Progress) -> None:
    """Wait a moment for a stage that another process has."""
    progress.waiting(stage.name, str(directory.holder(stage) or "another process"))
    time.sleep(POLL)


def _work(stage: Stage, graph: Graph, directory: RunDirectory, progress: Progress) -> None:
    started = time.monotonic()
    progress.begin(stage.name)
    folder = directory.begin(stage)
    inputs = {each.name: directory.folder(each) for each in stage.inputs}
    directory.log(f"begin {stage.name} in process {os.getpid()} on {socket.gethostname()}")
    show = _logged(partial(progress.update, stage.name), directory.log, stage.name)
    try:
        context = Context(graph.dataset, graph.accelerator, folder, inputs, show, directory.log)
        stage.work(context)
    except KeyboardInterrupt:
        directory.log(f"stopped in {stage.name}")
        raise
    except DivtrainError as error:
        directory.log(f"failed in {stage.name}: {error}")
        raise
    seconds = time.monotonic() - started
    directory.finish(stage, seconds)
    directory.log(f"done  {stage.name} in {seconds:.1f} s")
    progress.end(stage.name, seconds)


def _logged(update: OnProgress, log: Callable[[str], None], stage: str) -> OnProgress:
    """Also write where a long stage is to the log, once a minute."""
    last = time.monotonic()

    def both(done: int, total: int, detail: str) -> None:
        nonlocal last
        update(done, total, detail)
        if time.monotonic() - last >= 60:
            last = time.monotonic()
            log(f"  at  {stage}: {done} of {total}  {detail}")

    return both
