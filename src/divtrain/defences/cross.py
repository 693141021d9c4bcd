"""Cross training: every member learns examples that lead other members' features astray."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from divtrain.defences.crafted import Crafted, CraftedDiv, CraftedNoise
from divtrain.defences.crafters import Crafter, Moment, ascend, radii, uniform_noise
from divtrain.defences.features import layer_output
from divtrain.ensemble import Ensemble


@dataclass(frozen=True)
class FeaturesAway:
    """One signed step away from an image's own features, inside another member.

    Every member crafts for every image: from a uniform start in the ball one step of 1.25 radii
    that moves the features of one layer away from those of the image. The layer is drawn for each
    step, the same relative depth in all members. Member i is given the example of another member,
    drawn for each image. No label is used, so none can leak.

    Attributes:
        eps: Largest radius, in pixel units; each image has its own, uniform in [0, eps].
        share: See `divtrain.defences.crafters.Crafter`.
        warm_up: See there.
        adds: See there.
    """

    eps: float
    share: float = 0.5
    warm_up: float = 0.1
    adds: bool = False

    def __call__(
        self, ens: Ensemble, x: Tensor, y: Tensor, here: slice, moment: Moment
    ) -> tuple[Float[Tensor, "member image channel height width"], Tensor]:
        """Return each member's own examples, one of each image."""
        generator, count = moment.generator(x.device), len(ens)
        radius = radii("uniform", self.eps, x, generator)
        start = x + radius * uniform_noise((count, *x.shape), x, generator)
        shift = torch.randint(1, count, (len(x),), generator=generator, device=x.device)[here]
        x, y, start, radius = x[here], y[here], start[:, here], radius[here]
        depth = draw_depth(moment)
        with torch.no_grad():
            own = [layer_output(member, x, depth) for member in ens.members]

        def distance(z: Tensor) -> Tensor:
            return feature_distance(ens, z, own, depth)

        z = ascend(distance, x, start, radius, 1, 1.25 * radius)
        return of_another(z, shift), y


def draw_depth(moment: Moment) -> float:
    """Return a relative depth of a layer, uniform in (0, 1]."""
    return 1 - torch.rand((), generator=moment.generator(purpose=2)).item()


def feature_distance(
    ens: Ensemble, z: Tensor, features: list[Tensor], depth: float
) -> Float[Tensor, "member image"]:
    """Return the mean squared distance of each member's features at its own images to given ones.

    Args:
        ens: The members.
        z: Images, one set per member.
        features: Of each member, (image, feature).
        depth: Of the layer, see `divtrain.defences.features.layer_output`.
    """
    found = [layer_output(net, own, depth) for net, own in zip(ens.members, z, strict=True)]
    pairs = zip(found, features, strict=True)
    return torch.stack([(_precise(a) - _precise(b)).square().mean(1) for a, b in pairs])


def _precise(features: Tensor) -> Tensor:
    """Half precision, from autocast, as float32."""
    return features.to(torch.promote_types(features.dtype, torch.float32))


def of_another(z: Tensor, shift: Tensor) -> Tensor:
    """Return for member i at image n the example of member (i + shift[n]) modulo the members.

    >>> z = torch.arange(3).expand(1, 3).T  # member m's example of the one image is m
    >>> of_another(z, torch.tensor([1]))
    tensor([[1],
            [2],
            [0]])
    """
    member = torch.arange(len(z), device=z.device).unsqueeze(1)
    return z[(member + shift) % len(z), torch.arange(z.shape[1], device=z.device)]


@dataclass(frozen=True, kw_only=True)
class Cross(Crafted):
    """Cross training in feature space: the core of FASTEN (Huang et al. 2023).

    Each member learns, with the true label, what one step of `FeaturesAway` makes of another
    member's features. FASTEN crafts between two members drawn per batch, draws the layer per epoch,
    mixes in a memory of past perturbations, and adds a consistency loss whose term between members
    has no gradient as published; none of that is here. Its radius on CIFAR-10 is 0.06.

    Cost: 1.3 plain steps with half of the images.
    """

    least_members: ClassVar[int] = 2

    @property
    def crafting_cost(self) -> float:
        """A forward pass of the image, and one and back of the example, up to a layer."""
        return 1.5

    @property
    def crafter(self) -> Crafter:
        """What makes the examples."""
        return FeaturesAway(self.crafted_eps, self.crafted_share, self.warm_up)


@dataclass(frozen=True, kw_only=True)
class CrossNoise(Cross, CraftedNoise):
    """Cross, half of the images noisy before any is crafted from."""


@dataclass(frozen=True, kw_only=True)
class CrossDiv(Cross, CraftedDiv):
    """CrossNoise, with GAL on the images that are not crafted.

    Cost: 1.8 plain steps.
    """
