"""Models by name, with all that is needed to build them again in one small record."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from divtrain.errors import DivtrainError, unknown_name
from divtrain.fields import Count, checked
from divtrain.models.activation import Activation, ActivationName
from divtrain.models.conv import CONV3, CONV4, ConvNet
from divtrain.models.resnet import ResNet

FLOAT32 = torch.finfo(torch.float32).max


@checked
class Architecture:
    """The arguments of `build`; checkpoints hold them."""

    name: str
    in_channels: Annotated[int, Field(ge=1)]
    image_size: Count | tuple[Count, Count]
    classes: Annotated[int, Field(ge=2)]
    activation: ActivationName = "leaky_relu"
    slope: Annotated[float, Field(ge=-FLOAT32, le=FLOAT32)] = 0.1
    mean: tuple[float, ...] = (0.5,)
    std: tuple[Annotated[float, Field(gt=0)], ...] = (0.5,)

    @property
    def height_and_width(self) -> tuple[int, int]:
        """Of the images, in pixels."""
        size = self.image_size
        return size if isinstance(size, tuple) else (size, size)


ARCHITECTURES: dict[str, Callable[[Architecture, Activation], nn.Module]] = {
    "conv3": lambda a, act: ConvNet(CONV3, a.in_channels, a.height_and_width, a.classes, act),
    "conv4": lambda a, act: ConvNet(CONV4, a.in_channels, a.height_and_width, a.classes, act),
    "resnet20": lambda a, act: ResNet(3, a.in_channels, a.classes, act),
    "resnet26": lambda a, act: ResNet(4, a.in_channels, a.classes, act),
}


class Normalized(nn.Module):
    """A network that takes images in [0, 1] and normalises them inside, per channel.

    Attributes:
        architecture: How to build it again.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, architecture: Architecture):
        super().__init__()
        self.architecture = architecture
        shape = (1, -1, 1, 1)
        self.register_buffer("mean", torch.tensor(architecture.mean).view(shape))
        self.register_buffer("std", torch.tensor(architecture.std).view(shape))
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Map images in [0, 1], (batch, channel, height, width), to logits (batch, class)."""
        expected = (self.architecture.in_channels, *self.architecture.height_and_width)
        if x.shape[1:] != expected:
            raise DivtrainError(
                f"expected images of shape (batch, {', '.join(map(str, expected))}) for this"
                f" {self.architecture.name}, got {tuple(x.shape)}"
            )
        return self.net((x - self.mean) / self.std)


def build(
    name: str,
    in_channels: int,
    image_size: int | tuple[int, int],
    classes: int,
    activation: ActivationName = "leaky_relu",
    slope: float = 0.1,
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.5,),
) -> Normalized:
    """Build one of the paper's networks (Table 1) with fresh weights.

    Weights come from torch's global generator: seed with `torch.manual_seed`.

    Args:
        name: ``conv3``, ``conv4``, ``resnet20`` or ``resnet26``.
        in_channels: Channels of the images.
        image_size: Height and width of the images, in pixels; one number if they are square.
        classes: Number of classes.
        activation: ``leaky_relu`` (the paper's) or ``relu``, after every convolution.
        slope: LeakyReLU's slope below zero.
        mean: Mean of the training images to subtract inside the model, one per channel or for all.
        std: Standard deviation to divide by inside the model, one per channel or for all.

    Raises:
        DivtrainError: for an unknown name or activation, or sizes that make no network.

    >>> net = build("conv3", in_channels=1, image_size=28, classes=10)
    >>> sum(p.numel() for p in net.parameters())
    6526474
    """
    architecture = Architecture(
        name, in_channels, image_size, classes, activation, slope, tuple(mean), tuple(std)
    )
    return build_architecture(architecture)


def build_architecture(architecture: Architecture) -> Normalized:
    """Build the network that `architecture` describes, with fresh weights; see `build`."""
    a = architecture
    if a.name not in ARCHITECTURES:
        raise unknown_name("model", a.name, ARCHITECTURES)
    for field in ("mean", "std"):
        if len(getattr(a, field)) not in (1, a.in_channels):
            raise DivtrainError(
                f"expected one `{field}` for all channels or one for each of {a.in_channels}, got"
                f" {len(getattr(a, field))}"
            )
    activation = nn.ReLU if a.activation == "relu" else partial(nn.LeakyReLU, a.slope)
    return Normalized(ARCHITECTURES[a.name](a, activation), a)
