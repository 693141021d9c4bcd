"""Attacks of other libraries through the adapter: what comes back, and what is left behind."""

import importlib
import importlib.metadata
import random
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import divtrain as dt
from divtrain.attacks import Adapter, Attack, build_attack
from divtrain.attacks.external import EXTERNAL, OnImages
from divtrain.data import Images
from divtrain.evaluation import craft
from divtrain.identity import spec_of

EPS = 0.1
TORCHATTACK = ("nifgsm", "difgsm", "tifgsm", "vmifgsm")
X = torch.rand(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0])


def linear() -> nn.Module:
    torch.manual_seed(0)
    return dt.Ensemble([nn.Sequential(nn.Flatten(), nn.Linear(18, 3))], aggregate="logit")


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def adapted(change: Callable[[Tensor], Any], eps: float = EPS) -> Adapter:
    return Adapter("mine", eps, lambda model: lambda x, y: change(x))


# What the adapter does to any attack


def test_the_attack_is_built_for_the_model_and_given_images_and_labels() -> None:
    net, given = linear(), []

    def make(model: nn.Module) -> OnImages:
        given.append(model)

        def attack(x: Tensor, y: Tensor) -> Tensor:
            given.extend([x, y])
            return x

        return attack

    Adapter("mine", EPS, make)(net, X, Y)
    assert given[0] is net
    assert torch.equal(given[1], X)
    assert torch.equal(given[2], Y)


def test_it_is_an_attack_with_a_name_that_is_the_same_in_every_process() -> None:
    attack = adapted(lambda x: x)
    assert isinstance(attack, Attack)
    assert repr(attack) == "Adapter(name='mine', eps=0.1)"
    assert spec_of(attack) == {"kind": "Adapter", "name": "mine", "eps": 0.1, "version": ""}


def test_an_attack_that_overwrites_its_arguments_does_no_harm() -> None:
    x, y = X.clone(), Y.clone()

    def attack(x: Tensor, y: Tensor) -> Tensor:
        y.zero_()
        return x.add_(0.01)

    x_adv = Adapter("mine", EPS, lambda model: attack)(linear(), x, y)
    assert torch.equal(x, X)
    assert torch.equal(y, Y)
    torch.testing.assert_close(x_adv, X + 0.01)


