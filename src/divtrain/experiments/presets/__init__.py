"""One readable function per experiment; its docstring is its method section."""

from collections.abc import Callable

from divtrain.errors import unknown_name
from divtrain.experiments.config import ExperimentConfig
from divtrain.experiments.presets.cifar10 import (
    cifar10_conv4,
    cifar10_conv4_quick,
    cifar10_mix,
    cifar10_mix_quick,
    cifar10_resnet20,
    cifar10_resnet20_quick,
)
from divtrain.experiments.presets.compare import (
    compare_cifar10,
    compare_digits,
    compare_mnist14,
)
from divtrain.experiments.presets.digits import digits
from divtrain.experiments.presets.mnist import mnist_conv3, mnist_conv3_quick, mnist_quick

PRESETS: dict[str, Callable[[], ExperimentConfig]] = {
    "digits": digits,
    "compare-digits": compare_digits,
    "compare-mnist14": compare_mnist14,
    "compare-cifar10": compare_cifar10,
    "mnist-quick": mnist_quick,
    "mnist-conv3-quick": mnist_conv3_quick,
    "mnist-conv3": mnist_conv3,
    "cifar10-conv4-quick": cifar10_conv4_quick,
    "cifar10-conv4": cifar10_conv4,
    "cifar10-resnet20-quick": cifar10_resnet20_quick,
    "cifar10-resnet20": cifar10_resnet20,
    "cifar10-mix-quick": cifar10_mix_quick,
    "cifar10-mix": cifar10_mix,
}


def find_preset(name: str) -> Callable[[], ExperimentConfig]:
    """Return the preset's function.

    Raises:
        DivtrainError: for an unknown name; the nearest are offered.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return PRESETS[name]
