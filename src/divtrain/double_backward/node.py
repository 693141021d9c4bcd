"""Which gradients the running backward pass needs from a node of ours."""

from typing import Any

import torch
from torch import Tensor

from divtrain.double_backward._torch import is_batched, will_run


def wanted(ctx: Any) -> tuple[bool, ...]:
    """Return, for each tensor that the node was applied to, whether its gradient is wanted now.

    Torch's nodes know this; `ctx.needs_input_grad` of a Python node only tells whether a tensor
    records gradients at all. By that a backward pass for the gradients of the images would compute
    those of the weights too, and drop them.
    """
    return tuple(node is not None and will_run(node) for node, _ in ctx.next_functions)


def recorded(grad: Tensor) -> bool:
    """Whether the backward pass is recorded and our nodes are to differentiate it.

    Not for a batch of gradients: it runs torch's kernels, whose double backward is torch's.
    """
    return torch.is_grad_enabled() and not is_batched(grad)
