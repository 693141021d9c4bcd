"""What rounding alone does to a training: the same sums, taken in another order."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from torch import Tensor

from divtrain.data import Stream


@contextmanager
def batches_back_to_front() -> Iterator[None]:
    """Context in which every batch holds the images it would hold, in the opposite order.

    Every loss is a mean over images, so that only the order of sums is another.
    """
    batch = Stream.batch

    def reversed_batch(stream: Stream, step: int) -> tuple[Tensor, Tensor]:
        x, y = batch(stream, step)
        return x.flip(0), y.flip(0)

    with mock.patch.object(Stream, "batch", reversed_batch):
        yield
