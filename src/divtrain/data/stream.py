"""What a defence trains on: the images in each of its views, batch by batch.

Batch `step` is a function of the seed and of `step` alone, so a run that was killed goes on
where it stopped with nothing but the step number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from divtrain.data.augment import random_flip, random_shift
from divtrain.data.datasets import Images
from divtrain.data.noise import add_noise
from divtrain.errors import DivtrainError

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
    """

    images: Images
    batch_size: int
    views: Sequence[View] = (Clean(),)
    shift: int = 0
    flip: bool = False
    seed: int = 0
    _order: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the parameters."""
        if self.batch_size < 1:
            raise DivtrainError(f"expected batch_size >= 1, got {self.batch_size}")
        if not self.views:
            raise DivtrainError("expected at least one view of the images, got none")
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
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch."""
        return self.epoch_size // self.batch_size

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return images and labels of batch `step`, counted from 0 over all epochs."""
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
        return x, y

    def places(self, step: int) -> tuple[Tensor, Tensor]:
        """Return which image, and which view of it, stands at each place of batch `step`."""
        epoch, position = divmod(step, self.steps_per_epoch)
        chosen = self._epoch_order(epoch)[position * self.batch_size :][: self.batch_size]
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
