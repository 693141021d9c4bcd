"""Transfer evaluation: craft on the surrogate, ask the targets."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from divtrain.attacks import build_attack
from divtrain.checks import check_images, check_labels, check_logits
from divtrain.data import Images
from divtrain.errors import DivtrainError
from divtrain.evaluation.crafting import craft
from divtrain.evaluation.parts import Part, Parts
from divtrain.evaluation.records import Record, make_records
from divtrain.module_state import device_of, eval_mode


def correct_mask(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    batch_size: int = 256,
    kept: Parts | None = None,
) -> Bool[Tensor, "image"]:
    """Which images the model classifies right, in eval mode, on the CPU.

    Args:
        model: The model, on the device to compute on.
        x: Images.
        y: True labels.
        batch_size: Images at a time.
        kept: Where to keep each batch's answer, and find those that were given before.

    Raises:
        DivtrainError: for bad images or labels, or outputs that are not (batch, class).
    """
    check_images(x)
    if len(x) != len(y):
        raise DivtrainError(f"expected one label an image, got {len(y)} for {len(x)} images")
    parts: list[Part] = []
    with eval_mode(model), torch.no_grad():
        batches = zip(x.split(batch_size), y.split(batch_size), strict=True)
        for index, (images, labels) in enumerate(batches):
            ask = partial(_ask, model, images, labels)
            parts.append(ask() if kept is None else kept.get(index, ask))
    return torch.cat([tensors["right"] for tensors, _ in parts])


def _ask(model: nn.Module, images: Tensor, labels: Tensor) -> Part:
    device = device_of(model)
    logits = model(images.to(device))
    check_logits(logits, len(images))
    check_labels(labels, len(images), logits.shape[1])
    right = logits.argmax(1) == labels.to(device)
    return {"right": (right & ~logits.isnan().any(1)).cpu()}, None  # NaN is no answer


def check_same_task(surrogate: nn.Module, target: nn.Module, images: Images, name: str) -> None:
    """Check that a surrogate takes the images that the target takes, and knows its classes.

    Raises:
        DivtrainError: naming the surrogate and what differs.
    """
    classes: list[int] = []
    for which, model in (("the target", target), (f"surrogate {name!r}", surrogate)):
        try:
            with eval_mode(model), torch.no_grad():
                answer = model(images.x[:1].to(device_of(model)))
            check_logits(answer, 1)
        except Exception as error:  # somebody else's code: it may raise anything
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DivtrainError(
                f"{which} does not take images of shape {tuple(images.x.shape[1:])}: {reason}"
            ) from error
        classes.append(answer.shape[-1])
    if classes[0] != classes[1]:
        raise DivtrainError(
            f"the target has {classes[0]} classes, surrogate {name!r} has {classes[1]}; examples"
            " crafted for other classes say nothing"
        )


def evaluate_transfer(
    surrogate: nn.Module,
    targets: Mapping[str, nn.Module],
    images: Images,
    attacks: Sequence[str] = ("fgsm", "rfgsm", "ifgsm", "mifgsm", "pgdcw"),
    eps: Sequence[float] = (0.1, 0.3),
    surrogate_name: str = "surrogate",
    batch_size: int = 128,
    seed: int = 0,
) -> list[Record]:
    """Attack the surrogate once for each attack and eps, and let every target classify the result.

    Transfer robustness is not white-box robustness: call it with the target as its own surrogate
    (and its name as `surrogate_name`) for the other half of the picture.

    Args:
        surrogate: The model attacked.
        targets: The models that classify, by name.
        images: Clean images and true labels.
        attacks: Names of attacks, with the paper's parameters.
        eps: L-infinity radii in [0, 1] pixel units.
        surrogate_name: What records call the surrogate.
        batch_size: Images at a time.
        seed: Of random starts.

    Returns:
        For each target a clean record, one for each attack and eps, and the worst case at each.
    """
    if not isinstance(targets, Mapping):
        raise DivtrainError(
            f'expected targets by name, e.g. {{"mine": model}}, got {type(targets).__name__}'
        )
    for name, target in targets.items():
        if target is surrogate and name != surrogate_name:
            raise DivtrainError(
                f"target {name!r} is the surrogate itself, which is white-box: give"
                f" surrogate_name={name!r}"
            )
    if not attacks or not eps or not targets:
        raise DivtrainError("expected at least one attack, one eps and one target")
    if surrogate_name in targets and targets[surrogate_name] is not surrogate:
        raise DivtrainError(
            f"{surrogate_name!r} names both the surrogate and a different target; rename one"
        )
    built = {(name, radius): build_attack(name, radius) for name in attacks for radius in eps}
    masks: dict[str, dict[tuple[str, float], Tensor]] = {name: {} for name in targets}
    clean = {name: correct_mask(target, images.x, images.y) for name, target in targets.items()}
    for key, attack in built.items():
        x_adv = craft(attack, surrogate, images, batch_size, seed).x_adv
        for target_name, target in targets.items():
            masks[target_name][key] = correct_mask(target, x_adv, images.y)
    return [
        record
        for name in targets
        for record in make_records(name, surrogate_name, clean[name], masks[name], seed)
    ]
