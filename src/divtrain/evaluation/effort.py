"""What an attack cost and how it went: passes through the model, and the objective's growth."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from divtrain.ensemble import HasMembers
from divtrain.fields import NotNegative, checked
from divtrain.logits import find_logits
from divtrain.wrapping import as_module


@checked
class Passes:
    """Passes through a whole model, counted in images.

    Attributes:
        forward: Images in forward passes.
        backward: Images in backward passes.
    """

    forward: NotNegative = 0.0
    backward: NotNegative = 0.0

    def __add__(self, other: "Passes") -> "Passes":
        """Add up."""
        return Passes(self.forward + other.forward, self.backward + other.backward)

    def per_image(self, images: int) -> "Passes":
        """Return the mean per image attacked."""
        return Passes(self.forward / images, self.backward / images)


@contextmanager
def count_passes(model: nn.Module) -> Iterator[Callable[[], Passes]]:
    """Count forward and backward passes through a model while the context is open.

    A pass through one of N members counts as 1/N. The context gives a function that returns the
    passes so far. A TorchScript member takes no hooks and is wrapped meanwhile.
    """
    members = model.members if isinstance(model, HasMembers) else nn.ModuleList([model])
    counted = {"forward": 0.0, "backward": 0.0}

    def on_forward(module: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
        del module
        output = find_logits(output, args[0])
        counted["forward"] += len(output) / len(members)
        if output.requires_grad:
            output.register_hook(on_backward)

    def on_backward(gradient: Tensor) -> None:
        counted["backward"] += len(gradient) / len(members)

    scripted = {i: m for i, m in enumerate(members) if isinstance(m, torch.jit.ScriptModule)}
    for index, each in scripted.items():
        members[index] = as_module(each)
    hooks = [each.register_forward_hook(on_forward) for each in members]
    try:
        yield lambda: Passes(**counted)
    finally:
        for hook in hooks:
            hook.remove()
        for index, each in scripted.items():
            members[index] = each


class GrowthTracker:
    """Follows an attack's objective over the steps of one batch, in the first run of a search.

    Give it to the attack as `on_step`.
    """

    def __init__(self, steps: int):
        self.steps = steps
        self._step: float = 0
        self._kept: list[Tensor] = []  # first, late and last

    def __call__(self, step: int, values: Tensor) -> None:
        """See `divtrain.attacks.attack.OnStep`."""
        if step < self._step:  # a later run: its gains say nothing of the first one's rest
            self._step = math.inf
            return
        self._step = step
        values = values.detach().float().clone()
        self._kept = self._kept or [values] * 3
        if step <= 3 * self.steps // 4:
            self._kept[1] = values
        self._kept[2] = values

    def growth(self, images: int) -> Tensor:
        """Return the objective at each image at first, after three quarters of the steps, at last.

        Args:
            images: Size of the batch.

        Returns:
            (3, image); NaN if the attack reported nothing.
        """
        return torch.stack(self._kept).cpu() if self._kept else torch.full((3, images), torch.nan)


def rise_at_the_end(growth: Tensor, fooled: Tensor) -> float | None:
    """Share of the objective's whole rise that fell into the last quarter of the steps.

    Over the images that the attack did not fool, where more steps could matter: 0 when the search
    had come to rest, 0.25 when it rose as fast at the end as at the beginning.

    Args:
        growth: First, late and last objective, (3, image).
        fooled: Whether the attack fooled the model, (image,).

    Returns:
        The share, or None when fewer than 10 images are left or nothing rose at all.
    """
    kept = growth[:, ~fooled & ~growth.isnan().any(0)]
    first, late, last = kept.double().clamp(-1e6, 1e6)
    whole = (last - first).sum().item()
    if len(first) < 10 or not whole > 0:
        return None
    return (last - late).sum().item() / whole
