"""Max pooling that uses that its second derivative is zero, in either memory layout.

Pooling picks pixels; its gradient puts values back there, and the gradient of that picks them
again. Torch's double backward also computes a gradient of zeros for the images.
"""

from typing import Any

import torch
from torch import Tensor

from divtrain.double_backward.node import recorded

pool = torch.ops.aten.max_pool2d_with_indices.default
pool_backward = torch.ops.aten.max_pool2d_with_indices_backward.default

Window = tuple[list[int], list[int], list[int], list[int], bool]
"""Kernel size, stride, padding, dilation, ceil mode, as aten orders them."""


class MaxPooling(torch.autograd.Function):
    """The largest value of each window."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: Window) -> Tensor:
        """Pool."""
        y, indices = pool(x, *window)
        ctx.save_for_backward(x, indices)
        ctx.window = window
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Put the gradient back where the largest values were."""
        x, indices = ctx.saved_tensors
        if recorded(grads[0]):
            return PutBack.apply(grads[0], x.detach(), indices, ctx.window), None
        return pool_backward(grads[0], x, *ctx.window, indices), None


class PutBack(torch.autograd.Function):
    """A gradient put where the largest values were, zero elsewhere: linear."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor, indices: Tensor, window: Window) -> Tensor:
        """Put back; `x` gives only its shape and layout."""
        ctx.save_for_backward(indices)
        return pool_backward(grad, x, *window, indices)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Pick from the same places."""
        (indices,) = ctx.saved_tensors
        return pick(grads[0], indices), None, None, None


def pick(x: Tensor, indices: Tensor) -> Tensor:
    """Values of `x`, (batch, channel, height, width), at flat indices into height x width.

    >>> x = torch.arange(4.0).view(1, 1, 2, 2)
    >>> pick(x, torch.tensor([[[[3]]]]))
    tensor([[[[3.]]]])
    """
    batch, channels, height, width = indices.shape
    if indices.is_contiguous(memory_format=torch.channels_last):
        # As the values lie in memory, (batch, place, channel): nothing has to be copied.
        flat = x.permute(0, 2, 3, 1).reshape(batch, -1, channels)
        places = indices.permute(0, 2, 3, 1).reshape(batch, -1, channels)
        picked = flat.gather(1, places).view(batch, height, width, channels)
        return picked.permute(0, 3, 1, 2)
    flat, places = (each.reshape(batch, channels, -1) for each in (x, indices))
    return flat.gather(2, places).view(batch, channels, height, width)
