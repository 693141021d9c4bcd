"""Training of a detector of images from outside the training distribution."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from divtrain.data import Outside, open_outside
from divtrain.defences.base import Defence
from divtrain.defences.div import Aligned
from divtrain.defences.terms import CrossEntropy, Term


@dataclass(frozen=True)
class Detector(Aligned):
    """Section 6: cross-entropy on D', and GAL alone at as many images from outside.

    The paper does not say how many; the number is our choice. Batch norm is refused.

    Cost: 2 to 2.4 plain steps of the same number of training images.

    Attributes:
        outside: What GAL is taken at: ``noise``, ``smooth``, the name of a data set of the same
            image size, or any `divtrain.data.Outside`.
    """

    outside_share: ClassVar[float] = 0.5
    outside: "str | Outside" = "noise"  # pyright: ignore[reportIncompatibleMethodOverride]

    def with_outside(self, root: str | Path = "data") -> "Defence":
        """Return the defence with its images from outside opened; torchvision's are in `root`."""
        if not isinstance(self.outside, str):
            return self
        return replace(self, outside=open_outside(self.outside, root))

    def cost(self, members: int) -> float:
        """Return 1 and GAL at half of each batch; an epoch has twice as many steps."""
        return 1 + 0.5 * self.gal_part / self.gal_every

    @property
    def terms(self) -> tuple[Term, ...]:
        """Cross-entropy at the training images, GAL at the others."""
        return (CrossEntropy(part="given"), self.gal("outside"))
