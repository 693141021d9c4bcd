"""Our layers stand in where they compute the same, and nowhere else; and they are frugal."""

import itertools
import re
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import TorchDispatchMode

import divtrain as dt
from divtrain.double_backward import FastDoubleBackward, _torch


class Tagged(Tensor):
    """Somebody's tensor, which may mean anything by a convolution."""


OURS = ("Convolution", "PiecewiseLinear", "MaxPooling", "BatchNorm")


def made_by(y: Tensor) -> str:
    """Name of the node that made `y`."""
    assert y.grad_fn is not None
    return type(y.grad_fn).__name__.removesuffix("Backward")


def check_same(run: Callable[[Any], list[Tensor]]) -> None:
    """`run` returns the same in our context, which it is given, as in one that does nothing."""
    for ours, theirs in zip(run(FastDoubleBackward()), run(nullcontext()), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(3, 2, 3), "Convolution"),
        (nn.ConvTranspose2d(3, 2, 3), "Convolution"),
        (nn.ReLU(), "PiecewiseLinear"),
        (torch.relu, "PiecewiseLinear"),
        (Tensor.relu, "PiecewiseLinear"),
        (nn.LeakyReLU(0.1), "PiecewiseLinear"),
        (lambda x: F.relu(x + 0, inplace=True), "PiecewiseLinear"),
        (lambda x: F.relu_(x + 0), "PiecewiseLinear"),
        (lambda x: (x + 0).relu_(), "PiecewiseLinear"),
        (lambda x: torch.relu_(x + 0), "PiecewiseLinear"),
        (lambda x: F.leaky_relu(x + 0, 0.1, inplace=True), "PiecewiseLinear"),
        (lambda x: F.leaky_relu_(x + 0, 0.1), "PiecewiseLinear"),
        (nn.MaxPool2d(2), "MaxPooling"),
        (lambda x: F.max_pool2d(x, 2), "MaxPooling"),
        (lambda x: F.max_pool2d(input=x, kernel_size=2, stride=()), "MaxPooling"),
        (
            lambda x: F.conv2d(input=x, weight=torch.ones(2, 3, 3, 3), padding="same", stride=(1,)),
            "Convolution",
        ),
        (nn.BatchNorm2d(3), "BatchNorm"),
    ],
)
def test_our_layers_are_used(layer: Any, expected: str) -> None:
    x = torch.rand(2, 3, 4, 4, requires_grad=True)
    with FastDoubleBackward():
        ours = layer(x)
    theirs = layer(x)
    assert made_by(ours) == expected
    assert made_by(theirs) not in OURS
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "layer",
    [
        lambda x: F.relu((x + 0)[:, :2], inplace=True),  # a view
        lambda x: F.leaky_relu((x + 0).detach(), 0.1, inplace=True) + x,
        nn.BatchNorm2d(3).eval(),
        lambda x: F.leaky_relu(x, torch.tensor(0.2)),  # pyright: ignore
        lambda x: F.conv2d(x, torch.rand(2, 3, 3, 3).as_subclass(Tagged)),
        lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
        lambda x: nn.Conv2d(3, 2, 3)(x[0]),
        lambda x: F.max_pool2d(x[0], 2),
        nn.Linear(4, 2),
        nn.Dropout(0.5),
    ],
)
def test_what_they_do_not_do_is_left_to_torch(layer: Any) -> None:
    x = torch.rand(2, 3, 4, 4, requires_grad=True)
    torch.manual_seed(0)
    with FastDoubleBackward():
        y = layer(x)
    torch.manual_seed(0)
    torch.testing.assert_close(y, layer(x))
    assert made_by(y) not in OURS


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch.func's own, at its first use
def test_no_gradients_forward_mode_torch_func_and_compiling_are_left_to_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, x = nn.Conv2d(1, 1, 2), torch.rand(1, 1, 3, 3)
    with FastDoubleBackward():
        with torch.no_grad():
            assert net(x).grad_fn is None
        with forward_ad.dual_level():
            y = net(forward_ad.make_dual(x, torch.ones_like(x)))
            assert forward_ad.unpack_dual(y).tangent is not None
        jacobian = torch.func.jacrev(net)(x)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert made_by(net(x)) not in OURS
    monkeypatch.undo()
    torch.testing.assert_close(jacobian, torch.func.jacrev(net)(x))


