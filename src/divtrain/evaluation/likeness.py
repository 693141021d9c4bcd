"""Whether a surrogate is one: not the target itself, nor trained from its initial weights."""

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from divtrain.data import Images
from divtrain.errors import DivtrainError
from divtrain.logits import ask
from divtrain.module_state import device_of, eval_mode

ALIKE = 0.1
"""Cosine between two models' weights that independent trainings do not reach: theirs is 0."""


def check_other_weights(
    surrogate: nn.Module, target: nn.Module, name: str, called: str = "the target"
) -> None:
    """Check that a surrogate is not made of the target's weights, nor the target of its weights.

    Copies, wrappers and single members count too, whatever their weights are called.

    Args:
        surrogate: The surrogate.
        target: The target.
        name: What the message calls the surrogate.
        called: What the message calls the target.

    Raises:
        DivtrainError: when it is.
    """
    own, theirs = _digests(surrogate), _digests(target)
    if own and theirs and (own <= theirs or theirs <= own):
        raise DivtrainError(
            f"surrogate {name!r} has the weights of {called} itself, or of a part of it: what is"
            " crafted on it is white-box, which is done anyway; give a surrogate that was trained"
            " on its own"
        )


def has_shared_start(surrogate: nn.Module, target: nn.Module, classes: int) -> bool:
    """Whether the weights of two models are so alike that their training began at the same ones.

    The order of hidden units is arbitrary, so the weights of two independent trainings have a
    cosine of about 0. Layers whose order is not, those that put out the classes, are left out.
    """
    dot = one = other = 0.0
    count = 0
    for ours, theirs in zip(_hidden(surrogate, classes), _hidden(target, classes), strict=False):
        if ours.shape != theirs.shape:
            break
        ours, theirs = ours - ours.mean(), theirs - theirs.mean()
        dot += float((ours * theirs).sum())
        one += float(ours.square().sum())
        other += float(theirs.square().sum())
        count += ours.numel()
    scale = (one * other) ** 0.5
    return scale > 0 and dot / scale > max(ALIKE, 6 / count**0.5)


def has_same_answers(surrogate: nn.Module, target: nn.Module, images: Images) -> bool:
    """Whether two models answer every image alike, up to rounding, and not all images alike."""
    answers: list[Tensor] = []
    for model in (surrogate, target):
        with eval_mode(model), torch.no_grad():
            answers.append(ask(model, images.x.to(device_of(model))).double().cpu())
    ours, theirs = answers
    varied = bool((theirs != theirs[:1]).any())
    return varied and torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def _digests(model: nn.Module) -> set[str]:
    """Hashes of all that is trained in a model; of its buffers where nothing is."""
    tensors = [*model.parameters()] or [*model.buffers()]
    return {_digest(each) for each in tensors if each.is_floating_point() and each.numel() > 1}


def _digest(tensor: Tensor) -> str:
    plain = tensor.detach().cpu().contiguous()
    return hashlib.sha256(plain.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


def _hidden(model: nn.Module, classes: int) -> Iterator[Tensor]:
    """Matrices and kernels of the layers before the last, one by one."""
    for weight in model.parameters():
        if weight.ndim > 1 and weight.is_floating_point() and len(weight) != classes:
            yield weight.detach().cpu().double()
