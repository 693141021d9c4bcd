"""Linear layers that take both gradients of their weights in one product.

With y = x W^T + b the gradient for x is gy W, whose derivatives for a tangent u are u W^T for gy
and gy^T u for W; the forward pass adds gy'^T x, gy' the gradient for y of the same pass back. Torch
takes two products, each as large as W, and adds them: passes over memory where the batch is small
beside W. There the first waits for the second, if the engine will come to it in this pass.
"""

from typing import Any

import torch
from torch import Tensor

from divtrain.double_backward.node import Waiting, recorded, wanted


class Linear(torch.autograd.Function):
    """y = x W^T + b, for x (..., feature)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply."""
        for_x, for_weight, *_ = ctx.needs_input_grad
        ctx.save_for_backward(x if for_weight else None, weight if for_x else None)
        ctx.waiting = Waiting()
        return torch.nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Return the gradients that are wanted; that of x cheap to differentiate."""
        x, weight = ctx.saved_tensors
        (grad,) = grads
        mask = [*wanted(ctx), False][:3]
        grad_x = grad_weight = grad_bias = None
        with _as_they_are(grad):
            if mask[0]:
                own = recorded(grad)
                grad_x = InputGradient.apply(grad, weight, ctx) if own else grad @ weight
            if mask[1]:
                grad_weight = _sum_of_products([(grad, x), *ctx.waiting.take()])
            if mask[2]:
                grad_bias = _rows(grad).sum(0)
        return grad_x, grad_weight, grad_bias


class InputGradient(torch.autograd.Function):
    """gy W; `layer` is the node of the forward pass."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, weight: Tensor, layer: Any) -> Tensor:
        """Pull the gradient back through the layer."""
        for_grad, for_weight, *_ = ctx.needs_input_grad
        ctx.save_for_backward(grad if for_weight else None, weight if for_grad else None)
        ctx.layer = layer
        return grad @ weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Push the tangent through the layer; leave the weights' product to it if it comes yet."""
        grad, weight = ctx.saved_tensors
        (tangent,) = grads
        for_grad, for_weight, *_ = wanted(ctx)
        grad_grad = grad_weight = None
        with _as_they_are(tangent):
            if for_grad:
                grad_grad = tangent @ weight.t()
            if for_weight:
                waiting = ctx.layer.waiting
                if _few(grad, tangent) and waiting.expects(ctx.layer, tangent):
                    # Copies: until they are used somebody may change the tensors in place.
                    waiting.leave((grad.detach().clone(), tangent.detach().clone()))
                else:
                    grad_weight = _sum_of_products([(grad, tangent)])
        return grad_grad, grad_weight, None


def _as_they_are(x: Tensor) -> Any:
    """Context of a pass back, whose precision is that of the forward pass, as torch's nodes' is."""
    return torch.autocast(x.device.type, enabled=False)


def _few(grad: Tensor, x: Tensor) -> bool:
    """Whether copies of both are smaller than a gradient of the weights."""
    return x.numel() // x.shape[-1] <= min(grad.shape[-1], x.shape[-1])


def _sum_of_products(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Sum of gy^T x over the pairs (gy, x), in the layout of the weights."""
    grad, x = pairs[0]
    if len(pairs) > 1:
        grad, x = (torch.cat(list(map(_rows, parts))) for parts in zip(*pairs, strict=True))
    return _rows(grad).t() @ _rows(x)


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])
