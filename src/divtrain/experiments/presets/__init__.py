"""One readable function an experiment; its docstring is its method section."""

from collections.abc import Callable

from divtrain.errors import unknown_name
from divtrain.experiments.config import ExperimentConfig
from divtrain.experiments.presets.digits import digits
from divtrain.experiments.presets.mnist import mnist_conv3, mnist_quick

PRESETS: dict[str, Callable[[], ExperimentConfig]] = {
    "digits": digits,
    "mnist-quick": mnist_quick,
    "mnist-conv3": mnist_conv3,
}


def find_preset(name: str) -> Callable[[], ExperimentConfig]:
    """Return the preset's function.

    Raises:
        DivtrainError: for an unknown name; the nearest are offered.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return PRESETS[name]
