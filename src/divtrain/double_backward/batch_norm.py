"""Batch norm whose double backward takes a few passes, in place of some forty.

Per channel, over the n values of the batch: z = (x - mean) / s, s = sqrt(var + eps), y = w z + b.
With dots for sums, the gradient for the images is

    G(gy) = (w / s) (gy - gy.1 / n - z gy.z / n)      (the batch's statistics)
    G(gy) = (w / s) gy                                (running statistics)

which is linear in gy and its own transpose. In <u, G(v)> for a tangent u and v = gy the images
occur through z and s. With a = u.z / n, b = v.z / n and

    c = u.v / n - (u.1 / n) (v.1 / n) - a b

<u, G(v)> = n (w / s) c, and its derivatives are

    for v:  G(u)
    for w:  n c / s
    for x:  -(w / s^2) [b (u - u.1 / n) + a (v - v.1 / n) + z (c - 2 a b)]

and G(u), n c / s with c = u.v / n, and 0 with running statistics.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from divtrain.double_backward.node import wanted

normalise = torch.ops.aten.native_batch_norm.default
normalise_backward = torch.ops.aten.native_batch_norm_backward.default


class Settings(NamedTuple):
    """What does not change with the images: running statistics, the mode, eps."""

    running_mean: Tensor | None
    running_var: Tensor | None
    by_batch: bool
    eps: float


class BatchNorm(torch.autograd.Function):
    """y = w z + b; updates the running statistics as torch does."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        settings: Settings,
        momentum: float,
    ) -> Tensor:
        """Normalise."""
        y, mean, scale = normalise(
            x, weight, bias, settings.running_mean, settings.running_var,
            settings.by_batch, momentum, settings.eps,
        )  # fmt: skip
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.settings = settings
        ctx.tensors = [weight is not None, bias is not None]
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Return the gradients that are wanted; that of the images cheap to differentiate."""
        x, weight, mean, scale = ctx.saved_tensors
        asked = iter(wanted(ctx))
        mask = [next(asked)] + [there and next(asked) for there in ctx.tensors]
        grad_x = None
        if torch.is_grad_enabled():
            if mask[0]:
                grad_x = InputGradient.apply(grads[0], x, weight, ctx.settings, mean, scale)
            mask[0] = False
        parts = [None, None, None]
        if any(mask):
            parts = _backward(grads[0], x, weight, ctx.settings, mean, scale, mask)
        return parts[0] if grad_x is None else grad_x, parts[1], parts[2], None, None


class InputGradient(torch.autograd.Function):
    """G(gy)."""

    @staticmethod
    def forward(
        ctx: Any,
        grad: Tensor,
        x: Tensor,
        weight: Tensor | None,
        settings: Settings,
        mean: Tensor,
        scale: Tensor,
    ) -> Tensor:
        """Pull the gradient back through the normalisation."""
        found, dot, total = _backward(grad, x, weight, settings, mean, scale, [True, True, True])
        ctx.save_for_backward(grad, x, weight, mean, scale, dot, total)
        ctx.settings = settings
        return found

    @staticmethod
    @once_differentiable  # as torch's
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> Any:
        """Return the derivatives that the module's docstring gives."""
        v, x, weight, mean, scale, v_dot, v_sum = ctx.saved_tensors
        settings: Settings = ctx.settings
        (u,) = grads
        for_v, for_x, for_weight, *_ = wanted(ctx)
        grad_v, u_dot, u_sum = _backward(u, x, weight, settings, mean, scale, [True, True, True])
        if settings.running_var is not None and not settings.by_batch:
            scale = (settings.running_var + settings.eps).rsqrt()
        grad_x = grad_weight = None
        if for_x or for_weight:
            n = x.numel() // x.shape[1]
            a, b, c = u_dot / n, v_dot / n, _dot(u, v) / n
            if settings.by_batch:
                c = c - (u_sum / n) * (v_sum / n) - a * b
            if for_weight:
                grad_weight = (n * c * scale).to(weight.dtype)
            if for_x and settings.by_batch:
                factor = -(scale**2) if weight is None else -weight * scale**2
                # Coefficients of u, v and x, and what is left when u, v and z lose their means.
                k_u, k_v, k_x = factor * b, factor * a, factor * scale * (c - 2 * a * b)
                k = -(k_u * u_sum + k_v * v_sum) / n - k_x * mean
                grad_x = _weighted_sum(k, (k_x, x), (k_u, u), (k_v, v))
        return grad_v if for_v else None, grad_x, grad_weight, None, None, None


def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    settings: Settings,
    mean: Tensor,
    scale: Tensor,
    mask: list[bool],
) -> Any:
    return normalise_backward(
        grad, x, weight, settings.running_mean, settings.running_var, mean, scale,
        settings.by_batch, settings.eps, mask,
    )  # fmt: skip


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
    mask = [False, True, False]
    return normalise_backward(x, y, None, None, None, zero, zero + 1, True, 0.0, mask)[1]


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
