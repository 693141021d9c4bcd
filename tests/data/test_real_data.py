"""MNIST and CIFAR-10 themselves; set DIVTRAIN_DATA to the folder that torchvision reads."""

import os
from pathlib import Path

import pytest
import torch

from divtrain.data import Dataset, Images, load_dataset

FILES = {"mnist": "MNIST/raw/train-images-idx3-ubyte", "cifar10": "cifar-10-batches-py/test_batch"}


def real(name: str) -> Dataset:
    root = os.environ.get("DIVTRAIN_DATA")
    if not root:
        pytest.skip("DIVTRAIN_DATA is unset; it names the folder with torchvision's files")
    if not (Path(root) / FILES[name]).is_file():
        pytest.skip(f"DIVTRAIN_DATA={root} holds no {FILES[name]}")
    return load_dataset(name, root)


@pytest.fixture(scope="module")
def mnist() -> Dataset:
    return real("mnist")


@pytest.fixture(scope="module")
def cifar10() -> Dataset:
    return real("cifar10")


def check(images: Images, shape: tuple[int, ...]) -> None:
    assert images.x.shape == shape
    assert images.x.dtype == torch.float32
    assert (images.x.min(), images.x.max()) == (0, 1)
    assert images.y.dtype == torch.int64


def test_mnist_has_its_known_shapes_and_label_counts(mnist: Dataset) -> None:
    check(mnist.train, (60000, 1, 28, 28))
    check(mnist.test, (10000, 1, 28, 28))
    train = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    test = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert mnist.train.y.bincount().tolist() == train
    assert mnist.test.y.bincount().tolist() == test
    assert mnist.classes == 10


def test_mnist_has_its_known_mean_and_deviation(mnist: Dataset) -> None:
    assert mnist.channel_mean == pytest.approx((0.1307,), abs=5e-5)
    assert mnist.channel_std == pytest.approx((0.3081,), abs=5e-5)


def test_mnist_starts_with_its_known_labels(mnist: Dataset) -> None:
    assert mnist.train.y[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert mnist.test.y[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]


def test_cifar10_has_its_known_shapes_and_label_counts(cifar10: Dataset) -> None:
    check(cifar10.train, (50000, 3, 32, 32))
    check(cifar10.test, (10000, 3, 32, 32))
    assert cifar10.train.y.bincount().tolist() == [5000] * 10
    assert cifar10.test.y.bincount().tolist() == [1000] * 10
    assert cifar10.classes == 10


def test_cifar10_has_its_known_mean_and_deviation_per_channel(cifar10: Dataset) -> None:
    assert cifar10.channel_mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=5e-5)
    assert cifar10.channel_std == pytest.approx((0.2470, 0.2435, 0.2616), abs=1e-4)
