"""The base class of all defences, and the two without diversity: base and base+noise."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from torch import nn

from divtrain.checks import check_eps
from divtrain.data import Outside, OutsidePart, Stream, View, open_outside
from divtrain.data.stream import steps_per_epoch
from divtrain.defences.crafters import Crafter
from divtrain.defences.terms import CrossEntropy, Term
from divtrain.defences.views import Clean, Noisy
from divtrain.ensemble import Ensemble
from divtrain.errors import DivtrainError
from divtrain.forward import has_batch_norm


@dataclass(frozen=True)
class Defence:
    """A way to train an ensemble: loss terms, views of the training images, what is added to them.

    A defence is a frozen dataclass that inherits from this class and overrides what differs. Its
    fields are its settings, which tell one result from another (`divtrain.identity.spec_of`), but
    for those declared with ``compare=False``.

    >>> from divtrain.defences import Div
    >>> Div(gal_weight=1.0).terms[1].weight
    1.0
    """

    outside_share: ClassVar[float] = 0.0
    """Fraction of each batch that is from outside, rounded up to an image."""
    least_members: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Check the settings; who overrides this calls it too."""

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms of the loss, which is their sum; here each member's cross-entropy."""
        return (CrossEntropy(),)

    @property
    def views(self) -> tuple[View, ...]:
        """The views in which each image is seen once per epoch; here the augmented image (D')."""
        return (Clean(),)

    @property
    def outside(self) -> "str | Outside | None":
        """Images from outside the training distribution, their name for `open_outside`, or None."""
        return None

    @property
    def crafter(self) -> Crafter | None:
        """What makes examples from the ensemble as it learns, of the last images of each batch."""
        return None

    @property
    def needs_static_nets(self) -> bool:
        """Whether pretrained nets must be given (`with_static_nets`) before training."""
        return False

    def with_static_nets(self, nets: Iterable[nn.Module]) -> "Defence":
        """Return the defence with the pretrained nets that its examples are crafted on.

        Raises:
            DivtrainError: for a defence that uses none.
        """
        raise DivtrainError(f"{type(self).__name__} uses no static nets; leave them out")

    def with_outside(self, root: str | Path = "data") -> "Defence":
        """Return the defence with its images from outside opened; torchvision's are in `root`."""
        return self

    def prepare(self, stream: Stream, classes: int) -> Stream:
        """Return the stream in this defence's views, with its images from outside.

        `divtrain.training.train` does this; call it to look at the batches of a training. Each
        image from outside is given one of `classes` classes.

        Raises:
            DivtrainError: for a stream that has views or images from outside already.
        """
        if stream.views or stream.outside is not None:
            raise DivtrainError(
                "expected a stream without `views` and `outside`, which the defence sets; got views"
                f" {list(stream.views)}, outside {stream.outside}"
            )
        return replace(stream, views=self.views, outside=self.outside_part(classes))

    def outside_part(self, classes: int) -> OutsidePart | None:
        """Return what draws the images from outside, if there are any."""
        if self.outside is None:
            return None
        source = self.outside
        opened = open_outside(source) if isinstance(source, str) else source
        return OutsidePart(opened, self.outside_share, classes)

    def steps_per_epoch(self, images: int, batch_size: int) -> int:
        """Return the number of training steps that an epoch of `images` images takes."""
        return steps_per_epoch(images, len(self.views), batch_size, self.outside_share)

    def cost(self, members: int) -> float:
        """Return the passes of a training step in plain steps; here 1.

        They are counted from the equations: a forward pass is 1 per image and member, a backward
        pass 1 to the images and 2 if also to the weights, a plain step 3. Passes up to a layer
        drawn at random count half, and a warm-up as its part of the training.
        """
        return 1.0

    def check_ensemble(self, ens: Ensemble) -> None:
        """Check that an ensemble can be trained with this defence; weights do not matter.

        Raises:
            DivtrainError: for too few members, images from outside beside batch norm, or a crafter
                beside images from outside.
        """
        if len(ens) < self.least_members:
            raise DivtrainError(
                f"expected an ensemble of at least {self.least_members} members for"
                f" {type(self).__name__}, got {len(ens)}: diversity is a property of pairs"
            )
        if self.crafter is not None and self.outside is not None:
            raise DivtrainError(
                f"expected images from outside or a crafter, got both in {type(self).__name__}:"
                " images from outside have no label to craft with"
            )
        if self.outside is not None and has_batch_norm(ens):
            raise DivtrainError(
                f"{type(self).__name__} trains on images from outside the training distribution,"
                " but these members have batch norm, whose statistics would be those of both kinds"
                " of images; use members without, such as conv3 and conv4"
            )

    def check_classes(self, members: int, classes: int) -> None:
        """Check that so many members can be trained on images of so many classes.

        Raises:
            DivtrainError: when they cannot.
        """

    def check_steps(self, steps: int) -> None:
        """Check that `steps` training steps are enough for every term.

        Raises:
            DivtrainError: when they are too few.
        """


@dataclass(frozen=True)
class Base(Defence):
    """Cross-entropy on the augmented images D', "without any regularization" (section 5).

    Cost: 1 plain step.
    """


@dataclass(frozen=True, kw_only=True)
class WithNoise(Defence):
    """What the defences share that see each image also with noise (D_noise).

    Attributes:
        noise: Largest absolute noise, in pixel units; 0.3 for MNIST, 0.09 for CIFAR-10.
    """

    noise: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_eps(self.noise, "`noise`")

    @property
    def views(self) -> tuple[View, ...]:
        """Clean and noisy images, 1:1."""
        return (Clean(), Noisy(self.noise))


@dataclass(frozen=True, kw_only=True)
class BaseNoise(WithNoise):
    """Cross-entropy on D' and D_noise: Div without GAL (not in the paper).

    Cost: 1 plain step; an epoch has twice as many.
    """
