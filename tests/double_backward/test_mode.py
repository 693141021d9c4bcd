"""Our layers stand in where they compute the same, and nowhere else; and they are frugal."""

import gc
import itertools
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

import divtrain as dt
from divtrain.double_backward import FastDoubleBackward
from divtrain.double_backward.max_pooling import pick
from divtrain.gal import alignment, member_pass


class Tagged(Tensor):
    """Somebody's tensor, which may mean anything by a convolution."""


OURS = ("Convolution", "Linear", "PiecewiseLinear", "MaxPooling", "BatchNorm")


def made_by(y: Tensor) -> str:
    """Name of the node that made `y`."""
    assert y.grad_fn is not None
    return type(y.grad_fn).__name__.removesuffix("Backward")


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(3, 2, 3), "Convolution"),
        (nn.ConvTranspose2d(3, 2, 3), "Convolution"),
        (nn.Linear(4, 2), "Linear"),
        (nn.ReLU(), "PiecewiseLinear"),
        (torch.relu, "PiecewiseLinear"),
        (Tensor.relu, "PiecewiseLinear"),
        (nn.LeakyReLU(0.1), "PiecewiseLinear"),
        (nn.MaxPool2d(2), "MaxPooling"),
        (lambda x: F.max_pool2d(x, 2), "MaxPooling"),
        (nn.BatchNorm2d(3), "BatchNorm"),
    ],
)
def test_our_layers_are_used(layer: Any, expected: str) -> None:
    x = torch.rand(2, 3, 4, 4, requires_grad=True)
    with FastDoubleBackward():
        assert made_by(layer(x)) == expected
    assert made_by(layer(x)) not in OURS


