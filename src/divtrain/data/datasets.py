"""Labelled images as float32 tensors in [0, 1]: digits, MNIST, CIFAR-10, .npz files, folders."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from divtrain.checks import first_few
from divtrain.data.npz import read_npz
from divtrain.errors import DivtrainError, first_line, unknown_name

DIGITS_TEST_SIZE = 500

BRIGHTEST = 1 / 4
"""Largest pixel below which images were divided by more than the largest value they may have."""

BEYOND = 0.1
"""How far beyond [0, 1] interpolation and rounding may take pixels."""

RENUMBER = "np.unique(y, return_inverse=True)[1]"

Split = Literal["test", "held-out training"]
"""Which images of a data set are evaluated on."""


@dataclass(frozen=True)
class Images:
    """Labelled images.

    Attributes:
        x: float32 in [0, 1], (image, channel, height, width).
        y: Labels in [0, classes), (image,).
    """

    x: Float[Tensor, "image channel height width"]
    y: Int[Tensor, "image"]

    def __post_init__(self) -> None:
        """Check that there are as many labels as images."""
        if len(self.x) != len(self.y):
            raise DivtrainError(
                f"expected one label per image, got {len(self.y)} for {len(self.x)} images"
            )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.y)

    def __repr__(self) -> str:
        """Number and shape."""
        return f"{len(self)} images of shape {tuple(self.x.shape[1:])}"

    @cached_property
    def digest(self) -> str:
        """Short hash of every image and label, and of their shape."""
        digest = hashlib.sha256(str(tuple(self.x.shape)).encode())
        for tensor in (self.x, self.y):
            digest.update(tensor.contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def to(self, device: torch.device) -> "Images":
        """Return the images on `device`."""
        return Images(self.x.to(device), self.y.to(device))


@dataclass(frozen=True)
class Dataset:
    """A training and a test set.

    Attributes:
        name: As given to `load_dataset`.
        train: Training images.
        test: Test images, never trained on; or those held out of the training images.
        classes: Number of classes.
        split: Which of the two `test` is.
    """

    name: str
    train: Images
    test: Images
    classes: int
    split: Split = "test"

    def __repr__(self) -> str:
        """Name, sizes and classes."""
        return (
            f"Dataset {self.name!r}: {self.classes} classes, {self.train} to train on,"
            f" {len(self.test)} {self.split} images"
        )

    @cached_property
    def channel_mean(self) -> tuple[float, ...]:
        """Mean of the training images, per channel."""
        return tuple(self.train.x.mean((0, 2, 3)).tolist())

    @cached_property
    def channel_std(self) -> tuple[float, ...]:
        """Standard deviation of the training images, per channel (1 where it is 0)."""
        std = self.train.x.std((0, 2, 3))
        return tuple(std.masked_fill(std == 0, 1.0).tolist())

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of every image, label and shape, to tell two data sets apart."""
        return hashlib.sha256(f"{self.train.digest} {self.test.digest}".encode()).hexdigest()[:16]


def load_dataset(name: str, root: str | Path = "data") -> Dataset:
    """Load a data set by name, or from a file or folder of the user's.

    Args:
        name: ``digits`` (scikit-learn's, no download), ``mnist`` or ``cifar10`` (torchvision's
            files), a path that ends in ``.npz`` (Keras' names x_train, y_train, x_test, y_test, or
            MedMNIST's), or a folder with ``train/CLASS/*`` and ``test/CLASS/*`` images of one size.
        root: Where torchvision's files are, or are downloaded to when they are missing.

    Raises:
        DivtrainError: for an unknown name, or files that are missing, damaged or of another form.
    """
    if name in DATASETS:
        return DATASETS[name](Path(root))
    path = Path(name)
    if path.suffix.lower() == ".npz":
        return _dataset(name, *read_npz(path))
    if path.is_dir():
        from divtrain.data.image_folder import read_image_folders  # here: it imports Pillow

        return _dataset(name, *read_image_folders(path))
    if path.is_file():
        raise DivtrainError(
            f"{name} is no data set: expected {', '.join(DATASETS)}, a FILE.npz or a FOLDER with"
            " train/ and test/ in it; a model goes to `divtrain evaluate` as --targets NAME=FILE"
        )
    if "/" in name:
        raise DivtrainError(
            f"no data set at {name}: expected a FILE.npz, or a folder with train/ and test/ in it"
        )
    raise unknown_name("data set", name, [*DATASETS, "FILE.npz", "FOLDER/"])


