"""Members of any kind: parameter gradients equal plain torch's, or a message says what to do."""

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

import divtrain as dt
from divtrain import errors

CLASSES = 5
X = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.tensor([0, 4, 2])


class OnRows(nn.Module):
    """A layer on the rows of pixels as a sequence, (batch, row, feature), and a linear one."""

    def __init__(self, layer: nn.Module, features: int = 8) -> None:
        super().__init__()
        self.into, self.layer = nn.Linear(96, 8), layer
        self.out = nn.Linear(features, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.into(x.permute(0, 2, 1, 3).flatten(2))
        found: Any = self.layer(rows)
        return self.out((found[0] if isinstance(found, tuple) else found).mean(1))


class Attention(nn.Module):
    """`scaled_dot_product_attention`, or a whole multi-head one."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.heads = nn.MultiheadAttention(8, 2, batch_first=True) if whole else None

    def forward(self, h: Tensor) -> Tensor:
        if self.heads is None:
            return F.scaled_dot_product_attention(h, h, h, is_causal=True)
        return self.heads(h, h, h, need_weights=False)[0]


class InPlace(nn.Module):
    """Changes in place what a linear layer returned for 3-D input."""

    def forward(self, h: Tensor) -> Tensor:
        h += 1
        return h.mul_(2).tanh_()


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, CLASSES)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.two(self.one(F.avg_pool2d(x, 4).flatten(1)[:, :64]).tanh()).sin())


class LowRank(nn.Module):
    """A parametrization: the weight plus a product of two thin ones."""

    def __init__(self, out: int, features: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(out, 2) / 5)
        self.b = nn.Parameter(torch.randn(2, features) / 5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.a @ self.b


class OddBias(nn.Module):
    """A linear function whose bias is broadcast."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(5, 48)), nn.Parameter(torch.rand(shape))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.avg_pool2d(x, 8).flatten(1).sin(), self.weight, self.bias)


class Rescaling(nn.Module):
    """Normalises its images in place, first of all."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small()

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.5).div_(0.25)
        return self.net(x)


def small(in_place: bool = False) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.LeakyReLU(0.1, in_place), nn.MaxPool2d(3),
        nn.Flatten(), nn.Linear(100, CLASSES),
    )  # fmt: skip


def low_rank() -> nn.Module:
    net = small()
    for layer in (net[0], net[5]):
        weight: Any = layer.weight
        parametrize.register_parametrization(
            layer, "weight", LowRankOf(weight) if weight.ndim == 4 else LowRank(*weight.shape)
        )
    return net


class LowRankOf(LowRank):
    """The same for the weights of a convolution."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight.shape[0], weight[0].numel())

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.a @ self.b).view_as(weight)


def compiled(backend: str) -> Callable[[], nn.Module]:
    return lambda: torch.compile(small(), backend=backend)  # pyright: ignore[reportReturnType]


def swin() -> nn.Module:
    return torchvision.models.SwinTransformer(
        [4, 4], 8, [2, 2], [2, 2], [4, 4], num_classes=CLASSES, block=SwinTransformerBlockV2,
        downsample_layer=PatchMergingV2,
    )  # fmt: skip


def vision_transformer() -> nn.Module:
    vit = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=CLASSES)
    head: Any = vit.heads.head  # pyright: ignore
    nn.init.normal_(head.weight)  # zero at first
    return vit


def named(name: str) -> Callable[[], nn.Module]:
    return lambda: torchvision.models.get_model(name, num_classes=CLASSES)


