"""The processes that the user's torchrun started with one command; one process without it.

torchrun starts the same command once per device, on one machine or several. Every process walks
the same graph in the same order. A training on several devices is done by all of them; everything
else is done by the first, while the others wait for its result at a broadcast.
"""

import contextlib
import io
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from divtrain.errors import DivtrainError
from divtrain.experiments.devices import open_fabric
from divtrain.training import leave_group, torchrun_processes

T = TypeVar("T")

LAST_WORDS = 10.0
"""Seconds that a failed process waits before it says why: torchrun ends it once the first process
has told the user the same."""


def is_first() -> bool:
    """Whether this process prints, writes and decides: alone, or the first of torchrun's."""
    return torchrun_processes() == 1 or os.environ["RANK"] == "0"


def by_first(accelerator: str, work: Callable[[], T]) -> T:
    """Call a function in the first process only; return its result in every process.

    Args:
        accelerator: Device of the processes, in Fabric's words.
        work: What to do; its result must be picklable under torchrun.

    Raises:
        DivtrainError: in every process, what the work raises; or when the first process is gone.
        KeyboardInterrupt: in every process, when the work was stopped.
    """
    if torchrun_processes() == 1:
        return work()
    fabric = open_fabric(accelerator, devices=torchrun_processes())
    fabric.launch()
    result: Any = None
    failure: BaseException | None = None
    if is_first():
        try:
            result = work()
        except (DivtrainError, KeyboardInterrupt) as error:
            failure = error
    try:
        result, failure = fabric.broadcast((result, failure))
    except RuntimeError as error:
        raise failure or DivtrainError(
            f"another of torchrun's processes is gone ({error}); the same command resumes from the"
            " last saved state"
        ) from error
    if failure is not None:
        raise failure
    return result


def speak_once(command: Callable[[], int]) -> int:
    """Run a command and return its exit status; only torchrun's first process prints.

    A process that fails where the first does not is heard too, after `LAST_WORDS` seconds.
    """
    try:
        if is_first():
            return command()
        output = io.StringIO()
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(output):
                status = command()
        except SystemExit as error:
            status = int(error.code or 0)
        except Exception:
            time.sleep(LAST_WORDS)
            raise
        if status == 130:  # stopped: the first process says so
            time.sleep(1)
        elif status:
            time.sleep(LAST_WORDS)
            where = f"rank {os.environ['RANK']} on {socket.gethostname()}"
            print(f"{where}: {output.getvalue()}", file=sys.stderr)
        return status
    finally:
        leave_group()
