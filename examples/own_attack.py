"""An attack of your own: a direction and a step size; the loop keeps it in the ball.

python examples/own_attack.py

From the command line: divtrain evaluate ... --attack.white-box fgsm own_attack:DecayingFGSM
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import divtrain as dt


@dataclass(frozen=True, kw_only=True)
class DecayingFGSM(dt.attacks.IterativeAttack):
    """I-FGSM whose steps shrink by a factor each time."""

    title = "decaying FGSM"
    family = "iterative"

    steps: int = 10
    factor: float = 0.8

    def default_step_size(self) -> float:
        return self.eps / 2

    def direction(self, gradient: Tensor, memory: Any) -> tuple[Tensor, Any]:
        scale = 1.0 if memory is None else memory * self.factor
        return scale * gradient.sign(), scale


def main() -> dict[str, float]:
    torch.manual_seed(0)
    digits = dt.data.load_dataset("digits")
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(digits.train.x), digits.train.y).backward()
        optimizer.step()
    attacks = {"FGSM": dt.attacks.FGSM(eps=0.1), "own": DecayingFGSM(eps=0.1)}
    left: dict[str, float] = {}
    for name, attack in attacks.items():
        crafted = dt.evaluation.craft(attack, net, digits.test)  # clipped, counted, seeded
        right = dt.evaluation.correct_mask(net, crafted.x_adv, digits.test.y)
        left[name] = right.float().mean().item()
        print(f"{name}: {left[name]:.1%} right, {crafted.passes.backward:.0f} backward passes")
    return left


if __name__ == "__main__":
    main()