def _load_digits(root: Path) -> Dataset:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = (np.asarray(each) for each in load_digits(return_X_y=True))
    split = train_test_split(
        np.arange(len(labels)), test_size=DIGITS_TEST_SIZE, stratify=labels, random_state=0
    )
    train, test = (np.asarray(each) for each in split)
    images = images.reshape(-1, 8, 8) / 16
    return _dataset("digits", images[train], labels[train], images[test], labels[test])


def _load_torchvision(name: str, root: Path) -> Dataset:
    from torchvision import datasets

    kind = {"mnist": datasets.MNIST, "cifar10": datasets.CIFAR10}[name]
    sets = [_open_torchvision(name, kind, root, train) for train in (True, False)]
    return _dataset(name, *(np.asarray(each) for s in sets for each in (s.data, s.targets)))


def _open_torchvision(name: str, kind: Callable[..., Any], root: Path, train: bool) -> Any:
    advice = (
        f"torchvision reads them from {root.resolve()}; name another folder as `root`, or try the"
        " data set digits, which needs no files"
    )
    try:
        return kind(root, train=train, download=False)
    except RuntimeError:
        pass  # torchvision raises it for missing or damaged files
    except Exception as error:
        raise DivtrainError(f"the {name} files are damaged ({error}); {advice}") from error
    if not root.resolve().parent.exists():
        raise DivtrainError(
            f"the {name} files are missing, and so is the parent folder of {root}, where they would"
            f" be downloaded; {advice}"
        )
    try:
        return kind(root, train=train, download=True)
    except Exception as error:
        raise DivtrainError(
            f"the {name} files are missing or damaged and could not be downloaded"
            f" ({first_line(error)}); {advice}"
        ) from error


def _dataset(
    name: str, x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray
) -> Dataset:
    train, test = _as_images(name, x_train, y_train), _as_images(name, x_test, y_test)
    if train.x.shape[1:] != test.x.shape[1:]:
        raise DivtrainError(
            f"{name}: training images are {tuple(train.x.shape[1:])}, test images"
            f" {tuple(test.x.shape[1:])}; they must agree"
        )
    _check_content(f"{name}: the training images", train.x, BRIGHTEST)
    _check_content(f"{name}: the test images", test.x, BRIGHTEST / 4)  # of which there may be few
    classes = 1 + int(torch.cat([train.y, test.y]).max())
    _check_classes(name, train.y, test.y)
    return Dataset(name, train, test, classes)


def _check_classes(name: str, train: Tensor, test: Tensor) -> None:
    """Check that there are training images of every class, from 0 on.

    Raises:
        DivtrainError: for labels with gaps or from 1 on, and classes that only the test knows.
    """
    trained, tested = set(train.tolist()), set(test.tolist())
    if len(trained | tested) < 2:
        raise DivtrainError(f"{name}: expected at least two classes, got {len(trained | tested)}")
    if unknown := sorted(tested - trained):
        raise DivtrainError(
            f"{name}: test images are of classes {first_few(map(str, unknown))}, of which there is"
            " no training image; number the classes alike in both"
        )
    if max(trained) >= len(trained):
        missing = (label for label in range(max(trained)) if label not in trained)
        raise DivtrainError(
            f"{name}: expected labels from 0 to the number of classes less one, got"
            f" {len(trained)} labels from {min(trained)} to {max(trained)}, and no image of class"
            f" {next(missing)}; renumber them, in both sets alike, with"
            f" {'y - 1' if min(trained) == 1 == max(trained) + 1 - len(trained) else RENUMBER}"
        )


def _as_images(name: str, x: np.ndarray, y: np.ndarray) -> Images:
    if x.ndim in (3, 4) and y.ndim and x.shape[-1] == len(y) and x.shape.count(len(y)) == 1:
        order = (3, 2, 0, 1) if x.ndim == 4 else (2, 0, 1)
        raise DivtrainError(
            f"{name}: expected images first in the shape, got {x.shape} for {len(y)} labels;"
            f" transpose them with x.transpose{order}"
        )
    pixels = _as_pixels(name, x)
    return Images(pixels, _as_labels(name, y, len(pixels)))


def _as_pixels(name: str, array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "uif":
        hint = "; convert with astype(np.float32)" if array.dtype.kind == "b" else ""
        raise DivtrainError(f"{name}: expected images of numbers, got dtype {array.dtype}{hint}")
    array = _channels_first(name, array)
    whole = array.dtype in (np.uint8, np.uint16)  # whose range is known
    scale = np.iinfo(array.dtype).max if whole else 1
    x = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)) / scale
    if not torch.isfinite(x).all():
        raise DivtrainError(f"{name}: expected finite pixels, got NaN or infinite ones")
    low, high = x.min().item(), x.max().item()
    if low < 0 or high > 1:
        raise DivtrainError(
            f"{name}: expected 8-bit images or numbers in [0, 1], got {array.dtype} from {low:.8g}"
            f" to {high:.8g}; {_into_range(low, high)}"
        )
    return x


