"""What an attack maximises: functions (x, y) -> (batch,), made from a model by name.

On an `Ensemble` the paper's objective is the mean over the members of each member's own
cross-entropy, which is not the cross-entropy of the ensemble's answer: they differ, and on
diverse members, whose gradients cancel when summed, they differ a lot.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from divtrain.cross_entropy import cross_entropy, label_mask
from divtrain.ensemble import Ensemble, HasMembers, aggregate_logits
from divtrain.errors import unknown_name
from divtrain.logits import ask, check_logits

Objective = Callable[[Tensor, Tensor], Tensor]
"""Maps images (batch, channel, height, width) and labels (batch,) to values (batch,)."""

ObjectiveName = Literal[
    "mean_member_ce", "ce_of_mean_prob", "ce_of_mean_logit", "margin", "dlr", "reweighted"
]

OBJECTIVE_TITLES: dict[ObjectiveName, str] = {
    "mean_member_ce": "mean CE",
    "ce_of_mean_prob": "mean prob",
    "ce_of_mean_logit": "mean logit",
    "margin": "hinge",
    "dlr": "DLR",
    "reweighted": "reweighted",
}
"""What reports call them."""

OfLogits = Callable[[Tensor, Tensor], Tensor]
"""Maps member logits (member, batch, class) and labels (batch,) to values (batch,)."""


@dataclass(frozen=True)
class ModelObjective:
    """An objective that is a function of the members' logits.

    Attributes:
        member_logits: Images to logits of every member, (member, batch, class).
        value: Member logits and labels to values, (batch,).
        answer: Images and member logits to what the model answers, (batch, class).
    """

    member_logits: Callable[[Tensor], Tensor]
    value: OfLogits
    answer: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the objective at each image."""
        return self.value(self.member_logits(x), y)


def make_objective(
    name: ObjectiveName, model: nn.Module, confidence: float = 50.0
) -> ModelObjective:
    """Return the named objective of `model`.

    * ``mean_member_ce``: mean over members of each member's cross-entropy (the paper's);
    * ``ce_of_mean_prob``: cross-entropy of the mean softmax;
    * ``ce_of_mean_logit``: cross-entropy of the mean logit;
    * ``margin``: mean over members of the hinge `margin`, flat once another class leads by
      `confidence` (the paper's kappa);
    * ``dlr``: difference of logits ratio of the model's answer, see `dlr`;
    * ``reweighted``: members weighted anew at each image against cancellation, see `reweighted`.

    A model without `members` and `member_logits` (anything but an `Ensemble`, bare or wrapped by
    Fabric) counts as an ensemble of itself alone, so that the cross-entropies agree; it may return
    logits or log-probabilities.

    Raises:
        DivtrainError: for an unknown name.
    """
    if name not in get_args(ObjectiveName):
        raise unknown_name("objective", str(name), get_args(ObjectiveName))
    value = _of_logits(name, model, confidence)
    return ModelObjective(member_logits_of(model), value, answer_of(model))


