"""A stage that is done, as its manifest tells it, and its files, checked as they are opened."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from divtrain.errors import DamagedFileError, DivtrainError
from divtrain.files import file_digest


@dataclass(frozen=True)
class FinishedStage:
    """A stage that is done.

    Attributes:
        folder: Its folder.
        kind: See `Stage`.
        target: See `Stage`.
        seed: See `Stage`.
        spec: See `Stage`.
        files: SHA-256 of each of its files, by name.
        seconds: How long it took.
        versions: Of what its result depends on.
    """

    folder: Path
    kind: str
    target: str
    seed: int
    spec: Mapping[str, Any]
    files: Mapping[str, str]
    seconds: float
    versions: Mapping[str, str]

    def file(self, name: str) -> Path:
        """Return the path of one of its files.

        Raises:
            DamagedFileError: when it is not what the stage wrote.
        """
        path = self.folder / name
        if not is_whole(path, self.files.get(name, "")):
            raise DamagedFileError(
                f"{path} is damaged: it is not what its stage wrote; run the same command again,"
                " which makes it anew"
            )
        return path


def is_whole(file: Path, digest: str) -> bool:
    """Whether a file is there and its SHA-256 is `digest`."""
    try:
        return file_digest(file) == digest
    except DivtrainError:
        return False
