"""Slow, obvious versions of what divtrain computes fast, in float64 and with plain loops."""

import itertools
import math

import torch
from torch import Tensor, nn

import divtrain as dt


def cosine(a: Tensor, b: Tensor) -> float:
    """Equation 6."""
    dot = sum(float(p) * float(q) for p, q in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(p) ** 2 for p in a) * sum(float(q) ** 2 for q in b))


def pairwise_cosine(g: Tensor) -> list[list[float]]:
    """Equation 6 for every pair, example by example: [batch][pair]."""
    members, batch, _ = g.shape
    return [
        [cosine(g[i, b], g[j, b]) for i, j in itertools.combinations(range(members), 2)]
        for b in range(batch)
    ]


def gradient_alignment_loss(g: Tensor) -> list[float]:
    """Equation 8."""
    return [math.log(sum(math.exp(c) for c in row)) for row in pairwise_cosine(g)]


def cross_entropy(logits: Tensor, label: int) -> float:
    """-log softmax, from its definition."""
    values = [float(z) for z in logits]
    top = max(values)
    return top + math.log(sum(math.exp(z - top) for z in values)) - values[label]


def input_gradients(members: list[nn.Module], x: Tensor, y: Tensor) -> Tensor:
    """One example, one member at a time."""
    rows = []
    for member in members:
        row = []
        for image, label in zip(x, y, strict=True):
            image = image[None].clone().requires_grad_()
            loss = nn.functional.cross_entropy(member(image), label[None])
            row.append(torch.autograd.grad(loss, image)[0].flatten())
        rows.append(torch.stack(row))
    return torch.stack(rows)


def smooth_net(features: int, classes: int, seed: int) -> nn.Module:
    """A small float64 net with curvature everywhere, so that second derivatives are not zero."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(features, 7), nn.Tanh(), nn.Linear(7, classes)
    ).double()


def smooth_ensemble(members: int = 3, features: int = 12, classes: int = 4) -> dt.Ensemble:
    return dt.Ensemble([smooth_net(features, classes, seed) for seed in range(members)])
