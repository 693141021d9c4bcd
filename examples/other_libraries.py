"""Attacks of other libraries through the adapter, beside our own, on a small net.

python examples/other_libraries.py
"""

import torch
from torch import nn

import divtrain as dt
from divtrain.attacks import PGD, Adapter
from divtrain.attacks.external import OnImages

EPS, STEPS = 0.1, 20
STEP = 2.5 * EPS / STEPS


def torchattack(model: nn.Module) -> OnImages:
    from torchattack import PGD  # pyright: ignore[reportMissingImports]

    options = {"device": torch.device("cpu"), "eps": EPS, "alpha": STEP, "steps": STEPS}
    return PGD(model, normalize=None, **options)


def torchattacks(model: nn.Module) -> OnImages:
    from torchattacks import PGD  # pyright: ignore[reportMissingImports]

    return PGD(model, eps=EPS, alpha=STEP, steps=STEPS)


def foolbox(model: nn.Module) -> OnImages:
    from foolbox.attacks import LinfPGD
    from foolbox.models.pytorch import PyTorchModel

    wrapped = PyTorchModel(model, bounds=(0, 1), device="cpu")
    attack = LinfPGD(steps=STEPS, abs_stepsize=STEP)
    return lambda x, y: attack(wrapped, x, y, epsilons=EPS)[1]


def art(model: nn.Module) -> OnImages:
    from art.attacks.evasion import ProjectedGradientDescent  # pyright: ignore[reportMissingImports]
    from art.estimators.classification import PyTorchClassifier  # pyright: ignore[reportMissingImports]

    options = {"clip_values": (0, 1), "device_type": "cpu"}
    wrapped = PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, **options)
    options = {"max_iter": STEPS, "num_random_init": 1, "verbose": False}
    attack = ProjectedGradientDescent(wrapped, eps=EPS, eps_step=STEP, **options)
    return lambda x, y: torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


def adv_lib(model: nn.Module) -> OnImages:
    from adv_lib.attacks import pgd_linf

    return lambda x, y: pgd_linf(model, x, y, EPS, steps=STEPS, absolute_step_size=STEP)


def main() -> dict[str, float]:
    torch.manual_seed(0)
    digits = dt.data.load_dataset("digits")
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(digits.train.x), digits.train.y).backward()
        optimizer.step()
    attacks: dict[str, dt.attacks.Attack] = {"divtrain": PGD(eps=EPS, steps=STEPS)}
    for make in (torchattack, torchattacks, foolbox, art, adv_lib):
        attacks[make.__name__] = Adapter(make.__name__, EPS, make)
    left: dict[str, float] = {}
    for name, attack in attacks.items():
        try:  # craft clips into the ball what comes back, and counts what it had to mend
            crafted = dt.evaluation.craft(attack, net, digits.test)
        except ImportError as error:
            print(f"{name:12} skipped: {error}")
            continue
        right = dt.evaluation.correct_mask(net, crafted.x_adv, digits.test.y)
        left[name] = right.float().mean().item()
        print(f"{name:12} leaves {left[name]:6.1%} right; {crafted.violations}")
    return left


if __name__ == "__main__":
    main()
