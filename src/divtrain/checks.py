"""Checks of images, labels, eps and precision: each raises `DivtrainError` with what to do."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from divtrain.errors import DivtrainError


def check_images(x: Tensor) -> None:
    """Check that `x` is (batch, channel, height, width), float32 or float64, in [0, 1]."""
    if not isinstance(x, Tensor):
        raise DivtrainError(
            f"expected images as a torch.Tensor, got {type(x).__name__}; convert arrays with"
            " torch.from_numpy"
        )
    if x.ndim != 4:
        raise DivtrainError(
            f"expected images of shape (batch, channel, height, width), got {tuple(x.shape)};"
            " add the missing dimension, e.g. x.unsqueeze(1) for grey images"
        )
    if x.dtype not in (torch.float32, torch.float64):
        hint = "x.float() / 255" if not x.is_floating_point() else "x.float(), and use autocast"
        raise DivtrainError(
            f"expected float32 (or float64) images in [0, 1], got {x.dtype}; convert with {hint}"
        )
    if x.numel() == 0:
        raise DivtrainError(f"expected at least one image, got shape {tuple(x.shape)}")
    low, high = (value.item() for value in torch.aminmax(x.detach()))
    if math.isnan(low) or math.isnan(high):
        raise DivtrainError("expected finite images, got NaN; look at how the images were loaded")
    if low < 0 or high > 1:
        raise DivtrainError(
            f"expected images in [0, 1], got values from {low:.4g} to {high:.4g}; divide 8-bit"
            " images by 255 and normalise inside the model, not before it"
        )


def check_labels(y: Tensor, batch: int, classes: int, soft: bool = False) -> None:
    """Check that `y` is (batch,) of int64 labels in [0, classes); waits for their device.

    Where they may be soft, it may also be (batch, classes), of distributions over the classes.
    """
    check_label_shape(y, batch, soft)
    if classes == 1:
        raise DivtrainError(
            "expected one output per class, got one in all; for two classes return"
            " torch.cat([torch.zeros_like(z), z], 1) in place of z"
        )
    if y.ndim == 2:
        _check_distributions(y)
        return
    if y.dtype != torch.int64:
        raise DivtrainError(f"expected int64 labels, got {y.dtype}; convert with y.long()")
    low, high = (int(value) for value in torch.aminmax(y))
    if low < 0 or high >= classes:
        raise DivtrainError(
            f"expected labels from 0 to {classes - 1} (the model has {classes} classes),"
            f" got labels from {low} to {high}"
        )


def _check_distributions(y: Tensor) -> None:
    if not ((y >= 0) & ((y.sum(1, keepdim=True) - 1).abs() < 1e-2)).all():
        raise DivtrainError(
            "expected soft labels that are not negative and sum to 1 for each image, got others;"
            " divide each row by its sum"
        )


def check_label_shape(y: Tensor, batch: int, soft: bool = False) -> None:
    """Check that `y` holds one label per image; or if they may be soft, one distribution."""
    if not isinstance(y, Tensor):
        raise DivtrainError(f"expected labels as a torch.Tensor, got {type(y).__name__}")
    if soft and y.ndim == 2 and len(y) == batch and y.is_floating_point():
        return
    if y.shape != (batch,):
        hint = ""
        if y.ndim == 2 and y.shape[1] == 1:
            hint = "; drop the dimension with y.squeeze(1)"
        elif y.ndim == 2:
            hint = "; turn one-hot labels into classes with y.argmax(1)"
            hint += ", or into soft ones with y.float()" if soft else ""
        raise DivtrainError(
            f"expected one label per image, shape ({batch},), got {tuple(y.shape)}{hint}"
        )


def check_eps(eps: float, name: str = "eps") -> None:
    """Check that an L-infinity radius is a number in [0, 1]; messages call it `name`."""
    if not isinstance(eps, (int, float)) or math.isnan(eps) or not 0 <= eps <= 1:
        eight_bit = isinstance(eps, (int, float)) and 1 < eps <= 255
        hint = f"; did you mean {eps:g}/255 = {eps / 255:.4g}?" if eight_bit else ""
        raise DivtrainError(f"expected {name} in [0, 1] (pixels are in [0, 1]), got {eps!r}{hint}")


def check_autocast(device: str) -> None:
    """Check that input gradients are not about to be taken under float16 autocast."""
    if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16:
        raise DivtrainError(
            "expected no float16 autocast where input gradients are taken: those of confident"
            " images are too small for it and would vanish, unnoticed; use"
            f" torch.autocast({device!r}, torch.bfloat16), or float32"
        )


def first_few(names: Iterable[str]) -> str:
    """List names in a message, the first five if there are more.

    >>> first_few("abcdefgh")
    'a, b, c, d, e and 3 more'
    """
    names = list(names)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
