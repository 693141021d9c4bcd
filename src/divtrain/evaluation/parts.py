"""Results kept batch by batch: a run that is killed half-way loses the running batch, no more."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from divtrain.errors import DivtrainError
from divtrain.files import read_tensors, write_tensors

PART = "part"
"""How the names of the files begin."""

Part = tuple[dict[str, Tensor], Any]
"""Tensors, and something JSON-able about them."""


@dataclass(frozen=True)
class Parts:
    """A folder to keep parts in; whoever gave it removes the files when the whole is written.

    Attributes:
        folder: Where; it must belong to one computation with all its parameters.
        name: Tells several series in one folder apart.
    """

    folder: Path
    name: str = PART

    def named(self, name: str) -> "Parts":
        """Return a series of its own in the same folder."""
        return replace(self, name=f"{self.name}-{name}")

    def get(self, index: int, make: Callable[[], Part]) -> Part:
        """Return a part: as it was kept, if it is there and whole, or made now and kept.

        A damaged file is made again.

        Raises:
            DivtrainError: when it cannot be written.
        """
        file = self.folder / f"{self.name}-{index:05d}.safetensors"
        if file.exists():
            try:
                return read_tensors(file)
            except DivtrainError:
                pass
        tensors, about = make()
        write_tensors(file, tensors, about)
        return tensors, about
