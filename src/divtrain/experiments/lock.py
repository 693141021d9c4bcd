"""A lock that one process holds, and a note of its holder.

The lock itself is `filelock`'s: the kernel's flock, which ends with its process however that
process ends, so that a dead holder never has to be recognised; where a file system has no flock,
filelock falls back to a marker file with host, process id and start time.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from divtrain.errors import DivtrainError
from divtrain.files import read_json, storage_error, write_json


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Attributes:
        host: Name of the machine.
        pid: Process id there.
        since: Local time of the machine, to the second.
    """

    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        """In words."""
        return f"process {self.pid} on {self.host} since {self.since}"


class Lock:
    """A named lock in a folder: NAME.lock, and NAME.json with its holder."""

    def __init__(self, folder: Path, name: str):
        self.file = folder / f"{name}.lock"
        self._note = folder / f"{name}.json"
        self._lock = FileLock(self.file)

    def take(self, seconds: float = 0.0) -> bool:
        """Take the lock, waiting up to `seconds`; False if another process keeps it.

        Raises:
            DivtrainError: when the folder cannot be written.
        """
        try:
            self._lock.acquire(timeout=seconds)
        except Timeout:
            return False
        except OSError as error:
            raise storage_error(self.file, error) from error
        holder = Holder(socket.gethostname(), os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S"))
        try:
            write_json(self._note, asdict(holder))
        except BaseException:
            self._lock.release()
            raise
        return True

    def release(self) -> None:
        """Release the lock."""
        self._note.unlink(missing_ok=True)
        self._lock.release()

    def holder(self) -> Holder | None:
        """The process that holds it, or held it and died; None if unknown."""
        try:
            return Holder(**read_json(self._note))
        except (DivtrainError, TypeError):
            return None

    @contextmanager
    def held(self, seconds: float = 0.0) -> Iterator[bool]:
        """Context in which the lock is held; yields whether it could be taken."""
        mine = self.take(seconds)
        try:
            yield mine
        finally:
            if mine:
                self.release()
