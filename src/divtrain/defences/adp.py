"""Adaptive Diversity Promoting: diverse wrong answers."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from divtrain.cross_entropy import trusted_label_mask
from divtrain.defences.base import Defence
from divtrain.defences.terms import CrossEntropy, Term, check_weight
from divtrain.errors import DivtrainError
from divtrain.forward import MemberPass

RIDGE = 1e-6
"""Added to the diagonal of the Gram matrix, so that its determinant is never 0 (the paper's)."""


@dataclass(frozen=True)
class PredictionDiversity:
    """Minus (alpha H + beta log det) / N: ADP's regulariser, a mean over examples.

    H is the entropy, in nats, of the mean softmax of the N members. The determinant is that of
    UU' + 1e-6 I, where row i of U is member i's softmax without the true class, scaled to length 1.
    The paper sums the members' cross-entropies; ours is their mean, hence the N. Takes no input
    gradients, and is computed in float32 at least.

    Attributes:
        alpha: Weight of the entropy, as in the paper.
        beta: Weight of the log determinant, as in the paper.
    """

    alpha: float = 2.0
    beta: float = 0.5

    def __post_init__(self) -> None:
        check_weight("alpha", self.alpha)
        check_weight("beta", self.beta)

    def gradients_at(self, step: int) -> None:
        """Nowhere: it takes no input gradients."""

    def __call__(self, forward: MemberPass, step: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum, and the mean entropy and log determinant to log.

        Raises:
            DivtrainError: for more members than wrong classes.
        """
        logits = forward.logits
        check_wrong_classes(len(logits), logits.shape[-1])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        entropy = _entropy_of_mean(logits).mean()
        # At the true class the softmax over the others is 0, which changes no product.
        wrong = logits.masked_fill(trusted_label_mask(logits, forward.batch.y), -math.inf)
        log_det = _log_det(F.normalize(wrong.softmax(-1), dim=-1)).mean()
        value = -(self.alpha * entropy + self.beta * log_det) / len(logits)
        return value, {"entropy": entropy.detach(), "log_det": log_det.detach()}


def _entropy_of_mean(logits: Tensor) -> Float[Tensor, "batch"]:
    log_mean = torch.logsumexp(logits.log_softmax(-1), 0) - math.log(len(logits))
    return -(log_mean.exp() * log_mean).sum(-1)


def _log_det(rows: Float[Tensor, "member batch classes"]) -> Float[Tensor, "batch"]:
    """Log determinant of UU' + 1e-6 I, for the rows of U.

    It is that of VV' with V = [U, 1e-3 I], and so twice the sum of the logs of the distances of
    each row of V from the span of those before it (Gram-Schmidt). With nearly equal rows, as at the
    start of a training, UU' in float32 has lost the determinant (errors of 0.4) and a tenth of its
    gradient; V has not.
    """
    members, batch, _ = rows.shape
    ridge = math.sqrt(RIDGE) * torch.eye(members, dtype=rows.dtype, device=rows.device)
    rest = torch.cat([rows, ridge.unsqueeze(1).expand(-1, batch, -1)], -1)
    total = rows.new_zeros(batch)
    while len(rest):
        distance = torch.linalg.vector_norm(rest[0], dim=-1)
        total = total + 2 * distance.log()
        unit = rest[0] / distance.unsqueeze(-1)
        rest = rest[1:] - (rest[1:] * unit).sum(-1, keepdim=True) * unit
    return total


def check_wrong_classes(members: int, classes: int) -> None:
    """Check that there is a wrong class for every member: else no rows of U are independent.

    Raises:
        DivtrainError: for more members.
    """
    if members > classes - 1:
        raise DivtrainError(
            f"expected at most {classes - 1} members for ADP on {classes} classes, one for each"
            f" wrong class, got {members}: more answers than that cannot be orthogonal; take fewer"
            " members, or another defence"
        )


@dataclass(frozen=True)
class ADP(Defence):
    """Adaptive Diversity Promoting (Pang et al. 2019, arXiv 1901.08846), on D'.

    The paper has alpha 2 and beta 0.5 for three ResNet20 on MNIST and on CIFAR-10 (confirmed by its
    code). More members than wrong classes are refused.

    Cost: 1 plain step.

    Attributes:
        adp_alpha: Weight of the entropy of the mean softmax; the paper's is 2. Without the log
            determinant it alone trains three members to put 0.59 on the true class of ten.
        adp_beta: Weight of the log determinant of the members' wrong answers; the paper's is 0.5.
    """

    least_members: ClassVar[int] = 2
    adp_alpha: float = 2.0
    adp_beta: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("adp_alpha", self.adp_alpha)
        check_weight("adp_beta", self.adp_beta)

    @property
    def terms(self) -> tuple[Term, ...]:
        """Cross-entropy and the regulariser."""
        return (CrossEntropy(), PredictionDiversity(self.adp_alpha, self.adp_beta))

    def check_classes(self, members: int, classes: int) -> None:
        """Check that there is a wrong class for every member."""
        check_wrong_classes(members, classes)
