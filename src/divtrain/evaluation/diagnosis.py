"""Diagnosis of a model before it is attacked: can its answers and gradients be trusted?"""

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from divtrain.attacks import make_objective
from divtrain.attacks.objectives import lead
from divtrain.data import Images
from divtrain.ensemble import HasMembers
from divtrain.errors import DivtrainError, first_line
from divtrain.fields import Count, Share, checked
from divtrain.logits import ask, check_logits
from divtrain.module_state import device_of, eval_mode
from divtrain.wrapping import Model, as_module

SATURATION = 50.0
"""A lead of the first class over the second, in nats, that no plain training reaches: softmax is
exactly 1 in float32 from 17 nats on, and gradients underflow from 87."""

BETTER = 0.05
"""Accuracy gained in another range of pixels that says that the model wants that one."""


@checked
class Diagnosis:
    """What was measured on clean images, each a fraction of them unless stated otherwise.

    Attributes:
        images: How many images were looked at.
        classes: Number of classes.
        randomised: Answers that differ between two passes on the same images.
        batch_dependent: Answers that differ when the images are asked in other, smaller batches; 0
            where some are randomised, from which it cannot be told.
        saturated: Answers whose first class leads the second by over `SATURATION` nats.
        rounded: Answers whose softmax is exactly 0 or 1 in float32 at the label; no fault in
            itself, but cross-entropies of other libraries lose their gradient there.
        differentiable: Whether autograd sees through the model at all.
        obstacle: What torch says where asking for a gradient fails; empty if it does not.
        zero_gradient: Images where the gradient of the answer's cross-entropy is zero.
        nan_gradient: Images where it has a NaN or an infinite entry.
        probabilities: Whether what should be logits, the model's or some member's, are
            probabilities: not negative, and summing to 1 at every image.
        other_range: What was done to the images that raised the accuracy a lot ("times 255",
            "standardised"); empty if nothing did.
    """

    images: Count
    classes: Count
    randomised: Share
    saturated: Share
    rounded: Share
    differentiable: bool
    zero_gradient: Share
    nan_gradient: Share
    probabilities: bool
    other_range: str = ""
    obstacle: str = ""
    batch_dependent: Share = 0.0


def diagnose(
    model: Model, images: Images, batch_size: int = 128, who: str = "the model"
) -> Diagnosis:
    """Diagnose a model on clean images, in eval mode.

    Args:
        model: Any module from images to logits or log-probabilities, on its device; or what
            `as_module` makes one.
        images: Some hundred clean images and labels.
        batch_size: Images at a time.
        who: What messages call the model.

    Raises:
        DivtrainError: for outputs that are not (batch, class), do not fit the labels, or are NaN
            at every image.
    """
    model = as_module(model)
    device = device_of(model)
    first, second, gradients, outputs, obstacle = [], [], [], [], ""
    objective = make_objective("ce_of_mean_prob", model)
    for x, y in zip(images.x.split(batch_size), images.y.split(batch_size), strict=True):
        x, y = x.to(device), y.to(device)
        with eval_mode(model), torch.no_grad():
            answers = [_answer(model, x) for _ in range(2)]
            logits = model.member_logits(x) if isinstance(model, HasMembers) else answers[0][None]
        first.append(answers[0])
        second.append(answers[1])
        outputs.append(logits)
        if not obstacle:
            with eval_mode(model):
                gradient, obstacle = try_gradient(objective, x, y)
            gradients += [] if gradient is None else [gradient]
    _check_numbers(torch.cat(outputs, dim=1), who)
    y = images.y.to(device)
    gradient = torch.cat(gradients).flatten(1) if gradients else torch.zeros(0)
    answer, again = torch.cat(first), torch.cat(second)
    ranked = answer.sort(1, descending=True).values
    margin = lead(answer, y)
    randomised = _differ(answer, again)
    regrouped = answer if randomised.any() else _regrouped(model, images.x, batch_size)
    return Diagnosis(
        images=len(images),
        classes=answer.shape[1],
        randomised=_share(randomised),
        saturated=_share(ranked[:, 0] - ranked[:, 1] > SATURATION),
        rounded=_share((torch.softmax(answer.float(), 1).amax(1) == 1) & (margin.abs() > 0)),
        differentiable=bool(gradients) and not obstacle,
        zero_gradient=_share((gradient == 0).all(1)) if gradients else 1.0,
        nan_gradient=_share((~gradient.isfinite()).any(1)) if gradients else 0.0,
        probabilities=any(map(are_probabilities, torch.cat(outputs, dim=1))),
        other_range=_better_range(model, images, answer),
        obstacle=obstacle,
        batch_dependent=_share(_differ(answer, regrouped)),
    )


