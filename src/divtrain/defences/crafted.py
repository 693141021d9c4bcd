"""What the defences share that train on examples crafted from the ensemble itself."""

from dataclasses import dataclass

from divtrain.checks import check_eps
from divtrain.defences.base import Defence, WithNoise
from divtrain.defences.div import Aligned
from divtrain.defences.terms import CrossEntropy, Term
from divtrain.errors import DivtrainError


@dataclass(frozen=True, kw_only=True)
class Crafted(Defence):
    """Settings of crafted training examples; `crafter` makes them.

    Attributes:
        crafted_eps: Largest radius of the examples, in [0, 1] pixel units.
        crafted_share: Fraction of each batch that they replace, its last images, in (0, 1].
        warm_up: Fraction of the training's steps, the first ones, without them, in [0, 1).
    """

    crafted_eps: float = 0.3
    crafted_share: float = 0.5
    warm_up: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_eps(self.crafted_eps, "`crafted_eps`")
        if not 0 < self.crafted_share <= 1:
            raise DivtrainError(f"expected `crafted_share` in (0, 1], got {self.crafted_share!r}")
        if not 0 <= self.warm_up < 1:
            raise DivtrainError(f"expected `warm_up` in [0, 1), got {self.warm_up!r}")

    @property
    def crafting_cost(self) -> float:
        """Passes per image and member that the examples of one image cost."""
        raise NotImplementedError  # abstract: what tells one crafter from another

    def cost(self, members: int) -> float:
        """Return 1, and the passes that craft from a share of the images after the warm-up."""
        crafting = self.crafted_share * self.crafting_cost / 3
        return super().cost(members) + (1 - self.warm_up) * crafting


@dataclass(frozen=True, kw_only=True)
class CraftedNoise(Crafted, WithNoise):
    """The same with noise on half of the images, those that are crafted from too.

    An example that is crafted from a noisy image may be noise + crafted_eps from the clean one.
    """


@dataclass(frozen=True, kw_only=True)
class CraftedDiv(CraftedNoise, Aligned):
    """The same with GAL on the images that are not crafted, clean and noisy ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crafted_share == 1:
            raise DivtrainError(
                f"expected `crafted_share` below 1 for {type(self).__name__}, got 1: GAL is taken"
                " at the images that are not crafted"
            )

    def cost(self, members: int) -> float:
        """As for the others, and GAL at the images that are not crafted."""
        plain = 1 - (1 - self.warm_up) * self.crafted_share
        return Crafted.cost(self, members) - (1 - plain) * self.gal_part / self.gal_every

    @property
    def terms(self) -> tuple[Term, ...]:
        """Cross-entropy at all images, GAL at those that are not crafted."""
        return (CrossEntropy(), self.gal("given"))
