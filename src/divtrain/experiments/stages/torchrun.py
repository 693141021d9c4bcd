"""The processes that torchrun started: the first does the command, the others train with it.

torchrun starts one command once a device, on one machine or on several. Only training is for all
of them: the first process works the graph off and calls the others, who wait in `follow`, whenever
it comes to a training. The calls go through torchrun's store, where waiting for hours is cheap and
knows no timeout; what to do, with its images, is then sent over the process group.
"""

import functools
import json
import os
import pickle
import time
from typing import Any

from torch.distributed.rendezvous import rendezvous

from divtrain.errors import DivtrainError
from divtrain.experiments.stages.stage import OnProgress, Work, open_fabric
from divtrain.training import leave_group, torchrun_processes

LOOK_EVERY = 0.1
"""Seconds between two looks for a call."""
LAST_WORDS = 5.0
"""Seconds that a process which failed waits for the others to have failed alike: torchrun ends it
when the first process has told the user why, or the first one calls again."""
END = "end"
CALLS = "divtrain-calls"
"""Key of their number in the store; those of the calls are this and a number."""


def is_follower() -> bool:
    """Whether torchrun started this process, and not as the first."""
    return torchrun_processes() > 1 and int(os.environ["RANK"]) > 0


def lead(work: Work, accelerator: str, precision: str, on_progress: OnProgress) -> None:
    """Do the work in this, the first process, and in all others.

    Raises:
        DivtrainError: what the work raises here, or in a process that is not the first; where
            another process fails torchrun ends all.
        KeyboardInterrupt: when the work was stopped.
    """
    if is_follower():
        raise DivtrainError(
            "expected torchrun's first process alone to run an experiment; in a script of your own"
            " let the others call divtrain.experiments.follow(), and the first dismiss() at the end"
        )
    fabric = open_fabric(accelerator, precision, torchrun_processes())
    _call(json.dumps({"accelerator": accelerator, "precision": precision}))
    fabric.launch()
    fabric.broadcast(pickle.dumps(work))
    try:
        work(fabric, on_progress)
    except RuntimeError:
        time.sleep(1)  # where another process failed first, torchrun ends this one meanwhile
        raise


def follow() -> None:
    """Take part in every training that the first process calls for, until it ends.

    Raises:
        DivtrainError: what only this process has met, or when the first one is gone.
        KeyboardInterrupt: when a training was stopped.
    """
    number, failure = 0, None
    try:
        while (call := _next_call(number, failure)) != END:
            number += 1
            failure = _take_part(json.loads(call))
    finally:
        leave_group()


def _take_part(where: dict[str, str]) -> DivtrainError | None:
    """Do what the first process sends; return what went wrong."""
    try:
        fabric = open_fabric(where["accelerator"], where["precision"], torchrun_processes())
        fabric.launch()
        work: Work = pickle.loads(fabric.broadcast(b""))
        work(fabric, _show_nothing)
    except DivtrainError as error:
        return error
    except RuntimeError as error:  # mostly that another process is gone, which says why
        return DivtrainError(f"training ended with {type(error).__name__}: {error}")


def dismiss() -> None:
    """Let the others end, if torchrun started any; for the first process, when it is done."""
    if torchrun_processes() > 1 and not is_follower():
        _call(END)
        leave_group()


def _call(text: str) -> None:
    number = _store().add(CALLS, 1) - 1
    _store().set(f"{CALLS}-{number}", text)


def _next_call(number: int, failure: DivtrainError | None) -> str:
    """Wait for a call of the first process; not for long after a failure, which is raised then."""
    begun = time.monotonic()
    try:
        while not _store().check([f"{CALLS}-{number}"]):
            if failure is not None and time.monotonic() - begun > LAST_WORDS:
                raise failure
            time.sleep(LOOK_EVERY)
        return _store().get(f"{CALLS}-{number}").decode()
    except RuntimeError as error:
        raise DivtrainError(
            f"the first of torchrun's processes is gone ({error}); the same command goes on from"
            " the last saved state"
        ) from error


@functools.cache
def _store() -> Any:
    """The store that torchrun gives its processes, the same if it started them again."""
    store, _, _ = next(rendezvous("env://"))
    return store


def _show_nothing(done: int, total: int, detail: str) -> None:
    del done, total, detail
