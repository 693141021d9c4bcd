"""Ensemble Adversarial Training, alone and with Diversity Training."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from divtrain.checks import check_eps
from divtrain.data import View
from divtrain.defences.base import Defence
from divtrain.defences.div import Aligned
from divtrain.defences.views import Adversarial, AdversarialLabel, Clean, Noisy
from divtrain.errors import DivtrainError


@dataclass(frozen=True, kw_only=True)
class StaticAdversary(Defence):
    """Settings of adversarial examples crafted on static nets, for defences that train on them.

    From Python, give trained nets: ``dt.defences.Adv(nets=[net_a, net_b])``. Nets that were trained
    in several ways, and several steps, are the idea of PubDef (Sitawarin et al. 2023, arXiv
    2310.17645), which defends against attacks from public models.

    Attributes:
        noise: Largest radius of the examples, in pixel units: 0.3 for MNIST, 0.09 for CIFAR-10.
        static_nets: Number of static nets trained in each way; the paper says "pre-trained", ours
            is 1.
        static_recipes: Names of the defences they are trained with.
        adv_steps: Gradient steps; the paper's is 1.
        adv_label: ``predicted``, a step away from the label that the static net answers (as in the
            code of Tramer et al.), ``true``, away from the true label, or ``least_likely``,
            towards the label that the net least expects.
        nets: The nets, any modules from images to logits, on the device of the images.
    """

    noise: float = 0.3
    static_nets: int = 1
    static_recipes: tuple[str, ...] = ("base",)
    adv_steps: int = 1
    adv_label: AdversarialLabel = "predicted"
    nets: Sequence[nn.Module] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_eps(self.noise, "`noise`")
        if self.nets:
            object.__setattr__(self, "nets", tuple(self.nets))
            kinds = len(self.static_recipes)
            object.__setattr__(self, "static_nets", math.ceil(len(self.nets) / kinds))
        for name in ("static_nets", "adv_steps"):
            if getattr(self, name) < 1:
                raise DivtrainError(f"expected `{name}` >= 1, got {getattr(self, name)!r}")
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
        return Adversarial(self.noise, tuple(self.nets), self.adv_label, self.adv_steps)

    def cost(self, members: int) -> float:
        """Return 1, and what the passes of one static net on its part of the images cost."""
        passes = 2 * self.adv_steps + (self.adv_label != "true")
        return super().cost(members) + passes / len(self.views) / members / 3


@dataclass(frozen=True, kw_only=True)
class Adv(StaticAdversary):
    """Ensemble Adversarial Training (Tramer et al. 2018).

    Cost: 1 plain step, and the passes of one static net on half of the images.
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

    @property
    def views(self) -> tuple[View, ...]:
        """Clean images, noisy images and adversarial examples, 1:1:1."""
        return (Clean(), Noisy(self.noise), self.examples)
