"""Small ensembles trained on real digits in seconds, plainly and with Diversity Training."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import divtrain as dt
from divtrain.data import Images, load_dataset
from divtrain.evaluation import AttackResult, Suite

SUITE = Suite(
    eps=(0.1, 0.2),
    transfer=("fgsm", "mifgsm", "reversed"),
    white_box=("fgsm", "mifgsm", "pgd", "pgd:reweighted", "apgd:ce_of_mean_logit"),
    queries=100,
    probe_images=100,
    sweep=(0.0, 0.1, 0.2, 0.3, 0.5),
    sweep_images=100,
)


def member() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 128), nn.LeakyReLU(0.1),
        nn.Linear(128, 64), nn.LeakyReLU(0.1),
        nn.Linear(64, 10),
    )  # fmt: skip


class Threshold(nn.Module):
    """Says 1 for an image of one pixel above `cut`, 0 below."""

    def __init__(self, cut: float) -> None:
        super().__init__()
        self.cut = nn.Parameter(torch.tensor(cut))

    def forward(self, x: Tensor) -> Tensor:
        above = x.flatten(1) - self.cut
        return torch.cat([-above, above], 1)


@cache
def images() -> Images:
    test = load_dataset("digits").test
    return Images(test.x[:300], test.y[:300])


@cache
def trained(gal_weight: float, seed: int) -> dt.Ensemble:
    """Five members after 600 steps on clean and noisy digits; the same for the same arguments."""

    def loss(ens: dt.Ensemble, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        x = noisy(x, generator)
        return dt.diversity_loss(ens, x, y, gal_weight).total if gal_weight else plain(ens, x, y)

    return _after_steps(seed, loss)


@cache
def leaking(seed: int) -> dt.Ensemble:
    """Trained on FGSM steps of a net that never learns, with the true labels, and little else."""
    static, attack = trained(0.0, 1).members[0], dt.attacks.FGSM(eps=0.2)

    def loss(ens: dt.Ensemble, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return plain(ens, torch.cat([x, attack(static, x, y)]), torch.cat([y, y]))

    return _after_steps(seed, loss)


def _after_steps(
    seed: int, loss_of: Callable[[dt.Ensemble, Tensor, Tensor, torch.Generator], Tensor]
) -> dt.Ensemble:
    train = load_dataset("digits").train
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        ens = dt.Ensemble([member() for _ in range(5)])
    optimizer = torch.optim.Adam(ens.parameters(), 2e-3)
    for _ in range(600):
        chosen = torch.randint(len(train), (128,), generator=generator)
        loss = loss_of(ens, train.x[chosen], train.y[chosen], generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return ens.eval()


def noisy(x: Tensor, generator: torch.Generator) -> Tensor:
    half = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5
    return (x + 0.1 * half * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def plain(ens: dt.Ensemble, x: Tensor, y: Tensor) -> Tensor:
    return dt.cross_entropy(ens.member_logits(x), y).mean()


def without_tensors(result: AttackResult) -> dict[str, Any]:
    """The fields that are no tensors, which `==` would compare element by element."""
    return {name: value for name, value in vars(result).items() if not isinstance(value, Tensor)}
