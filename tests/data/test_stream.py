from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from divtrain.data import Images, Stream, View
from divtrain.data.augment import random_flip, random_shift
from divtrain.data.stream import mix_seed
from divtrain.defences import Clean, Noisy
from divtrain.errors import DivtrainError


def numbered(count: int) -> Images:
    """Image i has the label i and i / 100 in every pixel."""
    pixels = (torch.arange(count) / 100).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()
    return Images(pixels, torch.arange(count))


def marked(value: int) -> View:
    """Writes its own number, in hundredths, over one pixel."""

    def view(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        del generator
        assert torch.equal((100 * x[:, 0, 1, 1]).round().long(), y)
        x = x.clone()
        x[:, 0, 0, 0] = value / 100
        return x

    return view


def drawn(stream: Stream, step: int) -> tuple[Tensor, Tensor]:
    batch = stream.batch(step)
    return batch.x, batch.y


def visits(stream: Stream, epoch: int = 0) -> list[tuple[int, int]]:
    """(image, view) of everything in an epoch of numbered images with marked views."""
    seen: list[tuple[int, int]] = []
    for step in range(stream.steps_per_epoch):
        x, y = drawn(stream, epoch * stream.steps_per_epoch + step)
        assert x.shape == (stream.batch_size, 1, 2, 2)
        assert torch.equal((100 * x[:, 0, 1, 1]).round().long(), y)
        views = (100 * x[:, 0, 0, 0]).round().long()
        seen += zip(y.tolist(), views.tolist(), strict=True)
    return seen


@settings(max_examples=50, deadline=None)
@given(
    count=st.integers(1, 12),
    views=st.integers(1, 3),
    batch_size=st.integers(1, 12),
    epoch=st.integers(0, 3),
    seed=st.integers(0, 2**40),
)
def test_an_epoch_visits_each_image_once_in_each_view_less_a_rest(
    count: int, views: int, batch_size: int, epoch: int, seed: int
) -> None:
    batch_size = min(batch_size, count * views)
    stream = Stream(numbered(count), batch_size, [marked(v) for v in range(views)], seed=seed)
    seen = visits(stream, epoch)
    everything = {(image, view) for image in range(count) for view in range(views)}
    assert len(seen) == len(set(seen)) == count * views - count * views % batch_size
    assert set(seen) <= everything


def augmented(seed: int = 3) -> Stream:
    x = torch.rand(10, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    views = (Clean(), Noisy(0.3))
    return Stream(Images(x, torch.arange(10)), 4, views, shift=2, flip=True, seed=seed)


@settings(max_examples=50, deadline=None)
@given(steps=st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_a_batch_is_a_function_of_seed_and_step_alone(steps: list[int]) -> None:
    used, torch_state = augmented(), torch.get_rng_state()
    for step in steps:
        for ours, fresh in zip(drawn(used, step), drawn(augmented(), step), strict=True):
            assert torch.equal(ours, fresh)
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    def order(seed: int, epoch: int) -> tuple[tuple[int, int], ...]:
        return tuple(visits(Stream(numbered(12), 3, [marked(0), marked(1)], seed=seed), epoch))

    orders = [order(seed, epoch) for seed in range(4) for epoch in range(4)]
    assert len(set(orders)) == len(orders)


def test_views_are_mixed_in_one_order() -> None:
    stream = Stream(numbered(50), 100, [marked(0), marked(1)])
    views = [view for _, view in visits(stream)]
    changes = sum(a != b for a, b in pairwise(views))
    assert abs(changes - 50) < 4 * 5  # 99 fair coins: mean 50, deviation 5


@pytest.mark.parametrize("options", [{"shift": 3}, {"views": (Noisy(0.1),)}])
def test_augmentation_and_noise_differ_at_each_step_epoch_and_seed(
    options: dict[str, Any],
) -> None:
    # The same image eight times: what differs is not the order.
    images = Images(torch.rand(6, 6).expand(8, 1, 6, 6), torch.arange(8))
    streams = [Stream(images, 4, seed=seed, **options) for seed in range(3)]
    draws = [stream.batch(step).x.numpy().tobytes() for stream in streams for step in range(6)]
    assert len(set(draws)) == len(draws)


def test_the_images_themselves_are_never_changed() -> None:
    stream = augmented()
    before = stream.images.x.clone()
    for step in range(stream.steps_per_epoch):
        stream.batch(step).x.zero_()
    assert torch.equal(stream.images.x, before)


@pytest.mark.parametrize("step", [0, 3, 11])
def test_images_are_shifted_flipped_and_then_put_into_their_views(step: int) -> None:
    """Against looking for the images of each view in each batch."""
    images = Images(torch.rand(30, 1, 4, 4), torch.arange(30))
    stream = Stream(images, 8, (Clean(), Noisy(0.3), Noisy(0.2)), 1, True, seed=9)
    image, view = stream.places(step)
    generator = torch.Generator().manual_seed(mix_seed(9, 2, step))
    expected = random_flip(random_shift(images.x[image], 1, generator), generator)
    for index, apply in enumerate(stream.views):
        here = (view == index).nonzero().squeeze(1)
        if len(here):
            expected[here] = apply(expected[here], image[here], generator)
    assert torch.equal(stream.batch(step).x, expected)
    assert torch.equal(stream.batch(step).y, image)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"batch_size": 0}, "a `batch_size` that leaves room for training images, got 0"),
        ({"batch_size": -4}, "room for training images, got -4"),
        ({"batch_size": 6}, "`batch_size` 6 is more than the 5 images of an epoch"),
        ({"batch_size": 11, "views": (Clean(), Noisy(0.1))}, "more than the 10 images"),
    ],
)
def test_impossible_streams_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(DivtrainError, match=match):
        Stream(numbered(5), **options)