@pytest.mark.parametrize(
    ("wrong", "shape"),
    [
        (nn.Conv2d(5, 2, 3), (2, 3, 4, 4)),
        (lambda x: F.conv2d(x, torch.rand(2, 3, 3)), (2, 3, 4)),  # as a conv1d it would run
        (nn.MaxPool2d(9), (2, 3, 4, 4)),
        (nn.MaxPool2d(2, 0), (2, 3, 4, 4)),
        (nn.BatchNorm2d(7), (2, 3, 4, 4)),
        (nn.BatchNorm2d(3), (1, 3, 1, 1)),
        (lambda x: F.batch_norm(x, None, None), (2, 3, 4, 4)),
        (lambda x: F.batch_norm(x, None, None, training=True, eps=0.0), (2, 3, 4, 4)),
    ],
)
def test_a_mistake_raises_what_torch_raises(wrong: Any, shape: tuple[int, ...]) -> None:
    x = torch.rand(shape, requires_grad=True)
    errors = []
    for context in (FastDoubleBackward(), nullcontext()):
        with pytest.raises((RuntimeError, ValueError)) as raised, context:
            wrong(x)
        errors.append((raised.type, str(raised.value).splitlines()[0]))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("function", [F.relu, lambda x: F.max_pool2d(F.relu(x), 2)])