def test_examples_come_back_detached_and_in_the_images_type() -> None:
    x = X.double()
    x_adv = adapted(lambda x: x.float().requires_grad_() + 0.01)(linear().double(), x, Y)
    assert x_adv.dtype == torch.float64
    assert not x_adv.requires_grad
    torch.testing.assert_close(x_adv, x + 0.01, atol=1e-6, rtol=0)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_in_eval_mode_and_frozen_meanwhile_and_restored(fails: bool) -> None:
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(18), nn.Dropout(), nn.Linear(18, 3))
    net[3].requires_grad_(False)
    net.train()
    net[2].eval()
    modes = [module.training for module in net.modules()]
    state = {name: value.clone() for name, value in net.state_dict().items()}

    def make(model: nn.Module) -> OnImages:
        def attack(x: Tensor, y: Tensor) -> Tensor:
            assert not any(module.training for module in model.modules())
            assert not any(parameter.requires_grad for parameter in model.parameters())
            model(x)
            model.train()  # as a careless attack would
            if fails:
                raise RuntimeError("no")
            return x

        return attack

    attack = Adapter("mine", EPS, make)
    if fails:
        with pytest.raises(dt.DivtrainError, match="failed on images of shape .*RuntimeError: no"):
            attack(net, X, Y)
    else:
        attack(net, X, Y)
    assert [module.training for module in net.modules()] == modes
    flags = {name: parameter.requires_grad for name, parameter in net.named_parameters()}
    assert flags == {
        "1.weight": True, "1.bias": True, "3.weight": False, "3.bias": False,
    }  # fmt: skip
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_random_choices_follow_the_generator_and_leave_the_global_one_alone() -> None:
    attack = adapted(lambda x: x + EPS * torch.rand_like(x))
    before = torch.get_rng_state()
    one, same, other = (attack(linear_as_is, X, Y, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


linear_as_is = linear()
"""Built beforehand: building a net draws from the global generator."""


def test_so_do_those_that_draw_from_numpy_or_from_python() -> None:
    """Such as ART's, whose random starts come from numpy's global generator."""

    def attack(x: Tensor) -> Tensor:
        drawn = np.random.uniform(size=x.shape) * random.random()
        return x + EPS * torch.from_numpy(drawn).float()

    before = str(np.random.get_state()), random.getstate()
    one, same, other = (adapted(attack)(linear_as_is, X, Y, seeded(seed)) for seed in (1, 1, 2))
    assert (str(np.random.get_state()), random.getstate()) == before
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_next_batch_draws_anew_from_the_same_generator() -> None:
    attack, generator = adapted(lambda x: x + EPS * torch.rand_like(x)), seeded()
    first, second = (attack(linear_as_is, X, Y, generator) for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_there_where_the_caller_disabled_them(mode: Callable[[], Any]) -> None:
    def make(model: nn.Module) -> OnImages:
        def attack(x: Tensor, y: Tensor) -> Tensor:
            x = x.requires_grad_()
            loss = nn.functional.cross_entropy(model(x), y)
            return x + EPS * torch.autograd.grad(loss, x)[0].sign()

        return attack

    attack = Adapter("mine", EPS, make)
    expected = attack(linear_as_is, X, Y)
    with mode():
        assert torch.equal(attack(linear_as_is, X + 0, Y + 0), expected)
    torch.testing.assert_close((expected - X).abs(), torch.full_like(X, EPS), atol=1e-6, rtol=0)


# What is not to be trusted


def test_what_leaves_the_ball_is_not_hidden_by_the_adapter() -> None:
    x_adv = adapted(lambda x: x + 7)(linear(), X, Y)
    assert torch.equal(x_adv, X + 7)


def test_the_evaluator_mends_and_counts_what_an_attack_may_not_return() -> None:
    def attack(x: Tensor) -> Tensor:
        x = x.clone()
        x[0] += 3 * EPS  # outside the ball, and at some pixels outside the bounds
        x[1, 0, 0, 0] = float("nan")
        x[2, 1, 2, 2] = float("inf")
        return x

    x = X * 0.2 + 0.75  # from 0.75 to 0.95: 0.3 more is beyond 1 at the first image
    crafted = craft(adapted(attack), linear(), Images(x, Y))
    found = crafted.violations
    assert found.not_finite == 2
    assert found.outside_bounds >= 1
    assert found.outside_ball >= 1
    assert torch.equal(crafted.x_adv[1:], x[1:])
    torch.testing.assert_close(crafted.x_adv[0], (x[0] + EPS).clamp(max=1))


def test_an_attack_within_its_bounds_counts_no_violation() -> None:
    crafted = craft(adapted(lambda x: (x + EPS).clamp(max=1)), linear(), Images(X, Y))
    assert crafted.violations == dt.evaluation.Violations(0, 0, 0)
    torch.testing.assert_close(crafted.x_adv, (X + EPS).clamp(max=1))


@pytest.mark.parametrize(
    ("change", "came"),
    [
        (lambda x: x[:2], r"\(2, 2, 3, 3\)"),
        (lambda x: x.flatten(1), r"\(4, 18\)"),
        (lambda x: x.numpy(), "ndarray"),
        (lambda x: (x, x), "tuple"),
        (lambda x: None, "NoneType"),
    ],
)
def test_something_else_than_images_is_refused(change: Callable[[Tensor], Any], came: str) -> None:
    with pytest.raises(
        dt.DivtrainError, match=rf"mine to return images of shape \(4, 2, 3, 3\), got {came}"
    ):
        adapted(change)(linear(), X, Y)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [(X * 255, Y, "divide 8-bit"), (X[0], Y, "height, width"), (X, Y[:1], "expected one label")],
)
def test_bad_images_and_labels_are_refused(x: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(dt.DivtrainError, match=message):
        adapted(lambda x: x)(linear(), x, y)


def test_a_bad_eps_is_refused() -> None:
    with pytest.raises(dt.DivtrainError, match="8/255"):
        adapted(lambda x: x, eps=8)


# Attacks of libraries, on real digits


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    raw = load_digits()
    x = torch.tensor(raw.images / 16).float().unsqueeze(1)  # pyright: ignore
    y = torch.tensor(raw.target)  # pyright: ignore
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[200:]), y[200:]).backward()
        optimizer.step()
    return net.train(), x[:100], y[:100]


class Colour(nn.Module):
    """A net for grey images that is shown large coloured ones."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(nn.functional.avg_pool2d(x.mean(1, keepdim=True), 2))


@pytest.fixture(scope="module")
def coloured(
    digits: tuple[nn.Module, Tensor, Tensor],
) -> tuple[nn.Module, Tensor, Tensor]:
    """As TI-FGSM of torchattack needs three channels, and DI-FGSM some pixels to shift by."""
    net, x, y = digits
    return Colour(net), nn.functional.interpolate(x, scale_factor=2).expand(-1, 3, -1, -1), y


def library(module: str) -> Any:
    return pytest.importorskip(module, reason=f"{module.split('.')[0]} is not installed")


def _torchattacks(model: nn.Module) -> OnImages:
    return library("torchattacks").PGD(model, eps=EPS, alpha=EPS / 4, steps=10)


def _torchattack(model: nn.Module) -> OnImages:
    kind = library("torchattack").PGD
    return kind(model, normalize=None, device="cpu", eps=EPS, alpha=EPS / 4, steps=10)


def _foolbox(model: nn.Module) -> OnImages:
    foolbox = library("foolbox")
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(steps=10, rel_stepsize=1 / 4)
    return lambda x, y: attack(wrapped, x, y, epsilons=EPS)[1]


def _adv_lib(model: nn.Module) -> OnImages:
    pgd_linf = library("adv_lib.attacks").pgd_linf
    return lambda x, y: pgd_linf(model, x, y, EPS, steps=10, relative_step_size=1 / 4)


def _art(model: nn.Module) -> OnImages:
    evasion = library("art.attacks.evasion")
    from art.estimators.classification import PyTorchClassifier  # pyright: ignore[reportMissingImports]

    wrapped = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0, 1), device_type="cpu"
    )
    attack = evasion.ProjectedGradientDescent(
        wrapped, eps=EPS, eps_step=EPS / 4, max_iter=10, num_random_init=1, verbose=False
    )
    return lambda x, y: torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


LIBRARIES = {
    "torchattacks": _torchattacks,
    "torchattack": _torchattack,
    "foolbox": _foolbox,
    "adv_lib": _adv_lib,
    "art": _art,
}


def check(attack: Attack, digits: tuple[nn.Module, Tensor, Tensor], drawn: bool) -> None:
    """What the adapter promises for the attack of any library."""
    net, x, y = digits
    before = torch.get_rng_state()
    one, same, other = (attack(net, x, y, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert (one.shape, one.dtype, one.requires_grad) == (x.shape, x.dtype, False)
    assert torch.equal(one, same)
    assert torch.equal(one, other) != drawn
    assert all(module.training for module in net.modules())
    assert all(parameter.requires_grad for parameter in net.parameters())
    crafted = craft(attack, net, Images(x, y))
    assert crafted.violations == dt.evaluation.Violations(0, 0, 0)
    if repr(attack) != "Adapter(name='art', eps=0.1)":  # it calls an nn.Sequential's layers itself
        assert crafted.passes.forward > 0
    clean, left = ((net(points).argmax(1) == y).float().mean() for points in (x, one))
    assert clean > 0.85
    assert left < clean - 0.1


@pytest.mark.parametrize("name", LIBRARIES)
def test_attacks_of_other_libraries_are_taken_as_they_are(
    name: str, digits: tuple[nn.Module, Tensor, Tensor]
) -> None:
    check(Adapter(name, EPS, LIBRARIES[name]), digits, drawn=True)


@pytest.mark.parametrize("name", TORCHATTACK)
def test_attacks_of_torchattack_are_built_by_name(
    name: str, coloured: tuple[nn.Module, Tensor, Tensor]
) -> None:
    library("torchattack")
    attack = build_attack(name, EPS)
    version = importlib.metadata.version("torchattack")
    assert repr(attack) == f"Adapter(name={name!r}, eps={EPS}, version={version!r})"
    check(attack, coloured, drawn=name in ("difgsm", "vmifgsm"))


def test_names_of_torchattack_mean_its_classes(
    coloured: tuple[nn.Module, Tensor, Tensor],
) -> None:
    torchattack = library("torchattack")
    net, x, y = coloured
    for name in TORCHATTACK:
        x_adv = build_attack(name, EPS)(net, x, y, seeded())
        draw = torch.randint(2**62, (), generator=seeded())  # as the adapter does
        with torch.random.fork_rng([]):
            torch.manual_seed(int(draw))
            direct = getattr(torchattack, name.upper())(net, normalize=None, device="cpu", eps=EPS)(
                x, y
            )
        torch.testing.assert_close(x_adv, direct, atol=0, rtol=0, msg=name)


# Libraries that are not there, and AutoAttack


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *((name, r"pip install --editable '\.\[torchattack\]'") for name in TORCHATTACK),
        ("autoattack", r"pip install git\+https://github.com/fra31/auto-attack"),
    ],
)
def test_a_library_that_is_missing_is_told_with_how_to_get_it(
    name: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("torchattack", "autoattack"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError):
        importlib.import_module("torchattack")
    with pytest.raises(dt.DivtrainError, match=how) as error:
        build_attack(name, EPS)
    assert repr(name) in str(error.value)


def test_autoattack_is_called_in_its_standard_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a stand-in: the library is not on PyPI."""
    made: list[tuple[Any, ...]] = []

    class AutoAttack:
        def __init__(self, model: nn.Module, **options: Any) -> None:
            made.append((model, options))

        def run_standard_evaluation(self, x: Tensor, y: Tensor, bs: int) -> Tensor:
            made.append((x, y, bs))
            return x + 0.05

    stand_in = ModuleType("autoattack")
    stand_in.AutoAttack = AutoAttack  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "autoattack", stand_in)
    attack, net = build_attack("autoattack", EPS), linear()
    assert made == []
    assert torch.equal(attack(net, X, Y), X + 0.05)
    (model, options), (x, y, size) = made
    assert model is net
    assert isinstance(options.pop("seed"), int)  # else it seeds itself by the clock
    assert options == {
        "norm": "Linf", "eps": EPS, "version": "standard", "verbose": False, "device": X.device,
    }  # fmt: skip
    assert torch.equal(x, X)
    assert torch.equal(y, Y)
    assert size == len(X)


@pytest.mark.parametrize("name", EXTERNAL)
def test_steps_and_restarts_of_other_libraries_are_refused_not_ignored(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("torchattack", "autoattack"):
        stand_in = ModuleType(module)
        stand_in.__getattr__ = lambda attribute: object  # pyright: ignore
        monkeypatch.setitem(sys.modules, module, stand_in)
    with pytest.raises(dt.DivtrainError, match="does not take"):
        build_attack(name, EPS, steps=3)
    with pytest.raises(dt.DivtrainError, match="does not take"):
        build_attack(name, EPS, restarts=3)


def test_a_sequential_is_handed_over_in_one_piece() -> None:
    """Some libraries call the layers of a Sequential themselves; its passes would go uncounted."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(18, 3))

    def make(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        assert not isinstance(model, nn.Sequential)
        return lambda x, y: x + 0 * model(x).sum()

    images = Images(torch.rand(4, 2, 3, 3), torch.arange(4) % 3)
    assert craft(Adapter("mine", 0.1, make), net, images).passes.forward == 1
