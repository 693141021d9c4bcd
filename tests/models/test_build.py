import math

import pytest
import torch
from torch import nn

import divtrain as dt
from divtrain.models import ARCHITECTURES, build


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def conv(inside: int, outside: int) -> int:
    return 9 * inside * outside + outside


def linear(inside: int, outside: int) -> int:
    return inside * outside + outside


def residual_net(channels: int, blocks: int) -> int:
    """Convolutions without bias, two numbers a channel of batch norm, shortcuts without any."""
    total, width = 9 * channels * 16 + 2 * 16, 16
    for stage in (16, 32, 64):
        for _ in range(blocks):
            total += 9 * width * stage + 2 * stage + 9 * stage * stage + 2 * stage
            width = stage
    return total + linear(64, 10)


@pytest.mark.parametrize(
    ("name", "channels", "size", "expected"),
    [
        ("conv3", 1, 28, conv(1, 32) + conv(32, 64) + conv(64, 128)
         + linear(128 * 7 * 7, 1024) + linear(1024, 10)),
        ("conv4", 3, 32, conv(3, 32) + conv(32, 64) + conv(64, 128) + conv(128, 128)
         + linear(128 * 8 * 8, 1024) + linear(1024, 10)),
        ("resnet20", 3, 32, residual_net(3, 3)),
        ("resnet26", 3, 32, residual_net(3, 4)),
    ],
)  # fmt: skip
def test_parameters_are_as_many_as_counted_by_hand(
    name: str, channels: int, size: int, expected: int
) -> None:
    assert parameters(build(name, channels, size, 10)) == expected


def test_resnet20_has_the_published_size_and_depth() -> None:
    net = build("resnet20", 3, 32, 10)
    assert round(parameters(net) / 1e6, 2) == 0.27  # He et al. (2016), table 6
    weights = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(weights) == 20
    assert (
        sum(isinstance(m, nn.Conv2d | nn.Linear) for m in build("resnet26", 3, 32, 10).modules())
        == 26
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32)])
def test_every_architecture_answers_and_learns(name: str, channels: int, size: int) -> None:
    net = build(name, channels, size, 4)
    x, y = torch.rand(6, channels, size, size), torch.arange(6) % 4
    dt.cross_entropy(net(x), y).mean().backward()
    assert net(x).shape == (6, 4)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("activation", ["leaky_relu", "relu"])
def test_an_activation_follows_every_convolution(name: str, activation: str) -> None:
    net = build(name, 1, 8, 10, activation=activation, slope=0.3)  # pyright: ignore
    kinds = [m for m in net.modules() if isinstance(m, nn.LeakyReLU | nn.ReLU)]
    convolutions = sum(isinstance(m, nn.Conv2d) for m in net.modules())
    hidden = 1 if name.startswith("conv") else 0
    assert len(kinds) == convolutions + hidden
    if activation == "relu":
        assert all(isinstance(m, nn.ReLU) for m in kinds)
    else:
        assert all(isinstance(m, nn.LeakyReLU) and m.negative_slope == 0.3 for m in kinds)


def test_images_are_normalised_inside_per_channel() -> None:
    net = build("conv3", 2, 8, 10, mean=(0.25, 0.5), std=(0.5, 2.0))
    x = torch.rand(3, 2, 8, 8)
    inside = torch.stack([(x[:, 0] - 0.25) / 0.5, (x[:, 1] - 0.5) / 2.0], 1)
    torch.testing.assert_close(net(x), net.net(inside))
    assert {"mean", "std"} <= set(net.state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "conv5"}, "did you mean 'conv"),
        ({"activation": "leaky"}, "did you mean 'leaky_relu'"),
        ({"in_channels": 0}, "`in_channels`: expected greater than or equal to 1"),
        ({"classes": 1}, "`classes`: expected greater than or equal to 2"),
        ({"image_size": 3}, "4x4"),
        ({"slope": math.nan}, "`slope`: expected a finite number"),
        ({"mean": (0.1, 0.2)}, "one `mean` for all channels"),
        ({"std": (0.0,)}, "`std`: expected greater than 0"),
    ],
)
@pytest.mark.usefixtures("no_shape_checks")
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    good: dict[str, object] = {"name": "conv3", "in_channels": 1, "image_size": 8, "classes": 10}
    with pytest.raises(dt.DivtrainError, match=message):
        build(**(good | arguments))  # pyright: ignore[reportArgumentType]


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(dt.DivtrainError, match=r"\(batch, 1, 28, 28\).*got \(2, 3, 32, 32\)"):
        build("conv3", 1, 28, 10)(torch.rand(2, 3, 32, 32))
