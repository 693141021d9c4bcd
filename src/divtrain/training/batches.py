"""What the loop draws its batches from: a seeded stream, or any iterable of images and labels."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor

from divtrain.checks import check_images, check_labels, first_few
from divtrain.data import Images, OutsidePart, Stream, View
from divtrain.data.stream import apply_views, mix_seed
from divtrain.defences.base import Defence
from divtrain.ensemble import Ensemble
from divtrain.errors import DivtrainError
from divtrain.forward import Batch, leading
from divtrain.module_state import device_of, eval_mode


def prepare_batches(
    batches: Stream | Iterable[Sequence[Tensor]], defence: Defence, ens: Ensemble
) -> "Stream | Loaded":
    """Check images and labels once, and return the batches in the defence's views.

    Raises:
        DivtrainError: for images out of [0, 1], labels that are no classes of the members, an
            iterable without a length, or too few classes for the defence.
    """
    if isinstance(batches, Stream):
        check_images(batches.images.x)
        classes = _classes(ens, batches.images.x)
        check_labels(batches.images.y, len(batches.images), classes)
        defence.check_classes(len(ens), classes)
        return defence.prepare(batches, classes)
    if isinstance(batches, (Images, tuple)):
        raise DivtrainError(
            f"expected batches, got {type(batches).__name__}: give"
            " dt.data.Stream(dt.data.Images(x, y), batch_size=128), or a DataLoader"
        )
    length = _length(batches)
    if length is None:
        raise DivtrainError(
            f"expected batches with a length, got {type(batches).__name__}: an epoch is one pass"
            " over them; give a list, a DataLoader of a dataset with a length, or a Stream"
        )
    first: Any = next(iter(batches), None)
    if not isinstance(first, (tuple, list)) or len(cast(list[Any], first)) != 2:
        parts = f" of {len(first)}" if isinstance(first, (tuple, list)) else ""
        raise DivtrainError(
            "expected batches that are pairs of images and labels, got"
            f" {'none' if first is None else type(first).__name__ + parts}"
        )
    x = first[0]
    check_images(x)
    classes = _classes(ens, x)
    defence.check_classes(len(ens), classes)
    outside = defence.outside_part(classes)
    return Loaded(batches, length, defence.views, outside, classes, device_of(ens))


def _length(batches: Any) -> int | None:
    """Number of batches; None without one, as of a DataLoader of an iterable data set."""
    try:
        return len(batches)
    except TypeError:
        return None


def _classes(ens: Ensemble, x: Tensor) -> int:
    with torch.no_grad(), eval_mode(ens):
        return ens.member_logits(x[:1].to(device_of(ens))).shape[-1]


class Loaded:
    """Batches of an iterable, with the methods of a `Stream`; iterated over once per epoch.

    With V views each batch of it is V batches here, t = 0 to V - 1: image i is seen in view
    (i + t) modulo V, so that every batch mixes the views, and an epoch holds each image once in
    each of them. Images from outside are added to those given.

    Args:
        source: Pairs of images, (batch, channel, height, width) in [0, 1], and labels, (batch,).
        length: Number of its batches.
        views: What becomes of the images; as they are if empty.
        outside: Images from outside the training distribution, if any.
        classes: Number of classes.
        device: Where batches are made.
    """

    def __init__(
        self,
        source: Iterable[Sequence[Tensor]],
        length: int,
        views: Sequence[View],
        outside: OutsidePart | None,
        classes: int,
        device: torch.device,
    ):
        self._source, self._length, self._views = source, length, views
        self._outside, self._classes, self._device = outside, classes, device
        self._iterator: Iterator[Sequence[Tensor]] = iter(())
        self._next = 0, 0  # epoch and number of what the iterator yields next
        self._loaded: tuple[tuple[int, int], Tensor, Tensor] | None = None

    seed = 0
    """Of views and of crafted examples."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches of the iterable, once for each view."""
        return self._length * max(1, len(self._views))

    def batch(self, step: int) -> Batch:
        """Return batch `step`; batches that are jumped over are loaded and dropped."""
        turns = max(1, len(self._views))
        x, y = self._load(divmod(step // turns, self._length), step % self.steps_per_epoch > 0)
        x = x.clone()
        generator = torch.Generator(self._device).manual_seed(mix_seed(self.seed, 2, step))
        places = (slice((number - step) % turns, None, turns) for number in range(turns))
        apply_views(x, y, zip(self._views, places, strict=False), generator)
        if self._outside is None:
            return Batch(x, y)
        share = self._outside.share
        return self._outside.before(Batch(x, y), leading(share / (1 - share), len(x)), generator)

    def describe(self, step: int, mask: Tensor) -> str:
        """Name images by their place in the batch."""
        return f"at places {first_few(map(str, mask.nonzero().flatten().tolist()))}"

    def spec(self) -> dict[str, Any]:
        """Return the kind of the iterable and the number of its batches: all that is known."""
        return {"kind": type(self._source).__name__, "batches": self._length}

    def _load(self, place: tuple[int, int], inside: bool) -> tuple[Tensor, Tensor]:
        """Return one batch of the iterable, checked, on the device; `inside` an epoch or first."""
        if self._loaded is None or self._loaded[0] != place:
            epoch, number = place
            anew = self._next[0] != epoch or self._next[1] > number or self._loaded is None
            # A run that resumes inside an epoch draws nothing that the unbroken one did not.
            with torch.random.fork_rng([], enabled=inside and (anew or number > self._next[1])):
                if anew:
                    self._iterator, self._next = iter(self._source), (epoch, 0)
                remaining = islice(self._iterator, number - self._next[1], None)
                x, y = next(remaining, (None, None))
            if x is None or y is None:
                raise DivtrainError(
                    f"expected {self._length} batches in epoch {epoch + 1}, the length of the"
                    " iterable, got fewer: it must be possible to iterate over it again"
                )
            check_images(x)
            check_labels(y, len(x), self._classes)
            self._next = epoch, number + 1
            self._loaded = place, x.to(self._device), y.to(self._device)
        return self._loaded[1:]
