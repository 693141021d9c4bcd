"""foolbox and adv-lib as oracles, where their definitions agree with the specification."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from divtrain.attacks import FGSM, IFGSM, IterativeAttack

EPS = 0.1


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A small net trained on real digits, in float64 so that signs do not depend on rounding."""
    torch.manual_seed(0)
    raw = load_digits()
    x = torch.tensor(raw.images / 16).unsqueeze(1)  # pyright: ignore
    y = torch.tensor(raw.target)  # pyright: ignore
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)).double()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[200:]), y[200:]).backward()
        optimizer.step()
    return net.eval(), x[:200], y[:200]


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
def test_foolbox_crafts_the_same_examples(
    digits: tuple[nn.Module, Tensor, Tensor], ours: IterativeAttack, options: dict[str, float]
) -> None:
    foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed")
    net, x, y = digits
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


def test_adv_lib_reaches_the_same_accuracy_from_the_clean_image(
    digits: tuple[nn.Module, Tensor, Tensor],
) -> None:
    pytest.importorskip("adv_lib", reason="adv-lib is not installed; `make test` installs it")
    from adv_lib.attacks import pgd_linf

    net, x, y = digits
    ours = IFGSM(eps=EPS, steps=40, step_size=EPS / 10)(net, x, y)
    theirs = pgd_linf(net, x, y, EPS, steps=40, random_init=False, absolute_step_size=EPS / 10)
    assert (theirs - x).abs().max() <= EPS + 1e-9
    assert accuracy(net, ours, y) == pytest.approx(accuracy(net, theirs, y), abs=0.01)


def test_adv_libs_margin_loss_is_our_hinge_far_below_its_kink(
    digits: tuple[nn.Module, Tensor, Tensor],
) -> None:
    losses = pytest.importorskip("adv_lib.utils.losses", reason="adv-lib is not installed")
    from divtrain.attacks import margin

    net, x, y = digits
    logits = net(x)
    theirs = losses.difference_of_logits(logits, y)
    torch.testing.assert_close(margin(logits, y, confidence=50.0), -(theirs + 50.0))
