"""The defences by name: each a list of loss terms and a list of views of the training images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from divtrain.data import Clean, Noisy, View
from divtrain.errors import unknown_name
from divtrain.experiments.config import TrainConfig
from divtrain.training import CrossEntropy, GradientAlignment, Term


@dataclass(frozen=True)
class Defence:
    """What tells one way of training an ensemble from another.

    Attributes:
        terms: The loss is their sum.
        views: Each image is trained on once an epoch in each.
    """

    terms: Sequence[Term]
    views: Sequence[View]


def _base(train: TrainConfig) -> Defence:
    """Cross-entropy on D', "without any regularization"."""
    del train
    return Defence([CrossEntropy()], [Clean()])


def _base_noise(train: TrainConfig) -> Defence:
    """Cross-entropy on D' and D_noise: div's gain without GAL (not in the paper)."""
    return Defence([CrossEntropy()], [Clean(), Noisy(train.noise)])


def _div(train: TrainConfig) -> Defence:
    """Diversity Training: Eq. 9 on D' and D_noise."""
    terms = [CrossEntropy(), GradientAlignment(train.gal_weight, train.temperature)]
    return Defence(terms, [Clean(), Noisy(train.noise)])


DEFENCES: dict[str, Callable[[TrainConfig], Defence]] = {
    "base": _base,
    "base+noise": _base_noise,
    "div": _div,
}


def build_defence(name: str, train: TrainConfig) -> Defence:
    """Return the named defence with the parameters of `train`.

    Raises:
        DivtrainError: for an unknown name.
    """
    if name not in DEFENCES:
        raise unknown_name("defence", name, DEFENCES)
    return DEFENCES[name](train)