@pytest.mark.parametrize(
    "layer",
    [
        lambda x: F.relu(x + 0, inplace=True),
        nn.BatchNorm2d(3).eval(),
        lambda x: F.leaky_relu(x, torch.tensor(0.2)),  # pyright: ignore
        lambda x: F.conv2d(x, torch.rand(2, 3, 3, 3).as_subclass(Tagged)),
        lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
        lambda x: nn.Conv2d(3, 2, 3)(x[0]),
        lambda x: F.max_pool2d(x[0], 2),
        lambda x: F.linear(x, torch.rand(4)),
        lambda x: F.linear(x, torch.rand(2, 4).as_subclass(Tagged)),
        nn.Tanh(),
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


def test_without_gradients_torch_runs() -> None:
    with FastDoubleBackward(), torch.no_grad():
        y = nn.Conv2d(1, 1, 1)(torch.rand(1, 1, 2, 2))
    assert y.grad_fn is None


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch.func's own, at its first use
def test_forward_mode_and_torch_func_are_left_to_torch() -> None:
    net, x = nn.Conv2d(1, 1, 2), torch.rand(1, 1, 3, 3)
    with FastDoubleBackward():
        with forward_ad.dual_level():
            y = net(forward_ad.make_dual(x, torch.ones_like(x)))
            assert forward_ad.unpack_dual(y).tangent is not None
        jacobian = torch.func.jacrev(net)(x)
    torch.testing.assert_close(jacobian, torch.func.jacrev(net)(x))


def test_a_mistake_raises_what_torch_raises() -> None:
    x = torch.rand(2, 3, 4, 4, requires_grad=True)
    for wrong in (
        nn.Conv2d(5, 2, 3),
        nn.Linear(5, 2),
        nn.BatchNorm2d(7),
        nn.MaxPool2d(9),
        nn.MaxPool2d(2, 0),
    ):
        with pytest.raises(RuntimeError) as theirs:
            wrong(x)
        with pytest.raises(RuntimeError) as ours, FastDoubleBackward():
            wrong(x)
        assert str(ours.value).splitlines()[0] == str(theirs.value).splitlines()[0]
    for name, call in {
        "running_mean": lambda: F.batch_norm(x, None, None),
        "eps": lambda: F.batch_norm(x, None, None, training=True, eps=0.0),
    }.items():
        with pytest.raises((RuntimeError, ValueError), match=name), FastDoubleBackward():
            call()
    one = torch.rand(1, 3, 1, 1, requires_grad=True)
    with pytest.raises(ValueError, match="more than 1 value"), FastDoubleBackward():
        nn.BatchNorm2d(3)(one)


def test_running_statistics_are_updated_once() -> None:
    x = torch.rand(8, 3, 4, 4, requires_grad=True)
    ours, theirs = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    with FastDoubleBackward():
        y = ours(x)
    (g,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
    g.sum().backward()
    theirs(x)
    assert ours.num_batches_tracked == 1
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


# Hygiene


def test_arguments_by_name_are_understood() -> None:
    x, w = torch.rand(1, 2, 4, 4, requires_grad=True), torch.rand(3, 2, 3, 3)
    with FastDoubleBackward():
        y = F.conv2d(input=x, weight=w, padding="same", dilation=(1,))
        z = F.max_pool2d(input=x, kernel_size=2, stride=())
    torch.testing.assert_close(y, F.conv2d(x, w, padding="same"))
    torch.testing.assert_close(z, F.max_pool2d(x, 2))


def test_what_follows_a_layer_may_change_its_output_in_place() -> None:
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    conv = nn.Conv2d(3, 3, 1).double()

    def run() -> Tensor:
        y = F.leaky_relu(conv(x), 0.1).add_(1)
        return F.max_pool2d(y, 2).mul_(2).square().sum()

    with FastDoubleBackward():
        ours = run()
    for one, other in zip(*(torch.autograd.grad(v, x) for v in (ours, run())), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("function", [F.relu, lambda x: F.max_pool2d(F.relu(x), 2)])
def test_a_relu_that_is_off_passes_nothing_of_an_infinite_gradient(function: Any) -> None:
    x = torch.tensor([[[[-1.0, -2.0], [-3.0, -4.0]]]], requires_grad=True)
    with FastDoubleBackward():
        y = function(x).sqrt()
    (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert (g == 0).all()
    (again,) = torch.autograd.grad(g.sum(), x, allow_unused=True)
    assert again is None or again.isfinite().all()


def test_checkpointed_layers_have_torchs_gradients() -> None:
    """Checkpointing runs the layers again in the backward pass, where our layers are not put in."""
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2))
    block = block.double()
    x = torch.rand(4, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    found = []
    for fast in (True, False):
        with FastDoubleBackward() if fast else nullcontext():
            y = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
        (g,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        found.append([g, *torch.autograd.grad(g.sin().sum(), list(block.parameters())[:3])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(1, 2, 2),
        nn.Linear(4, 3),
        nn.LeakyReLU(0.1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(1),
    ],
)
def test_a_batch_of_gradients_keeps_its_second_derivative(layer: nn.Module) -> None:
    layer, jacobians = layer.double(), []
    for fast in (True, False):
        x = torch.arange(32.0, dtype=torch.float64).sin().view(2, 1, 4, 4).requires_grad_()
        with FastDoubleBackward() if fast else nullcontext():
            y = layer(x).sin().flatten()
        rows = torch.eye(len(y), dtype=torch.float64)
        (jacobian,) = torch.autograd.grad(y, x, rows, create_graph=True, is_grads_batched=True)
        (second,) = torch.autograd.grad(jacobian.sin().sum(), x)
        jacobians.append((jacobian, second))
    for one, other in zip(*jacobians, strict=True):
        torch.testing.assert_close(one, other)


def test_a_third_derivative_of_batch_norm_is_refused_as_torch_refuses_it() -> None:
    x = torch.rand(4, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    with FastDoubleBackward():
        y = nn.BatchNorm2d(2).double()(x)
    (g,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
    (h,) = torch.autograd.grad(g.sin().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="3rd"):
        torch.autograd.grad(h.sin().sum(), x)


def test_pick_takes_values_in_either_layout() -> None:
    x = torch.rand(2, 3, 4, 5)
    y, indices = F.max_pool2d(x, 2, return_indices=True)
    torch.testing.assert_close(pick(x, indices), y)
    last = indices.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(pick(x.contiguous(memory_format=torch.channels_last), last), y)


WAITING = {
    "linear": lambda: nn.Linear(4, 3),  # the gradient for its weight
    "batch norm": lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)),  # that for its images
}

ROWS = 3  # no more than the layer has outputs: a linear layer does not wait with larger batches


def layer_and_gradients(layer: str, requires: bool) -> tuple[nn.Parameter, Tensor, Tensor]:
    """A weight, outputs, and input gradients for gradients of the outputs that are given."""
    torch.manual_seed(0)
    net = WAITING[layer]().double()
    x = torch.rand(ROWS, 4, dtype=torch.float64, requires_grad=True)
    v = torch.rand(ROWS, 3, dtype=torch.float64, requires_grad=requires)
    with FastDoubleBackward():
        y = net(x)
    (g,) = torch.autograd.grad(y, x, v, create_graph=True)
    return next(net.parameters()), y, g


@pytest.mark.parametrize("layer", WAITING)
@pytest.mark.parametrize("requires", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_a_layer_waits_for_nothing_that_may_be_over(layer: str, requires: bool, late: bool) -> None:
    """Nothing orders its two nodes here: whichever comes first, both gradients count."""
    weight, y, g = layer_and_gradients(layer, requires)
    (plain,) = torch.autograd.grad((y**2).sum(), weight, retain_graph=True)
    (expected,) = torch.autograd.grad(g.sin().sum(), weight, retain_graph=True)
    if late:  # autograd goes from young to old, and counts age in each thread for itself
        with ThreadPoolExecutor(1) as thread:
            of_gradients = thread.submit(lambda: g.sin().sum()).result()
    else:
        of_gradients = g.sin().sum()
    total = of_gradients + (y**2).sum()
    for _ in range(2):  # a second pass finds nothing of the first
        (got,) = torch.autograd.grad(total, weight, retain_graph=True)
        torch.testing.assert_close(got, expected + plain)
    total.backward()
    torch.testing.assert_close(weight.grad, expected + plain)


@pytest.mark.parametrize("layer", WAITING)
@pytest.mark.parametrize("requires", [False, True])
def test_a_pass_within_a_pass_takes_nothing_from_it(layer: str, requires: bool) -> None:
    """In between the two nodes of the layer, and in the order in which it does not wait."""
    weight, y, g = layer_and_gradients(layer, requires)
    with ThreadPoolExecutor(1) as thread:
        of_gradients = thread.submit(lambda: g.sin().sum()).result()
    total = of_gradients + (y**2).sum()
    (expected,) = torch.autograd.grad(total, weight, retain_graph=True)
    within: list[Tensor] = []

    def hook(grad: Tensor) -> None:
        with torch.enable_grad():
            square = (y**2).sum()
        within.extend(torch.autograd.grad(square, weight, retain_graph=True))

    g.register_hook(hook)
    (got,) = torch.autograd.grad(total, weight, retain_graph=True)
    torch.testing.assert_close(got, expected)
    (plain,) = torch.autograd.grad((y**2).sum(), weight)
    torch.testing.assert_close(within[0], plain)


def contexts(inside: tuple[bool, bool, bool]) -> list[Any]:
    return [torch.autocast("cpu", torch.bfloat16) if each else nullcontext() for each in inside]


@pytest.mark.parametrize("inside", list(itertools.product([False, True], repeat=3)))
@pytest.mark.parametrize("first", [nn.Conv2d(1, 2, 3), nn.Identity()])
def test_the_precision_of_a_pass_back_is_that_of_the_forward_pass(
    inside: tuple[bool, bool, bool], first: nn.Module
) -> None:
    """Whichever of the passes (forward, back, back again) run under autocast."""
    torch.manual_seed(0)
    net = nn.Sequential(first, nn.Flatten(), nn.LazyLinear(5), nn.Tanh(), nn.Linear(5, 3))
    data = torch.rand(4, 1, 6, 6)
    net(data)
    found = []
    for fast in (True, False):
        x = data.clone().requires_grad_()
        forward, back, again = contexts(inside)
        with forward, FastDoubleBackward() if fast else nullcontext():
            y = net(x)
        with back:
            (g,) = torch.autograd.grad(y.float().square().sum(), x, create_graph=True)
        with again:
            parameters = list(net.parameters())
            found.append([g, *torch.autograd.grad(g.sin().sum() + y.float().sum(), parameters)])
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("frozen", ["weight", "x"])
def test_a_linear_layer_keeps_no_more_than_torchs(frozen: str) -> None:
    """What no gradient needs may be changed in place."""
    net = nn.Linear(3, 3)
    x = torch.rand(2, 3, requires_grad=frozen != "x") * 1
    net.weight.requires_grad_(frozen != "weight")
    with FastDoubleBackward():
        y = net(x)
    with torch.no_grad():
        (x if frozen == "weight" else net.weight).mul_(2)
    y.sum().backward()


@pytest.mark.parametrize("layer", WAITING)
def test_a_pass_that_failed_leaves_no_gradient_to_the_next(layer: str) -> None:
    weight, y, g = layer_and_gradients(layer, requires=True)
    total = g.sin().sum() + (y**2).sum()
    same, same_y, same_g = layer_and_gradients(layer, requires=True)  # where no pass fails
    (expected,) = torch.autograd.grad(same_g.sin().sum() + (same_y**2).sum(), same)
    hook = y.register_hook(lambda grad: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        torch.autograd.grad(total, weight, retain_graph=True)
    hook.remove()
    torch.testing.assert_close(torch.autograd.grad(total, weight)[0], expected)


@pytest.mark.parametrize("layer", WAITING)
@pytest.mark.parametrize("changed", ["tangent", "gradient"])
def test_what_a_layer_was_given_may_be_changed_before_the_pass_is_over(
    layer: str, changed: str
) -> None:
    """As by an optimiser that steps in the pass back, on gradients that share memory with ours."""
    found = []
    for fast in (True, False):
        torch.manual_seed(0)
        net = WAITING[layer]().double()
        x = torch.rand(ROWS, 4, dtype=torch.float64, requires_grad=True)
        v = torch.rand(ROWS, 3, dtype=torch.float64)
        with FastDoubleBackward() if fast else nullcontext():
            y = net(x)
        p = torch.randn(x.numel(), dtype=torch.float64, requires_grad=True)
        shifted = p.view_as(x)
        e = y.exp()
        if changed == "tangent":
            p.register_post_accumulate_grad_hook(lambda p: [p.grad.zero_(), None][1])
        else:
            e.register_hook(lambda grad, v=v: [v.zero_(), None][1])
        (g,) = torch.autograd.grad(y, x, v, create_graph=True)
        (((g + shifted) ** 3).sum() + e.sum()).backward()
        found.append(next(net.parameters()).grad)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("layer", WAITING)
def test_a_pass_that_failed_keeps_nothing_alive(layer: str) -> None:
    def failing() -> Any:
        net = WAITING[layer]()
        x = torch.rand(ROWS, 4, requires_grad=True) * 1
        with FastDoubleBackward():
            y = net(x)
        (g,) = torch.autograd.grad(y.exp().sum(), x, create_graph=True)
        y.register_hook(lambda grad: 1 / 0)
        u = x * 2 + y.sum()
        with pytest.raises(ZeroDivisionError):
            torch.autograd.grad([g, y], list(net.parameters())[:1], [u, y * 2])
        return weakref.ref(x)

    gone = failing()
    gc.collect()
    assert gone() is None


def test_batch_norm_adds_what_was_left_to_a_batch_of_gradients() -> None:
    """A pass may bring one tangent to the inner node and a batch of gradients to the outer one."""
    found = []
    for fast in (True, False):
        torch.manual_seed(0)
        x, net = torch.rand(5, 4, requires_grad=True), nn.BatchNorm1d(4)
        u, many = torch.rand(5, 4), torch.rand(3, 5, 4)
        with FastDoubleBackward() if fast else nullcontext():
            y = net(x)
        (g,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)

        def both(
            v: Tensor, of: tuple[Tensor, ...] = (g, y), x: Tensor = x, u: Tensor = u
        ) -> Tensor:
            return torch.autograd.grad(of, x, (u, v), retain_graph=True)[0]

        found.append(torch.func.vmap(both)(many))
    torch.testing.assert_close(*found)


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


# Frugality: the counts behind the ratio of two


class Counted(TorchDispatchMode):
    """Counts the convolutions of a step: forward, to the images, to the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        if name == "aten::convolution":
            self.count["forward"] += 1
        if name == "aten::convolution_backward":
            self.count["to images"] += bool(args[-1][0])
            self.count["to weights"] += bool(args[-1][1])
        self.count["zeros"] += name in ("aten::zeros_like", "aten::zero_")
        return func(*args, **(kwargs or {}))


def net() -> dt.Ensemble:
    torch.manual_seed(0)
    return dt.Ensemble([dt.models.build("conv3", 1, 8, 4) for _ in range(2)])


def test_the_inner_pass_computes_no_gradient_of_a_weight() -> None:
    ens, x = net(), torch.rand(3, 1, 8, 8)
    forward = member_pass(ens, x, torch.tensor([0, 1, 2]))
    with Counted() as counted:
        forward.input_gradients(create_graph=True)
    assert counted.count["to weights"] == 0
    assert counted.count["to images"] == 2 * 3  # members x convolutions


def test_a_step_runs_six_convolutions_a_layer() -> None:
    """Two forward (the second of tangents), two to the images, two to the weights; see issue 4."""
    ens, x, y = net(), torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2])
    with Counted() as counted:
        forward = member_pass(ens, x, y)
        aligned = alignment(forward.input_gradients(create_graph=True))
        loss = forward.losses.mean() + aligned.gal
        loss.backward(inputs=list(ens.parameters()))
    layers, members = 3, 2
    assert counted.count["forward"] == 2 * layers * members
    assert counted.count["to weights"] == 2 * layers * members
    # The second pass to the images stops before the first convolution: nobody wants it.
    assert counted.count["to images"] == (2 * layers - 1) * members


class Shaped(TorchDispatchMode):
    """Counts the operations that make a tensor of one shape, views aside."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shapes = {shape, shape[::-1]}
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and tuple(made.shape) in self.shapes and not func.is_view:
            self.count[func.name()] += 1
        return made


def test_a_linear_layer_takes_one_product_for_both_gradients_of_its_weights() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.LeakyReLU(0.1), nn.Linear(7, 3))
    x, y = torch.rand(2, 3, 2, 2), torch.tensor([0, 1])
    ens = dt.Ensemble([net])
    forward = member_pass(ens, x, y)
    loss = forward.losses.mean() + forward.input_gradients(create_graph=True).sin().sum()
    with Shaped((7, 12)) as shaped:
        loss.backward(inputs=list(ens.parameters()))
    assert shaped.count == {"aten::mm": 1}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_takes_one_sum_for_both_gradients_of_its_images(
    layout: torch.memory_format, affine: bool
) -> None:
    """It makes one tensor and adds to it in place; torch's engine has nothing to add."""
    torch.manual_seed(0)
    shape = (4, 6, 3, 3)
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6, affine=affine), nn.Flatten())
    net = nn.Sequential(net, nn.Linear(54, 3)).to(memory_format=layout)  # pyright: ignore
    ens = dt.Ensemble([net])
    x, y = torch.rand(4, 2, 5, 5), torch.tensor([0, 1, 2, 0])
    forward = member_pass(ens, x, y)
    loss = forward.losses.mean() + forward.input_gradients(create_graph=True).sin().sum()
    with Shaped(shape) as shaped:
        loss.backward(inputs=list(ens.parameters()))
    assert "aten::add.Tensor" not in shaped.count
    # The first pass's gradient, added to the tangent; the second's, added to x; and both sums.
    assert shaped.count["aten::addcmul_"] == 2
    assert shaped.count["aten::add_.Tensor"] == 1


def test_the_gradient_for_a_channel_s_images_has_mean_0_in_bfloat16() -> None:
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


class Layouts(TorchDispatchMode):
    """Collects the strides that convolutions forward give their outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func.name() == "aten::convolution":
            self.found.add(made.stride())
        return made


@pytest.mark.parametrize("strides", [(64, 64, 8, 1), (64, 1, 8, 1)])
def test_tangents_of_one_channel_go_through_a_net_in_the_layout_of_its_images(
    strides: tuple[int, ...],
) -> None:
    """Both hold the same numbers in the same order; torch chooses its kernels by them."""
    conv = nn.Conv2d(1, 4, 3, padding=1)
    x = torch.rand(3, 1, 8, 8).as_strided((3, 1, 8, 8), strides).requires_grad_()
    with Layouts() as layouts:
        with FastDoubleBackward():
            y = conv(x)
        (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        g.sin().sum().backward()
    assert len(layouts.found) == 1