def member_logits_of(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """How to get the logits of every member, (member, batch, class), of a model or an ensemble."""
    if isinstance(model, HasMembers):
        return model.member_logits

    def alone(x: Tensor) -> Tensor:
        logits = ask(model, x)
        check_logits(logits, len(x))
        return logits.unsqueeze(0)

    return alone


def answer_of(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """How to get `model`'s logits from member logits that are already computed."""
    if type(model).forward is Ensemble.forward and isinstance(model, Ensemble):
        return lambda x, logits: aggregate_logits(logits, model.aggregate)
    if isinstance(model, HasMembers):  # its own forward may do anything: ask it
        return lambda x, logits: ask(cast(nn.Module, model), x)
    return lambda x, logits: logits[0]


def _of_logits(name: ObjectiveName, model: nn.Module, confidence: float) -> OfLogits:
    if name == "mean_member_ce":
        return lambda logits, y: cross_entropy(logits, y).mean(0)
    if name == "margin":
        return lambda logits, y: margin(logits, y, confidence).mean(0)
    if name == "reweighted":
        return reweighted
    if name == "ce_of_mean_prob":
        return lambda logits, y: cross_entropy(aggregate_logits(logits, "prob"), y)
    if name == "ce_of_mean_logit":
        return lambda logits, y: cross_entropy(aggregate_logits(logits, "logit"), y)
    # A vote moves in jumps; its mean softmax is what an attacker can follow.
    aggregate = "logit" if getattr(model, "aggregate", "prob") == "logit" else "prob"
    return lambda logits, y: dlr(aggregate_logits(logits, aggregate), y)


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
    return -torch.clamp(lead(logits, y) + confidence, min=0)


def lead(logits: Float[Tensor, "*lead batch classes"], y: Tensor) -> Float[Tensor, "*lead batch"]:
    """Margin of the true class over the best other one, z_y - max_{j != y} z_j.

    >>> lead(torch.tensor([[1.0, 4.0, 2.0]]), torch.tensor([0]))
    tensor([-3.])
    """
    label = label_mask(logits, y)
    best_other = logits.masked_fill(label, -math.inf).amax(-1)
    return logits.masked_fill(~label, 0).sum(-1) - best_other


def dlr(
    logits: Float[Tensor, "batch classes"], y: Tensor, target: Tensor | None = None
) -> Float[Tensor, "batch"]:
    """Difference of logits ratio (Croce and Hein, 2020, Eq. 6 and 7), free of the logits' scale.

    With z sorted from the largest, -(z_y - max_{j != y} z_j) / (z_1 - z_3); for a target class t,
    -(z_y - z_t) / (z_1 - (z_3 + z_4) / 2). The plain difference where there are too few classes
    for the scale: two for the first form, three for the second.

    Args:
        logits: Logits or log-probabilities.
        y: Labels, (batch,).
        target: Classes to reach, (batch,); none for the untargeted form.

    >>> dlr(torch.tensor([[5.0, 3.0, 1.0, 1.0]]), torch.tensor([0]))
    tensor([-0.5000])
    """
    masked = logits == -math.inf  # such classes rank last, and do not stretch the scale
    lowest = logits.detach().masked_fill(masked, math.inf).amin(-1, keepdim=True)
    logits = torch.where(masked, lowest, logits)
    ranked = logits.sort(dim=-1, descending=True).values
    classes = logits.shape[-1]
    if target is None:
        difference = lead(logits, y)
        scale = ranked[:, 0] - ranked[:, 2] if classes > 2 else torch.ones_like(difference)
    else:
        own, aim = logits.gather(1, y[:, None]), logits.gather(1, target[:, None])
        difference = (own - aim).squeeze(1)
        far = ranked[:, 2:4].mean(1) if classes > 3 else ranked[:, 0] - 1
        scale = ranked[:, 0] - far
    return -difference / (scale + 1e-12)


def reweighted(logits: Float[Tensor, "member batch classes"], y: Tensor) -> Float[Tensor, "batch"]:
    """Cross-entropy of a mean logit in which the members that are still right weigh more.

    Summed over diverse members, the gradients of their losses cancel. After the idea of
    model-reweighing attacks (MORA, NeurIPS 2022; its code was not used) each member is given a
    weight at each image and step, here softmax_i(lead_i / mean_j |lead_j|): effort goes to the
    members that hold the label up, and since their logits are mixed, not their losses, all are
    driven towards one common wrong class. The weights do not depend on the logits' scale; for a
    single member it is its cross-entropy.

    >>> reweighted(torch.tensor([[[2.0, 0.0]]]), torch.tensor([0]))
    tensor([0.1269])
    """
    leads = lead(logits.detach(), y)
    scale = leads.abs().mean(0).clamp(min=torch.finfo(leads.dtype).tiny)
    weight = torch.softmax(leads / scale, dim=0)
    return cross_entropy((weight.unsqueeze(-1) * logits).sum(0), y)
