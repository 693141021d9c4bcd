"""Random noise: the baseline every attack must beat."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from divtrain.attacks.attack import Family, LinfAttack, OnStep, box


@dataclass(frozen=True, kw_only=True)
class RandomNoise(LinfAttack):
    """Every pixel moved by +eps or -eps at random, whatever the model."""

    title: ClassVar[str] = "noise"
    family: ClassVar[Family] = "noise"
    fixed_objective: ClassVar[bool] = True

    def perturb(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        generator: torch.Generator | None,
        on_step: OnStep | None,
    ) -> Tensor:
        """See `LinfAttack`."""
        del model, y, on_step
        coins = torch.randint(0, 2, x.shape, generator=generator, device=x.device)
        return (x + self.eps * (2 * coins.to(x.dtype) - 1)).clamp(*box(x, self.eps))
