"""Max pooling that knows that its second derivative is zero, in either memory layout.

Pooling picks some pixels; its gradient puts values back there, and the gradient of that picks them
again. Torch's own double backward also fills a tensor with zeros for the images and carries it on.

A (leaky) ReLU grows with its input, so it may as well follow the pooling that follows it: the
values are the same, and its gradients are those of a few pixels instead of all.
"""

from typing import Any

import torch
from torch import Tensor

from divtrain.double_backward.piecewise_linear import Scaled, activate, leaky_relu_backward

pool = torch.ops.aten.max_pool2d_with_indices.default
pool_backward = torch.ops.aten.max_pool2d_with_indices_backward.default

Window = tuple[list[int], list[int], list[int], list[int], bool]
"""Kernel size, stride, padding, dilation, ceil mode, as aten orders them."""


class MaxPooling(torch.autograd.Function):
    """The largest value of each window, through a (leaky) ReLU of slope >= 0 (1 for none)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: Window, slope: float) -> Tensor:
        """Pool, then activate."""
        largest, indices = pool(x, *window)
        ctx.save_for_backward(x, indices, largest if slope != 1 else None)
        ctx.window, ctx.slope = window, slope
        return activate(largest, slope) if slope != 1 else largest

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Put the gradient back where the largest values were."""
        x, indices, largest = ctx.saved_tensors
        (grad,) = grads
        if torch.is_grad_enabled():
            if ctx.slope != 1:
                grad = Scaled.apply(grad, largest, ctx.slope)
            return PutBack.apply(grad, x.detach(), indices, ctx.window), None, None
        if ctx.slope != 1:
            grad = leaky_relu_backward(grad, largest, ctx.slope, False)
        return pool_backward(grad, x, *ctx.window, indices), None, None


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
    return x.flatten(2).gather(2, indices.flatten(2)).view(batch, channels, height, width)
