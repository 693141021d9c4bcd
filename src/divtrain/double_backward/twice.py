"""The context of a forward pass that is differentiated twice."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from divtrain.double_backward._torch import is_compiled, uncompiled
from divtrain.double_backward.mode import FastDoubleBackward
from divtrain.errors import warn_once


@contextmanager
def differentiated_twice(model: nn.Module) -> Iterator[None]:
    """Context in which what `model` computes can be differentiated twice.

    Layers of ours take the place of torch's (`FastDoubleBackward`). Attention runs without its
    fused kernels, which have no second derivative. Neither has compiled code, which runs uncompiled
    here; that is said once. While the caller's own code is being compiled, nothing is changed.
    """
    if torch.compiler.is_compiling():
        yield
        return
    if any(map(is_compiled, model.modules())):
        warn_once(
            "compiled members run uncompiled wherever input gradients are differentiated again, as"
            " in Diversity Training: compiled code has no second derivative"
        )
    with uncompiled(), sdpa_kernel(SDPBackend.MATH), FastDoubleBackward():
        yield
