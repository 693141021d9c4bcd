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

The last is a sum of images less their means, each times a factor a channel, and so is G(gy). Where
the engine comes to the forward pass's node yet in the same pass back, that node takes one sum of
both; else each is a tensor, which the engine adds.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from divtrain.double_backward.node import Waiting, recorded, wanted

normalise = torch.ops.aten.native_batch_norm.default
normalise_backward = torch.ops.aten.native_batch_norm_backward.default


class Sum(NamedTuple):
    """A sum of images less their means, each times a factor a channel; those of x come first."""

    factors: Tensor
    """(term, channel)."""
    images: list[Tensor]
    means: Tensor
    """(term, channel)."""


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
        own = mask[0] and recorded(grad)
        torchs = [mask[0] and not own, *mask[1:]]
        left = ctx.waiting.take() if mask[0] else []
        found: list[Any] = [None, None, None]
        if left:
            found = _with_what_was_left(grad, saved, ctx.eps, left)
        elif any(torchs):
            found = [*_backward(grad, saved, ctx.eps, torchs)]
        if own:
            found[0] = InputGradient.apply(grad, *saved, ctx.eps, ctx)
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
        v, x, weight, *_ = ctx.saved_tensors
        (u,) = grads
        grad_v, for_x, grad_weight = _second(u, ctx.saved_tensors, ctx.eps, wanted(ctx))
        left = for_x is not None and ctx.layer.waiting.leave(ctx.layer, u, for_x)
        grad_x = None if left or for_x is None else _added(for_x)
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
) -> tuple[Tensor | None, Sum | None, Tensor | None]:
    """Derivatives of <u, G(v)> for v, for x and for w; None where not wanted."""
    v, x, weight, mean, scale, v_dot, v_sum = saved
    for_v, for_x = wants[:2]
    grad_v, u_dot, u_sum = _backward(u, saved[1:5], eps, [True, True, True])
    of_x = grad_weight = None
    for_weight = weight is not None and wants[2]
    if for_x or for_weight:
        n = x.numel() // x.shape[1]
        u_mean, v_mean, a, b, c = torch.stack([u_sum, v_sum, u_dot, v_dot, _dot(u, v)]).div_(n)
        c = c.addcmul(u_mean, v_mean, value=-1).addcmul_(a, b, value=-1)
        if weight is not None and for_weight:
            grad_weight = (c * scale).mul_(n).to(weight.dtype)
        if for_x:
            factor = -(scale**2) if weight is None else weight * -(scale**2)
            factors = torch.stack([c.addcmul(a, b, value=-2).mul_(scale), b, a]) * factor
            images = [x.detach(), u, v.detach()]
            of_x = Sum(factors, images, torch.stack([mean, u_mean, v_mean]))
    return grad_v if for_v else None, of_x, grad_weight


@torch.no_grad()
def _with_what_was_left(
    grad: Tensor, saved: tuple[Any, ...], eps: float, left: list[Sum]
) -> list[Tensor]:
    """Gradients for x, for w and for b; in that for x, G(gy) and what was left for it."""
    x, weight, mean, scale = saved
    n = x.numel() // x.shape[1]
    _, dot, total = _backward(grad, saved, eps, [False, True, True])
    factor = scale if weight is None else weight * scale
    of_x = (factor * scale).mul_(dot).div_(-n)
    for part in left:
        of_x = of_x + part.factors[0]
    factors = torch.cat([torch.stack([of_x, factor]), *(part.factors[1:] for part in left)])
    means = torch.cat([torch.stack([mean, total / n]), *(part.means[1:] for part in left)])
    images = [x, grad, *(each for part in left for each in part.images[1:])]
    return [_added(Sum(factors, images, means)), dot, total]


def _backward(grad: Tensor, saved: tuple[Any, ...], eps: float, mask: list[bool]) -> Any:
    x, weight, mean, scale = saved
    return normalise_backward(grad, x, weight, None, None, mean, scale, True, eps, mask)


@torch.no_grad()
def _added(parts: Sum) -> Tensor:
    """Add the images up, laid out as the first."""
    first, *rest = parts.images
    factors = parts.factors.to(first.dtype)
    # The means are those of what the rounded factors make, so that the sum has mean 0.
    rounded = factors.to(parts.means.dtype)
    constant = (rounded * parts.means).sum(0).neg_()
    zero = torch.zeros_like(constant)
    # y = factor * images + constant is what batch norm does with given statistics, in one pass.
    total = normalise(first, rounded[0], constant, zero, zero, False, 0.0, 1.0)[0]
    for factor, images in zip(factors[1:], rest, strict=True):
        total.addcmul_(images, _broadcast(factor, images))
    return total


def _broadcast(factor: Tensor, images: Tensor) -> Tensor:
    """Return a factor a channel in the shape of one image."""
    factor = factor.view([1, -1, *[1] * (images.ndim - 2)])
    row = images.shape[1] * images.element_size()
    if images.ndim == 4 and images.stride(1) == 1 and row < 64:
        # Channels-last, less than a vector of the processor a pixel: torch would go one by one.
        image = factor.expand(1, *images.shape[1:])
        return image.contiguous(memory_format=torch.channels_last)
    return factor


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Dot product of each channel: the gradient of a weight, with mean 0 and s 1, in one pass."""
    zero = torch.zeros(x.shape[1], device=x.device, dtype=_wide(x))
    return _backward(x, (y, None, zero, zero + 1), 0.0, [False, True, False])[1]


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
