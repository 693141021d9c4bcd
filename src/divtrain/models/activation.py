"""The activations the paper compares (section 3.4): LeakyReLU, and the ReLU that starves GAL."""

from collections.abc import Callable
from typing import Literal

from torch import nn

ActivationName = Literal["leaky_relu", "relu"]
Activation = Callable[[], nn.Module]
