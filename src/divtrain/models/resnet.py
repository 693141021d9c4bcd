"""ResNet20 and ResNet26 for small images: He et al. (2016), section 4.2, with batch norm."""

from torch import Tensor, nn

from divtrain.models.activation import Activation


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around an identity shortcut.

    Where the shape changes the shortcut subsamples and zero-pads the new channels (option A of
    He et al.), so it has no parameters.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, activation: Activation):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.activation1 = activation()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.activation2 = activation()
        self.stride = stride
        self.new_channels = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, height, width) to (batch, out, height / stride, width / stride)."""
        out = self.activation1(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        return self.activation2(out + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.stride == 1 and self.new_channels == 0:
            return x
        before = self.new_channels // 2
        x = x[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(x, (0, 0, 0, 0, before, self.new_channels - before))


class ResNet(nn.Module):
    """C16, n residual blocks each of 16, 32 and 64 channels, global average pooling, FC.

    Args:
        blocks: n, the blocks per stage; 3 makes ResNet20, 4 makes ResNet26.
        in_channels: Channels of the images.
        classes: Number of classes.
        activation: Makes the activation that follows each convolution.
    """

    def __init__(self, blocks: int, in_channels: int, classes: int, activation: Activation):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.activation = activation()
        layers: list[nn.Module] = []
        width = 16
        for channels in (16, 32, 64):
            for block in range(blocks):
                stride = 2 if block == 0 and channels != 16 else 1
                layers.append(ResidualBlock(width, channels, stride, activation))
                width = channels
        self.blocks = nn.Sequential(*layers)
        self.classifier = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (batch, channel, height, width) to logits (batch, class)."""
        out = self.blocks(self.activation(self.norm(self.conv(x))))
        return self.classifier(out.mean((-2, -1)))