def _check_numbers(outputs: Tensor, who: str) -> None:
    """Check that some answer of every member, (member, image, class), is a number."""
    broken = outputs.isnan().any(2).all(1).nonzero().flatten().tolist()
    if broken:
        whose = f"member {', '.join(map(str, broken))} of {who}" if len(outputs) > 1 else who
        raise DivtrainError(
            f"expected numbers as logits, got NaN at every image from {whose}: are its weights"
            " finite?"
        )


def _differ(answer: Tensor, again: Tensor) -> Tensor:
    """At which images two answers, (image, class), differ by more than rounding."""
    apart = (answer != again) & ~(answer.isnan() & again.isnan())  # also infinite ones
    scale = answer.abs().nan_to_num(0, 0).amax().clamp(min=1e-6)
    return (apart & ~((answer - again).abs() <= 1e-3 * scale)).any(1)


def _regrouped(model: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    """Return the answers to images that were asked in batches of others than their neighbours.

    A third as large, but of two at least: some batch norm refuses a batch of one.
    """
    count = max(1, len(x) // max(2, min(batch_size, len(x)) // 3))
    groups = [torch.arange(first, len(x), count) for first in range(count)]
    device = device_of(model)
    with eval_mode(model), torch.no_grad():
        found = torch.cat([_answer(model, x[group].to(device)) for group in groups])
    return found[torch.cat(groups).argsort().to(device)]


def _better_range(model: nn.Module, images: Images, answer: Tensor) -> str:
    """Return in which other range of pixels the model is right far more often; empty for none."""
    x, y = images.x.to(answer.device), images.y.to(answer.device)
    mean, std = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True).clamp(min=1e-6)
    others = {"times 255": 255 * x, "from -1 to 1": 2 * x - 1, "standardised": (x - mean) / std}
    own = (answer.argmax(1) == y).float()
    best, gain = "", BETTER
    with eval_mode(model), torch.no_grad():
        for name, moved in others.items():
            try:
                more = (_answer(model, moved).argmax(1) == y).float() - own
            except Exception:  # a model may well check its range
                continue
            chance = 2 * more.std(correction=0).item() / len(y) ** 0.5
            if more.mean().item() > max(gain, chance):
                best, gain = name, more.mean().item()
    return best


def is_differentiable(model: nn.Module, images: Images) -> bool:
    """Whether autograd sees through the model, from its images to its answer."""
    with eval_mode(model):
        x = images.x[:1].to(device_of(model))
        return try_gradient(partial(_answer, model), x)[0] is not None


def try_gradient(
    function: Callable[..., Tensor], x: Tensor, *others: Tensor
) -> tuple[Tensor | None, str]:
    """Return the gradient of the sum of (x, *others), if any, and what torch says where it fails.

    Quantised layers and functions of arrays refuse images that record gradients; of some layers
    torch only warns that what comes back is none.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings():
            warnings.filterwarnings("error", ".*autograd kernel was not registered", UserWarning)
            seen = x.clone().requires_grad_()
            values = function(seen, *others)
            if not values.requires_grad:
                return None, ""
            return torch.autograd.grad(values.sum(), seen, allow_unused=True)[0], ""
    except torch.cuda.OutOfMemoryError:
        raise
    except (RuntimeError, UserWarning) as error:
        return None, first_line(error).partition(". ")[0]


def are_probabilities(outputs: Tensor) -> bool:
    """Whether every row, (row, class), is a probability distribution, if a rounded one.

    >>> are_probabilities(torch.tensor([[0.2, 0.8], [1.0, 0.0]]))
    True
    >>> are_probabilities(torch.tensor([[0.2, 0.8], [-1.0, 2.0]]))
    False
    """
    inside = (outputs >= 0).all() & (outputs <= 1).all()
    return bool(inside & ((outputs.sum(1) - 1).abs() < 0.25).all())


def _answer(model: nn.Module, x: Tensor) -> Tensor:
    answer = ask(model, x)
    check_logits(answer, len(x))
    return answer


def _share(mask: Tensor) -> float:
    return mask.float().mean().item()
