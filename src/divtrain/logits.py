"""Asking a model that somebody brings: it gets images of its own, and its logits are found."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from divtrain.errors import DivtrainError


def ask(model: nn.Module, x: Tensor, who: str = "") -> Tensor:
    """Return the logits of a model for images, of any shape.

    The model gets a copy of the images, which it may change in place. Outputs that carry their
    logits under that name (an object with ``.logits``, a dictionary) are taken as these; whole
    numbers, such as votes, are converted to float32.

    Args:
        model: Any module from images to logits.
        x: Images, (batch, channel, height, width); not changed.
        who: What messages call the model, such as "member 1"; "the model" if empty.

    Raises:
        DivtrainError: for any other output, or when a model fails at images of another precision
            than its own.
    """
    try:
        output = model(x.clone())
    except RuntimeError as error:
        kinds = {each.dtype for each in model.parameters() if each.is_floating_point()}
        if "type" in str(error) and kinds - {x.dtype}:  # else no matter of precision
            hint = "x.float()" if x.dtype == torch.float64 else "model.float()"
            numpys = " (numpy's default)" if x.dtype == torch.float64 else ""
            raise DivtrainError(
                f"expected images in the precision of {who or 'the model'},"
                f" {' and '.join(sorted(map(str, kinds)))}, got {x.dtype}{numpys}; convert with"
                f" {hint}. Torch's error: {error}"
            ) from error
        raise
    logits = find_logits(output, x, who)
    return logits if logits.is_floating_point() or logits.is_complex() else logits.float()


def find_logits(output: Any, x: Tensor, who: str = "") -> Tensor:
    """Return the logits in what a model returned for the images `x`.

    Raises:
        DivtrainError: when there are none, saying what came and what to return.
    """
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    if logits is None and isinstance(output, Mapping):
        logits = cast(Mapping[str, Any], output).get("logits")
    if isinstance(logits, Tensor):
        return logits
    raise DivtrainError(
        f"expected logits of shape ({len(x)}, classes){_of(who)}, got {_described(output)}"
    )


def _of(who: str) -> str:
    return f" from {who}" if who else ""


def _described(output: Any) -> str:
    if isinstance(output, Mapping):
        keys = list(map(str, cast(Mapping[Any, Any], output)))
        key = keys[0] if keys else "KEY"
        return (
            f"{type(output).__name__} with {', '.join(map(repr, keys)) or 'nothing in it'}; wrap"
            f" it in a module that returns output[{key!r}], if that is where the logits are"
        )
    if isinstance(output, (tuple, list)):
        parts = [
            str(tuple(each.shape)) if isinstance(each, Tensor) else type(each).__name__
            for each in cast(list[Any], output)
        ]
        return (
            f"{type(output).__name__} of {', '.join(parts) or 'nothing'}; wrap it in a module"
            " that returns output[0], if the logits come first"
        )
    return f"{type(output).__name__}; wrap it in a module that returns the logits alone"


def check_logits(logits: Tensor, batch: int, who: str = "") -> None:
    """Check that logits are (batch, class).

    Raises:
        DivtrainError: for another shape.
    """
    if logits.ndim == 2 and len(logits) == batch:
        return
    hint = "; for two classes return torch.stack([torch.zeros_like(z), z], 1)"
    one = hint if logits.shape == (batch,) else ""
    raise DivtrainError(
        f"expected logits of shape ({batch}, classes){_of(who)}, got {tuple(logits.shape)}{one}"
    )