KINDS: dict[str, Callable[[], nn.Module]] = {
    **{name: named(name) for name in ("resnet18", "mobilenet_v3_small", "densenet121")},
    "vision transformer": vision_transformer,
    "swin v2": swin,
    "attention": lambda: OnRows(Attention(False)),
    "multi-head attention": lambda: OnRows(Attention(True)),
    "encoder": lambda: OnRows(nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True)),
    "lstm": lambda: OnRows(nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True), 12),
    "gru": lambda: OnRows(nn.GRU(8, 6, batch_first=True), 6),
    "rnn": lambda: OnRows(nn.RNN(8, 6, batch_first=True), 6),
    "3-D linear, in place": lambda: OnRows(InPlace()),
    "odd bias": lambda: OddBias(1, 5),
    "bias for all": lambda: OddBias(1),
    "low rank": low_rank,
    "weight norm": lambda: nn.Sequential(weight_norm(nn.Conv2d(3, 4, 3)), *list(small())[1:5],
                                         nn.LazyLinear(CLASSES)),
    "tied": Tied,
    "compiled, eager": compiled("eager"),
    "compiled, aot": compiled("aot_eager"),
    "scripted": lambda: torch.jit.script(small()),
    "in place": lambda: small(in_place=True),
    "own images in place": Rescaling,
    "normalised": lambda: dt.normalised(small(), [0.4, 0.5, 0.6], [0.2, 0.2, 0.3]),
}  # fmt: skip


class TwiceDifferentiableHardsigmoid(nn.Module):
    """Torch's own has no second derivative."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(x + 3) / 6


def differentiable_twice(ens: nn.Module) -> None:
    for module in list(ens.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Hardsigmoid):
                setattr(module, name, TwiceDifferentiableHardsigmoid())


@pytest.fixture(autouse=True)
def _say_again() -> Iterator[None]:
    """What is said once is said in each test."""
    errors.warn_once.cache_clear()
    yield
    errors.warn_once.cache_clear()


@sdpa_kernel(SDPBackend.MATH)
def plain_gradients(ens: dt.Ensemble, x: Tensor, y: Tensor) -> list[Tensor | None]:
    """Eq. 9 by torch alone, and its parameter gradients."""
    leaves = [x.clone().requires_grad_() for _ in ens]
    losses = [
        F.cross_entropy(member(leaf.clone()), y, reduction="none")
        for member, leaf in zip(ens, leaves, strict=True)
    ]
    g = torch.autograd.grad(sum(each.sum() for each in losses), leaves, create_graph=True)  # pyright: ignore
    cosine = F.cosine_similarity(g[0].flatten(1), g[1].flatten(1), eps=1e-30)
    total = torch.stack(losses).mean() + 0.5 * cosine.mean()
    return list(torch.autograd.grad(total, list(ens.parameters()), allow_unused=True))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_parameter_gradients_are_plain_torchs(kind: str, training: bool) -> None:
    torch.manual_seed(0)
    member = KINDS[kind]()
    member(X.float().clone())  # lazy layers
    ens = dt.Ensemble([member, small()]).double().train(training)
    bare: Any = copy.deepcopy(ens)
    if kind.startswith("compiled"):
        bare.members[0] = bare.members[0]._orig_mod
    differentiable_twice(bare)
    torch.manual_seed(1)
    expected = plain_gradients(bare, X, Y)
    torch.manual_seed(1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loss = dt.diversity_loss(ens, X, Y)
    assert [str(each.message)[:8] for each in said if "uncompiled" in str(each.message)] == (
        ["compiled"] if kind.startswith("compiled") else []
    )
    found = torch.autograd.grad(loss.total, list(ens.parameters()), allow_unused=True)
    scale = max(float(each.abs().max()) for each in expected if each is not None)
    for (name, parameter), got, right in zip(ens.named_parameters(), found, expected, strict=True):
        got, right = (torch.zeros_like(parameter) if g is None else g for g in (got, right))
        torch.testing.assert_close(got, right, rtol=1e-8, atol=1e-10 * scale, msg=name)


def test_members_of_timm() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    nets = [
        timm.create_model(n, num_classes=CLASSES) for n in ("resnet10t", "mobilenetv3_small_050")
    ]
    ens = dt.Ensemble(nets).double().eval()
    bare = copy.deepcopy(ens)
    differentiable_twice(bare)
    expected = plain_gradients(bare, X, Y)
    found = torch.autograd.grad(dt.diversity_loss(ens, X, Y).total, list(ens.parameters()))
    for got, right in zip(found, expected, strict=True):
        torch.testing.assert_close(got, right, rtol=1e-7, atol=1e-10)
