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
from torch import Tensor, nn

import divtrain as dt
from attacks.nets import Lambda, digits, linear, seeded, single
from divtrain.attacks import Adapter, Attack, build_attack
from divtrain.attacks.external import EXTERNAL, OnImages
from divtrain.data import Images
from divtrain.evaluation import craft
from divtrain.identity import spec_of
from test_examples import load

EPS = 0.1
TORCHATTACK = ("nifgsm", "difgsm", "tifgsm", "vmifgsm")
X = torch.rand(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0])


def drawn_elsewhere(x: Tensor) -> Tensor:
    """As ART does, whose random starts come from numpy's global generator."""
    return torch.from_numpy(np.random.uniform(size=x.shape) * random.random()).float()


def ensemble() -> dt.Ensemble:
    return dt.Ensemble([linear(18)], aggregate="logit")


def adapted(change: Callable[[Tensor], Any], eps: float = EPS) -> Adapter:
    return Adapter("mine", eps, lambda model: lambda x, y: change(x))


# What the adapter does to any attack


def test_the_attack_is_built_for_the_model_and_given_images_and_labels() -> None:
    net, given = ensemble(), []

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

    x_adv = Adapter("mine", EPS, lambda model: attack)(ensemble(), x, y)
    assert torch.equal(x, X)
    assert torch.equal(y, Y)
    torch.testing.assert_close(x_adv, X + 0.01)


def test_examples_come_back_detached_and_in_the_images_type() -> None:
    x = X.double()
    x_adv = adapted(lambda x: x.float().requires_grad_() + 0.01)(ensemble().double(), x, Y)
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


@pytest.mark.parametrize("draw", [torch.rand_like, drawn_elsewhere])
def test_random_choices_follow_the_generator_and_leave_the_global_ones_alone(
    draw: Callable[[Tensor], Tensor],
) -> None:
    attack, net, generator = adapted(lambda x: x + EPS * draw(x)), linear(18), seeded()
    before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
    one, same, other = (attack(net, X, Y, seeded(seed)) for seed in (1, 1, 2))
    first, next_batch = (attack(net, X, Y, generator) for _ in range(2))
    after = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(first, next_batch)


# What is not to be trusted


def test_what_leaves_the_ball_is_not_hidden_by_the_adapter() -> None:
    x_adv = adapted(lambda x: x + 7)(ensemble(), X, Y)
    assert torch.equal(x_adv, X + 7)


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
        adapted(change)(ensemble(), X, Y)


# Attacks of libraries, on real digits


def check(attack: Attack, net: nn.Module, x: Tensor, y: Tensor, drawn: bool) -> None:
    """What the adapter promises for the attack of any library."""
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


@pytest.mark.parametrize("name", ["torchattack", "torchattacks", "foolbox", "art", "adv_lib"])
def test_attacks_of_other_libraries_are_taken_as_in_the_example(name: str) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed")
    net, x, y = digits()
    make = getattr(load("other_libraries"), name)
    check(Adapter(name, EPS, make), single(net).train(), x.float(), y, drawn=True)


@pytest.mark.parametrize("name", TORCHATTACK)
def test_names_of_torchattack_mean_its_classes(name: str) -> None:
    """On images of three channels, as its TI-FGSM needs, and of some pixels to shift by."""
    torchattack = pytest.importorskip("torchattack", reason="torchattack is not installed")
    net, x, y = digits()
    small = single(net)
    net = Lambda(lambda x: small(nn.functional.avg_pool2d(x.mean(1, keepdim=True), 2)), small)
    x = nn.functional.interpolate(x.float(), scale_factor=2).expand(-1, 3, -1, -1)
    attack = build_attack(name, EPS)
    version = importlib.metadata.version("torchattack")
    assert repr(attack) == f"Adapter(name={name!r}, eps={EPS}, version={version!r})"
    check(attack, net.train(), x, y, drawn=name in ("difgsm", "vmifgsm"))
    draw = torch.randint(2**31, (), generator=seeded())  # as the adapter does
    net.eval()
    with torch.random.fork_rng([]):
        torch.manual_seed(int(draw))
        options = {"normalize": None, "device": "cpu", "eps": EPS}
        direct = getattr(torchattack, name.upper())(net, **options)(x, y)
    torch.testing.assert_close(attack(net, x, y, seeded()), direct, atol=0, rtol=0)


# AutoAttack, and libraries that are not there


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *((name, r"pip install --editable '\.\[torchattack\]'") for name in TORCHATTACK),
        ("autoattack", r"pip install --editable '\.\[autoattack\]'"),
    ],
)
def test_a_library_that_is_missing_is_told_with_how_to_get_it(
    name: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("torchattack", "pyautoattack"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError):
        importlib.import_module("torchattack")
    with pytest.raises(dt.DivtrainError, match=how) as error:
        build_attack(name, EPS)
    assert repr(name) in str(error.value)


def test_autoattack_leaves_no_more_than_our_apgd_and_is_the_standard_one() -> None:
    pytest.importorskip("pyautoattack", reason="pyautoattack is not installed")
    net, x, y = digits()
    net, x, y = single(net).train(), x[:12].float(), y[:12]
    eps, version = 0.15, importlib.metadata.version("pyautoattack")
    attack = build_attack("autoattack", eps)
    assert repr(attack) == f"Adapter(name='autoattack', eps={eps}, version={version!r})"
    crafted = craft(attack, net, Images(x, y))
    assert net.training
    assert crafted.violations == dt.evaluation.Violations(0, 0, 0)
    assert crafted.passes.forward > 20
    net.eval()
    apgd = build_attack("apgd", eps, steps=100)(net, x, y, seeded())
    left = [int((net(points).argmax(1) == y).sum()) for points in (x, apgd, crafted.x_adv)]
    assert left[0] > left[1] >= left[2]


@pytest.mark.parametrize("classes", [3, 5])
def test_autoattack_aims_at_the_classes_there_are(classes: int) -> None:
    pytest.importorskip("pyautoattack", reason="pyautoattack is not installed")
    net = linear(18, classes)
    x, attack = torch.rand(3, 2, 3, 3), build_attack("autoattack", 0.5)
    y = net(x).argmax(1)
    if classes < 4:
        with pytest.raises(dt.DivtrainError, match="at least 4 classes, got 3"):
            attack(net, x, y)
    else:
        assert (net(attack(net, x, y)).argmax(1) == y).sum() == 0


@pytest.mark.parametrize("name", EXTERNAL)
def test_steps_and_restarts_of_other_libraries_are_refused_not_ignored(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("torchattack", "pyautoattack"):
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
