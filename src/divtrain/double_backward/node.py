"""What the backward pass that is running wants of a node of ours."""

from typing import Any

import torch
from torch import Tensor


def wanted(ctx: Any) -> tuple[bool, ...]:
    """Return, for each tensor that the node was applied to, whether its gradient is wanted now.

    Torch's own nodes know; `ctx.needs_input_grad` of a Python node only tells whether a tensor
    records gradients at all. Without this a pass for the gradients of the images would compute
    those of the weights too, and throw them away. Where torch cannot tell, the gradient counts as
    wanted: the result is the same, only slower.
    """
    return tuple(
        function is not None and will_run(function, unsure=True)
        for function, _ in ctx.next_functions
    )


def recorded(grad: Tensor) -> bool:
    """Whether the pass is recorded, to be differentiated by our own nodes.

    A batch of gradients is not: it runs torch's kernels, whose double backward is torch's.
    """
    return torch.is_grad_enabled() and not batched(grad)


def batched(grad: Tensor) -> bool:
    """Whether the pass takes a batch of gradients at once (`is_grads_batched`)."""
    return "Batched" in str(torch._C._dispatch_keys(grad))


def will_run(node: Any, unsure: bool) -> bool:
    """Whether the pass that is running comes to a node, or has; `unsure` where torch cannot tell.

    It cannot outside of a pass, for a leaf in `autograd.grad`, and in old versions. A node whose
    gradient is only asked for counts as run.
    """
    try:
        return torch._C._will_engine_execute_node(node)
    except (AttributeError, RuntimeError):
        return unsure


class Waiting:
    """Parts of gradients that nodes of passes back leave to their layer's node of the forward pass.

    That one sums its own part and theirs at less cost than torch's engine, which adds results. A
    part holds memory of its own: what the nodes were given may be changed until it is used.
    """

    def __init__(self) -> None:
        """Start with nothing left."""
        self._left: dict[int, list[Any]] = {}
        self._taken: set[int] = set()

    def expects(self, node: Any, grad: Tensor) -> bool:
        """Whether `node` comes for parts yet in this pass, which brings `grad`.

        Not in a pass that is recorded, or takes a batch of gradients at once.
        """
        plain = not torch.is_grad_enabled() and not batched(grad)
        return plain and _pass_number() not in self._taken and will_run(node, unsure=False)

    def leave(self, part: Any) -> None:
        """Leave a part to the node that `expects` it."""
        self._left.setdefault(_pass_number(), []).append(part)

    def take(self) -> list[Any]:
        """Take what was left in the pass that is running; it expects no more."""
        number = _pass_number()
        self._taken.add(number)
        return self._left.pop(number, [])


def _pass_number() -> int:
    """Return a number of the backward pass that is running, of its own; negative outside of one."""
    return torch._C._current_graph_task_id()
