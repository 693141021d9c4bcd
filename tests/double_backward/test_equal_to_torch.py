"""Every derivative, with our layers in the place of torch's and without, in float64."""

import contextlib
import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from divtrain.double_backward import FastDoubleBackward

pytestmark = pytest.mark.filterwarnings("ignore:.*zero-padded copy.*")

IMAGES = (3, 4, 6, 7)


class Checkpointed(nn.Sequential):
    """Runs again in the backward pass, where our layers are not put in."""

    def forward(self, input: Tensor) -> Tensor:
        return checkpoint(super().forward, input, use_reentrant=False)


class Changed(nn.Module):
    """Changes in place what the layer before it returned."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2)


class Doubled(nn.Module):
    """Uses what it changed in place by its old name."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 3
        nn.functional.leaky_relu_(y, 0.1)
        return y.sin() + x


LAYERS: dict[str, nn.Module] = {
    "conv": nn.Conv2d(4, 6, 3),
    "conv, same": nn.Conv2d(4, 6, 3, padding="same"),
    "conv, same, even kernel": nn.Conv2d(4, 6, 2, padding="same"),
    "conv, valid, no bias": nn.Conv2d(4, 6, 3, padding="valid", bias=False),
    "conv, groups, stride, dilation": nn.Conv2d(4, 6, 3, 2, 3, dilation=2, groups=2),
    "conv, depthwise": nn.Conv2d(4, 4, 3, groups=4),
    "conv, oblong": nn.Conv2d(4, 6, (3, 2), (1, 2), (0, 1)),
    "conv, circular": nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
    "conv, reflect": nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    "conv, replicate": nn.Conv2d(4, 6, 3, padding=1, padding_mode="replicate"),
    "transposed": nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2),
    "transposed, output padding": nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1),
    "conv1d": nn.Sequential(nn.Flatten(2), nn.Conv1d(4, 6, 3, padding=1)),
    "conv3d": nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Conv3d(2, 3, 2)),
    "linear": nn.Sequential(nn.Flatten(), nn.Linear(4 * 6 * 7, 5)),
    "linear, no bias": nn.Sequential(nn.Flatten(), nn.Linear(4 * 6 * 7, 5, bias=False)),
    "leaky relu": nn.LeakyReLU(0.1),
    "leaky relu, falling": nn.LeakyReLU(-0.1),
    "leaky relu, steep": nn.LeakyReLU(1.5),
    "relu": nn.ReLU(),
    "relu, in place": nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)),
    "leaky relu, in place": nn.Sequential(nn.Conv2d(4, 4, 1), nn.LeakyReLU(0.1, inplace=True)),
    "leaky relu, flat, in place": nn.Sequential(nn.Conv2d(4, 4, 1), nn.LeakyReLU(0.0, True)),
    "in place, used before": nn.Sequential(nn.Conv2d(4, 4, 1), Doubled()),
    "batch norm, in place after all": nn.Sequential(
        nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4),
        nn.LeakyReLU(0.1, True),
        nn.MaxPool2d(2),
        nn.ReLU(True),
    ),
    "max pool": nn.MaxPool2d(2),
    "max pool, overlapping": nn.MaxPool2d(3, 2, 1),
    "max pool, ceil": nn.MaxPool2d(2, ceil_mode=True),
    "max pool, dilation": nn.MaxPool2d(2, 1, dilation=2),
    "relu, max pool": nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)),
    "leaky relu, max pool": nn.Sequential(nn.LeakyReLU(0.2), nn.MaxPool2d(3, 2, 1)),
    "changed in place": nn.Sequential(
        nn.Conv2d(4, 6, 1), Changed(), nn.LeakyReLU(0.1), Changed(), nn.MaxPool2d(2), Changed()
    ),
    "checkpointed": Checkpointed(nn.Conv2d(4, 6, 3), nn.LeakyReLU(0.1), nn.MaxPool2d(2)),
    "checkpointed batch norm": Checkpointed(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)),
    "batch norm": nn.BatchNorm2d(4),
    "batch norm, not affine": nn.BatchNorm2d(4, affine=False),
    "batch norm, no statistics": nn.BatchNorm2d(4, track_running_stats=False),
    "batch norm, eval": nn.BatchNorm2d(4).eval(),
    "batch norm, not affine, eval": nn.BatchNorm2d(4, affine=False).eval(),
    "batch norm, cumulative": nn.BatchNorm2d(4, momentum=None),
    "batch norm 1d": nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4 * 6 * 7)),
    "group norm": nn.GroupNorm(2, 4),
    "a net": nn.Sequential(
        nn.Conv2d(4, 6, 3, padding="same", bias=False),
        nn.BatchNorm2d(6),
        nn.LeakyReLU(0.1),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(5, 3),
    ),
}