def test_a_relu_that_is_off_passes_nothing_of_an_infinite_gradient(function: Any) -> None:
    x = torch.tensor([[[[-1.0, -2.0], [-3.0, -4.0]]]], requires_grad=True)
    with FastDoubleBackward():
        y = function(x).sqrt()
    (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert (g == 0).all()
    (again,) = torch.autograd.grad(g.sum(), x, allow_unused=True)
    assert again is None or again.isfinite().all()


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(1, 2, 2), nn.LeakyReLU(0.1), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(1)],
)
def test_a_batch_of_gradients_is_differentiated_as_torch_does(layer: nn.Module) -> None:
    """A batch in the first backward pass, and one in the second."""
    layer = layer.double()
    x = torch.arange(32.0, dtype=torch.float64).sin().view(2, 1, 4, 4).requires_grad_()

    def run(context: Any) -> list[Tensor]:
        with context:
            y = layer(x).sin()
        rows = torch.eye(y.numel(), dtype=torch.float64).view(-1, *y.shape)
        (jacobian,) = torch.autograd.grad(y, x, rows, create_graph=True, is_grads_batched=True)
        second = torch.autograd.grad(jacobian.sin().sum(), x, retain_graph=True)
        (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        rows = torch.eye(g.numel(), dtype=torch.float64).view(-1, *g.shape)
        return [jacobian, *second, *torch.autograd.grad(g, x, rows, is_grads_batched=True)]

    check_same(run)


def test_a_third_derivative_of_batch_norm_is_refused_as_torch_refuses_it() -> None:
    x = torch.rand(4, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    with FastDoubleBackward():
        y = nn.BatchNorm2d(2).double()(x)
    (g,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
    (h,) = torch.autograd.grad(g.sin().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="3rd"):
        torch.autograd.grad(h.sin().sum(), x)


# Precision


@pytest.mark.parametrize("inside", list(itertools.product([False, True], repeat=3)))
def test_the_precision_of_a_backward_pass_is_that_of_the_forward_pass(
    inside: tuple[bool, bool, bool],
) -> None:
    """Whichever of the passes (forward, backward, backward again) run under autocast."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 3))
    x = torch.rand(4, 1, 6, 6, requires_grad=True)

    def run(layers: Any) -> list[Tensor]:
        forward, backward, again = (torch.autocast("cpu", torch.bfloat16, each) for each in inside)
        with forward, layers:
            y = net(x)
        with backward:
            (g,) = torch.autograd.grad(y.float().square().sin().sum(), x, create_graph=True)
        with again:
            total = g.sin().sum() + y.float().sin().sum()
            return [g, *torch.autograd.grad(total, [x, *net.parameters()])]

    check_same(run)


@pytest.mark.parametrize("spread", [1.0, 300.0])
def test_batch_norm_of_large_images_in_float16(spread: float) -> None:
    """The factor of the images, about spread^-3, is not rounded to float16."""
    torch.manual_seed(0)
    images = (torch.randn(16, 3, 5, 5) * spread).half()
    weights = torch.randn(3, *images.shape)
    found = []
    for exact in (False, True):
        x = (images.double() if exact else images).detach().requires_grad_()
        net = nn.BatchNorm2d(3)
        if exact:
            net.double()
        with FastDoubleBackward() if not exact else nullcontext():
            y = net(x)
        loss = (y.to(weights.dtype).square() * weights[0]).sum()
        (v,) = torch.autograd.grad(loss, x, create_graph=True)
        total = 0.1 * ((v * weights[1]).sum() + (y * weights[2]).sum())
        found.append(torch.autograd.grad(total, x)[0].double())
    error = (found[0] - found[1]).norm() / found[1].norm()
    assert error < 3e-3


def test_the_gradient_for_the_images_of_a_channel_has_mean_0_in_bfloat16() -> None:
    """Adding a constant to the images changes nothing, however far from 0 they lie."""
    torch.manual_seed(0)
    images = (torch.randn(8, 3, 6, 6) + 100).bfloat16().requires_grad_()
    layer = nn.BatchNorm2d(3)
    with FastDoubleBackward():
        y = layer(images)
    (v,) = torch.autograd.grad(
        y.float().square().mul(torch.rand(y.shape)).sum(), images, create_graph=True
    )
    total = (v.float() * torch.randn(v.shape)).sum() + (y.float() * torch.randn(y.shape)).sum()
    (found,) = torch.autograd.grad(total, images)
    mean = found.float().mean((0, 2, 3))
    assert (mean.abs() < 0.02 * found.float().std((0, 2, 3))).all()


# Frugality: the counts behind the ratio of two


class Convolutions(TorchDispatchMode):
    """Counts the convolutions that run, and collects the strides of those forward."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.strides: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func.name() == "aten::convolution":
            self.count["forward"] += 1
            self.strides.add(made.stride())
        if func.name() == "aten::convolution_backward":
            self.count["to images"] += bool(args[-1][0])
            self.count["to weights"] += bool(args[-1][1])
        return made


def test_a_step_runs_six_convolutions_a_layer() -> None:
    """Two forward (the second of tangents), two to the images, two to the weights."""
    torch.manual_seed(0)
    layers, members = 3, 2
    ens = dt.Ensemble([dt.models.build("conv3", 1, 8, 4) for _ in range(members)])
    x, y = torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2])
    with Convolutions() as ran:
        loss = dt.diversity_loss(ens, x, y).total
        assert ran.count["to weights"] == 0
        assert ran.count["to images"] == layers * members
        loss.backward(inputs=list(ens.parameters()))
    assert ran.count["forward"] == 2 * layers * members
    assert ran.count["to weights"] == 2 * layers * members
    # The second pass to the images stops before the first convolution: nobody wants it.
    assert ran.count["to images"] == (2 * layers - 1) * members


@pytest.mark.parametrize("strides", [(64, 64, 8, 1), (64, 1, 8, 1)])
def test_tangents_of_one_channel_go_through_a_net_in_the_layout_of_its_images(
    strides: tuple[int, ...],
) -> None:
    """Both hold the same numbers in the same order; torch chooses its kernels by them."""
    conv = nn.Conv2d(1, 4, 3, padding=1)
    x = torch.rand(3, 1, 8, 8).as_strided((3, 1, 8, 8), strides).requires_grad_()
    with Convolutions() as ran:
        with FastDoubleBackward():
            y = conv(x)
        (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        g.sin().sum().backward()
    assert len(ran.strides) == 1


# Private names of torch

WITHOUT = {
    "nothing": (True, True, False),
    "_C._functorch.peek_interpreter_stack": (False, False, False),
    "autograd.forward_ad._current_level": (False, False, False),
    "_C._autograd._top_saved_tensors_default_hooks": (False, False, False),
    "_C._dispatch_keys": (True, False, False),
    "_C._will_engine_execute_node": (True, True, True),
}
"""By the name that is missing: whether a layer is ours, whether its input gradient is, and whether
the gradient of a weight that nobody asked for is computed."""


def test_all_private_names_of_torch_are_in_one_file() -> None:
    """And the next test knows them all."""
    names = re.findall(r'_private\("(.+)"\)', Path(_torch.__file__).read_text())
    assert set(names) == set(WITHOUT) - {"nothing"}
    for other in Path(dt.__file__).parent.rglob("*.py"):
        private = re.search(
            r"\btorch\._(?!_)|from torch[\w.]* import .*\b_|\._buffers", other.read_text()
        )
        assert not private or other == Path(_torch.__file__), f"{other}: {private}"


@pytest.mark.parametrize("missing", WITHOUT)
def test_without_a_private_name_of_torch_derivatives_are_the_same(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing != "nothing":
        owner, _, name = missing.rpartition(".")
        monkeypatch.delattr(attrgetter(owner)(torch), name)
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(2), nn.LeakyReLU(0.1), nn.MaxPool2d(2), nn.Conv2d(2, 3, 2))
    net.double()
    x = torch.rand(2, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    found = []

    def run(context: Any) -> list[Tensor]:
        with context:
            y = net(x)
        with Convolutions() as ran:
            (g,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        made_by_ours = (isinstance(each.grad_fn, BackwardCFunction) for each in (y, g))
        found.append((*made_by_ours, ran.count["to weights"] > 0))
        return [y, g, *torch.autograd.grad(g.sin().sum() + y.sum(), [x, *net.parameters()])]

    check_same(run)
    assert found == [WITHOUT[missing], (False, False, False)]
