"""Results cached per batch: a killed stage loses the running batch only."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from divtrain.errors import DivtrainError
from divtrain.files import read_tensors, write_tensors

PREFIX = "batch"
"""How the names of the files begin; they are removed when the stage is done."""

BatchResult = tuple[dict[str, Tensor], Any]
"""Tensors, and something JSON-able about them."""


@dataclass(frozen=True)
class BatchCache:
    """A folder with results of batches.

    Attributes:
        folder: Where; it must belong to one computation with all its parameters.
        name: Tells several series in one folder apart.
    """

    folder: Path
    name: str = PREFIX

    def named(self, name: str) -> "BatchCache":
        """Return a series of its own in the same folder."""
        return replace(self, name=f"{self.name}-{name}")

    def get(self, index: int, compute: Callable[[], BatchResult]) -> BatchResult:
        """Return the result of a batch: cached if present and intact, else computed and cached.

        A damaged file is computed again.

        Raises:
            DivtrainError: when it cannot be written.
        """
        file = self.folder / f"{self.name}-{index:05d}.safetensors"
        if file.exists():
            try:
                return read_tensors(file)
            except DivtrainError:
                pass
        tensors, about = compute()
        write_tensors(file, tensors, about)
        return tensors, about
