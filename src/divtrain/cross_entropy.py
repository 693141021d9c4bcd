"""Cross-entropy with input gradients exact on confident examples, and the mask of the label."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from divtrain.checks import check_label_shape, check_labels
from divtrain.errors import DivtrainError


def cross_entropy(
    logits: Float[Tensor, "*lead batch classes"], y: Tensor
) -> Float[Tensor, "*lead batch"]:
    """Per-example cross-entropy, with gradients that stay exact when the model is confident.

    Writes -log p_y as softplus(logsumexp_{j != y} z_j - z_y). The usual form loses 1 - p_y to
    rounding once the margin passes 17 nats in float32, and with it the direction of the input
    gradient; this one is accurate up to a margin of about 87 nats. (GAL itself counts a gradient
    as vanished from about 69 nats on, see `divtrain.gal.VANISHING`.)

    Args:
        logits: Logits or log-probabilities, in any float type; computed in float32 at least.
        y: Labels in [0, class), (batch,); or soft ones, of floating point, (batch, class), each row
            a distribution: the loss is then the mean over its classes.

    Raises:
        DivtrainError: for labels of another shape or dtype, or out of range.

    >>> cross_entropy(torch.tensor([[40.0, 0.0]]), torch.tensor([0])).item()
    4.24835413113866e-18
    """
    check_labels(y, logits.shape[-2], logits.shape[-1], soft=True)
    return trusted_cross_entropy(logits, y)


def trusted_cross_entropy(
    logits: Float[Tensor, "*lead batch classes"], y: Tensor
) -> Float[Tensor, "*lead batch"]:
    """`cross_entropy` of labels that were checked before: it does not wait for a device."""
    check_label_shape(y, logits.shape[-2], soft=True)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if y.ndim == 2:
        return _soft_cross_entropy(logits, y.to(logits.dtype))
    label = trusted_label_mask(logits, y)
    others = logits.masked_fill(label, -math.inf)
    # Where all other classes are masked by -inf the loss is 0, and so is its gradient.
    own = logits.masked_fill(~label, 0).sum(-1)
    alone = (others == -math.inf).all(-1) & own.isfinite()
    rest = torch.logsumexp(others.masked_fill(alone.unsqueeze(-1), 0), dim=-1)
    return F.softplus(rest - own).masked_fill(alone, 0)


def _soft_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-sum_c y_c log p_c, as -log p_k + sum_c y_c (z_k - z_c) for the likeliest label k."""
    if y.shape[-1] != logits.shape[-1]:
        raise DivtrainError(
            f"expected soft labels over the model's {logits.shape[-1]} classes, got shape"
            f" {tuple(y.shape)}"
        )
    likeliest = y.argmax(-1)
    own = logits.masked_fill(~trusted_label_mask(logits, likeliest), 0).sum(-1, keepdim=True)
    apart = (own - logits).masked_fill(y == 0, 0)  # where a class is masked by -inf, too
    return trusted_cross_entropy(logits, likeliest) + (y * apart).sum(-1)


def label_mask(
    logits: Float[Tensor, "*lead batch classes"], y: Tensor
) -> Bool[Tensor, "batch classes"]:
    """Where the true class is; raises as `cross_entropy` does."""
    check_labels(y, logits.shape[-2], logits.shape[-1])
    return trusted_label_mask(logits, y)


def trusted_label_mask(
    logits: Float[Tensor, "*lead batch classes"], y: Tensor
) -> Bool[Tensor, "batch classes"]:
    """`label_mask` of labels that were checked before: it does not wait for a device."""
    # Not one_hot, which on some devices reads the values once more.
    return y.unsqueeze(-1) == torch.arange(logits.shape[-1], device=y.device)
