"""The plain convolutional networks of the paper's Table 1: Conv3 and Conv4."""

from collections.abc import Sequence

from torch import Tensor, nn

from divtrain.errors import DivtrainError
from divtrain.models.activation import Activation

CONV3: Sequence[int | str] = (32, 64, "M", 128, "M")
"""C32-C64-M-C128-M-FC1024-FC10"""
CONV4: Sequence[int | str] = (32, 64, 128, "M", 128, "M")
"""C32-C64-C128-M-C128-M-FC1024-FC10"""


class ConvNet(nn.Module):
    """3x3 "same" convolutions, 2x2 max pooling and two linear layers; no batch norm.

    Args:
        layout: Channels of each convolution, with ``"M"`` for a pooling layer.
        in_channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
        classes: Number of classes.
        activation: Makes the activation that follows each convolution and the hidden layer.
    """

    def __init__(
        self,
        layout: Sequence[int | str],
        in_channels: int,
        image_size: tuple[int, int],
        classes: int,
        activation: Activation,
    ):
        super().__init__()
        layers: list[nn.Module] = []
        channels, (height, width) = in_channels, image_size
        for entry in layout:
            if isinstance(entry, int):
                layers += [nn.Conv2d(channels, entry, 3, padding="same"), activation()]
                channels = entry
            else:
                # Before the activation where that gives the same result, from fewer pixels: a
                # maximum and a function that does not decrease commute.
                rising = getattr(layers[-1], "negative_slope", 0.0) >= 0
                layers.insert(len(layers) - rising, nn.MaxPool2d(2))
                height, width = height // 2, width // 2
        if min(height, width) < 1:
            raise DivtrainError(
                f"expected images of at least 4x4 pixels (they are halved twice), got"
                f" {image_size[0]}x{image_size[1]}"
            )
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(channels * height * width, 1024), activation(), nn.Linear(1024, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (batch, channel, height, width) to logits (batch, class)."""
        return self.classifier(self.features(x).flatten(1))