def _channels_first(name: str, array: np.ndarray) -> np.ndarray:
    """Return images as (image, channel, height, width).

    Raises:
        DivtrainError: for any other shape than theirs, or one that may mean two things.
    """
    grey = array.ndim == 3
    array = array[:, None] if grey else array
    if array.ndim != 4 or array.size == 0:
        raise DivtrainError(
            f"{name}: expected images (image, height, width), (image, height, width, channel) or"
            f" (image, channel, height, width), got shape {array.shape}"
        )
    _, first, middle, last = array.shape
    if grey:
        return array
    if last in (1, 3) and (first not in (1, 3) or first == middle != last):
        return array.transpose(0, 3, 1, 2)
    if last in (1, 3) and middle != last and max(first, last) > 1:
        raise DivtrainError(
            f"{name}: images of shape {array.shape} may have their channels first or last; give"
            " them first, as (image, channel, height, width), padded to more pixels"
        )
    if first > 4 and last != middle and (last <= 4 or first == middle):
        raise DivtrainError(
            f"{name}: expected (image, channel, height, width), got images of shape {array.shape},"
            f" which look channels last, with {last} channels; transpose them with"
            f" x.transpose(0, 3, 1, 2){', or leave transparency out, x[..., :3]' * (last == 4)}"
        )
    return array


def _into_range(low: float, high: float) -> str:
    """What takes pixels from `low` to `high` into [0, 1]."""
    if low >= -BEYOND and high <= 1 + BEYOND:
        return "if that is rounding, or what resizing adds at edges, x.clip(0, 1)"
    if low < -1 or (low < 0 and high > 1):
        return "undo the normalisation, as in x * std + mean, and normalise inside the model"
    if low < 0:
        return "take them from [-1, 1] with (x + 1) / 2, and normalise inside the model"
    largest = next((top for top in (255, 4095, 65535) if high <= top), "their largest value")
    return f"divide by the largest value they may have, {largest}"


def _check_content(what: str, x: Tensor, least: float) -> None:
    """Check that images show something, and that some pixel is at `least` so bright.

    Raises:
        DivtrainError: for images that are all of one colour, or in a small part of [0, 1].
    """
    low, high = x.min().item(), x.max().item()
    if low == high:
        raise DivtrainError(
            f"{what} show nothing: every pixel is {high:g}; look at how they were converted"
        )
    if high < least:
        raise DivtrainError(
            f"{what} lie in [0, {high:.2g}] once 8 bits are divided by 255 and 16 by 65535, and an"
            f" eps of 0.1 would be {0.1 / high:.2g} times their range; give them in an .npz file as"
            " float32 in [0, 1], divided by the largest value that they may have"
        )


def _as_labels(name: str, array: np.ndarray, images: int) -> Tensor:
    if array.ndim == 2 and array.shape[1] == 1:  # Keras' CIFAR-10
        array = array[:, 0]
    if array.shape != (images,) or array.dtype.kind not in "ui":
        raise DivtrainError(
            f"{name}: expected {images} integer labels, one per image, got {array.dtype} of shape"
            f" {array.shape}{_into_labels(array, images)}"
        )
    low, high = array.min(), array.max()
    if low < 0 or high > np.iinfo(np.int64).max:
        raise DivtrainError(f"{name}: expected labels from 0 up, got {low if low < 0 else high}")
    return torch.from_numpy(array.astype(np.int64))


def _into_labels(array: np.ndarray, images: int) -> str:
    """What makes labels of an array of another kind, if anything does."""
    if array.shape == (images,):
        whole = array.dtype.kind == "f" and (array == array.round()).all()
        return "; convert with y.astype(int)" if whole else "; number the classes from 0"
    if array.size == images:
        return "; drop the other dimension with y.ravel()"
    if array.ndim != 2 or len(array) != images or array.dtype.kind not in "biuf":
        return ""
    if ((array == 0) | (array == 1)).all() and (array.sum(1) == 1).all():
        return "; turn one-hot labels into classes with argmax(1)"
    return "; an image has one class here, so choose one of its labels"


DATASETS: dict[str, Callable[[Path], Dataset]] = {
    "digits": _load_digits,
    "mnist": lambda root: _load_torchvision("mnist", root),
    "cifar10": lambda root: _load_torchvision("cifar10", root),
}
