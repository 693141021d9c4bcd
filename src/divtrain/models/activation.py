"""The activations the paper compares (section 3.4): LeakyReLU, and the ReLU that starves GAL."""

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import nn

ActivationName = Literal["leaky_relu", "relu"]
Activation = Callable[[], nn.Module]


def activation_factory(name: ActivationName, slope: float) -> Activation:
    """Return a maker of activations; `slope` is LeakyReLU's slope below zero, unused by ReLU."""
    return partial(nn.LeakyReLU, slope) if name == "leaky_relu" else nn.ReLU
