"""Ensemble Adversarial Training, alone and with Diversity Training."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from divtrain.data import View
from divtrain.defences.base import Defence
from divtrain.defences.div import Aligned
from divtrain.defences.views import Adversarial, AdversarialLabel, Clean, Noisy
from divtrain.errors import DivtrainError


@dataclass(frozen=True, kw_only=True)
class StaticAdversary(Defence):
    """Settings of adversarial examples crafted on static nets, for defences that train on them.

    From Python, give trained nets: ``dt.defences.Adv(nets=[net_a, net_b])``.

    Attributes:
        noise: Largest radius of the examples, in pixel units: 0.3 for MNIST, 0.09 for CIFAR-10.
        static_nets: Number of static nets; the paper says "pre-trained", ours is 1.
        adv_label: ``predicted``, a step away from the label that the static net answers (as in the
            code of Tramer et al.), ``true``, away from the true label, or ``least_likely``,
            towards the label that the net least expects.
        nets: The nets, any modules from images to logits, on the device of the images.
    """

    noise: float = 0.3
    static_nets: int = 1
    adv_label: AdversarialLabel = "predicted"
    nets: Sequence[nn.Module] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.nets:
            object.__setattr__(self, "nets", tuple(self.nets))
            object.__setattr__(self, "static_nets", len(self.nets))
        if self.static_nets < 1:
            raise DivtrainError(f"expected `static_nets` >= 1, got {self.static_nets!r}")
        _ = self.examples  # refuses an unknown label

    @property
    def needs_static_nets(self) -> bool:
        """Whether the static nets are still missing."""
        return not self.nets

    def with_static_nets(self, nets: Iterable[nn.Module]) -> "Defence":
        """Return the defence with the pretrained nets that its examples are crafted on."""
        return replace(self, nets=tuple(nets))

    @property
    def examples(self) -> Adversarial:
        """The view in which images are adversarial examples."""
        return Adversarial(self.noise, tuple(self.nets), self.adv_label)


@dataclass(frozen=True, kw_only=True)
class Adv(StaticAdversary):
    """Ensemble Adversarial Training (Tramer et al. 2018).

    Cost: 1 plain step, and a forward and backward pass of one static net on half of the images.
    """

    @property
    def views(self) -> tuple[View, ...]:
        """Clean images and adversarial examples, 1:1."""
        return (Clean(), self.examples)


@dataclass(frozen=True, kw_only=True)
class AdvDiv(StaticAdversary, Aligned):
    """Both: Eq. 9, also on adversarial examples of static nets (section 5.3).

    Cost: as of Div, and a static net's passes on a third of the images.
    """

    def __post_init__(self) -> None:
        StaticAdversary.__post_init__(self)
        Aligned.__post_init__(self)

    @property
    def views(self) -> tuple[View, ...]:
        """Clean images, noisy images and adversarial examples, 1:1:1."""
        return (Clean(), Noisy(self.noise), self.examples)
