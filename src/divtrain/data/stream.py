"""Seeded training batches: shuffled, augmented, each image in each of several views.

Batch `step` is a function of the seed and of `step` alone, so a run that was killed resumes with
nothing but the step number. Drawing a batch never waits for the images' device: where each view's
images stand is worked out on the CPU, once per epoch.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from divtrain.checks import first_few
from divtrain.data.augment import random_flip, random_shift
from divtrain.data.datasets import Images
from divtrain.data.outside import Outside
from divtrain.errors import DivtrainError
from divtrain.forward import Batch, leading

View = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""Maps augmented images and labels to the images trained on, in [0, 1]."""


@dataclass(frozen=True)
class OutsidePart:
    """The part ``outside`` of each batch: images from outside the training distribution.

    They have no class, but GAL's input gradients are those of a cross-entropy and need one. Each
    is given a class drawn uniformly, the same for every member (our choice; the paper is silent).

    Attributes:
        source: What draws them.
        share: The fraction of each batch that they are, in (0, 1), rounded up to an image.
        classes: Number of classes.
    """

    source: Outside
    share: float
    classes: int

    def before(self, batch: Batch, size: int, generator: torch.Generator) -> Batch:
        """Return the batch with `size` such images before those that are in it."""
        x = self.source((size, *batch.x.shape[1:]), generator).to(batch.x.dtype)
        y = torch.randint(self.classes, (len(x),), generator=generator, device=x.device)
        x, y = torch.cat([x, batch.x]), torch.cat([y, batch.y])
        return Batch(x, y, {"outside": slice(0, size), "given": slice(size, len(x))})


@dataclass(frozen=True)
class Epoch:
    """Which image stands where in the batches of one epoch.

    Attributes:
        images: Index of each image, (step, place), on the images' device.
        views: Its view, (step, place), on the CPU.
        places: The places of each batch sorted by view, (step, place), on the images' device.
        counts: How many images of each batch are in each view, by step and view.
    """

    images: Tensor
    views: Tensor
    places: Tensor
    counts: list[list[int]]


@dataclass(frozen=True)
class Stream:
    """Shuffled, augmented training batches on the device of the images.

    With V views an epoch visits each image V times, once in each view, in one shuffled order.
    `divtrain.training.train` sets views and images from outside by the defence; give it a stream
    without.

    Attributes:
        images: Training images.
        batch_size: Images per batch; images left over at the end of an epoch are dropped.
        views: What becomes of the augmented images; as they are if empty.
        shift: Largest random shift in pixels.
        flip: Whether to mirror images at random.
        seed: Determines order, augmentation and noise.
        outside: Images from outside that each batch begins with; the others are made as without.
    """

    images: Images
    batch_size: int
    views: Sequence[View] = ()
    shift: int = 0
    flip: bool = False
    seed: int = 0
    outside: OutsidePart | None = None
    _epochs: dict[int, Epoch] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _ = self.steps_per_epoch  # refuses too large a batch

    @property
    def outside_size(self) -> int:
        """Number of images from outside in a batch."""
        return 0 if self.outside is None else leading(self.outside.share, self.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch."""
        share = 0.0 if self.outside is None else self.outside.share
        return steps_per_epoch(len(self.images), len(self.views), self.batch_size, share)

    def batch(self, step: int) -> Batch:
        """Return batch `step`, counted from 0 over all epochs."""
        epoch, position = self._epoch(step)
        image = epoch.images[position]
        x, y = self.images.x[image], self.images.y[image]
        generator = torch.Generator(x.device).manual_seed(mix_seed(self.seed, 2, step))
        x = random_shift(x, self.shift, generator)
        if self.flip:
            x = random_flip(x, generator)
        places = epoch.places[position].split(epoch.counts[position])
        apply_views(x, y, zip(self.views, places, strict=False), generator)
        if self.outside is None:
            return Batch(x, y)
        return self.outside.before(Batch(x, y), self.outside_size, generator)

    def places(self, step: int) -> tuple[Tensor, Tensor]:
        """Return which image, and which view of it, stands at each given place of a batch."""
        epoch, position = self._epoch(step)
        return epoch.images[position], epoch.views[position]

    def describe(self, step: int, mask: Tensor) -> str:
        """Name the images of a batch where `mask`, (batch,), is set, for a message."""
        outside, given = mask.cpu().tensor_split([self.outside_size])
        image, view = (each.cpu()[given] for each in self.places(step))
        words: list[str] = []
        if len(image):
            views = [repr(self.views[index]) for index in view.unique().tolist() if self.views]
            seen = f", seen as {', '.join(views)}" if views else ""
            words.append(f"training images {first_few(map(str, image.tolist()))}{seen}")
        if outside.any():
            words.append(f"{int(outside.sum())} from outside the training distribution")
        return "; ".join(words)

    def spec(self) -> dict[str, Any]:
        """Return what determines the batches, but for views and images from outside."""
        settings = {name: getattr(self, name) for name in ("batch_size", "shift", "flip", "seed")}
        return {"images": list(self.images.x.shape), **settings}

    def _epoch(self, step: int) -> tuple[Epoch, int]:
        """Return the epoch of a step, and the step's place in it."""
        number, position = divmod(step, self.steps_per_epoch)
        if number not in self._epochs:
            self._epochs.clear()
            self._epochs[number] = self._order(number)
        return self._epochs[number], position

    def _order(self, number: int) -> Epoch:
        count, views = len(self.images), max(1, len(self.views))
        generator = torch.Generator().manual_seed(mix_seed(self.seed, 1, number))
        order = torch.randperm(count * views, generator=generator)
        size = self.batch_size - self.outside_size
        order = order[: self.steps_per_epoch * size].view(-1, size)
        view, device = order // count, self.images.x.device
        counts = torch.nn.functional.one_hot(view, views).sum(1).tolist()
        places = view.argsort(dim=1, stable=True)
        return Epoch((order % count).to(device), view, places.to(device), counts)


def apply_views(
    x: Tensor,
    y: Tensor,
    views: Iterable[tuple[View, Tensor | slice]],
    generator: torch.Generator,
) -> None:
    """Replace images by their views, each view at its own places of the batch."""
    for view, places in views:
        labels = y[places]
        if len(labels):
            x[places] = view(x[places], labels, generator)


def steps_per_epoch(images: int, views: int, batch_size: int, outside_share: float = 0.0) -> int:
    """Return the number of full batches in which `images` images are seen once in each view.

    Raises:
        DivtrainError: when no image of a batch would be a training image, or an epoch has fewer
            images than a batch.
    """
    given = batch_size - leading(outside_share, batch_size)
    if given < 1:
        beside = " beside those from outside" if outside_share else ""
        raise DivtrainError(
            f"expected a `batch_size` that leaves room for training images{beside}, got"
            f" {batch_size}; raise it"
        )
    seen = images * max(1, views)
    if seen < given:
        raise DivtrainError(
            f"`batch_size` {batch_size} is more than the {seen} images of an epoch; lower it"
        )
    return seen // given


def mix_seed(seed: int, purpose: int, index: int) -> int:
    """One seed from three numbers (torch's CPU generator uses its low 32 bits)."""
    mixed = seed
    for number in (purpose, index):
        mixed = (mixed * 6364136223846793005 + number + 1442695040888963407) % 2**62
    return mixed
