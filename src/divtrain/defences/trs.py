"""Transferability Reduced Smooth ensembles: orthogonal and short input gradients."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from divtrain.defences.base import Defence
from divtrain.defences.terms import EVERYWHERE, CrossEntropy, Term, check_weight
from divtrain.forward import MemberPass, Where
from divtrain.gal import pairwise_cosine

PUBLISHED_BATCH = 128
"""Images per batch of the published settings, on which the meaning of its lambda_b depends."""


@dataclass(frozen=True)
class AbsoluteCosine:
    """Mean over examples and pairs of the absolute cosine (Eq. 6), times weight / N.

    Unlike GAL it aims at orthogonal input gradients, not at opposed ones. The paper sums the
    cross-entropies of the N members; ours is their mean, hence the N.

    Attributes:
        weight: The paper's lambda_a.
        where: At which images.
    """

    weight: float = 10.0
    where: Where = EVERYWHERE

    def __post_init__(self) -> None:
        check_weight("weight", self.weight)

    def gradients_at(self, step: int) -> Where:
        """At its images, in every step."""
        return self.where

    def __call__(self, forward: MemberPass, step: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted mean, and the mean to log."""
        g = forward.input_gradients(self.where, create_graph=True)
        value = pairwise_cosine(g).abs().mean()
        return self.weight / len(g) * value, {"absolute_cosine": value.detach()}


@dataclass(frozen=True)
class GradientNorm:
    """Mean over examples and members of |g_i|^2, the squared input gradient, times weight / N.

    g_i is the gradient of each example's own cross-entropy, so the size of the batch does not
    matter. The paper takes 2 lambda_b |g_i / B|^2, with the gradient of a batch's mean loss: the
    weight here is 2 lambda_b / B^2. As for `AbsoluteCosine`, the N is that of a mean cross-entropy.

    Attributes:
        weight: Beside the sum of the members' cross-entropies; 3.1e-4 is lambda_b = 2.5 at B = 128.
        where: At which images, such as ``Where("given")``.
    """

    weight: float
    where: Where = EVERYWHERE

    def __post_init__(self) -> None:
        check_weight("weight", self.weight)

    def gradients_at(self, step: int) -> Where:
        """At its images, in every step."""
        return self.where

    def __call__(self, forward: MemberPass, step: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted mean, and the mean to log."""
        g = forward.input_gradients(self.where, create_graph=True)
        with torch.autocast(g.device.type, enabled=False):
            g = g.to(torch.promote_types(g.dtype, torch.float32))
            value = g.square().sum(-1).mean()
        return self.weight / len(g) * value, {"gradient_norm": value.detach()}


@dataclass(frozen=True)
class TRSL2(Defence):
    """TRS without its inner loop (Yang et al. 2021, arXiv 2104.00671), on D'.

    The paper's ablation "cos-l2": the gradient's length at the images themselves, not at the
    roughest points around them. Settings, for three members: lambda_a and lambda_b of 10 and 10 on
    MNIST (the script of its code; a path there says 100 and 20), 40 and 2.5 on CIFAR-10 (an author,
    in issue 1 of its code). Those are for the full loss; none are published for this one.

    Cost: as of Div, 1.9 to 2.4 plain steps; both terms share the input gradients.

    Attributes:
        trs_cosine: The paper's lambda_a, the weight of the absolute cosine.
        trs_norm: The paper's lambda_b, the weight of the squared gradient of the mean loss of 128
            images, whatever the size of the batches here.
    """

    least_members: ClassVar[int] = 2
    trs_cosine: float = 10.0
    trs_norm: float = 10.0

    def __post_init__(self) -> None:
        check_weight("trs_cosine", self.trs_cosine)
        check_weight("trs_norm", self.trs_norm)

    @property
    def terms(self) -> tuple[Term, ...]:
        """Cross-entropy, absolute cosine and squared length."""
        norm = GradientNorm(2 * self.trs_norm / PUBLISHED_BATCH**2)
        return (CrossEntropy(), AbsoluteCosine(self.trs_cosine), norm)
