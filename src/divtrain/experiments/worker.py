"""One of the processes that `divtrain.experiments.launch` starts for a training stage.

python -m torch.distributed.run ... -m divtrain.experiments.worker RUN_DIRECTORY STAGE
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from divtrain.allocator import keep_freed_memory
from divtrain.errors import DivtrainError
from divtrain.experiments.executors import find_stage, stage_context
from divtrain.experiments.launch import FAILURE, PROGRESS
from divtrain.experiments.run_directory import RunDirectory
from divtrain.experiments.torchrun import LAST_WORDS, is_first
from divtrain.files import write_json
from divtrain.training import leave_group

TELL_EVERY = 0.5
"""Seconds between two notes of progress."""


def main(arguments: Sequence[str]) -> int:
    """Train a stage together with the other processes; return the exit status."""
    keep_freed_memory()
    threading.Thread(target=_stop_with_input, daemon=True).start()
    directory, name = RunDirectory(Path(arguments[0])), arguments[1]
    folder = directory.path / "stages" / name
    try:
        graph = directory.blueprint().build()
        stage = find_stage(graph, directory, name)
        directory.check_unchanged([stage])
        stage.work(stage_context(stage, graph, directory, _Teller(folder / PROGRESS)))
    except KeyboardInterrupt:
        if is_first():
            write_json(folder / FAILURE, {"stopped": True})
        return 0  # all processes agreed to stop; torchrun need not end any
    except DivtrainError as error:
        if not is_first():  # which mostly fails alike, and is ended with this one
            time.sleep(LAST_WORDS)
        write_json(folder / FAILURE, {"stopped": False, "message": str(error)})
        return 2
    finally:
        leave_group()
    return 0


class _Teller:
    """Writes progress to a file, not more often than it is looked at."""

    def __init__(self, file: Path):
        self._file = file
        self._last = 0.0

    def __call__(self, done: int, total: int, detail: str) -> None:
        if done == total or time.monotonic() - self._last >= TELL_EVERY:
            self._last = time.monotonic()
            write_json(self._file, (done, total, detail))


def _stop_with_input() -> None:
    """Stop as on SIGTERM when standard input ends."""
    os.read(0, 1)  # of which nothing ever comes
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
