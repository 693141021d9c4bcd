"""Views: maps from augmented images, labels and a generator to the images trained on."""

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from divtrain.attacks.attack import frozen_in_eval_mode
from divtrain.attacks.objectives import answer_of, member_logits_of
from divtrain.cross_entropy import trusted_cross_entropy
from divtrain.data.noise import add_noise, truncated_normal
from divtrain.defences.crafters import ascend
from divtrain.errors import DivtrainError, unknown_name

AdversarialLabel = Literal["predicted", "true", "least_likely"]
"""Away from the label that a static net answers, or from the true one; or towards the label that
the net holds least likely."""


@dataclass(frozen=True)
class Clean:
    """The augmented images as they are: D'."""

    def __call__(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Return `x`."""
        return x


@dataclass(frozen=True)
class Noisy:
    """The augmented images plus truncated normal noise: D_noise.

    Attributes:
        eps_max: Largest absolute noise, in pixel units.
    """

    eps_max: float

    def __call__(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Add the noise."""
        return add_noise(x, self.eps_max, generator)


@dataclass(frozen=True)
class Adversarial:
    """FGSM on static pretrained nets (Tramer et al. 2018), with a random radius per image.

    The nets never learn, and so the examples do not depend on the ensemble that trains on them,
    unlike in adversarial training. With several nets each image is attacked on one of them, drawn
    at random; then a step waits for the device once per net.

    A net trained on steps away from the true label may learn to read that label off them (label
    leaking). The predicted label, which the authors' code takes against that, is the true one
    wherever the static net is right; the least likely one (Step-LL, Kurakin et al. 2017) never
    depends on it.

    Attributes:
        eps_max: Largest radius, in pixel units; the radius is |N(0, (eps_max / 2)^2)|, truncated
            to [0, eps_max].
        nets: The static nets, any modules from images to logits, on the device of the images.
        label: The label of the step: ``predicted``, ``true`` or ``least_likely``.
        steps: Gradient steps; more than one are MI-FGSM's, with decay 1 and length radius / steps.
    """

    eps_max: float
    nets: tuple[nn.Module, ...] = field(default=(), repr=False, compare=False)
    label: AdversarialLabel = "predicted"
    steps: int = 1

    def __post_init__(self) -> None:
        if self.label not in get_args(AdversarialLabel):
            raise unknown_name("adversarial label", self.label, get_args(AdversarialLabel))

    def __call__(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Return adversarial examples in [0, 1].

        Raises:
            DivtrainError: when no net was given.
        """
        if not self.nets:
            raise DivtrainError("expected at least one static net to attack, got none")
        radius = torch.zeros(len(x), 1, 1, 1, device=x.device)
        if self.eps_max > 0:
            shape = (len(x), 1, 1, 1)
            radius = truncated_normal(shape, self.eps_max / 2, self.eps_max, generator, x.device)
        chosen = torch.randint(len(self.nets), (len(x),), generator=generator, device=x.device)
        if len(self.nets) == 1:
            return self._step(self.nets[0], x, y, radius)
        x_adv = x.clone()
        for index, net in enumerate(self.nets):
            here = (chosen == index).nonzero().squeeze(1)
            if len(here):
                x_adv[here] = self._step(net, x[here], y[here], radius[here])
        return x_adv

    def _step(self, net: nn.Module, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
        logits_of, sign = member_logits_of(net), 1.0
        with torch.enable_grad(), frozen_in_eval_mode(net):
            if self.label != "true":
                with torch.no_grad():
                    answer = answer_of(net)(x, logits_of(x))
                y = answer.argmax(1) if self.label == "predicted" else answer.argmin(1)
                sign = 1.0 if self.label == "predicted" else -1.0

            def loss(z: Tensor) -> Tensor:
                return sign * trusted_cross_entropy(logits_of(z), y).mean(0)

            radius = radius.abs()
            return ascend(loss, x, x, radius, self.steps, radius / self.steps, momentum=1.0)
