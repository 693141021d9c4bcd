"""What a layer inside a network gives, for networks that were not written to tell."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from divtrain.errors import DivtrainError
from divtrain.logits import ask

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm)
NORMS = (*NORMS, nn.LayerNorm, nn.InstanceNorm2d)

_ends_of: "WeakKeyDictionary[nn.Module, list[int]]" = WeakKeyDictionary()


class _ReachedError(Exception):
    """Ends a forward pass once the layer has answered."""

    def __init__(self, output: Tensor):
        super().__init__()
        self.output = output


def layer_output(
    net: nn.Module, x: Float[Tensor, "batch channel height width"], depth: float
) -> Float[Tensor, "batch feature"]:
    """Return what a layer gives before its activation; what follows it is not run.

    Layers are the convolutions and linear maps, in the order in which they answer, each with the
    normalisation that follows it; in a residual block before the shortcut is added. Depth 1 is the
    last one, for most networks the logits.

    Args:
        net: A module from images to logits.
        x: Images, in the form that the network takes.
        depth: In (0, 1]: of L layers the ceil(depth * L)-th.

    Raises:
        DivtrainError: for another depth; for a network without layers, or whose layer gives
            something that is not one row per image.
    """
    if not 0 < depth <= 1:
        raise DivtrainError(f"expected a `depth` in (0, 1], got {depth!r}: 1 is the last layer")
    if net not in _ends_of:
        _ends_of[net] = _find_layers(net, x[:1])
    ends = _ends_of[net]
    if not ends:
        raise DivtrainError(
            f"expected a network with convolutions or linear maps, got {type(net).__name__}, in"
            " which torch sees none; features can be compared only inside networks made of modules"
        )
    number = math.ceil(depth * len(ends) - 1e-9)
    calls = 0

    def stop(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal calls
        calls += 1
        if calls > ends[number - 1]:
            raise _ReachedError(output)

    try:
        with _hooked(net, stop):
            ask(net, x)
    except _ReachedError as reached:
        output = reached.output
    else:
        raise DivtrainError(
            f"{type(net).__name__} runs other layers than on its first images; features can be"
            " compared only inside networks that always run the same ones"
        )
    if len(output) != len(x):
        raise DivtrainError(
            f"layer {number} of {type(net).__name__} gives {tuple(output.shape)} for {len(x)}"
            " images; features can be compared only in layers that give one row per image"
        )
    return output.flatten(1)


@torch.no_grad()
def _find_layers(net: nn.Module, x: Tensor) -> list[int]:
    """Return at which call of a hooked module each layer ends, counted from 0."""
    ends: list[int] = []
    calls = 0
    last: tuple[Tensor | None, int] = None, 0  # what the last layer gave, and its version

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal calls, last
        if isinstance(module, LAYERS):
            ends.append(calls)
            last = output, output._version
        elif (
            last[0] is not None
            and inputs
            and inputs[0] is last[0]
            and inputs[0]._version == last[1]
        ):
            ends[-1] = calls  # not after an activation in place, which changes the version
            last = None, 0
        calls += 1

    with _hooked(net, note):
        ask(net, x)
    return ends


@contextmanager
def _hooked(net: nn.Module, hook: Callable[..., None]) -> Iterator[None]:
    """Context in which a hook sees what every layer and every normalisation gives."""
    modules = [module for module in net.modules() if isinstance(module, (*LAYERS, *NORMS))]
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
