"""ReLU and LeakyReLU that use that their second derivative is zero.

Torch's double backward computes it as a tensor of zeros. What is saved is what torch saves, so that
the same tensors may be changed in place.
"""

from typing import Any

import torch
from torch import Tensor

from divtrain.double_backward._torch import is_batched
from divtrain.double_backward.node import recorded

leaky_relu = torch.ops.aten.leaky_relu.default
leaky_relu_ = torch.ops.aten.leaky_relu_.default
leaky_relu_backward = torch.ops.aten.leaky_relu_backward.default
threshold_backward = torch.ops.aten.threshold_backward.default


class PiecewiseLinear(torch.autograd.Function):
    """y = x where x > 0 and slope * x elsewhere; a slope of None is a ReLU's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float | None, in_place: bool = False) -> Tensor:
        """Apply; in place for slopes of at least 0 only, where y > 0 tells what x > 0 did."""
        if in_place:
            y = torch.relu_(x) if slope is None else leaky_relu_(x, slope)
            ctx.mark_dirty(x)
        else:
            y = torch.relu(x) if slope is None else leaky_relu(x, slope)
        ctx.save_for_backward(y if in_place or slope is None else x)
        ctx.slope = slope
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Scale by 1 or the slope."""
        (x,) = ctx.saved_tensors
        return _scale_again(grads[0], x, ctx.slope), None, None


class Scaled(torch.autograd.Function):
    """A gradient times 1 where x > 0, times the slope elsewhere: linear, and its own transpose."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor, slope: float | None) -> Tensor:
        """Scale."""
        ctx.save_for_backward(x)
        ctx.slope = slope
        return _scale(grad, x, slope)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Scale alike."""
        (x,) = ctx.saved_tensors
        return _scale_again(grads[0], x, ctx.slope), None, None


def _scale_again(grad: Tensor, x: Tensor, slope: float | None) -> Any:
    if recorded(grad):
        return Scaled.apply(grad, x.detach(), slope)
    return _scale(grad, x, slope)


def _scale(grad: Tensor, x: Tensor, slope: float | None) -> Tensor:
    last = torch.channels_last
    if grad.ndim == 4 and x.is_contiguous(memory_format=last) and not is_batched(grad):
        # Flattening returns contiguous gradients, and mixed layouts are many times slower.
        grad = grad.contiguous(memory_format=last)
    if slope is None:  # zero where a ReLU is off, also for an infinite gradient
        return threshold_backward(grad, x, 0)
    return leaky_relu_backward(grad, x, slope, False)
