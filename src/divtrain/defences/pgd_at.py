"""Adversarial training of the ensemble, or of each of its members."""

from dataclasses import dataclass
from typing import get_args

from divtrain.defences.crafted import Crafted, CraftedDiv, CraftedNoise
from divtrain.defences.crafters import Attacked, Crafter, PGDExamples, RadiusLaw
from divtrain.errors import DivtrainError, unknown_name


@dataclass(frozen=True, kw_only=True)
class PGDAT(Crafted):
    """Adversarial training (Madry et al. 2018), with `crafted_share` of each batch adversarial.

    The upper reference for every other defence, and the one that is robust to an attacker with the
    weights. Madry et al. train on adversarial examples alone, MNIST at eps 0.3 with 40 steps of
    0.01, CIFAR-10 at 8/255 with 7 to 10 steps of 2/255; with `crafted_steps` 1 it is the fast form
    of Wong et al. (2020), one step of 1.25 eps from a random start. A smaller share costs less
    clean accuracy.

    Cost: 1 + share (2 steps) / 3 plain steps: 1.3 with one step on half of the images, 5.7 with
    seven on all.

    Attributes:
        crafted_steps: Gradient steps from a uniform random start.
        attacked: ``ensemble``: examples that fool the mean softmax, the same for all members;
            ``member``: each member's own.
        crafted_radius: ``fixed``: `crafted_eps`; ``uniform``: each image its own, in
            [0, crafted_eps].
    """

    crafted_share: float = 1.0
    warm_up: float = 0.0
    crafted_steps: int = 7
    attacked: Attacked = "ensemble"
    crafted_radius: RadiusLaw = "fixed"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crafted_steps < 1:
            raise DivtrainError(f"expected `crafted_steps` >= 1, got {self.crafted_steps!r}")
        for name, kind in (("attacked", Attacked), ("crafted_radius", RadiusLaw)):
            if getattr(self, name) not in get_args(kind):
                raise unknown_name(name, getattr(self, name), get_args(kind))

    @property
    def crafting_cost(self) -> float:
        """A forward and a backward pass for each step."""
        return 2 * self.crafted_steps

    @property
    def crafter(self) -> Crafter:
        """What makes the examples."""
        return PGDExamples(
            self.crafted_eps,
            self.crafted_steps,
            self.attacked,
            self.crafted_radius,
            self.crafted_share,
            self.warm_up,
        )


@dataclass(frozen=True, kw_only=True)
class PGDATNoise(PGDAT, CraftedNoise):
    """PGDAT of half of each batch, half of all images noisy before any is attacked."""

    crafted_share: float = 0.5


@dataclass(frozen=True, kw_only=True)
class PGDATDiv(PGDAT, CraftedDiv):
    """PGDATNoise, with GAL on the images that are not adversarial.

    Cost: that of PGDAT, and 1 plain step on those images for GAL.
    """

    crafted_share: float = 0.5
