"""Which images to draw: a few of different classes."""

from jaxtyping import Bool, Int
from torch import Tensor


def choose_shown(
    right: Bool[Tensor, "image"], y: Int[Tensor, "image"], count: int
) -> Int[Tensor, "shown"]:
    """Return the places of images to draw: of each class in turn the first that is right.

    Where there are not enough of those, the first of the others follow.

    Args:
        right: Which images may be drawn, such as those that all models classify right.
        y: Labels.
        count: How many to draw; all images if there are fewer.

    >>> import torch
    >>> right = torch.tensor([False, True, True, True, True])
    >>> choose_shown(right, torch.tensor([0, 1, 1, 0, 2]), 3).tolist()
    [1, 3, 4]
    """
    turn, seen = [], dict[int, int]()
    for label, good in zip(y.tolist(), right.tolist(), strict=True):
        turn.append(seen.get(label, 0))
        seen[label] = seen.get(label, 0) + good
    good = right.tolist()
    order = sorted(range(len(y)), key=lambda i: (not good[i], turn[i] if good[i] else 0, i))
    return y.new_tensor(sorted(order[:count]))
