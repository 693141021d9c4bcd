"""Batch norm whose double backward takes a few passes, in place of some forty.

Per channel, over the n values of the batch: z = (x - mean) / s, s = sqrt(var + eps), y = w z + b.
With dots for sums, the gradient for the images is

    G(gy) = (w / s) (gy - gy.1 / n - z gy.z / n)

which is linear in gy and its own transpose. In <u, G(v)> for a tangent u and v = gy the images
occur through z and s. With a = u.z / n, b = v.z / n and

    c = u.v / n - (u.1 / n) (v.1 / n) - a b

<u, G(v)> = n (w / s) c, and its derivatives are

    for v:  G(u)
    for w:  n c / s
    for x:  -(w / s^2) [b (u - u.1 / n) + a (v - v.1 / n) + z (c - 2 a b)]
"""

from typing import Any

import torch
from torch import Tensor

from divtrain.double_backward.node import recorded, wanted

normalise = torch.ops.aten.native_batch_norm.default
normalise_backward = torch.ops.aten.native_batch_norm_backward.default


class BatchNorm(torch.autograd.Function):
    """y = w z + b by the batch's statistics; updates the running ones as torch does."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running: tuple[Tensor | None, Tensor | None],
        momentum: float,
        eps: float,
    ) -> Tensor:
        """Normalise."""
        y, mean, scale = normalise(x, weight, bias, *running, True, momentum, eps)
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.eps = eps
        ctx.tensors = [weight is not None, bias is not None]
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Return the gradients that are wanted; that of the images cheap to differentiate."""
        x, weight, mean, scale = ctx.saved_tensors
        asked = iter(wanted(ctx))
        mask = [next(asked)] + [there and next(asked) for there in ctx.tensors]
        grad_x = None
        if recorded(grads[0]):
            if mask[0]:
                grad_x = InputGradient.apply(grads[0], x, weight, mean, scale, ctx.eps)
            mask[0] = False
        parts = [None, None, None]
        if any(mask):
            parts = _backward(grads[0], x, weight, mean, scale, ctx.eps, mask)
        return parts[0] if grad_x is None else grad_x, parts[1], parts[2], None, None, None


class InputGradient(torch.autograd.Function):
    """G(gy)."""

    @staticmethod
    def forward(
        ctx: Any,
        grad: Tensor,
        x: Tensor,
        weight: Tensor | None,
        mean: Tensor,
        scale: Tensor,
        eps: float,
    ) -> Tensor:
        """Pull the gradient back through the normalisation."""
        found, dot, total = _backward(grad, x, weight, mean, scale, eps, [True, True, True])
        ctx.save_for_backward(grad, x, weight, mean, scale, dot, total)
        ctx.eps = eps
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Return the derivatives that the module's docstring gives."""
        v, x, weight, *_ = ctx.saved_tensors
        (u,) = grads
        with torch.no_grad():
            found = _second(u, ctx.saved_tensors, ctx.eps, wanted(ctx))
        if torch.is_grad_enabled():
            origin = [each for each in (u, v, x, weight) if each is not None]
            found = [each if each is None else NotAgain.apply(each, *origin) for each in found]
        return *found, None, None, None


class NotAgain(torch.autograd.Function):
    """A second derivative, whose own derivative is refused, as torch refuses it."""

    @staticmethod
    def forward(ctx: Any, found: Tensor, *origin: Tensor) -> Tensor:
        """Return the second derivative."""
        del origin
        return found.view_as(found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Refuse."""
        raise RuntimeError("batch_norm does not support 3rd+ order derivatives.")


def _second(
    u: Tensor, saved: tuple[Any, ...], eps: float, wants: tuple[bool, ...]
) -> list[Tensor | None]:
    """Derivatives of <u, G(v)> for v, x and the weight; None where not wanted."""
    v, x, weight, mean, scale, v_dot, v_sum = saved
    for_v, for_x = wants[:2]
    grad_v, u_dot, u_sum = _backward(u, x, weight, mean, scale, eps, [True, True, True])
    grad_x = grad_weight = None
    for_weight = weight is not None and wants[2]
    if for_x or for_weight:
        n = x.numel() // x.shape[1]
        a, b = u_dot / n, v_dot / n
        c = _dot(u, v) / n - (u_sum / n) * (v_sum / n) - a * b
        if weight is not None and for_weight:
            grad_weight = (n * c * scale).to(weight.dtype)
        if for_x:
            factor = -(scale**2) if weight is None else -weight * scale**2
            # Coefficients of u, v and x, and what is left when u, v and z lose their means.
            k_u, k_v, k_x = factor * b, factor * a, factor * scale * (c - 2 * a * b)
            k = -(k_u * u_sum + k_v * v_sum) / n - k_x * mean
            grad_x = _weighted_sum(k, (k_x, x), (k_u, u), (k_v, v))
    return [grad_v if for_v else None, grad_x, grad_weight]


def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    mean: Tensor,
    scale: Tensor,
    eps: float,
    mask: list[bool],
) -> Any:
    return normalise_backward(grad, x, weight, None, None, mean, scale, True, eps, mask)


def _weighted_sum(constant: Tensor, first: tuple[Tensor, Tensor], *rest: Any) -> Tensor:
    """Sum of images times a factor a channel, plus a constant a channel."""
    factor, images = first
    zero = torch.zeros_like(constant)
    # y = factor * images + constant is what batch norm does with given statistics, in one pass.
    total = normalise(images, factor, constant, zero, zero + 1, False, 0.0, 0.0)[0]
    shape = [1, -1, *[1] * (images.ndim - 2)]
    for factor, images in rest:
        total.addcmul_(images, factor.to(images.dtype).view(shape))
    return total


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Dot product of each channel: the gradient of a weight, with mean 0 and s 1, in one pass."""
    zero = torch.zeros(x.shape[1], device=x.device, dtype=_wide(x))
    return _backward(x, y, None, zero, zero + 1, 0.0, [False, True, False])[1]


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
