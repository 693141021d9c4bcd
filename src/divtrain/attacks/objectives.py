"""What an attack maximises: functions (x, y) -> (batch,), made from a model by name.

On an `Ensemble` the paper's objective is the mean over the members of each member's own
cross-entropy, which is not the cross-entropy of the ensemble's answer: the four differ.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from divtrain.cross_entropy import cross_entropy, label_mask
from divtrain.ensemble import aggregate_logits
from divtrain.errors import unknown_name
from divtrain.gal import HasMembers

Objective = Callable[[Tensor, Tensor], Tensor]
"""Maps images (batch, channel, height, width) and labels (batch,) to values (batch,)."""

ObjectiveName = Literal["mean_member_ce", "ce_of_mean_prob", "ce_of_mean_logit", "margin"]


def make_objective(name: ObjectiveName, model: nn.Module, confidence: float = 50.0) -> Objective:
    """Return the named objective of `model`.

    * ``mean_member_ce``: mean over members of each member's cross-entropy (the paper's);
    * ``ce_of_mean_prob``: cross-entropy of the mean softmax;
    * ``ce_of_mean_logit``: cross-entropy of the mean logit;
    * ``margin``: mean over members of the hinge `margin`, flat once another class leads by
      `confidence` (the paper's kappa).

    A model without `members` and `member_logits` (anything but an `Ensemble`, bare or wrapped by
    Fabric) counts as an ensemble of itself alone, so that the first three agree; it may return
    logits or log-probabilities.

    Raises:
        DivtrainError: for an unknown name.
    """
    if name not in get_args(ObjectiveName):
        raise unknown_name("objective", str(name), get_args(ObjectiveName))
    logits = model.member_logits if isinstance(model, HasMembers) else _Single(model)
    if name == "mean_member_ce":
        return lambda x, y: cross_entropy(logits(x), y).mean(0)
    if name == "margin":
        return lambda x, y: margin(logits(x), y, confidence).mean(0)
    aggregate = "prob" if name == "ce_of_mean_prob" else "logit"
    return lambda x, y: cross_entropy(aggregate_logits(logits(x), aggregate), y)


def margin(
    logits: Float[Tensor, "*lead batch classes"],
    y: Tensor,
    confidence: float = 0.0,
) -> Float[Tensor, "*lead batch"]:
    """Carlini and Wagner's hinge: -max(z_y - max_{j != y} z_j + confidence, 0), at most 0.

    The label is masked with -inf, never with 0: with log-probabilities, all negative, a masked
    zero would win every maximum and the gradient would vanish on confident examples.

    >>> margin(torch.tensor([[-0.1, -3.0]]), torch.tensor([0]), confidence=1.0)
    tensor([-3.9000])
    """
    label = label_mask(logits, y)
    best_other = logits.masked_fill(label, -math.inf).amax(-1)
    own = logits.masked_fill(~label, 0).sum(-1)
    return -torch.clamp(own - best_other + confidence, min=0)


@dataclass(frozen=True)
class _Single:
    """A model as an ensemble of itself alone."""

    model: nn.Module

    def __call__(self, x: Tensor) -> Tensor:
        return self.model(x).unsqueeze(0)
