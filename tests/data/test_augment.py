from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from divtrain.data.augment import random_flip, random_shift


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shifts(image: Tensor, padding: int) -> dict[tuple[int, int], Tensor]:
    """Every crop of the zero-padded image, by its corner."""
    _, height, width = image.shape
    padded = F.pad(image, (padding,) * 4)
    corners = range(2 * padding + 1)
    return {(i, j): padded[:, i : i + height, j : j + width] for i in corners for j in corners}


@settings(max_examples=50, deadline=None)
@given(
    padding=st.integers(1, 4),
    channels=st.sampled_from([1, 3]),
    height=st.integers(2, 6),
    width=st.integers(2, 6),
    seed=st.integers(0, 2**31),
)
def test_each_image_is_a_shift_of_itself(
    padding: int, channels: int, height: int, width: int, seed: int
) -> None:
    x = torch.rand(5, channels, height, width, generator=seeded(seed))
    out = random_shift(x, padding, seeded(seed))
    assert out.shape == x.shape
    for image, shifted in zip(x, out, strict=True):
        assert any(torch.equal(shifted, crop) for crop in shifts(image, padding).values())


def test_every_shift_is_as_likely_as_every_other() -> None:
    count, padding = 9000, 1
    image = torch.rand(1, 3, 3, generator=seeded())
    corner = {crop.numpy().tobytes(): key for key, crop in shifts(image, padding).items()}
    out = random_shift(image.expand(count, 1, 3, 3), padding, seeded(1))
    seen = Counter(corner[shifted.numpy().tobytes()] for shifted in out)
    expected = count / 9
    chi_square = sum((seen[key] - expected) ** 2 / expected for key in corner.values())
    assert chi_square < 26.1  # the 0.999 quantile at 8 degrees of freedom


def test_shift_by_nothing_changes_nothing() -> None:
    x = torch.rand(3, 1, 4, 4)
    assert torch.equal(random_shift(x, 0), x)


def test_each_image_is_flipped_or_not_with_probability_one_half() -> None:
    count = 4000
    x = torch.rand(count, 2, 3, 4, generator=seeded())
    out = random_flip(x, seeded(1))
    kept = (out == x).flatten(1).all(1)
    flipped = (out == x.flip(-1)).flatten(1).all(1)
    assert (kept ^ flipped).all()
    assert abs(int(flipped.sum()) - count / 2) < 4 * (count / 4) ** 0.5


@pytest.mark.parametrize("seed", [0, 1])
def test_augmentation_is_a_function_of_the_generator(seed: int) -> None:
    x = torch.rand(64, 1, 4, 4, generator=seeded())
    for augment in (lambda g: random_shift(x, 2, g), lambda g: random_flip(x, g)):
        before = x.clone()
        assert torch.equal(augment(seeded(seed)), augment(seeded(seed)))
        assert not torch.equal(augment(seeded(seed)), augment(seeded(seed + 1)))
        assert torch.equal(x, before)
