"""The defences by name: each a list of loss terms and a list of views of the training images.

Each may have images from outside the training distribution as well.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from divtrain.data import Clean, Noisy, View
from divtrain.errors import DivtrainError, unknown_name
from divtrain.experiments.config import TrainConfig
from divtrain.gal import images_in
from divtrain.training import (
    Adversarial,
    AdversarialLeastLikely,
    CrossEntropy,
    GradientAlignment,
    InsideCrossEntropy,
    Term,
)

OUTSIDE_SHARE = 0.5
"""Share of each of detector's batches that is from outside: as many images as from D'."""


@dataclass(frozen=True)
class Defence:
    """What tells one way of training an ensemble from another.

    Attributes:
        terms: The loss is their sum.
        views: Each image is trained on once an epoch in each. An `Adversarial` view is given its
            static nets by the stage that trains.
        outside: Images from outside the training distribution that make up `OUTSIDE_SHARE` of each
            batch, as `divtrain.data.open_outside` takes them; None for none.
    """

    terms: Sequence[Term]
    views: Sequence[View]
    outside: str | None = None

    @property
    def needs_static_nets(self) -> bool:
        """Whether static nets must be trained first."""
        return any(isinstance(view, Adversarial) for view in self.views)

    def with_static_nets(self, nets: Iterable[nn.Module]) -> "Defence":
        """Return the defence with the nets that its adversarial examples are crafted on."""
        given = tuple(nets)
        views = [
            replace(view, nets=given) if isinstance(view, Adversarial) else view
            for view in self.views
        ]
        return replace(self, views=views)


def _base(train: TrainConfig) -> Defence:
    """Cross-entropy on D', "without any regularization"."""
    del train
    return Defence([CrossEntropy()], [Clean()])


def _base_noise(train: TrainConfig) -> Defence:
    """Cross-entropy on D' and D_noise: div's gain without GAL (not in the paper)."""
    return Defence([CrossEntropy()], [Clean(), Noisy(train.noise)])


def _div(train: TrainConfig) -> Defence:
    """Diversity Training: Eq. 9 on D' and D_noise."""
    alignment = GradientAlignment(
        train.gal_weight, train.temperature, train.gal_every, train.gal_part
    )
    return Defence([CrossEntropy(), alignment], [Clean(), Noisy(train.noise)])


def _adv(train: TrainConfig) -> Defence:
    """Ensemble Adversarial Training: cross-entropy on D' and the examples of static nets, 1:1."""
    return Defence([CrossEntropy()], [Clean(), _examples(train)])


def _adv_div(train: TrainConfig) -> Defence:
    """Both: Eq. 9 on D', D_noise and the examples of static nets."""
    return replace(_div(train), views=[Clean(), Noisy(train.noise), _examples(train)])


def _examples(train: TrainConfig) -> Adversarial:
    """Adversarial examples of static nets, by the step that was chosen."""
    steps = {"fgsm": Adversarial, "step_ll": AdversarialLeastLikely}
    return steps[train.adv_step](train.noise)


def _detector(train: TrainConfig) -> Defence:
    """Section 6: cross-entropy on D', and GAL alone at as many images from outside."""
    part = OUTSIDE_SHARE * train.gal_part
    alignment = GradientAlignment(train.gal_weight, train.temperature, train.gal_every, part)
    return Defence([InsideCrossEntropy(OUTSIDE_SHARE), alignment], [Clean()], train.outside)


DEFENCES: dict[str, Callable[[TrainConfig], Defence]] = {
    "base": _base,
    "base+noise": _base_noise,
    "div": _div,
    "adv": _adv,
    "adv+div": _adv_div,
    "detector": _detector,
}


def build_defence(name: str, train: TrainConfig) -> Defence:
    """Return the named defence with the parameters of `train`.

    Raises:
        DivtrainError: for an unknown name.
    """
    if name not in DEFENCES:
        raise unknown_name("defence", name, DEFENCES)
    return DEFENCES[name](train)


def check_steps(name: str, train: TrainConfig, images: int) -> None:
    """Check that a training has as many steps as lazy GAL goes from one to the next.

    Args:
        name: Name of the defence.
        train: How it is trained.
        images: Training images.

    Raises:
        DivtrainError: when ``--train.gal-every`` is more than the steps of the training.
    """
    built = build_defence(name, train)
    if not any(isinstance(term, GradientAlignment) for term in built.terms):
        return
    outside = 0 if built.outside is None else images_in(OUTSIDE_SHARE, train.batch_size)
    steps = train.epochs * (images * len(built.views) // max(train.batch_size - outside, 1))
    if 0 < steps < train.gal_every:  # a batch that is too large is told by who draws batches
        raise DivtrainError(
            f"--train.gal-every {train.gal_every} is more than the {steps} steps that {name} is"
            f" trained for ({images} images in {len(built.views)} views, batches of"
            f" {train.batch_size}, epochs: {train.epochs}); give a smaller one"
        )
