"""Small nets to attack, some trained on real digits."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(features: int = 8, classes: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(features, classes))


def corner(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """The best example on a linear net of two classes: each pixel at an end of its range."""
    weight = net.get_parameter("1.weight").detach()
    low, high = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
    return torch.where((weight[1 - y] - weight[y] > 0).view_as(x), high, low)


class Lambda(nn.Module):
    """A function of images as a model, perhaps of what a net says of them."""

    def __init__(self, function: Callable[[Tensor], Any], net: nn.Module | None = None) -> None:
        super().__init__()
        self.function, self.net = function, net

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def fitted(net: nn.Module, steps: int, count: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A net after some steps on real digits, and the first so many, which it has not seen."""
    raw = load_digits()
    x = torch.tensor(raw.images / 16).unsqueeze(1).to(next(net.parameters()).dtype)  # pyright: ignore
    y = torch.tensor(raw.target)  # pyright: ignore
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[count:]), y[count:]).backward()
        optimizer.step()
    return net.eval(), x[:count], y[:count]


@cache
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A dense net on 200 digits; in float64, so that no sign is rounding's."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    return fitted(net.double(), 60, 200)


def single(net: nn.Module) -> nn.Module:
    """A copy of the digits net in float32."""
    copy = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    copy.load_state_dict(net.state_dict())
    return copy.eval()
