"""What an attack cost and how it went: passes through the model, and the objective's growth."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from pydantic.dataclasses import dataclass as checked
from torch import Tensor, nn

from divtrain.evaluation.bounds import CHECKED, Spent
from divtrain.gal import HasMembers


@checked(config=CHECKED)
class Passes:
    """Passes through a whole model, counted in images.

    Attributes:
        forward: Images in forward passes.
        backward: Images in backward passes.
    """

    forward: Spent = 0.0
    backward: Spent = 0.0

    def per_image(self, images: int) -> "Passes":
        """Return the mean per image attacked."""
        return Passes(self.forward / images, self.backward / images)


@contextmanager
def count_passes(model: nn.Module) -> Iterator[Passes]:
    """Count what goes through a model while the context is open, whoever calls it.

    A pass through one of N members counts as 1/N.
    """
    parts = list(model.members) if isinstance(model, HasMembers) else [model]
    passes = Passes()

    def on_forward(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        del module, args
        passes.forward += len(output) / len(parts)
        if output.requires_grad:
            output.register_hook(on_backward)

    def on_backward(gradient: Tensor) -> None:
        passes.backward += len(gradient) / len(parts)

    hooks = [part.register_forward_hook(on_forward) for part in parts]
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()


@dataclass
class GrowthTracker:
    """Follows an attack's objective over the steps of one batch, in the first run of a search.

    Give it to the attack as `on_step`.

    Attributes:
        steps: Steps of the attack.
    """

    steps: int
    _first: Tensor | None = None
    _late: Tensor | None = None
    _last: Tensor | None = None
    _step: int = 0
    _done: bool = False

    def __call__(self, step: int, values: Tensor) -> None:
        """See `divtrain.attacks.attack.OnStep`."""
        if self._last is not None and step < self._step:
            self._done = True  # a later run begins: its gains say nothing of the first one's rest
        if self._done:
            return
        self._step = step
        values = values.detach().float().clone()
        if self._first is None:
            self._first = values
        if step <= 3 * self.steps // 4:
            self._late = values
        self._last = values

    def growth(self, images: int) -> Tensor:
        """Return the objective at each image at first, after three quarters of the steps, at last.

        Args:
            images: Size of the batch.

        Returns:
            (3, image); NaN if the attack reported nothing.
        """
        if self._first is None or self._late is None or self._last is None:
            return torch.full((3, images), torch.nan)
        return torch.stack([self._first, self._late, self._last]).cpu()


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
