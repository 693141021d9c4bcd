"""What rounding alone does to a training: the same sums, taken in another order."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

from divtrain.data import Stream
from divtrain.forward import Batch


@contextmanager
def batches_back_to_front() -> Iterator[None]:
    """Context in which every batch holds the images it would hold, in the opposite order.

    Every loss is a mean over images, so that only the order of sums is another.
    """
    batch = Stream.batch

    def reversed_batch(stream: Stream, step: int) -> Batch:
        made = batch(stream, step)
        return replace(made, x=made.x.flip(0), y=made.y.flip(0))

    with mock.patch.object(Stream, "batch", reversed_batch):
        yield
