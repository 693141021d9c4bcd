"""Runs a module with our layers in the place of torch's, wherever they compute the same."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from divtrain.double_backward._torch import in_forward_mode, in_functorch, in_saved_tensor_hooks
from divtrain.double_backward.batch_norm import BatchNorm
from divtrain.double_backward.convolution import Convolution, Geometry
from divtrain.double_backward.max_pooling import MaxPooling
from divtrain.double_backward.piecewise_linear import PiecewiseLinear

Numbers = int | tuple[int, ...]
"""One for all dimensions of the images, or one each."""


class FastDoubleBackward(TorchFunctionMode):
    """Context in which convolutions, (leaky) ReLUs, max pooling and batch norm are ours.

    Any module may run in it. Other layers, and what ours cannot do (changing a leaf or a view in
    place, indices, forward-mode derivatives, `torch.func`, checkpointing, being compiled), are left
    to torch, silently; outputs and derivatives are the same either way.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run `func`, or our layer in its place."""
        kwargs = kwargs or {}
        ours = LAYERS.get(func)
        if ours is not None and "out" not in kwargs and _plain([*args, *kwargs.values()]):
            result = ours(*args, **kwargs)
            if result is not None:
                return result
        return func(*args, **kwargs)


DEVICES = ("cpu", "cuda", "mps", "xpu")


def _plain(arguments: list[Any]) -> bool:
    """Whether all tensors are ordinary, and so is the autograd that records them."""
    tensors = [each for each in arguments if isinstance(each, Tensor)]
    ordinary = all(
        type(each) in (Tensor, nn.Parameter)
        and each.layout is torch.strided
        and not each.is_nested
        and each.device.type in DEVICES
        and each.is_floating_point()
        and each.numel() > 0
        for each in tensors
    )
    return (
        bool(tensors)
        and ordinary
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not in_functorch()
        and not in_forward_mode()
        and not in_saved_tensor_hooks()  # checkpointing runs the layers again, outside of this mode
    )


def _conv(
    dimensions: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: Numbers | str = 0,
    dilation: Numbers = 1,
    groups: int = 1,
) -> Tensor | None:
    step, spread = _each(dimensions, stride), _each(dimensions, dilation)
    if padding == "valid":
        padding = 0
    elif padding == "same":
        around = [d * (size - 1) for d, size in zip(spread, weight.shape[2:], strict=False)]
        if any(pixels % 2 for pixels in around) or set(step) != {1}:
            return None  # torch pads one side more, or refuses
        padding = tuple(pixels // 2 for pixels in around)
    if isinstance(padding, str):
        return None
    around, more = _each(dimensions, padding), [0] * dimensions
    return _convolve(input, weight, bias, (step, around, spread, False, more, groups))


def _transposed_conv(
    dimensions: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: Numbers = 0,
    output_padding: Numbers = 0,
    groups: int = 1,
    dilation: Numbers = 1,
) -> Tensor | None:
    step, around, more, spread = (
        _each(dimensions, numbers) for numbers in (stride, padding, output_padding, dilation)
    )
    return _convolve(input, weight, bias, (step, around, spread, True, more, groups))


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor | None:
    if x.ndim != len(geometry[0]) + 2:
        return None
    x, weight, bias = _autocast(x), _autocast(weight), None if bias is None else _autocast(bias)
    return Convolution.apply(x, weight, bias, geometry)  # pyright: ignore[reportReturnType]


def _each(dimensions: int, numbers: Numbers) -> list[int]:
    """Return one number for each dimension of the images."""
    listed = [*numbers] if isinstance(numbers, Iterable) else [numbers]
    return listed * dimensions if len(listed) == 1 else listed


def _autocast(tensor: Tensor) -> Tensor:
    """Return the tensor in the precision that autocast chooses for a convolution."""
    kind = tensor.device.type
    eligible = tensor.is_floating_point() and tensor.dtype != torch.float64
    if eligible and torch.is_autocast_enabled(kind):
        return tensor.to(torch.get_autocast_dtype(kind))
    return tensor


def _leaky_relu(input: Tensor, negative_slope: Any = 0.01, inplace: bool = False) -> Tensor | None:
    if not isinstance(negative_slope, (int, float)):
        return None
    if inplace and (negative_slope < 0 or not _changeable(input)):
        return None
    return PiecewiseLinear.apply(input, float(negative_slope), inplace)  # pyright: ignore


def _leaky_relu_(input: Tensor, negative_slope: Any = 0.01) -> Tensor | None:
    return _leaky_relu(input, negative_slope, inplace=True)


def _relu(input: Tensor, inplace: bool = False) -> Tensor | None:
    if inplace and not _changeable(input):
        return None
    return PiecewiseLinear.apply(input, None, inplace)  # pyright: ignore[reportReturnType]


def _relu_(input: Tensor) -> Tensor | None:
    return _relu(input, inplace=True)


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """The same by layers of torch that have a second derivative; its own has none."""
    y = F.hardtanh(input + 3, 0, 6) / 6
    return input.copy_(y) if inplace else y


def _recurrent(layer: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a recurrent layer without cuDNN, whose own has no second derivative."""
    if not args[0].is_cuda:
        return None
    with torch.backends.cudnn.flags(enabled=False):
        return layer(*args, **kwargs)


def _changeable(tensor: Tensor) -> bool:
    """Whether it records gradients, made by a layer and no view: ours change such in place."""
    return tensor.requires_grad and not tensor.is_leaf and tensor._base is None


def _max_pool2d(
    input: Tensor,
    kernel_size: Numbers,
    stride: Numbers | None = None,
    padding: Numbers = 0,
    dilation: Numbers = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | None:
    if return_indices or input.ndim != 4:
        return None
    step = kernel_size if stride is None or stride == () else stride
    window = (_each(2, numbers) for numbers in (kernel_size, step, padding, dilation))
    return MaxPooling.apply(input, (*window, ceil_mode))  # pyright: ignore[reportReturnType]


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    by_channel = [each for each in (running_mean, running_var, weight, bias) if each is not None]
    wrong = input.ndim < 2 or any(each.shape != input.shape[1:2] for each in by_channel)
    if not training or wrong or input.numel() <= input.shape[1] or not eps > 0:
        return None  # torch computes or refuses it
    running = (running_mean, running_var)
    return BatchNorm.apply(input, weight, bias, running, momentum, eps)  # pyright: ignore


RECURRENT = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)

LAYERS: dict[Callable[..., Any], Callable[..., Any]] = {
    **{getattr(torch, f"conv{n}d"): partial(_conv, n) for n in (1, 2, 3)},
    **{getattr(torch, f"conv_transpose{n}d"): partial(_transposed_conv, n) for n in (1, 2, 3)},
    F.leaky_relu: _leaky_relu,
    F.relu: _relu,
    torch.relu: _relu,
    torch.Tensor.relu: _relu,
    F.leaky_relu_: _leaky_relu_,
    torch.relu_: _relu_,
    torch.Tensor.relu_: _relu_,
    F.hardsigmoid: _hardsigmoid,
    **{layer: partial(_recurrent, layer) for layer in RECURRENT},
    F.max_pool2d: _max_pool2d,
    torch.max_pool2d: _max_pool2d,
    F.batch_norm: _batch_norm,
}
"""Our layers by the functions of torch that they replace; they return None to leave it to torch."""
