"""Other libraries as oracles, where their definitions agree with the specification."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks.nets import digits, seeded, single
from divtrain.attacks import APGD, APGDT, FGSM, IFGSM, PGD, IterativeAttack, Square, dlr

EPS = 0.1


def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return (net(x).argmax(1) == y).double().mean().item()


@pytest.mark.parametrize(
    ("ours", "options"),
    [
        (FGSM(eps=EPS), {"steps": 1, "rel_stepsize": 1.0}),
        (IFGSM(eps=EPS, steps=10), {"steps": 10, "rel_stepsize": 0.1}),
        (IFGSM(eps=EPS, steps=20, step_size=0.025), {"steps": 20, "rel_stepsize": 0.25}),
    ],
    ids=["fgsm", "ifgsm", "pgd"],
)
def test_foolbox_crafts_the_same_examples(ours: IterativeAttack, options: dict[str, float]) -> None:
    foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed")
    net, x, y = digits()
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfProjectedGradientDescentAttack(random_start=False, **options)
    _, theirs, _ = attack(model, x, y, epsilons=EPS)
    mine = ours(net, x, y)
    same = (mine - theirs).abs().flatten(1).amax(1) < 1e-9
    # foolbox leaves images alone that are misclassified clean; compare the others.
    right = net(x).argmax(1) == y
    assert right.sum() > 150
    assert same[right].all()
    assert accuracy(net, mine, y) < 0.5


def left_by(attack: PGD | APGD | Square, *on: Any) -> float:
    net, x, y = on or digits()
    return accuracy(net, attack(net, x, y, seeded(1)), y)


# Attacks with random starts reach the same accuracy; from the same start, the same points


@pytest.mark.parametrize("eps", [0.05, 0.1])
def test_foolbox_reaches_the_accuracy_of_pgd(eps: float) -> None:
    foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed")
    net, x, y = digits()
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfProjectedGradientDescentAttack(steps=40, rel_stepsize=2.5 / 40)
    _, theirs, _ = attack(model, x, y, epsilons=eps)
    ours = left_by(PGD(eps=eps, steps=40))
    assert ours == pytest.approx(accuracy(net, theirs, y), abs=0.01)
    assert 0.01 < ours < accuracy(net, x, y) - 0.1


@pytest.mark.parametrize("eps", [0.05, 0.1])
def test_adv_lib_reaches_the_accuracy_of_pgd_with_restarts(eps: float) -> None:
    attacks = pytest.importorskip("adv_lib.attacks", reason="adv-lib is not installed")
    net, x, y = digits()
    theirs = attacks.pgd_linf(
        net, x, y, eps, steps=40, restarts=3, absolute_step_size=2.5 * eps / 40
    )
    ours = left_by(PGD(eps=eps, steps=40, restarts=3))
    assert ours == pytest.approx(accuracy(net, theirs, y), abs=0.01)


@pytest.mark.parametrize("eps", [0.05, 0.1])
@pytest.mark.parametrize(
    ("objective", "theirs"), [("ce_of_mean_prob", "ce"), ("dlr", "dlr"), ("dlr", "targeted")]
)
def test_adv_lib_reaches_the_accuracy_of_apgd(eps: float, objective: str, theirs: str) -> None:
    attacks = pytest.importorskip("adv_lib.attacks", reason="adv-lib is not installed")
    """With restarts: one random start more or less moves a point or two."""
    net, x, y = digits()
    x32, net32 = x.float(), single(net)
    if theirs == "targeted":
        # It takes the most likely classes but the first; the label is among them when wrong.
        found = attacks.apgd_targeted(net32, x32, y, eps, math.inf, n_iter=30)
        ours = left_by(APGDT(eps=eps, steps=30, stop_when_fooled=True))
        wrong = net32(x32).argmax(1) != y
        found[wrong] = x32[wrong]
    else:
        found = attacks.apgd(
            net32, x32, y, eps, math.inf, n_iter=30, loss_function=theirs, n_restarts=5
        )
        ours = left_by(APGD(eps=eps, steps=30, restarts=5, objective=objective))  # pyright: ignore
    assert (found - x32).abs().max() <= eps + 1e-6
    assert ours == pytest.approx(accuracy(net32, found, y), abs=0.01)


@pytest.mark.parametrize(
    ("objective", "theirs", "steps"),
    [("ce_of_mean_prob", "ce", 20), ("ce_of_mean_prob", "ce", 100), ("dlr", "dlr", 100)],
)
def test_adv_libs_apgd_takes_the_same_steps_from_the_same_start(
    objective: str,
    theirs: str,
    steps: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On images that are not fooled, where ours keeps the highest objective as theirs does."""
    module = pytest.importorskip("adv_lib.attacks.auto_pgd", reason="adv-lib is not installed")
    net, x, y = digits()
    x, net = x.float(), single(net)
    start = x + 0.05 * (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) - 1)
    start = start.clamp(0, 1)
    monkeypatch.setattr("divtrain.attacks.apgd.uniform_in_ball", lambda *_: start)
    mine = APGD(eps=0.05, steps=steps, objective=objective)(net, x, y)  # pyright: ignore
    best, found, _, _ = module._apgd(
        net, x, y, torch.full((len(x),), 0.05), math.inf, start, False, steps, theirs
    )
    right = ~found & (net(x).argmax(1) == y)
    assert right.sum() > 100
    assert torch.equal(right, net(mine).argmax(1) == y)
    same = (mine - best).abs().flatten(1).amax(1) < 1e-6
    # Signs that hang on rounding split a few. So does that theirs compares the first step with 0,
    # not with the start: of many steps that one is seldom what a look depends on.
    assert same[right].float().mean() > 0.9


