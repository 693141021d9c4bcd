"""A training stage in several processes on this machine: `torch.distributed.run` starts them.

Everything else of a run stays in the process that the user started. The processes rebuild the graph
from the run directory (`divtrain.experiments.worker`) and write the stage's files there; what they
have to tell, progress and failure, is a file in the stage's folder too. They stop, saving their
state, when their standard input ends: when this process closes it, or is gone.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from divtrain.errors import DivtrainError
from divtrain.experiments.stage import OnProgress
from divtrain.files import read_json
from divtrain.training.interrupt import StopRequest

PROGRESS = ".progress.json"
"""Where the first process writes how far it is: done, total, details."""
FAILURE = ".failure.json"
"""Where a process writes why it ends: whether it was stopped, and a message for the user."""
OUTPUT = "processes.txt"
"""What torchrun and the processes print."""
POLL = 0.1
"""Seconds between two looks at the processes."""


def launch(run: Path, stage: str, devices: int, on_progress: OnProgress) -> None:
    """Complete a claimed stage in one process per device, and wait for them.

    Args:
        run: The run directory.
        stage: Name of the stage.
        devices: Number of processes.
        on_progress: For showing progress.

    Raises:
        DivtrainError: what a process raised; or when one was killed.
        KeyboardInterrupt: when the work was stopped, by Ctrl-C or SIGTERM here.
    """
    folder = run / "stages" / stage
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={devices}", "-m", "divtrain.experiments.worker", str(run), stage,
    ]  # fmt: skip
    threads = max(1, torch.get_num_threads() // devices)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with StopRequest() as stop, (folder / OUTPUT).open("w") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
            env=environment, start_new_session=True,  # Ctrl-C is for this process, which stops them
        )  # fmt: skip
        assert process.stdin is not None
        try:
            while process.poll() is None:
                if stop.requested:
                    process.stdin.close()
                _show(folder / PROGRESS, on_progress)
                time.sleep(POLL)
        finally:
            process.stdin.close()
            process.terminate()
            process.wait()
    _show(folder / PROGRESS, on_progress)
    failure = _take(folder / FAILURE)
    if stop.requested or (failure or {}).get("stopped"):
        raise KeyboardInterrupt
    if failure is not None:
        raise DivtrainError(failure["message"])
    if process.returncode:
        raise DivtrainError(
            f"a training process of {stage} was killed or failed; out of memory is the usual reason"
            f" for a kill, for anything else see {folder / OUTPUT}. The same command resumes from"
            " the last saved state"
        )


def _show(file: Path, on_progress: OnProgress) -> None:
    news = _take(file)
    if news is not None:
        on_progress(*news)


def _take(file: Path) -> Any:
    """Read and remove a file of JSON; None if it is absent."""
    if not file.exists():
        return None
    content = read_json(file)
    file.unlink(missing_ok=True)
    return content
