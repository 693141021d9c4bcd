"""Which processes work on a run directory: one, or several that joined."""

import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from divtrain.errors import DivtrainError
from divtrain.experiments.lock import Lock
from divtrain.files import make_folder

LOCKS = "locks"
DOOR = "door"
SEAT = "process-"
PATIENCE = 60.0
"""Seconds to wait at the door; who is inside needs milliseconds."""


@contextmanager
def at_the_door(path: Path) -> Iterator[None]:
    """Come in or look who is there while nobody else does either.

    Raises:
        DivtrainError: when somebody stands there for a minute, or the folder cannot be written.
    """
    door = Lock(make_folder(path / LOCKS), DOOR)
    with door.held(PATIENCE) as mine:
        if not mine:
            raise DivtrainError(
                f"{path} is being opened by {door.holder() or 'another process'} and has been for"
                f" {PATIENCE:.0f} s; if that process is gone, remove {door.file}"
            )
        yield


def others(path: Path) -> list[str]:
    """Living processes on a run directory, in words; traces of dead ones are removed.

    To be called at the door.
    """
    found: list[str] = []
    for file in sorted((path / LOCKS).glob(f"{SEAT}*.lock")):
        seat = Lock(path / LOCKS, file.stem)
        who = seat.holder()
        if seat.take():  # its process is gone: the kernel gave the lock back
            seat.remove()
        else:
            found.append(f"{who or 'a process'} ({file})")
    return found


def sit_down(path: Path) -> Lock:
    """Mark this process as one on the run directory, until `Lock.remove`. At the door."""
    name = f"{SEAT}{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    seat = Lock(path / LOCKS, name)
    seat.take()  # nobody else knows the name
    return seat
