"""What an attack cost and how it went: passes through the model, and the objective's growth."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from divtrain.gal import HasMembers


@dataclass
class Passes:
    """Passes through a whole model, counted in images.

    Attributes:
        forward: Images passed forward.
        backward: Images whose gradient was passed back.
    """

    forward: float = 0.0
    backward: float = 0.0

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
class Growth:
    """The attack's objective at each image: when it began, after three quarters, at the end.

    Attributes:
        rows: (first, late, last) of each batch, each (batch,).
    """

    rows: list[Tensor] = field(default_factory=list)

    def watch(self, steps: int) -> "Watcher":
        """Return what to give a batch's attack of so many steps as `on_step`."""
        return Watcher(self, steps)

    def tensor(self) -> Tensor | None:
        """First, late and last objective, (3, image); None when the attack does not report."""
        whole = torch.cat(self.rows, dim=1) if self.rows else torch.full((3, 1), torch.nan)
        return None if whole.isnan().all() else whole


@dataclass
class Watcher:
    """Keeps the objective of one batch at the steps that matter, in the first run of a search."""

    growth: Growth
    steps: int
    first: Tensor | None = None
    late: Tensor | None = None
    last: Tensor | None = None
    step: int = 0
    done: bool = False

    def __call__(self, step: int, values: Tensor) -> None:
        """See `divtrain.attacks.attack.OnStep`."""
        if self.last is not None and step < self.step:
            self.done = True  # a later run begins: its gains say nothing of the first one's rest
        if self.done:
            return
        self.step = step
        values = values.detach().float().clone()
        if self.first is None:
            self.first = values
        if step <= 3 * self.steps // 4:
            self.late = values
        self.last = values

    def close(self, images: int) -> None:
        """Hand the batch's values over; NaN if the attack had nothing to do in it."""
        if self.first is not None and self.late is not None and self.last is not None:
            self.growth.rows.append(torch.stack([self.first, self.late, self.last]).cpu())
        else:
            self.growth.rows.append(torch.full((3, images), torch.nan))


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
