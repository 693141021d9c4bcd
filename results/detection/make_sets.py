"""Make CIFAR-10 in grey, and MNIST, of other sizes: sets from outside for digits and MNIST.

``python make_sets.py DIR`` reads torchvision's files in DIR and writes cifar8.npz, cifar14.npz,
cifar28.npz and mnist8.npz here: the first 10,000 training images and all test images, averaged to
the size (torch's area interpolation), colour as 0.299 R + 0.587 G + 0.114 B.
"""

import sys

import numpy as np
import torch
import torch.nn.functional as F

from divtrain.data import Images, load_dataset

WEIGHTS = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
FEW = 10_000


def small(images: Images, size: int) -> np.ndarray:
    """8-bit grey images, (image, size, size)."""
    x = images.x[:FEW]
    grey = (x * WEIGHTS).sum(1, keepdim=True) if x.shape[1] == 3 else x
    averaged = F.interpolate(grey, size=(size, size), mode="area").clamp(0, 1)
    return (averaged * 255).round().byte().squeeze(1).numpy()


for name, sizes in {"cifar10": (8, 14, 28), "mnist": (8,)}.items():
    dataset = load_dataset(name, sys.argv[1])
    for size in sizes:
        np.savez_compressed(
            f"{name.removesuffix('10')}{size}.npz",
            x_train=small(dataset.train, size),
            y_train=dataset.train.y[:FEW].numpy(),
            x_test=small(dataset.test, size),
            y_test=dataset.test.y[:FEW].numpy(),
        )
