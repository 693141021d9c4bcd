"""Equations 6 to 9 of Kariyappa and Qureshi (2019), from input gradients to the training loss.

    J_i = cross-entropy of member i,   g_i = grad_x J_i            input_gradients
    CS(a, b) = <g_a, g_b> / (|g_a| |g_b|)                 (Eq. 6)  pairwise_cosine
    coherence = max over pairs of CS                      (Eq. 7)  coherence
    GAL = log sum over pairs of exp CS                    (Eq. 8)  gradient_alignment_loss
    loss = mean over x of [ mean_i J_i + lambda GAL ]     (Eq. 9)  diversity_loss

Half-precision inputs are computed in float32 here, also under autocast; float64 stays float64.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from divtrain.checks import check_images, check_label_shape, check_labels
from divtrain.ensemble import HasMembers, reach
from divtrain.errors import DivtrainError, warn_once
from divtrain.forward import Batch, MemberPass, member_pass

Criterion = Callable[[Tensor, Tensor], Tensor]
"""Logits of one member, (batch, class), and labels to a scalar or one value per image."""

VANISHING = 1e-30
"""An input gradient whose largest entry is below this counts as vanished: every CS with it is 0.

Not lower, since the derivative of CS divides by the gradient and must stay within float32."""

VANISHING_SHARE = 0.01
"""Share of vanished input gradients from which on there is a warning."""
VANISHING_WARNING = (
    "over 1 % of the input gradients vanished, of which alignment says nothing (see `vanishing` in"
    " the loss or the history): the members are confident beyond 69 nats, compute in float16, or"
    " round their images, which leaves no gradient; use float32 or bfloat16, or smaller logits"
)


def input_gradients(
    ens: HasMembers | DistributedDataParallel, x: Tensor, y: Tensor, create_graph: bool = False
) -> Float[Tensor, "member batch feature"]:
    """Gradient of each member's per-example cross-entropy with respect to the input, flattened.

    Works under `torch.no_grad()` and `torch.inference_mode()`. With batch norm in train mode the
    examples of a batch mix and the gradients are approximate; use eval mode to measure.

    Args:
        ens: An `Ensemble`.
        x: Images in [0, 1], (batch, channel, height, width), of floating point.
        y: Labels, (batch,), int64; or soft ones, (batch, class).
        create_graph: Whether the gradients will be differentiated again, in a loss of them.

    Raises:
        DivtrainError: for images or labels of another kind.
    """
    with torch.inference_mode(False), torch.enable_grad():
        forward = _checked_pass(ens, x, y, create_graph)
        return forward.input_gradients(create_graph=create_graph)


def _checked_pass(ens: object, x: Tensor, y: Tensor, create_graph: bool) -> MemberPass:
    found = reach(ens, shared=create_graph)
    if not isinstance(found, HasMembers):
        wrapped = next((n for n in ("module", "_orig_mod") if hasattr(ens, n)), "")
        hint = f"give what is in its .{wrapped}" if wrapped else "wrap your modules:"
        hint += "" if wrapped else " divtrain.Ensemble([net_a, net_b])"
        raise DivtrainError(f"expected an Ensemble, got {type(ens).__name__}; {hint}")
    check_images(x)
    check_label_shape(y, len(x), soft=True)
    # A label made under inference_mode cannot be saved for the backward pass: clone it here.
    forward = member_pass(found, Batch(x, y.clone()), create_graph=create_graph)
    check_labels(y, len(x), forward.logits.shape[-1], soft=True)
    return forward


def pairwise_cosine(g: Tensor) -> Float[Tensor, "batch pair"]:
    """Cosine similarity of every unordered pair of members (Eq. 6), in [-1, 1].

    Pairs come in the order (0, 1), (0, 2), ..., (N-2, N-1). A vanished gradient (largest entry
    below 1e-30) has cosine 0 with every other and gets no gradient.

    Args:
        g: Input gradients, (member, batch, feature).

    Raises:
        DivtrainError: for another shape, or fewer than two members.

    >>> g = torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]], [[-3.0, 0.0]]])
    >>> pairwise_cosine(g)
    tensor([[ 0., -1.,  0.]])
    """
    if g.ndim != 3 or g.shape[0] < 2:
        raise DivtrainError(
            "expected input gradients of shape (member, batch, feature) with at least 2 members,"
            f" got {tuple(g.shape)}; alignment is a property of pairs"
        )
    with torch.autocast(g.device.type, enabled=False):
        g = g.to(torch.promote_types(g.dtype, torch.float32))
        gone = vanished(g)
        # CS ignores scale: dividing by the largest entry first keeps tiny gradients from
        # underflowing when squared. The scale is a constant to autograd, which changes nothing.
        scale = g.detach().abs().amax(-1, keepdim=True).masked_fill(gone, 1.0)
        unit = F.normalize((g / scale).masked_fill(gone, 0.0), dim=-1)
        gram = torch.einsum("abf,cbf->bac", unit, unit)
    first, second = torch.triu_indices(len(g), len(g), offset=1, device=g.device)
    return gram[:, first, second].clamp(-1.0, 1.0)


def coherence(g: Float[Tensor, "member batch feature"]) -> Float[Tensor, "batch"]:
    """Largest cosine similarity over the pairs (Eq. 7), in [-1/(N-1), 1].

    >>> coherence(torch.eye(3).unsqueeze(1))
    tensor([0.])
    """
    return pairwise_cosine(g).amax(-1)


def gradient_alignment_loss(
    g: Float[Tensor, "member batch feature"], temperature: float = 1.0
) -> Float[Tensor, "batch"]:
    """Gradient Alignment Loss: temperature * log sum over pairs of exp(CS / temperature) (Eq. 8).

    The paper has no temperature (1.0). A lower one follows the maximum more closely:
    coherence <= GAL <= coherence + temperature * log(number of pairs).

    >>> gradient_alignment_loss(torch.ones(5, 1, 3, dtype=torch.float64)).item()  # 1 + log 10
    3.302585092994046
    """
    if not isinstance(temperature, (Real, Tensor)) or not 0 < temperature < math.inf:
        raise DivtrainError(
            f"expected a finite `temperature` above 0, got {temperature!r}; the paper's is 1"
        )
    return temperature * torch.logsumexp(pairwise_cosine(g) / temperature, dim=-1)


def vanished(g: Tensor) -> Tensor:
    """Which input gradients, (..., feature), count as vanished; (..., 1)."""
    return g.detach().abs().amax(-1, keepdim=True).float() < VANISHING


@dataclass(frozen=True)
class Alignment:
    """How aligned the input gradients of one batch are, each a scalar.

    Attributes:
        gal: Mean GAL over the examples; carries the gradient.
        coherence: Mean coherence over the examples, for the log; no gradient.
        vanishing: Fraction of (member, example) gradients that vanished, for the log; they say
            nothing about alignment, so it should be 0.
    """

    gal: Tensor
    coherence: Tensor
    vanishing: Tensor


def alignment(g: Float[Tensor, "member batch feature"], temperature: float = 1.0) -> Alignment:
    """Return GAL, coherence and the fraction of vanished gradients, averaged over the batch."""
    return Alignment(
        gal=gradient_alignment_loss(g, temperature).mean(),
        coherence=coherence(g.detach()).mean(),
        vanishing=vanished(g).float().mean(),
    )


@dataclass(frozen=True)
class DiversityLoss(Alignment):
    """Eq. 9 on one batch, each a scalar but for the logits.

    Attributes:
        total: cross_entropy + gal_weight * gal; call `.total.backward()`.
        cross_entropy: Mean over members and examples; of the criterion, if one was given.
        logits: Of every member, (member, batch, class), for terms and measures of your own.
    """

    total: Tensor
    cross_entropy: Tensor
    logits: Tensor


def diversity_loss(
    ens: HasMembers | DistributedDataParallel,
    x: Tensor,
    y: Tensor,
    gal_weight: float = 0.5,
    temperature: float = 1.0,
    criterion: Criterion | None = None,
) -> DiversityLoss:
    """Diversity Training's loss (Eq. 9) on one batch, from one forward pass per member.

    Args:
        ens: An `Ensemble` of at least two members, in the mode you train in; bare, or wrapped by
            `DistributedDataParallel` or Fabric, whose processes share the gradients as usual.
        x: Images in [0, 1], (batch, channel, height, width).
        y: Labels, (batch,); or soft ones (mixup), of floating point, (batch, class), each row a
            distribution.
        gal_weight: The paper's lambda; 0.5 there.
        temperature: See `gradient_alignment_loss`.
        criterion: What to train each member by in place of plain cross-entropy, a function of its
            logits and `y`, such as ``nn.CrossEntropyLoss(weight=w, label_smoothing=0.1)``; a scalar
            or one value per image. Input gradients stay those of plain cross-entropy at `y`.

    Raises:
        DivtrainError: for fewer than two members, under `torch.no_grad()`, and for images and
            labels as `input_gradients` does.
    """
    if not torch.is_grad_enabled():
        raise DivtrainError(
            "diversity_loss needs gradients, but they are disabled here; call it outside"
            " torch.no_grad(), or use input_gradients and coherence to measure"
        )
    if not isinstance(gal_weight, (Real, Tensor)) or not 0 <= gal_weight < math.inf:
        raise DivtrainError(
            f"expected a finite `gal_weight` >= 0, got {gal_weight!r}; the paper's is 0.5, and"
            " a negative one would align the members"
        )
    if isinstance(ens, HasMembers) and len(ens.members) < 2:
        raise DivtrainError(
            "expected an ensemble of at least 2 members, got 1: alignment is a property of pairs"
        )
    forward = _checked_pass(ens, x, y, create_graph=True)
    aligned = alignment(forward.input_gradients(create_graph=True), temperature)
    if aligned.vanishing > VANISHING_SHARE:
        warn_once(VANISHING_WARNING)
    if criterion is None:
        cross = forward.losses.mean()
    else:
        cross = torch.stack([_mean_of(criterion, each, y) for each in forward.logits]).mean()
    total = cross + gal_weight * aligned.gal
    return DiversityLoss(**vars(aligned), total=total, cross_entropy=cross, logits=forward.logits)


def _mean_of(criterion: Criterion, logits: Tensor, y: Tensor) -> Tensor:
    if isinstance(criterion, type) or not callable(criterion):
        raise DivtrainError(
            "expected `criterion` to be a function of (logits, labels), such as"
            f" torch.nn.CrossEntropyLoss(label_smoothing=0.1), got {criterion!r}"
        )
    values = criterion(logits.clone(), y)
    if not isinstance(values, Tensor):
        raise DivtrainError(
            "expected `criterion` to return a tensor, a scalar or one value per image, got"
            f" {type(values).__name__}"
        )
    return values.mean()
