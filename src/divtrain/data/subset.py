"""Smaller data sets: class-balanced, seeded, and refused when more is asked for than there is."""

import torch

from divtrain.data.datasets import Images
from divtrain.errors import DivtrainError


def balanced_subset(images: Images, size: int, seed: int = 0) -> Images:
    """Draw `size` images, as equally over the classes as they allow, in a seeded random order.

    A class with too few images gives all it has and the others make up for it.

    Args:
        images: What to draw from.
        size: How many images; at most as many as there are.
        seed: Which draw.

    Raises:
        DivtrainError: for a size below 1 or above what there is.
    """
    if not 1 <= size <= len(images):
        raise DivtrainError(
            f"expected a subset of 1 to {len(images)} images, got {size}; leave the size out to use"
            " them all"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    labels = images.y.cpu()[order]
    # Rank of each image within its class: taking the lowest ranks first balances the classes.
    rank = torch.empty_like(labels)
    for label in labels.unique():
        members = (labels == label).nonzero().squeeze(1)
        rank[members] = torch.arange(len(members))
    chosen = order[rank.argsort(stable=True)[:size]]
    chosen = chosen[torch.randperm(size, generator=generator)]
    return Images(images.x[chosen], images.y[chosen])
