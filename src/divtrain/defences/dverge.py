"""DVERGE: diversifying vulnerabilities."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from divtrain.defences.crafted import Crafted
from divtrain.defences.crafters import Crafter, Moment, ascend
from divtrain.defences.cross import draw_depth, feature_distance, of_another
from divtrain.defences.features import layer_output
from divtrain.ensemble import Ensemble
from divtrain.errors import DivtrainError, unknown_name

Partners = Literal["all", "one"]


@dataclass(frozen=True)
class FeatureTargets:
    """Images moved until one member takes their features for those of another image.

    From the image itself, `steps` signed steps with momentum 1 make the features of one layer of
    member j those of another image of the batch. The layer is drawn for each step, the same
    relative depth in all members. Member i is given the examples of all other members, or of one
    drawn for each image. No label is used.

    Attributes:
        eps: Radius, in pixel units.
        steps: Gradient steps of a tenth of the radius.
        partners: ``all``: N - 1 examples of each image for each of N members; ``one``: one, whose
            loss has the same mean.
        share: See `divtrain.defences.crafters.Crafter`.
        warm_up: See there.
        adds: See there.
    """

    eps: float
    steps: int = 10
    partners: Partners = "all"
    share: float = 1.0
    warm_up: float = 0.5
    adds: bool = False

    def __call__(
        self, ens: Ensemble, x: Tensor, y: Tensor, here: slice, moment: Moment
    ) -> tuple[Float[Tensor, "member example channel height width"], Tensor]:
        """Return each member's own examples, of every image N - 1 or one."""
        count, generator = len(ens), moment.generator(x.device)
        shift = torch.randint(1, count, (len(x),), generator=generator, device=x.device)[here]
        depth, targets = draw_depth(moment), x.roll(_distance(len(x), moment), 0)[here]
        x, y = x[here], y[here]
        with torch.no_grad():
            aims = [layer_output(member, targets, depth) for member in ens.members]

        def nearness(z: Tensor) -> Tensor:
            return -feature_distance(ens, z, aims, depth)

        start = x.expand(count, *x.shape)
        z = ascend(nearness, x, start, self.eps, self.steps, self.eps / 10, momentum=1.0)
        if self.partners == "one":
            return of_another(z, shift), y
        turns = [of_another(z, torch.full_like(shift, turn)) for turn in range(1, count)]
        return torch.cat(turns, 1), y.repeat(count - 1)


def _distance(images: int, moment: Moment) -> int:
    """How far along the batch an image's partner is, from 1 to images - 1."""
    if images < 2:
        raise DivtrainError(
            "expected at least 2 images per step to craft from, got 1: another image gives the"
            " features to aim at; raise `batch_size` or `crafted_share`"
        )
    return int(torch.randint(1, images, (), generator=moment.generator(purpose=1)))


@dataclass(frozen=True, kw_only=True)
class DVERGE(Crafted):
    """DVERGE (Yang et al. 2020): each member learns what fools the features of the others.

    The loss of member i is the cross-entropy, with the true label, on the examples that
    `FeatureTargets` makes in the other members; clean images are not trained on. The authors draw
    the layer once per epoch, craft in train mode, give each set its own batch statistics, and sum
    over partners where this is a mean, which Adam does not notice. They begin with plain training
    of as many epochs, here `warm_up`. Their CIFAR-10 radius is 0.07 with ten steps, SGD 0.1,
    200 + 200 epochs; 0.35 is used for MNIST.

    Cost with 3 members: 5.5 plain steps after the warm-up, 4.5 with one partner; with 5, 7.5 and
    4.5.

    Attributes:
        crafted_steps: Gradient steps, each a tenth of the radius.
        partners: ``all`` other members, or ``one`` drawn for each image.
    """

    least_members: ClassVar[int] = 2
    crafted_share: float = 1.0
    warm_up: float = 0.5
    crafted_steps: int = 10
    partners: Partners = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crafted_steps < 1:
            raise DivtrainError(f"expected `crafted_steps` >= 1, got {self.crafted_steps!r}")
        if self.partners not in get_args(Partners):
            raise unknown_name("partners", self.partners, get_args(Partners))

    @property
    def crafting_cost(self) -> float:
        """A forward pass of the other image, and one and back for each step, up to a layer."""
        return (1 + 2 * self.crafted_steps) / 2

    def cost(self, members: int) -> float:
        """As `Crafted` has it, and a plain step for each further example of an image."""
        examples = members - 1 if self.partners == "all" else 1
        further = (1 - self.warm_up) * self.crafted_share * (examples - 1)
        return super().cost(members) + further

    @property
    def crafter(self) -> Crafter:
        """What makes the examples."""
        return FeatureTargets(
            self.crafted_eps, self.crafted_steps, self.partners, self.crafted_share, self.warm_up
        )
