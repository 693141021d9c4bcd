"""Batch norm whose double backward takes a few passes over the images instead of about forty.

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
        (grad,) = grads
        saved = ctx.saved_tensors
        asked = iter(wanted(ctx))
        mask = [next(asked)] + [there and next(asked) for there in ctx.tensors]
        ours = mask[0] and recorded(grad)
        grad_x = InputGradient.apply(grad, *saved, ctx.eps) if ours else None
        mask[0] = mask[0] and not ours
        found = _backward(grad, saved, ctx.eps, mask) if any(mask) else (None, None, None)
        return found[0] if grad_x is None else grad_x, found[1], found[2], None, None, None


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
        """Return G(gy)."""
        found, dot, total = _backward(grad, (x, weight, mean, scale), eps, [True, True, True])
        ctx.save_for_backward(grad, x, weight, mean, scale, dot, total)
        ctx.eps = eps
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Return the derivatives that the module's docstring gives."""
        v, x, weight, *_ = ctx.saved_tensors
        (u,) = grads
        found = _second(u, ctx.saved_tensors, ctx.eps, wanted(ctx))
        if torch.is_grad_enabled():
            origin = [each for each in (u, v, x, weight) if each is not None]
            found = [each if each is None else NotAgain.apply(each, *origin) for each in found]
        return *found, None, None, None


class NotAgain(torch.autograd.Function):
    """A second derivative, the derivative of which is refused, as in torch."""

    @staticmethod
    def forward(ctx: Any, found: Tensor, *origin: Tensor) -> Tensor:
        """Return the second derivative."""
        return found.view_as(found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Refuse."""
        raise RuntimeError("batch_norm does not support 3rd+ order derivatives.")


@torch.no_grad()
def _second(
    u: Tensor, saved: tuple[Any, ...], eps: float, wants: tuple[bool, ...]
) -> list[Tensor | None]:
    """Derivatives of <u, G(v)> for v, for x and for w; None where not wanted."""
    v, x, weight, mean, scale, v_dot, v_sum = saved
    for_v, for_x = wants[:2]
    for_weight = weight is not None and wants[2]
    grad_v, u_dot, u_sum = _backward(u, (x, weight, mean, scale), eps, [True, True, True])
    grad_x = grad_weight = None
    if for_x or for_weight:
        n = x.numel() // x.shape[1]
        u_mean, v_mean, a, b, c = torch.stack([u_sum, v_sum, u_dot, v_dot, _dot(u, v)]).div_(n)
        c = c.addcmul(u_mean, v_mean, value=-1).addcmul_(a, b, value=-1)
        if weight is not None and for_weight:
            grad_weight = (c * scale).mul_(n).to(weight.dtype)
        if for_x:
            # Factors of u, v and x, the first two rounded to the images' precision before they
            # enter the mean that is subtracted: the result has mean 0 in that precision.
            factor = -(scale**2) if weight is None else weight * -(scale**2)
            of_u, of_v = (torch.stack([b, a]) * factor).to(x.dtype)
            of_x = c.addcmul(a, b, value=-2).mul_(scale) * factor
            grad_x = _affine(x, of_x, -(of_x * mean + of_u * u_mean + of_v * v_mean))
            grad_x.addcmul_(u, _per_channel(of_u, u)).addcmul_(v, _per_channel(of_v, v))
    return [grad_v if for_v else None, grad_x, grad_weight]


def _backward(grad: Tensor, saved: tuple[Any, ...], eps: float, mask: list[bool]) -> Any:
    x, weight, mean, scale = saved
    if len(x) == 1:  # aten mixes up the values where one image and its gradient differ in layout
        grad, x = grad.contiguous(), x.contiguous()
    return normalise_backward(grad, x, weight, None, None, mean, scale, True, eps, mask)


def _affine(x: Tensor, factor: Tensor, constant: Tensor) -> Tensor:
    """Return factor * x + constant, by channel: batch norm with mean 0 and variance 0 + 1."""
    zero = torch.zeros_like(constant)
    return normalise(x, factor, constant, zero, zero, False, 0.0, 1.0)[0]


def _per_channel(factor: Tensor, images: Tensor) -> Tensor:
    """Shape one factor per channel so that it multiplies images."""
    factor = factor.view([1, -1, *[1] * (images.ndim - 2)])
    row = images.shape[1] * images.element_size()
    if images.ndim == 4 and images.stride(1) == 1 and row < 64:
        # Channels-last, a pixel is less than a vector of the processor: torch would go one by one.
        image = factor.expand(1, *images.shape[1:])
        return image.contiguous(memory_format=torch.channels_last)
    return factor


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Dot product of each channel: the gradient of a weight, with mean 0 and s 1, in one pass."""
    wide = torch.promote_types(x.dtype, torch.float32)
    zero = torch.zeros(x.shape[1], device=x.device, dtype=wide)
    return _backward(x, (y, None, zero, zero + 1), 0.0, [False, True, False])[1]