def layer(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    net = copy.deepcopy(LAYERS[name]).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn_like(parameter))
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                assert module.running_var is not None
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return net


def images(seed: int = 1, shape: tuple[int, ...] = IMAGES) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def mode(fast: bool) -> contextlib.AbstractContextManager[object]:
    return FastDoubleBackward() if fast else contextlib.nullcontext()


def weighted(values: Tensor) -> Tensor:
    """A scalar with different, nonlinear dependence on each value."""
    return (values.sin() * torch.linspace(-1, 1, values.numel()).view_as(values)).sum()


def double_backward(
    net: nn.Module, x: Tensor, fast: bool, third: bool = False
) -> dict[str, Tensor | None]:
    """Output, input gradient, its derivatives, and those of its derivatives if `third`."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    with mode(fast):
        y = net(x)
    loss = weighted(y)
    (g,) = torch.autograd.grad(loss, x, create_graph=True)
    names = ["x", *(name for name, _ in net.named_parameters())]
    leaves = [x, *net.parameters()]
    total = weighted(g) + 0.3 * loss
    second = torch.autograd.grad(total, leaves, create_graph=third, allow_unused=True)
    found: dict[str, Tensor | None] = {"y": y, "g": g}
    found |= {f"d {name}": value for name, value in zip(names, second, strict=True)}
    found |= {f"buffer {name}": value for name, value in net.named_buffers()}
    if third:
        again = sum(weighted(value) for value in second if value is not None)
        assert isinstance(again, Tensor)
        values = torch.autograd.grad(again, leaves, allow_unused=True)
        found |= {f"dd {name}": value for name, value in zip(names, values, strict=True)}
    return found


def check_equal(one: dict[str, Tensor | None], other: dict[str, Tensor | None]) -> None:
    assert one.keys() == other.keys()
    for name, expected in other.items():
        got = one[name]
        if got is None or expected is None:  # one says nothing where the other says zero
            there = got if expected is None else expected
            assert there is None or not there.any(), name
            continue
        assert got.dtype == expected.dtype, name
        torch.testing.assert_close(
            got, expected, rtol=1e-9, atol=1e-11, msg=lambda m, n=name: n + m
        )


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_second_derivatives(name: str, channels_last: bool) -> None:
    x = images()
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    check_equal(*(double_backward(layer(name), x, fast) for fast in (True, False)))


@pytest.mark.parametrize(
    "name", [n for n in LAYERS if "norm" not in n and "net" not in n and "output" not in n]
)
def test_third_derivatives(name: str) -> None:
    """Where torch has them: not for batch norm, nor for a transposed convolution's padding."""
    check_equal(
        *(double_backward(layer(name), images(), fast, third=True) for fast in (True, False))
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "name", ["conv", "transposed", "linear", "relu", "max pool", "batch norm", "a net"]
)
def test_under_autocast_outputs_have_the_same_precision(name: str, dtype: torch.dtype) -> None:
    net, x = layer(name).float(), images().float().requires_grad_()
    outputs = []
    for fast in (True, False):
        with torch.autocast("cpu", dtype=dtype), mode(fast):
            outputs.append(copy.deepcopy(net)(x))
    assert outputs[0].dtype == outputs[1].dtype
    torch.testing.assert_close(outputs[0], outputs[1])


def test_one_image_in_mixed_layouts() -> None:
    """Group norm returns contiguous gradients; aten's batch norm mixes those up with images in
    channels-last where the batch has one image."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.BatchNorm2d(4)).double()
    x = images(shape=(1, 4, 6, 7))
    last = x.to(memory_format=torch.channels_last)
    check_equal(double_backward(copy.deepcopy(net), last, True), double_backward(net, x, False))


@pytest.mark.filterwarnings("ignore")  # torch.compile's own
def test_compiled_layers_have_torchs_derivatives() -> None:
    compiled = torch.compile(layer("a net"), backend="eager")
    ours = double_backward(compiled, images(), fast=True)  # pyright: ignore[reportArgumentType]
    theirs = double_backward(layer("a net"), images(), fast=False)
    check_equal({name.replace("_orig_mod.", ""): value for name, value in ours.items()}, theirs)
