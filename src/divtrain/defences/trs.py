"""Transferability Reduced Smooth ensembles: orthogonal and short input gradients."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from divtrain.cross_entropy import trusted_cross_entropy
from divtrain.defences.base import Defence
from divtrain.defences.crafted import Crafted
from divtrain.defences.crafters import Crafter, Moment, ascend, uniform_noise
from divtrain.defences.terms import CrossEntropy, GradientTerm, Term, check_weight
from divtrain.ensemble import Ensemble
from divtrain.errors import DivtrainError
from divtrain.forward import Where
from divtrain.gal import pairwise_cosine

PUBLISHED_BATCH = 128
"""Images per batch of the published settings, on which the meaning of its lambda_b depends."""


@dataclass(frozen=True)
class AbsoluteCosine(GradientTerm):
    """Mean over examples and pairs of the absolute cosine (Eq. 6), times weight / N.

    Unlike GAL it aims at orthogonal input gradients, not at opposed ones. The paper sums the
    cross-entropies of the N members; ours is their mean, hence the N.

    Attributes:
        weight: The paper's lambda_a.
        where: At which images.
    """

    weight: float = 10.0

    def measure(self, g: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted mean, and the mean to log."""
        value = pairwise_cosine(g).abs().mean()
        return self.weight / len(g) * value, {"absolute_cosine": value.detach()}


@dataclass(frozen=True)
class GradientNorm(GradientTerm):
    """Mean over examples and members of |g_i|^2, the squared input gradient, times weight / N.

    g_i is the gradient of each example's own cross-entropy, so the size of the batch does not
    matter. The paper takes 2 lambda_b |g_i / B|^2, with the gradient of a batch's mean loss: the
    weight here is 2 lambda_b / B^2. As for `AbsoluteCosine`, the N is that of a mean cross-entropy.

    Attributes:
        weight: Beside the sum of the members' cross-entropies; 3.1e-4 is lambda_b = 2.5 at B = 128.
        where: At which images, such as ``Where("given")``.
    """

    def measure(self, g: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted mean, and the mean to log."""
        value = g.square().sum(-1).mean()
        name = "gradient_norm" if self.where.part != "crafted" else "crafted_gradient_norm"
        return self.weight / len(g) * value, {name: value.detach()}


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
        super().__post_init__()
        check_weight("trs_cosine", self.trs_cosine)
        check_weight("trs_norm", self.trs_norm)

    @property
    def norm_weight(self) -> float:
        """Weight of the squared gradient of each image's own loss."""
        return 2 * self.trs_norm / PUBLISHED_BATCH**2

    def cost(self, members: int) -> float:
        """As of Div."""
        return 2.0

    @property
    def terms(self) -> tuple[Term, ...]:
        """Cross-entropy, absolute cosine and squared length."""
        return (CrossEntropy(), AbsoluteCosine(self.trs_cosine), GradientNorm(self.norm_weight))


@dataclass(frozen=True)
class RoughPoints:
    """Points near the images where the members' input gradients are long.

    From a random start in the ball, `steps` signed steps of a third of the radius make the mean
    over members of |g_i|^2 grow: a gradient of a gradient. The radius grows linearly over the
    training, from a third of `eps`.

    Attributes:
        eps: Largest radius, in pixel units.
        steps: Gradient steps.
        share: See `divtrain.defences.crafters.Crafter`.
        warm_up: See there.
        adds: See there; here the images they are made from stay.
    """

    eps: float
    steps: int = 6
    share: float = 0.5
    warm_up: float = 0.0
    adds: bool = True

    def __call__(
        self, ens: Ensemble, x: Tensor, y: Tensor, here: slice, moment: Moment
    ) -> tuple[Float[Tensor, "image channel height width"], Tensor]:
        """Return one point near each image, the same for all members."""
        radius = self.eps * (1 + 2 * moment.step / moment.steps) / 3
        noise = uniform_noise(x.shape, x, moment.generator(x.device))[here]
        x, y = x[here], y[here]

        def roughness(z: Tensor) -> Tensor:
            copies = z.expand(len(ens), *z.shape).clone()
            loss = trusted_cross_entropy(ens.member_logits(copies), y).sum()
            (g,) = torch.autograd.grad(loss, copies, create_graph=True)
            return g.flatten(2).square().sum(-1)

        return ascend(roughness, x, x + radius * noise, radius, self.steps, radius / 3), y


@dataclass(frozen=True, kw_only=True)
class TRS(TRSL2, Crafted):
    """TRS in full (Yang et al. 2021, arXiv 2104.00671), on D'.

    Cross-entropy and absolute cosine at the images, the squared length half at images and half at
    `RoughPoints` made from the last half of each batch and added to it. The authors' radius grows
    from 0.1 to 0.2 on MNIST and from 0.01 to 0.03 on CIFAR-10, here from a third of `crafted_eps`;
    their steps follow the sum of all gradients since the start, by an oversight, ours do not.

    Cost: 7 plain steps.

    Attributes:
        crafted_steps: Gradient steps to a rough point.
    """

    crafted_eps: float = 0.2
    warm_up: float = 0.0
    crafted_steps: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crafted_steps < 1:
            raise DivtrainError(f"expected `crafted_steps` >= 1, got {self.crafted_steps!r}")

    @property
    def crafter(self) -> Crafter:
        """What makes the rough points."""
        eps, steps = self.crafted_eps, self.crafted_steps
        return RoughPoints(eps, steps, self.crafted_share, self.warm_up)

    def cost(self, members: int) -> float:
        """Return 2 per image and rough point, and their steps: forward, backward and through it."""
        share = (1 - self.warm_up) * self.crafted_share
        return 2 + share * (2 + 4 * self.crafted_steps / 3)

    @property
    def terms(self) -> tuple[Term, ...]:
        """As in `TRSL2`, and half of the squared length at the rough points."""
        half = self.norm_weight / 2
        return (
            CrossEntropy(part="given"),
            AbsoluteCosine(self.trs_cosine, Where("given")),
            GradientNorm(half, Where("given")),
            GradientNorm(half, Where("crafted")),
        )
