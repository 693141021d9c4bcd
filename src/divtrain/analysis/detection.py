"""Detection of unusual inputs, adversarial or out of distribution, by a score (section 6).

A score is one number per image, higher for a more suspicious one. A *positive* is an unusual
input, a *negative* a clean test image; AUROC is the probability that the former scores higher.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from divtrain.checks import check_images
from divtrain.ensemble import Ensemble, aggregate_logits
from divtrain.errors import DivtrainError
from divtrain.gal import coherence, input_gradients
from divtrain.module_state import device_of, eval_mode

InputThreat = Literal["clean", "outside", "transfer", "white-box"]

TITLES = {
    "max_softmax": "1 - max softmax",
    "disagreement": "disagreement",
    "incoherence": "incoherence",
}
"""The scores, as reports call them."""


@dataclass(frozen=True)
class InputKind:
    """A kind of inputs.

    Attributes:
        threat: ``clean``; ``outside`` (of the training distribution); adversarial ones crafted on
            the surrogate (``transfer``) or on the target itself (``white-box``).
        name: ``clean``, what is outside, or the attack.
        eps: L-infinity radius in [0, 1] pixel units; 0 where nothing was attacked.
    """

    threat: InputThreat
    name: str
    eps: float = 0.0


def max_softmax(probabilities: Float[Tensor, "member batch classes"]) -> Float[Tensor, "batch"]:
    """1 minus the largest entry of the mean softmax, in [0, 1).

    Summed over the other classes, which keeps the digits of a confident answer.

    >>> max_softmax(torch.tensor([[[0.75, 0.25]], [[0.25, 0.75]]]))
    tensor([0.5000])
    """
    return probabilities.mean(0).sort(-1).values[:, :-1].sum(-1)


def disagreement(probabilities: Float[Tensor, "member batch classes"]) -> Float[Tensor, "batch"]:
    """Jensen-Shannon divergence of the members' answers, in nats: 0 where they agree.

    The mean over members of KL(p_i || mean of all), which is the entropy of the mean minus the mean
    of the entropies; at most log of the number of members.

    >>> disagreement(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))  # log 2
    tensor([0.6931])
    """
    mean = probabilities.mean(0).clamp_min(torch.finfo(probabilities.dtype).tiny)
    divergence = torch.xlogy(probabilities, probabilities) - torch.xlogy(probabilities, mean)
    return divergence.sum(-1).mean(0).clamp_min(0)


def incoherence(ens: Ensemble, x: Tensor, y: Tensor) -> Float[Tensor, "batch"]:
    """Minus the coherence (Eq. 7) of the input gradients, in [-1, 1/(N-1)]; ours, not the paper's.

    GAL lowers the coherence itself, of which the disagreement of the answers is a consequence at
    best. A score may not know labels: pass the ensemble's own answers as `y`.
    """
    return -coherence(input_gradients(ens, x, y))


ANSWERS: dict[str, Callable[[Tensor], Tensor]] = {
    "max_softmax": max_softmax,
    "disagreement": disagreement,
}
"""Scores of the members' answers alone; `incoherence` needs their gradients."""


def detection_scores(
    ens: Ensemble, x: Tensor, batch_size: int = 256
) -> tuple[dict[str, Tensor], Tensor]:
    """Score images in eval mode.

    Args:
        ens: At least two members, on the device to compute on.
        x: Images in [0, 1], (image, channel, height, width).
        batch_size: Images at a time; has no influence on the result.

    Returns:
        Each score of `TITLES`, (image,), float64, and the classes the ensemble answers, (image,);
        on the CPU.
    """
    check_images(x)
    found: dict[str, list[Tensor]] = {name: [] for name in (*TITLES, "answer")}
    device = device_of(ens)
    with eval_mode(ens):
        for part in x.split(batch_size):
            images = part.to(device)
            with torch.no_grad():
                logits = ens.member_logits(images)
            answer = aggregate_logits(logits, ens.aggregate).argmax(-1)
            probabilities = logits.cpu().double().softmax(-1)
            for name, score in ANSWERS.items():
                found[name].append(score(probabilities))
            found["incoherence"].append(incoherence(ens, images, answer).cpu().double())
            found["answer"].append(answer.cpu())
    whole = {name: torch.cat(parts) for name, parts in found.items()}
    return {name: whole[name] for name in TITLES}, whole["answer"]


