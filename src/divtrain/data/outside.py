"""Images from outside the training distribution: noise, or another data set; they have no class."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from divtrain.data.datasets import DATASETS, Dataset, load_dataset
from divtrain.errors import DivtrainError, unknown_name
from divtrain.identity import spec_of


@runtime_checkable
class Outside(Protocol):
    """Draws images of no class; `divtrain.identity.spec_of` identifies it."""

    def __call__(
        self, shape: Sequence[int], generator: torch.Generator, test: bool = False
    ) -> Tensor:
        """Draw float32 images in [0, 1], of this shape, on the generator's device.

        With `test` those to test with, which are never trained on.
        """
        ...


@dataclass(frozen=True)
class UniformNoise:
    """Every pixel uniform in [0, 1], independent of the others."""

    def __call__(
        self, shape: Sequence[int], generator: torch.Generator, test: bool = False
    ) -> Tensor:
        """Draw images; those to test with are other draws of the same kind."""
        return torch.rand(tuple(shape), generator=generator, device=generator.device)


@dataclass(frozen=True)
class SmoothNoise:
    """Normal noise under a Gaussian blur, each image stretched to [0, 1]: blobs, as strokes are.

    Attributes:
        sigma: Standard deviation of the blur, relative to the image's height or width.
    """

    sigma: float = 0.1

    def __call__(
        self, shape: Sequence[int], generator: torch.Generator, test: bool = False
    ) -> Tensor:
        """Draw images; those to test with are other draws of the same kind."""
        noise = torch.randn(tuple(shape), generator=generator, device=generator.device)
        noise = self._blur(shape[2], noise) @ noise @ self._blur(shape[3], noise)
        low, high = noise.amin((1, 2, 3), keepdim=True), noise.amax((1, 2, 3), keepdim=True)
        return (noise - low) / (high - low).clamp_min(1e-12)

    def _blur(self, size: int, like: Tensor) -> Tensor:
        """Symmetric matrix that blurs along an axis, whose ends meet."""
        steps = torch.arange(size, device=like.device)
        apart = (steps[:, None] - steps).abs()
        apart = torch.minimum(apart, size - apart) / (self.sigma * size)
        weights = torch.exp(-0.5 * apart.square())
        return weights / weights.sum(0)


@dataclass(frozen=True)
class OtherImages:
    """Images of another data set.

    Training images are drawn with replacement, test images without.

    Attributes:
        name: The data set, as `load_dataset` takes it.
        fingerprint: Its hash.
        dataset: The images.
    """

    name: str
    fingerprint: str
    dataset: Dataset = field(repr=False, compare=False)

    def __call__(
        self, shape: Sequence[int], generator: torch.Generator, test: bool = False
    ) -> Tensor:
        """Draw images.

        Raises:
            DivtrainError: when they are of another shape, or there are too few to test with.
        """
        images, device = (self.dataset.test if test else self.dataset.train).x, generator.device
        count = shape[0]
        if images.shape[1:] != tuple(shape[1:]):
            raise DivtrainError(
                f"the images of {self.name} are {_size(images.shape)}, those trained on"
                f" {_size(shape)}: images from outside must be of the same channels and size;"
                " convert them and give them as a FILE.npz"
            )
        if not test:
            chosen = torch.randint(len(images), (count,), generator=generator, device=device)
        elif count <= len(images):
            chosen = torch.randperm(len(images), generator=generator, device=device)[:count]
        else:
            raise DivtrainError(
                f"{self.name} has {len(images)} test images, {count} are asked for; ask for fewer"
            )
        return images[chosen.to(images.device)].to(device)


NOISES: dict[str, Outside] = {"noise": UniformNoise(), "smooth": SmoothNoise()}
"""Images from outside that need no files."""


def open_outside(name: str, root: str | Path = "data", expected: Any = None) -> Outside:
    """Open images from outside the training distribution.

    Args:
        name: ``noise``, ``smooth``, or a data set as `load_dataset` takes it: ``mnist``, FILE.npz,
            FOLDER. Its labels are not used.
        root: Where torchvision's files are.
        expected: The `divtrain.identity.spec_of` the images that must be found, if known.

    Raises:
        DivtrainError: for an unknown name, files that cannot be read, or others than expected.
    """
    if name in NOISES:
        return NOISES[name]
    check_outside_name(name)
    file = Path(name)
    changed = file.stat().st_mtime_ns if name not in DATASETS and file.exists() else 0
    dataset = _load(name, str(root), changed)
    opened = OtherImages(name, dataset.fingerprint, dataset)
    if expected is not None and spec_of(opened) != expected:
        raise DivtrainError(f"{name} changed since the run began; run the same command again")
    return opened


def check_outside_name(name: str) -> None:
    """Check that `open_outside` may know a name, without opening a file.

    Raises:
        DivtrainError: for an unknown name.
    """
    path = "/" in name or name.endswith(".npz") or os.path.isdir(name)  # noqa: PTH112, takes any text
    if name not in (*NOISES, *DATASETS) and not path:
        known = [*NOISES, *DATASETS, "FILE.npz", "FOLDER/"]
        raise unknown_name("kind of images from outside", name, known)


@lru_cache(maxsize=2)
def _load(name: str, root: str, changed: int) -> Dataset:
    """Load a data set once for all stages of a graph, and again when its file has changed."""
    del changed  # only part of the key of the cache
    return load_dataset(name, root)


def check_outside(outside: Outside, inside: Dataset, tested: int = 0) -> None:
    """Check that images from outside fit a data set and are others, and enough to draw `tested`."""
    if isinstance(outside, OtherImages) and same_source(outside.name, inside.name):
        raise DivtrainError(
            f"expected images from outside the data set, got {outside.name}, the data set itself;"
            f" name another set, or {' or '.join(NOISES)}"
        )
    shape = inside.train.x.shape[1:]
    outside((1, *shape), torch.Generator().manual_seed(0))
    if tested:
        outside((tested, *shape), torch.Generator().manual_seed(0), test=True)


def same_source(name: str, other: str) -> bool:
    """Whether two names of data sets, or kinds of noise, mean the same images."""
    paths = not {name, other} & {*DATASETS, *NOISES, ""}
    return name == other or (paths and Path(name).resolve() == Path(other).resolve())


def _size(shape: Sequence[int]) -> str:
    channels, height, width = shape[-3:]
    return f"{channels} channel{'s' if channels > 1 else ''} of {height}x{width}"
