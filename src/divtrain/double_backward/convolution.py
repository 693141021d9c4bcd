"""Convolutions whose double backward runs the kernels of a plain backward pass.

Torch's double backward computes the gradient of the weights as a convolution with a kernel of
the size of the image, several times slower than `aten::convolution_backward`, which is made for
it. With y = A x, A linear in the weights w, the gradient for the images is A^T gy; it is linear in
gy and in w, and with a tangent u its derivatives are those of <A u, gy>: A u, and the gradient of
the weights for the input u.
"""

from typing import Any

import torch
from torch import Tensor

from divtrain.double_backward._torch import is_batched
from divtrain.double_backward.node import recorded, wanted

Geometry = tuple[list[int], list[int], list[int], bool, list[int], int]
"""Stride, padding, dilation, transposed, output padding, groups, as aten orders them."""

convolution = torch.ops.aten.convolution.default
convolution_backward = torch.ops.aten.convolution_backward.default


class Convolution(torch.autograd.Function):
    """y = A(w) x + b, for images x, weights w, bias b or None."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry
    ) -> Tensor:
        """Convolve."""
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return convolution(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Return the gradients that are wanted; that of the images cheap to differentiate."""
        x, weight = ctx.saved_tensors
        (grad,) = grads
        mask = [*wanted(ctx), False][:3]
        bias_sizes = [grad.shape[1]] if mask[2] else None
        if not recorded(grad):
            parts = convolution_backward(grad, x, weight, bias_sizes, *ctx.geometry, mask)
            return *parts, None
        grad_x = grad_weight = grad_bias = None
        if mask[0]:
            grad_x = InputGradient.apply(grad, weight, x.detach(), ctx.geometry)
        if mask[1] or mask[2]:
            mask[0] = False
            _, grad_weight, grad_bias = convolution_backward(
                grad, x, weight, bias_sizes, *ctx.geometry, mask
            )
        return grad_x, grad_weight, grad_bias, None


class InputGradient(torch.autograd.Function):
    """A(w)^T gy; `x` gives only its shape and layout."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, weight: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
        """Return the gradient for the images."""
        ctx.save_for_backward(grad, weight)
        ctx.geometry = geometry
        mask = [True, False, False]
        found = convolution_backward(grad, x, weight, None, *geometry, mask)[0]
        ctx.strides = found.stride()
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Convolve the tangent, and return the gradient of the weights for it as input."""
        grad, weight = ctx.saved_tensors
        tangent = _laid_out(grads[0], ctx.strides)
        for_grad, for_weight, *_ = wanted(ctx)
        grad_grad = grad_weight = None
        if for_grad:
            grad_grad = convolution(tangent, weight, None, *ctx.geometry)
        if for_weight:
            mask = [False, True, False]
            _, grad_weight, _ = convolution_backward(
                grad, tangent, weight, None, *ctx.geometry, mask
            )
        return grad_grad, grad_weight, None, None


def _laid_out(tangent: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Return the tangent in the strides of the images, by which torch chooses its kernels.

    Images of one channel are contiguous and channels-last at once, in different strides; where
    those differ torch mixes the layouts.
    """
    if tangent.stride() == strides or is_batched(tangent):
        return tangent
    return tangent.new_empty_strided(tangent.shape, strides).copy_(tangent)
