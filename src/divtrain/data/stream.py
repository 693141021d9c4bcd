"""What a defence trains on: the images in each of its views, batch by batch.

Batch `step` is a function of the seed and of `step` alone, so a run that was killed goes on
where it stopped with nothing but the step number.

A batch may begin with images from outside the training distribution (`OutsidePart`). First, and
always as many, so that terms know them by their place: as a share of the batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from divtrain.data.augment import random_flip, random_shift
from divtrain.data.datasets import Images
from divtrain.data.noise import add_noise
from divtrain.data.outside import Outside
from divtrain.errors import DivtrainError
from divtrain.gal import images_in

View = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""Maps augmented images and labels to the images trained on, in [0, 1]."""


@dataclass(frozen=True)
class Clean:
    """The augmented images as they are: D'."""

    def __call__(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Return `x`."""
        del y, generator
        return x


@dataclass(frozen=True)
class Noisy:
    """The augmented images plus truncated normal noise: D_noise.

    Attributes:
        eps_max: Largest absolute noise, in pixel units.
    """

    eps_max: float

    def __call__(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Add the noise."""
        del y
        return add_noise(x, self.eps_max, generator)


@dataclass(frozen=True)
class OutsidePart:
    """The first images of each batch, from outside the training distribution.

    They have no class, but GAL's input gradients are those of a cross-entropy and need one. Each
    is given a class drawn uniformly, the same for every member (our choice; the paper is silent).

    Attributes:
        source: What draws them.
        share: Their share of each batch, in (0, 1), rounded up to whole images.
        classes: The number of classes.
    """

    source: Outside
    share: float
    classes: int

    def draw(self, like: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return images as many and as large as `like`, and a class for each."""
        x = self.source(like.shape, generator).to(like.dtype)
        y = torch.randint(self.classes, (len(x),), generator=generator, device=x.device)
        return x, y


@dataclass(frozen=True)
class Stream:
    """Shuffled, augmented training batches on the device of the images.

    With V views an epoch visits each image V times, once in each view, in one shuffled order.

    Attributes:
        images: Training images.
        batch_size: Images a batch; a smaller rest at the end of an epoch is dropped.
        views: One or more of `Clean()`, `Noisy(...)`, or any callable of the kind.
        shift: Largest random shift in pixels.
        flip: Whether to mirror images at random.
        seed: Order, augmentation and noise.
        outside: What each batch begins with, if anything; the rest of it is made as without.
    """

    images: Images
    batch_size: int
    views: Sequence[View] = (Clean(),)
    shift: int = 0
    flip: bool = False
    seed: int = 0
    outside: OutsidePart | None = None
    _order: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the parameters."""
        if self.batch_size < 1:
            raise DivtrainError(f"expected batch_size >= 1, got {self.batch_size}")
        if not self.views:
            raise DivtrainError("expected at least one view of the images, got none")
        if self.inside_size < 1:
            raise DivtrainError(
                f"batch_size {self.batch_size} leaves no room for training images beside those from"
                " outside; raise it"
            )
        if self.steps_per_epoch == 0:
            raise DivtrainError(
                f"batch_size {self.batch_size} is more than the {self.epoch_size} images of an"
                " epoch; lower it"
            )

    @property
    def epoch_size(self) -> int:
        """Images visited in an epoch, counting each view."""
        return len(self.images) * len(self.views)

    @property
    def outside_size(self) -> int:
        """Images from outside in a batch: its first."""
        return 0 if self.outside is None else images_in(self.outside.share, self.batch_size)

    @property
    def inside_size(self) -> int:
        """Training images in a batch: its last."""
        return self.batch_size - self.outside_size

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch."""
        return self.epoch_size // self.inside_size

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return images and labels of batch `step`, counted from 0 over all epochs.

        Images from outside come first, with a class drawn at random.
        """
        image, view = self.places(step)
        x, y = self.images.x[image], self.images.y[image]
        generator = torch.Generator(x.device).manual_seed(_mix(self.seed, 2, step))
        x = random_shift(x, self.shift, generator)
        if self.flip:
            x = random_flip(x, generator)
        for index, apply in enumerate(self.views):
            here = (view == index).nonzero().squeeze(1)
            if len(here):
                x[here] = apply(x[here], y[here], generator)
        if self.outside is not None:
            like = x[:1].expand(self.outside_size, *x.shape[1:])
            parts = zip(self.outside.draw(like, generator), (x, y), strict=True)
            x, y = (torch.cat(both) for both in parts)
        return x, y

    def places(self, step: int) -> tuple[Tensor, Tensor]:
        """Return which image, and which view of it, stands at each inside place of a batch."""
        epoch, position = divmod(step, self.steps_per_epoch)
        chosen = self._epoch_order(epoch)[position * self.inside_size :][: self.inside_size]
        return chosen % len(self.images), chosen // len(self.images)

    def _epoch_order(self, epoch: int) -> Tensor:
        if epoch not in self._order:
            generator = torch.Generator().manual_seed(_mix(self.seed, 1, epoch))
            order = torch.randperm(self.epoch_size, generator=generator)
            self._order.clear()
            self._order[epoch] = order.to(self.images.x.device)
        return self._order[epoch]


def _mix(seed: int, purpose: int, index: int) -> int:
    """One seed from three numbers (torch's CPU generator uses its low 32 bits)."""
    mixed = seed
    for part in (purpose, index):
        mixed = (mixed * 6364136223846793005 + part + 1442695040888963407) % 2**62
    return mixed
