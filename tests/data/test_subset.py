from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divtrain.data import Images, balanced_subset, hold_out
from divtrain.errors import DivtrainError


def made(counts: list[int]) -> Images:
    """Image i has i in every pixel; classes of the given sizes, interleaved."""
    labels = torch.cat([torch.full((count,), k) for k, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    pixels = torch.arange(len(labels)).float().view(-1, 1, 1, 1)
    return Images(pixels, labels)


def indices(subset: Images) -> list[int]:
    return subset.x.flatten().long().tolist()


COUNTS = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def test_the_draw_is_a_function_of_the_seed() -> None:
    images = made([20, 20, 20])
    draws = [indices(balanced_subset(images, 15, seed)) for seed in (0, 0, 1, 2)]
    assert draws[0] == draws[1]
    assert len({tuple(sorted(draw)) for draw in draws}) == 3


def test_every_image_of_a_class_is_as_likely_as_every_other() -> None:
    images, draws = made([5, 3]), 600
    seen = torch.zeros(8)
    for seed in range(draws):
        seen[indices(balanced_subset(images, 4, seed))] += 1
    for label, size in ((0, 5), (1, 3)):
        share = 2 / size
        deviation = (draws * share * (1 - share)) ** 0.5
        assert (seen[images.y == label] - draws * share).abs().max() < 4 * deviation


def test_the_order_mixes_the_classes() -> None:
    labels = balanced_subset(made([50, 50]), 100).y
    assert abs(int((labels[1:] != labels[:-1]).sum()) - 50) < 4 * 5


@settings(max_examples=60, deadline=None)
@given(counts=COUNTS, share=st.floats(0, 1), seed=st.integers(0, 99))
def test_images_held_out_and_left_are_all_once_and_no_class_is_lost(
    counts: list[int], share: float, seed: int
) -> None:
    images = made(counts)
    size = max(1, round(share * (len(images) - 1)))
    try:
        left, held = hold_out(images, size, seed)
    except DivtrainError:
        # Only where holding out that many takes a whole class.
        assert size == len(images) or any(
            taken == count
            for taken, count in zip(
                balanced_subset(images, size, seed).y.bincount(minlength=len(counts)).tolist(),
                counts,
                strict=True,
            )
        )
        return
    assert sorted([*indices(left), *indices(held)]) == list(range(len(images)))
    assert indices(left) == sorted(indices(left))
    assert indices(held) == indices(balanced_subset(images, size, seed))
    for part in (left, held):
        assert torch.equal(part.y, images.y[indices(part)])
    assert len(left.y.unique()) == len(counts)


def test_more_images_held_out_are_those_held_out_before_and_others() -> None:
    images = made([20, 20, 20])
    few, many = (set(indices(hold_out(images, size, seed=3)[1])) for size in (9, 30))
    assert few < many


@settings(max_examples=60, deadline=None)
@given(counts=COUNTS, share=st.floats(0, 1), seed=st.integers(0, 99))
def test_images_are_distinct_and_classes_as_even_as_they_allow(
    counts: list[int], share: float, seed: int
) -> None:
    images = made(counts)
    size = max(1, round(share * len(images)))
    subset = balanced_subset(images, size, seed)
    chosen, got = indices(subset), subset.y.bincount(minlength=len(counts)).tolist()
    assert len(set(chosen)) == len(chosen) == len(subset) == size
    assert torch.equal(subset.y, images.y[chosen])
    # No class that has images left may fall two behind another.
    assert all(got[k] >= max(got) - 1 for k, count in enumerate(counts) if got[k] < count)


@pytest.mark.parametrize(
    ("take", "counts", "size", "match"),
    [
        *((balanced_subset, [3, 3], size, "`size` from 1 to 6 images, got") for size in (-1, 0, 7)),
        *((hold_out, [3, 3], size, "`size` from 1 to 5 of 6 images, got") for size in (-1, 0, 6)),
        (hold_out, [10, 2], 6, "leaves none of class 1; hold out fewer"),
    ],
)
def test_impossible_sizes_are_refused(take: Any, counts: list[int], size: int, match: str) -> None:
    with pytest.raises(DivtrainError, match=match):
        take(made(counts), size)
