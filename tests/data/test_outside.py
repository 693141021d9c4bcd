"""Images from outside the training distribution, and batches that begin with them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from divtrain.data import (
    NOISES,
    Dataset,
    Images,
    OutsidePart,
    Stream,
    check_outside,
    load_dataset,
    open_outside,
)
from divtrain.defences import Clean, Noisy
from divtrain.errors import DivtrainError
from divtrain.identity import spec_of


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """100 training images, each of one grey below 0.5, and 20 test images above it, 8x8."""
    file = tmp_path / "greys.npz"
    train, test = np.arange(100, dtype=np.uint8), np.arange(150, 170, dtype=np.uint8)
    arrays = [np.broadcast_to(each[:, None, None], (len(each), 8, 8)) for each in (train, test)]
    np.savez(file, x_train=arrays[0], y_train=train % 2, x_test=arrays[1], y_test=test % 2)
    return file


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.mark.parametrize("name", NOISES)
def test_noise_is_images_that_a_seed_repeats(name: str) -> None:
    x = NOISES[name]((50, 3, 12, 8), generator())
    assert x.shape == (50, 3, 12, 8)
    assert x.dtype == torch.float32
    assert x.min() >= 0 and x.max() <= 1
    assert torch.equal(x, NOISES[name]((50, 3, 12, 8), generator()))
    assert not torch.equal(x, NOISES[name]((50, 3, 12, 8), generator(1)))


def test_uniform_noise_is_uniform_and_smooth_noise_is_stretched_and_correlated() -> None:
    uniform = NOISES["noise"]((200, 1, 28, 28), generator())
    assert uniform.mean() == pytest.approx(0.5, abs=0.01)
    assert uniform.std() == pytest.approx(12**-0.5, abs=0.01)
    smooth = NOISES["smooth"]((200, 1, 28, 28), generator())
    assert torch.equal(smooth.amin((1, 2, 3)), torch.zeros(200))
    torch.testing.assert_close(smooth.amax((1, 2, 3)), torch.ones(200))

    def neighbours(x: torch.Tensor, dim: int) -> float:
        pair = torch.stack([x.flatten(), x.roll(1, dim).flatten()])
        return torch.corrcoef(pair)[0, 1].item()

    for dim in (2, 3):
        # Two Gaussians of width s convolved: neighbours correlate by exp(-1 / (4 s^2)).
        assert neighbours(smooth, dim) == pytest.approx(np.exp(-1 / (4 * 2.8**2)), abs=0.02)
        assert abs(neighbours(uniform, dim)) < 0.02


def test_a_set_gives_training_images_to_train_on_and_test_images_to_test_with(
    archive: Path,
) -> None:
    outside = open_outside(str(archive))
    trained = outside((500, 1, 8, 8), generator())
    tested = outside((20, 1, 8, 8), generator(), test=True)
    assert trained.max() < 0.5 < tested.min()
    assert len(trained[:, 0, 0, 0].unique()) > 90
    assert len(tested[:, 0, 0, 0].unique()) == 20  # each once
    with pytest.raises(DivtrainError, match="has 20 test images, 21 are asked for"):
        outside((21, 1, 8, 8), generator(), test=True)


def test_a_set_of_another_size_is_refused_with_what_to_do(archive: Path, digits: Dataset) -> None:
    outside = open_outside(str(archive))
    check_outside(outside, digits, tested=20)
    small = digits.train.x[:, :, 1:, 1:]
    smaller = replace(digits, train=Images(small, digits.train.y))
    with pytest.raises(DivtrainError, match=r"1 channel of 8x8, .* 1 channel of 7x7: .*FILE.npz"):
        check_outside(outside, smaller)
    with pytest.raises(DivtrainError, match="20 test images, 21"):
        check_outside(outside, digits, tested=21)


def test_the_data_set_itself_is_not_outside(
    archive: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DivtrainError, match="got digits, the data set itself.*noise or smooth"):
        check_outside(open_outside("digits"), digits)
    monkeypatch.chdir(archive.parent)
    with pytest.raises(DivtrainError, match="itself"):
        check_outside(open_outside("greys.npz"), load_dataset(str(archive)))


def test_names_are_offered_and_changed_files_told(archive: Path) -> None:
    with pytest.raises(DivtrainError, match="'nose': did you mean 'noise'"):
        open_outside("nose")
    before = spec_of(open_outside(str(archive)))
    assert spec_of(open_outside(str(archive), expected=before)) == before
    with np.load(archive) as arrays:
        changed = dict(arrays) | {"x_train": arrays["x_train"][::-1]}
    np.savez(archive, **changed)
    assert spec_of(open_outside(str(archive))) != before
    with pytest.raises(DivtrainError, match="changed since the run began"):
        open_outside(str(archive), expected=before)


def stream(digits: Dataset, batch_size: int, share: float = 0.5) -> Stream:
    outside = OutsidePart(NOISES["noise"], share, 10)
    return Stream(digits.train, batch_size, (Clean(), Noisy(0.2)), 1, False, 3, outside)


@pytest.mark.parametrize(
    ("batch_size", "share", "first"), [(40, 0.5, 20), (7, 0.5, 4), (9, 0.1, 1)]
)
def test_a_batch_begins_with_images_from_outside_and_the_rest_is_as_without(
    digits: Dataset, batch_size: int, share: float, first: int
) -> None:
    mixed = stream(digits, batch_size, share)
    parts = {"outside": slice(0, first), "given": slice(first, batch_size)}
    plain = replace(mixed, outside=None, batch_size=batch_size - first)
    assert mixed.steps_per_epoch == plain.steps_per_epoch
    for step in (0, 1, mixed.steps_per_epoch):
        batch, inside = mixed.batch(step), plain.batch(step)
        assert batch.parts == parts
        assert len(batch) == len(batch.y) == batch_size
        assert torch.equal(batch.x[first:], inside.x) and torch.equal(batch.y[first:], inside.y)
        again = replace(mixed).batch(step)  # as a run that resumes
        assert torch.equal(batch.x, again.x) and torch.equal(batch.y, again.y)


def test_classes_of_images_from_outside_are_uniform(digits: Dataset) -> None:
    batches = [stream(digits, 200).batch(step) for step in range(40)]
    classes = torch.cat([batch.y[:100] for batch in batches])
    counts = classes.bincount(minlength=10)
    assert len(counts) == 10
    # 4,000 draws: each class 400, with a standard deviation of 19.
    assert (counts - 400).abs().max() < 80
    assert not torch.equal(batches[0].x[:100], batches[1].x[:100])


def test_a_batch_without_room_for_training_images_is_refused(digits: Dataset) -> None:
    with pytest.raises(DivtrainError, match="room for training images .* from outside, got 1"):
        stream(digits, 1)
