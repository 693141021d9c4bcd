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

The last is k x + r less its mean, r a sum of u and v times factors, and G(gy) is made of x and gy
alike. Where the engine comes to the forward pass's node yet in the same pass back, that node takes
one sum of all; else each is a tensor, and the engine adds them.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from divtrain.double_backward.node import Waiting, batched, recorded, wanted

normalise = torch.ops.aten.native_batch_norm.default
normalise_backward = torch.ops.aten.native_batch_norm_backward.default


class Part(NamedTuple):
    """Part of the gradient for the images x: factor * x + rest, less its mean a channel."""

    factor: Tensor
    """(channel,)."""
    rest: Tensor
    """(batch, channel, ...); nobody else's memory."""
    mean: Tensor
    """Of the rest, (channel,)."""


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
        ctx.waiting = Waiting()
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Return the gradients that are wanted; that of the images cheap to differentiate."""
        (grad,) = grads
        saved = ctx.saved_tensors
        asked = iter(wanted(ctx))
        mask = [next(asked)] + [there and next(asked) for there in ctx.tensors]
        left = ctx.waiting.take() if mask[0] else []
        if left and not batched(grad):
            found = _sum_with(left, grad, saved, ctx.eps)
        elif mask[0] and recorded(grad):
            found = [None, None, None]
            if any(mask[1:]):
                found = [*_backward(grad, saved, ctx.eps, [False, *mask[1:]])]
            found[0] = InputGradient.apply(grad, *saved, ctx.eps, ctx)
        else:
            found = [*_backward(grad, saved, ctx.eps, mask)]
            for part in left:
                found[0] = found[0] + _images(part, saved)
        found = [each if want else None for each, want in zip(found, mask, strict=True)]
        return *found, None, None, None


class InputGradient(torch.autograd.Function):
    """G(gy); `layer` is the node of the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        grad: Tensor,
        x: Tensor,
        weight: Tensor | None,
        mean: Tensor,
        scale: Tensor,
        eps: float,
        layer: Any,
    ) -> Tensor:
        """Pull the gradient back through the normalisation."""
        found, dot, total = _backward(grad, (x, weight, mean, scale), eps, [True, True, True])
        ctx.save_for_backward(grad, x, weight, mean, scale, dot, total)
        ctx.eps = eps
        ctx.layer = layer
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Return the derivatives that the module's docstring gives; leave that of x if possible."""
        v, x, weight, mean, scale, *_ = ctx.saved_tensors
        (u,) = grads
        grad_v, part, grad_weight = _second(u, ctx.saved_tensors, ctx.eps, wanted(ctx))
        grad_x = None
        if part is not None:
            if ctx.layer.waiting.expects(ctx.layer, u):
                ctx.layer.waiting.leave(part)
            else:
                grad_x = _images(part, (x, weight, mean, scale))
        found = [grad_v, grad_x, grad_weight]
        if torch.is_grad_enabled():
            origin = [each for each in (u, v, x, weight) if each is not None]
            found = [each if each is None else NotAgain.apply(each, *origin) for each in found]
        return *found, None, None, None, None


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


@torch.no_grad()
def _second(
    u: Tensor, saved: tuple[Any, ...], eps: float, wants: tuple[bool, ...]
) -> tuple[Tensor | None, Part | None, Tensor | None]:
    """Derivatives of <u, G(v)> for v, for x and for w; None where not wanted."""
    v, x, weight, mean, scale, v_dot, v_sum = saved
    for_v, for_x = wants[:2]
    grad_v, u_dot, u_sum = _backward(u, (x, weight, mean, scale), eps, [True, True, True])
    part = grad_weight = None
    for_weight = weight is not None and wants[2]
    if for_x or for_weight:
        n = x.numel() // x.shape[1]
        u_mean, v_mean, a, b, c = torch.stack([u_sum, v_sum, u_dot, v_dot, _dot(u, v)]).div_(n)
        c = c.addcmul(u_mean, v_mean, value=-1).addcmul_(a, b, value=-1)
        if weight is not None and for_weight:
            grad_weight = (c * scale).mul_(n).to(weight.dtype)
        if for_x:
            factor = -(scale**2) if weight is None else weight * -(scale**2)
            of_u, of_v = (torch.stack([b, a]) * factor).to(x.dtype)
            rest = torch.mul(u, _a_channel(of_u, u), out=torch.empty_like(x))
            rest.addcmul_(v, _a_channel(of_v, v))
            of_x = c.addcmul(a, b, value=-2).mul_(scale) * factor
            part = Part(of_x, rest, of_u * u_mean + of_v * v_mean)
    return grad_v if for_v else None, part, grad_weight


@torch.no_grad()
def _images(part: Part, saved: tuple[Any, ...]) -> Tensor:
    """Return the part as images."""
    x, _, mean, _ = saved
    return _affine(x, part.factor, -(part.factor * mean + part.mean)).add_(part.rest)


@torch.no_grad()
def _sum_with(left: list[Part], grad: Tensor, saved: tuple[Any, ...], eps: float) -> list[Any]:
    """Gradients for x, w and b; that for x is G(gy) and what was left."""
    x, weight, mean, scale = saved
    n = x.numel() // x.shape[1]
    _, dot, total = _backward(grad, saved, eps, [False, True, True])
    factor = scale if weight is None else weight * scale
    of_x = (factor * scale).mul_(dot).div_(-n)
    of_grad = factor.to(grad.dtype)
    its_mean = of_grad * (total / n)
    for part in left:
        of_x = of_x + part.factor
        its_mean = its_mean + part.mean
    grad_x = _affine(x, of_x, -(of_x * mean + its_mean))
    grad_x.addcmul_(grad, _a_channel(of_grad, grad))
    for part in left:
        grad_x.add_(part.rest)
    return [grad_x, dot, total]


def _backward(grad: Tensor, saved: tuple[Any, ...], eps: float, mask: list[bool]) -> Any:
    x, weight, mean, scale = saved
    return normalise_backward(grad, x, weight, None, None, mean, scale, True, eps, mask)


def _affine(x: Tensor, factor: Tensor, constant: Tensor) -> Tensor:
    """Return factor * x + constant, by channel: batch norm with mean 0 and variance 0 + 1."""
    zero = torch.zeros_like(constant)
    return normalise(x, factor, constant, zero, zero, False, 0.0, 1.0)[0]


def _a_channel(factor: Tensor, images: Tensor) -> Tensor:
    """Shape a factor a channel so that it multiplies images."""
    factor = factor.view([1, -1, *[1] * (images.ndim - 2)])
    row = images.shape[1] * images.element_size()
    if images.ndim == 4 and images.stride(1) == 1 and row < 64:
        # Channels-last, a pixel is less than a vector of the processor: torch would go one by one.
        image = factor.expand(1, *images.shape[1:])
        return image.contiguous(memory_format=torch.channels_last)
    return factor


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Dot product of each channel: the gradient of a weight, with mean 0 and s 1, in one pass."""
    zero = torch.zeros(x.shape[1], device=x.device, dtype=_wide(x))
    return _backward(x, (y, None, zero, zero + 1), 0.0, [False, True, False])[1]


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
