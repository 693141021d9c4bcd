"""Truncated normal noise: the paper's D_noise."""

import math

import torch
from torch import Tensor

from divtrain.checks import check_eps


def truncated_normal(
    shape: torch.Size | tuple[int, ...],
    std: float,
    bound: float,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw from N(0, std^2) conditioned on [-bound, bound], by the inverse of its distribution."""
    tail = math.erf(bound / std / math.sqrt(2))
    uniform = torch.rand(shape, generator=generator, device=device)
    sample = torch.erfinv((2 * uniform - 1) * tail) * (std * math.sqrt(2))
    return sample.clamp(-bound, bound)


def add_noise(x: Tensor, eps_max: float, generator: torch.Generator | None = None) -> Tensor:
    """Return `x` plus truncated normal noise of sigma eps_max / 2, clipped to [0, 1].

    Args:
        x: Images in [0, 1].
        eps_max: Largest absolute noise, in pixel units: 0.3 for MNIST, 0.09 for CIFAR-10.
        generator: Source of randomness on x's device; torch's global one if None.

    Raises:
        DivtrainError: for an `eps_max` outside [0, 1].
    """
    check_eps(eps_max, "`eps_max`")
    if eps_max == 0:
        return x
    noise = truncated_normal(x.shape, eps_max / 2, eps_max, generator, x.device)
    return (x + noise.to(x.dtype)).clamp(0, 1)
