"""Runs a module with our layers in the place of torch's, wherever they compute the same."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.modules.utils import _ntuple
from torch.overrides import TorchFunctionMode

from divtrain.double_backward.batch_norm import BatchNorm, Settings
from divtrain.double_backward.convolution import Convolution
from divtrain.double_backward.max_pooling import MaxPooling
from divtrain.double_backward.piecewise_linear import PiecewiseLinear

Numbers = int | tuple[int, ...]


class FastDoubleBackward(TorchFunctionMode):
    """Context in which convolutions, ReLUs, max pooling and batch norm are cheap to differentiate.

    Any module may run in it. A layer that is not among those, or is asked for something they do
    not do (in place, indices, forward-mode derivatives, `torch.func`), is torch's own, silently;
    outputs and derivatives of every order are the same either way.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run `func`, or the layer that stands for it."""
        kwargs = kwargs or {}
        ours = LAYERS.get(func)
        if ours is not None and _plain(args):
            result = ours(*args, **kwargs)
            if result is not None:
                return result
        return func(*args, **kwargs)


def _plain(args: tuple[Any, ...]) -> bool:
    """Whether the first argument is an ordinary tensor under ordinary autograd."""
    if not args or type(args[0]) is not Tensor or not torch.is_grad_enabled():
        return False
    functorch = torch._C._functorch.peek_interpreter_stack()  # pyright: ignore
    return functorch is None and forward_ad._current_level < 0 and args[0].is_floating_point()


def _conv(dimensions: int) -> Callable[..., Tensor | None]:
    many = _ntuple(dimensions)

    def conv(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Numbers = 1,
        padding: Numbers | str = 0,
        dilation: Numbers = 1,
        groups: int = 1,
    ) -> Tensor | None:
        spread = many(dilation)
        if padding == "valid":
            padding = 0
        elif padding == "same":
            around = [d * (size - 1) for d, size in zip(spread, weight.shape[2:], strict=True)]
            if any(pixels % 2 for pixels in around) or set(many(stride)) != {1}:
                return None  # torch pads one side more, or refuses
            padding = tuple(pixels // 2 for pixels in around)
        if x.ndim != dimensions + 2 or isinstance(padding, str):
            return None
        geometry = (many(stride), many(padding), spread, False, many(0), groups)
        return _convolve(x, weight, bias, geometry)

    return conv


def _transposed_conv(dimensions: int) -> Callable[..., Tensor | None]:
    many = _ntuple(dimensions)

    def conv_transpose(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Numbers = 1,
        padding: Numbers = 0,
        output_padding: Numbers = 0,
        groups: int = 1,
        dilation: Numbers = 1,
    ) -> Tensor | None:
        if x.ndim != dimensions + 2:
            return None
        geometry = (many(stride), many(padding), many(dilation), True, many(output_padding), groups)
        return _convolve(x, weight, bias, geometry)

    return conv_transpose


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Any) -> Tensor:
    x, weight, bias = _autocast(x), _autocast(weight), None if bias is None else _autocast(bias)
    return Convolution.apply(x, weight, bias, tuple(_listed(part) for part in geometry))  # pyright: ignore


def _listed(part: Any) -> Any:
    return list(part) if isinstance(part, tuple) else part


def _autocast(tensor: Tensor) -> Tensor:
    """In the precision that autocast would choose for a convolution."""
    kind = tensor.device.type
    eligible = tensor.is_floating_point() and tensor.dtype != torch.float64
    if eligible and torch.is_autocast_enabled(kind):
        return tensor.to(torch.get_autocast_dtype(kind))
    return tensor


def _leaky_relu(x: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor | None:
    if inplace or not 0 <= negative_slope <= 1:
        return None
    y: Any = PiecewiseLinear.apply(x, negative_slope)
    if x.requires_grad:
        y.divtrain_activated = Activated(x, negative_slope, x._version, y._version)
    return y


def _relu(x: Tensor, inplace: bool = False) -> Tensor | None:
    return _leaky_relu(x, 0.0, inplace)


class Activated(NamedTuple):
    """Where an activated tensor came from, for a pooling that follows; and their versions then."""

    x: Tensor
    slope: float
    version: int
    own_version: int


def _before_activation(y: Tensor) -> tuple[Tensor, float]:
    """Return the input and the slope of the activation that made `y`; `y` and 1 where none did.

    Not where somebody changed one of them since, or listens to the gradient of `y`.
    """
    made: Activated | None = getattr(y, "divtrain_activated", None)
    if made is None or y._backward_hooks or y.retains_grad:
        return y, 1.0
    if (made.version, made.own_version) != (made.x._version, y._version):
        return y, 1.0
    return made.x, made.slope


def _max_pool2d(
    x: Tensor,
    kernel_size: Numbers,
    stride: Numbers | None = None,
    padding: Numbers = 0,
    dilation: Numbers = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | None:
    if return_indices or x.ndim != 4:
        return None
    two = _ntuple(2)
    step = kernel_size if stride is None or stride == () else stride
    window = [list(two(each)) for each in (kernel_size, step, padding, dilation)]
    x, slope = _before_activation(x)
    return MaxPooling.apply(x, (*window, ceil_mode), slope)  # pyright: ignore[reportReturnType]


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    by_channel = [each for each in (running_mean, running_var, weight, bias) if each is not None]
    wrong = x.ndim < 2 or any(each.numel() != x.shape[1] for each in by_channel)
    if wrong or (training and x.numel() <= x.shape[1]):
        return None  # torch refuses
    settings = Settings(running_mean, running_var, training, eps)
    return BatchNorm.apply(x, weight, bias, settings, momentum)  # pyright: ignore[reportReturnType]


LAYERS: dict[Callable[..., Any], Callable[..., Tensor | None]] = {
    torch.conv1d: _conv(1), torch.conv2d: _conv(2), torch.conv3d: _conv(3),
    torch.conv_transpose1d: _transposed_conv(1),
    torch.conv_transpose2d: _transposed_conv(2),
    torch.conv_transpose3d: _transposed_conv(3),
    F.leaky_relu: _leaky_relu, torch._C._nn.leaky_relu: _leaky_relu,  # pyright: ignore
    F.relu: _relu, torch.relu: _relu, torch.Tensor.relu: _relu,
    F.max_pool2d: _max_pool2d, torch.max_pool2d: _max_pool2d,
    F.batch_norm: _batch_norm,
}  # fmt: skip
"""Our layers by the functions of torch they stand for; None means: not this time."""
