"""A defence of your own: what to minimise, and on which views of the images.

python examples/own_defence.py

From the command line: divtrain run digits --targets base own_defence:Orthogonal
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import divtrain as dt


@dataclass(frozen=True)
class SquaredCosine:
    """Mean over the pairs of the squared cosine between input gradients."""

    weight: float

    def gradients_at(self, step: int) -> dt.Where:
        del step
        return dt.Where()  # at all images, in every step

    def __call__(self, forward: dt.MemberPass, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        del step
        g = forward.input_gradients(dt.Where(), create_graph=True)
        value = dt.pairwise_cosine(g).square().mean()
        return self.weight * value, {"squared_cosine": value.detach()}


@dataclass(frozen=True)
class Orthogonal(dt.defences.Defence):
    """Members whose input gradients are orthogonal, on clean images."""

    gal_weight: float = 0.5

    @property
    def terms(self) -> tuple[dt.defences.Term, ...]:
        return dt.defences.CrossEntropy(), SquaredCosine(self.gal_weight)


def main() -> dict[str, float]:
    """Mean |cosine| between the members' input gradients on test images, with it and without."""
    digits = dt.data.load_dataset("digits")
    found: dict[str, float] = {}
    for name, defence in {"base": dt.defences.Base(), "own": Orthogonal(gal_weight=2.0)}.items():
        torch.manual_seed(0)
        ens = dt.Ensemble(
            nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.LeakyReLU(0.1), nn.Linear(64, 10))
            for _ in range(3)
        )
        history = dt.training.train(ens, dt.data.Stream(digits.train, 64, seed=0), defence, 8)
        g = dt.input_gradients(ens, digits.test.x, digits.test.y)
        found[name] = dt.pairwise_cosine(g).abs().mean().item()
        print(f"{name}: |cosine| {found[name]:.2f}, accuracy {history[-1]['accuracy']:.1%}")
    return found


if __name__ == "__main__":
    main()
