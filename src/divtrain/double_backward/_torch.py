"""Every private name of torch that this package needs.

Where torch lacks the name the answer is the safe one: torch's layer is used in place of ours, or a
gradient counts as wanted. Results are the same either way, only slower.
"""

import sys
from contextlib import AbstractContextManager, nullcontext
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn


def in_functorch() -> bool:
    """Whether a transform of `torch.func` is running. Without the name: yes."""
    peek = _private("_C._functorch.peek_interpreter_stack")
    return peek is None or peek() is not None


def in_forward_mode() -> bool:
    """Whether forward-mode derivatives are being computed. Without the name: yes."""
    level = _private("autograd.forward_ad._current_level")
    return level is None or level >= 0


def in_saved_tensor_hooks() -> bool:
    """Whether hooks change what autograd saves, as in checkpointing. Without the name: yes."""
    top = _private("_C._autograd._top_saved_tensors_default_hooks")
    return top is None or top(False) is not None


def is_batched(grad: Tensor) -> bool:
    """Whether this is a batch of gradients (`is_grads_batched`). Without the name: yes."""
    keys = _private("_C._dispatch_keys")
    return keys is None or "Batched" in str(keys(grad))


def will_run(node: Any) -> bool:
    """Whether the backward pass that is running visits a node of autograd, or returns its gradient.

    Yes without the name, and where torch cannot tell: outside of a backward pass, and for a leaf in
    `autograd.grad`.
    """
    will_execute = _private("_C._will_engine_execute_node")
    try:
        return will_execute is None or will_execute(node)
    except RuntimeError:
        return True


def is_compiled(module: nn.Module) -> bool:
    """Whether `torch.compile` made this module, or its own `compile` was called. Without: no."""
    names = ("_orig_mod", "_compiled_call_impl")
    return any(getattr(module, name, None) is not None for name in names)


def uncompiled() -> AbstractContextManager[object]:
    """Context in which compiled code runs uncompiled; none while code is being compiled."""
    if "torch._dynamo" not in sys.modules or torch.compiler.is_compiling():
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def _private(name: str) -> Any:
    """Return what torch has under a dotted name, None if nothing."""
    try:
        return attrgetter(name)(torch)
    except AttributeError:
        return None
