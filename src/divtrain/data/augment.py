"""Batched augmentation on the device of the images: random shift and crop, random flip."""

import torch
import torch.nn.functional as F
from torch import Tensor


def random_shift(x: Tensor, padding: int, generator: torch.Generator | None = None) -> Tensor:
    """Zero-pad images by `padding` pixels and crop each at a random place, drawn per axis."""
    if padding == 0:
        return x
    batch, _, height, width = x.shape
    top, left = torch.randint(
        2 * padding + 1, (2, batch), generator=generator, device=x.device
    ).unbind()
    rows = top[:, None] + torch.arange(height, device=x.device)
    columns = left[:, None] + torch.arange(width, device=x.device)
    image = torch.arange(batch, device=x.device)[:, None, None]
    padded = F.pad(x, (padding,) * 4)
    # Indexing with the channel axis between moves it last: (batch, height, width, channel).
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def random_flip(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Mirror each image left to right with probability 1/2."""
    flip = torch.rand(len(x), generator=generator, device=x.device) < 0.5
    return torch.where(flip[:, None, None, None], x.flip(-1), x)
