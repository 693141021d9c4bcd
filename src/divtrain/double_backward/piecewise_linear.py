"""ReLU and LeakyReLU that know that their second derivative is zero.

Torch's own double backward fills a tensor with zeros for it, adds that to the gradient and carries
it on. What is saved is what torch saves, so that the same tensors may be changed in place.
"""

from typing import Any

import torch
from torch import Tensor

leaky_relu_backward = torch.ops.aten.leaky_relu_backward.default


def activate(x: Tensor, slope: float) -> Tensor:
    """Return x where x > 0 and slope * x elsewhere."""
    return torch.relu(x) if slope == 0 else torch.ops.aten.leaky_relu.default(x, slope)


class PiecewiseLinear(torch.autograd.Function):
    """y = x where x > 0 and slope * x elsewhere, slope >= 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        """Apply."""
        y = activate(x, slope)
        ctx.save_for_backward(y if slope == 0 else x)
        ctx.slope = slope
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Scale by 1 or the slope."""
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return Scaled.apply(grads[0], x.detach(), ctx.slope), None
        return leaky_relu_backward(grads[0], x, ctx.slope, False), None


class Scaled(torch.autograd.Function):
    """A gradient times 1 where x > 0, times the slope elsewhere: linear, and its own transpose."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor, slope: float) -> Tensor:
        """Scale."""
        ctx.save_for_backward(x)
        ctx.slope = slope
        return leaky_relu_backward(grad, x, slope, False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Scale alike."""
        (x,) = ctx.saved_tensors
        return Scaled.apply(grads[0], x, ctx.slope), None, None