@dataclass(frozen=True)
class Detection:
    """How well a score tells positives from negatives.

    Attributes:
        auroc: Area under the ROC curve, in [0, 1]; 0.5 is chance.
        interval: Of 95 % for it, see `auroc_interval`.
        fpr95: Share of the negatives that are flagged where 95 % of the positives are.
        positives: Unusual inputs.
        negatives: Clean images.
    """

    auroc: float
    interval: tuple[float, float]
    fpr95: float
    positives: int
    negatives: int


def detect(positives: Float[Tensor, "positive"], negatives: Float[Tensor, "negative"]) -> Detection:
    """Compare a score at unusual inputs with the same score at clean ones.

    Raises:
        DivtrainError: for no positives, no negatives, or scores that are NaN.

    >>> detect(torch.tensor([0.8, 0.6]), torch.tensor([0.1, 0.7])).auroc
    0.75
    """
    from sklearn.metrics import roc_auc_score  # here: it takes longer to import than torch

    truth, scores = _labelled(positives, negatives)
    auroc = float(roc_auc_score(truth, scores))
    false, true = roc_curve(positives, negatives)
    fpr95 = false[true >= 0.95].min().item()
    interval = auroc_interval(auroc, len(positives), len(negatives))
    return Detection(auroc, interval, fpr95, len(positives), len(negatives))


def roc_curve(positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """Return the points of the ROC curve: false and true positive rates, ascending, float64."""
    from sklearn import metrics  # here: it takes longer to import than torch

    truth, scores = _labelled(positives, negatives)
    false, true, _ = metrics.roc_curve(truth, scores, drop_intermediate=False)
    return torch.from_numpy(false), torch.from_numpy(true)


def auroc_interval(auroc: float, positives: int, negatives: int) -> tuple[float, float]:
    """Interval of 95 % for an AUROC by inverting a score test: wider than a point at 0 and 1 too.

    Method 5 of Newcombe, "Confidence intervals for an effect size measure based on the Mann-Whitney
    statistic, part 2" (2006), with the variance of Hanley and McNeil (1982). It takes all inputs to
    be independent, which adversarial examples of the clean images among the negatives are not.

    >>> low, high = auroc_interval(1.0, 50, 50)
    >>> round(low, 3), high
    (0.96, 1.0)
    """
    other = (positives + negatives) / 2 - 1

    def outside(value: float) -> bool:
        spread = 1 + other * ((1 - value) / (2 - value) + value / (1 + value))
        variance = value * (1 - value) * spread / (positives * negatives)
        return (auroc - value) ** 2 > 1.96**2 * variance

    return _edge(outside, 0.0, auroc), _edge(outside, 1.0, auroc)


def _edge(outside: Callable[[float], bool], far: float, near: float) -> float:
    """Where an interval that holds `near` ends on the way to `far`, by halving."""
    if near == far:
        return far
    for _ in range(60):
        middle = (far + near) / 2
        far, near = (middle, near) if outside(middle) else (far, middle)
    return near


def _labelled(positives: Tensor, negatives: Tensor) -> tuple[list[int], list[float]]:
    scores = [*positives.tolist(), *negatives.tolist()]
    if not len(positives) or not len(negatives) or any(map(math.isnan, scores)):
        raise DivtrainError(
            "expected scores of at least one unusual and one clean input, none of them NaN, got"
            f" {len(positives)} and {len(negatives)}"
        )
    return [1] * len(positives) + [0] * len(negatives), scores