def test_adv_libs_dlr_is_minus_ours() -> None:
    losses = pytest.importorskip("adv_lib.utils.losses", reason="adv-lib is not installed")
    net, x, y = digits()
    logits, target = net(x), (y + 3) % 10
    theirs = losses.difference_of_logits_ratio(logits, y)
    torch.testing.assert_close(dlr(logits, y), -theirs)
    # Theirs is told the target alone, and takes the label to be the likeliest class.
    theirs = losses.difference_of_logits_ratio(logits, target, targeted=True)
    right = (logits.argmax(1) == y) & (logits.argmax(1) != target)
    assert right.sum() > 150
    torch.testing.assert_close(dlr(logits, y, target)[right], theirs[right])


class _Cropped(nn.Module):
    """A net on all but the last row and column."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = single(net)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x[:, :, :-1, :-1])


def _art_square(net: nn.Module, x: Tensor, y: Tensor, eps: float, queries: int) -> Tensor:
    evasion = pytest.importorskip(
        "art.attacks.evasion", reason="adversarial-robustness-toolbox is not installed"
    )
    from art.estimators.classification import PyTorchClassifier  # pyright: ignore[reportMissingImports]

    classifier = PyTorchClassifier(
        net, nn.CrossEntropyLoss(), (1, 9, 9), 10, clip_values=(0, 1), device_type="cpu"
    )
    attack = evasion.SquareAttack(classifier, eps=eps, max_iter=queries, verbose=False)
    np.random.seed(1)
    return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


def _torchattacks_square(net: nn.Module, x: Tensor, y: Tensor, eps: float, queries: int) -> Tensor:
    library = pytest.importorskip("torchattacks", reason="torchattacks is not installed")
    return library.Square(net, eps=eps, n_queries=queries, seed=1)(x, y)


@pytest.mark.parametrize("theirs", [_art_square, _torchattacks_square])
def test_other_libraries_reach_the_accuracy_of_square(
    theirs: Callable[[nn.Module, Tensor, Tensor, float, int], Tensor],
) -> None:
    """Within 2 standard errors of a difference of two random searches on 200 images.

    Their squares never reach the last row and column, which are padding here.
    """
    net, x, y = digits()
    x, net, eps, queries = nn.functional.pad(x.float(), (0, 1, 0, 1)), _Cropped(net), 0.1, 300
    found = theirs(net, x, y, eps, queries)
    assert (found - x).abs().max() <= eps + 1e-5
    ours = left_by(Square(eps=eps, steps=queries), net, x, y)
    assert 0.05 < ours < accuracy(net, x, y) - 0.3
    assert ours == pytest.approx(accuracy(net, found, y), abs=2 * math.sqrt(2 * 0.25 / len(x)))
