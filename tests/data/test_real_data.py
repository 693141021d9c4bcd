"""MNIST and CIFAR-10 themselves; set DIVTRAIN_DATA to the folder that torchvision reads."""

import os
from pathlib import Path

import pytest
import torch

from divtrain.data import load_dataset

MNIST = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.parametrize(
    ("name", "file", "shape", "counts", "mean", "std"),
    [
        ("mnist", "MNIST/raw/train-images-idx3-ubyte", (1, 28, 28), (MNIST, MNIST_TEST),
         [0.1307], [0.3081]),
        ("cifar10", "cifar-10-batches-py/test_batch", (3, 32, 32), ([5000] * 10, [1000] * 10),
         [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    ],
)  # fmt: skip
def test_a_data_set_has_its_known_shapes_labels_mean_and_deviation(
    name: str,
    file: str,
    shape: tuple[int, ...],
    counts: tuple[list[int], list[int]],
    mean: list[float],
    std: list[float],
) -> None:
    root = os.environ.get("DIVTRAIN_DATA", "")
    if not root or not (Path(root) / file).is_file():
        pytest.skip(f"DIVTRAIN_DATA={root!r} holds no {file}")
    dataset = load_dataset(name, root)
    for images, count in zip((dataset.train, dataset.test), counts, strict=True):
        assert images.x.shape == (sum(count), *shape)
        assert images.x.dtype == torch.float32 and images.y.dtype == torch.int64
        assert (images.x.min(), images.x.max()) == (0, 1)
        assert images.y.bincount().tolist() == count
    assert dataset.channel_mean == pytest.approx(mean, abs=5e-5)
    assert dataset.channel_std == pytest.approx(std, abs=1e-4)
    if name == "mnist":
        assert dataset.train.y[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
        assert dataset.test.y[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]
