"""Which images a model classifies right."""

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from divtrain.checks import check_images, check_labels
from divtrain.data import Images
from divtrain.errors import DivtrainError, first_line
from divtrain.logits import ask, check_logits
from divtrain.module_state import device_of, eval_mode


def correct_mask(
    model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 256
) -> Bool[Tensor, "image"]:
    """Which images the model classifies right, in eval mode, on the CPU.

    Args:
        model: The model, on the device to compute on.
        x: Images.
        y: True labels.
        batch_size: Images at a time.

    Raises:
        DivtrainError: for bad images or labels, or outputs that are not (batch, class).
    """
    check_images(x)
    if len(x) != len(y):
        raise DivtrainError(f"expected one label per image, got {len(y)} for {len(x)} images")
    pairs = zip(x.split(batch_size), y.split(batch_size), strict=True)
    return torch.cat([correct_batch(model, *pair) for pair in pairs])


def correct_batch(model: nn.Module, x: Tensor, y: Tensor) -> Bool[Tensor, "image"]:
    """Which images of one batch the model classifies right, in eval mode, on the CPU.

    An answer with a NaN is right nowhere.

    Raises:
        DivtrainError: for bad labels, or outputs that are not (batch, class).
    """
    device = device_of(model)
    with eval_mode(model), torch.no_grad():
        logits = ask(model, x.to(device))
    check_logits(logits, len(x))
    check_labels(y, len(x), logits.shape[1])
    right = logits.argmax(1) == y.to(device)
    return (right & ~logits.isnan().any(1)).cpu()


def check_same_task(surrogate: nn.Module, target: nn.Module, images: Images, name: str) -> None:
    """Check that a surrogate takes the images that the target takes, and knows its classes.

    Raises:
        DivtrainError: naming the surrogate and what differs.
    """
    classes: list[int] = []
    for which, model in (("the target", target), (f"surrogate {name!r}", surrogate)):
        try:
            with eval_mode(model), torch.no_grad():
                answer = ask(model, images.x[:1].to(device_of(model)))
            check_logits(answer, 1)
        except Exception as error:  # somebody else's code: it may raise anything
            raise DivtrainError(
                f"{which} does not take images of shape {tuple(images.x.shape[1:])}:"
                f" {first_line(error)}"
            ) from error
        classes.append(answer.shape[-1])
    if classes[0] != classes[1]:
        raise DivtrainError(
            f"the target has {classes[0]} classes, surrogate {name!r} has {classes[1]}; examples"
            " crafted for other classes say nothing"
        )
