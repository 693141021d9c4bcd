"""Subsets of data sets: class-balanced, seeded."""

import torch
from torch import Tensor

from divtrain.data.datasets import Images
from divtrain.errors import DivtrainError


def balanced_subset(images: Images, size: int, seed: int = 0) -> Images:
    """Draw `size` images, as equally over the classes as they allow, in a seeded random order.

    A class with too few images gives all it has and the others make up for it.

    Raises:
        DivtrainError: for a size below 1 or above the number of images.
    """
    if not 1 <= size <= len(images):
        raise DivtrainError(
            f"expected `size` from 1 to {len(images)} images, got {size}; leave it out to"
            " use them all"
        )
    chosen = _balanced(images.y, size, seed)
    return Images(images.x[chosen], images.y[chosen])


def hold_out(images: Images, size: int, seed: int = 0) -> tuple[Images, Images]:
    """Split images into the remaining ones, in their order, and `size` that are held out.

    Those held out are what `balanced_subset` draws. A larger size holds out the same ones and more.

    Raises:
        DivtrainError: for a size below 1, or one that leaves no image of a class.
    """
    if not 1 <= size < len(images):
        raise DivtrainError(
            f"expected `size` from 1 to {len(images) - 1} of {len(images)} images, got {size}"
        )
    chosen = _balanced(images.y, size, seed)
    left = torch.ones(len(images), dtype=torch.bool)
    left[chosen] = False
    gone = sorted(set(images.y.tolist()) - set(images.y[left].tolist()))
    if gone:
        raise DivtrainError(
            f"holding out {size} of {len(images)} images leaves none of class"
            f" {', '.join(map(str, gone))}; hold out fewer"
        )
    return Images(images.x[left], images.y[left]), Images(images.x[chosen], images.y[chosen])


def _balanced(y: Tensor, size: int, seed: int) -> Tensor:
    """Return the indices of `size` labels, as equally over the classes as they allow, shuffled."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(y), generator=generator)
    labels = y.cpu()[order]
    # Rank of each image within its class: taking the lowest ranks first balances the classes.
    rank = torch.empty_like(labels)
    for label in labels.unique():
        members = (labels == label).nonzero().squeeze(1)
        rank[members] = torch.arange(len(members))
    chosen = order[rank.argsort(stable=True)[:size]]
    return chosen[torch.randperm(size, generator=generator)]
