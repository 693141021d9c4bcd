"""Divergence: a loss, gradient or weight that is no longer finite, noticed before it does harm."""

import functools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from divtrain.checks import first_few
from divtrain.cross_entropy import trusted_cross_entropy
from divtrain.data import Stream
from divtrain.errors import DivtrainError
from divtrain.forward import Batch
from divtrain.training.batches import Loaded


def are_finite(log: Mapping[str, Tensor], parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return, as a boolean tensor, whether the optimiser may take a step; not read from the device.

    It may if all scalars of the log are finite and so are the squares of the gradients, which Adam
    sums: an overflow there would stop a weight for ever.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
    scalars = [*(value.detach() for value in log.values()), *norms]
    kind = functools.reduce(torch.promote_types, (scalar.dtype for scalar in scalars))
    device = next(iter(log.values())).device
    return torch.stack([scalar.to(device, kind) for scalar in scalars]).isfinite().all()


def divergence(
    values: Mapping[str, float],
    batch: Batch,
    logits: Tensor,
    ens: nn.Module,
    batches: Stream | Loaded,
    step: int,
    steps: int,
    state_file: Path | None,
) -> DivtrainError:
    """Return the error for a step that must not be taken: where, whose, what is kept, what to try.

    `values` is what the step logged, `logits` those of all members for the batch, `ens` has the
    gradients, and `step` counts the steps done before.
    """
    epoch, position = divmod(step, batches.steps_per_epoch)
    shown = ", ".join(f"{name} {value:g}" for name, value in values.items() if name != "accuracy")
    # Batch norm has seen the batch already: its statistics may be spoiled where weights are not.
    spoiled = _broken_weights(ens)
    memory = "" if spoiled else f"the weights in memory are those of before the step, {step} done"
    parts = [
        f"training diverged at step {step + 1} of {steps} (epoch {epoch + 1}, batch"
        f" {position + 1} of {batches.steps_per_epoch}): {shown}",
        _culprit(batch, logits, ens, batches, step),
        _kept(state_file, memory),
        _advice(values, step),
    ]
    return DivtrainError("; ".join(part for part in parts if part))


def check_weights(ens: nn.Module, step: int, steps: int, state_file: Path | None) -> None:
    """Check that all weights and running statistics are finite, before they are saved.

    Raises:
        DivtrainError: naming the step and those that are not.
    """
    broken = _broken_weights(ens)
    if broken:
        kept = _kept(state_file, "they are not saved")
        raise DivtrainError(
            f"training diverged at step {step} of {steps}: the loss was finite, but the step made"
            f" weights that are not ({first_few(broken)}); {kept}; {_advice({}, step)}"
        )


def _broken_weights(ens: nn.Module) -> list[str]:
    """Names of weights and running statistics that are not finite, and of buffers with a NaN."""
    weights = dict(ens.named_parameters())
    broken = [n for n, each in weights.items() if not each.isfinite().all()]
    for name, each in ens.named_buffers():
        running = name.rpartition(".")[2].startswith("running_")
        # Infinite is what masks of attention are meant to be.
        if each.is_floating_point() and (~each.isfinite() if running else each.isnan()).any():
            broken.append(name)
    return broken


def _culprit(
    batch: Batch, logits: Tensor, ens: nn.Module, batches: Stream | Loaded, step: int
) -> str:
    """Say which images, members and parameters are not finite, the first cause first."""

    def these(mask: Tensor) -> str:
        named = "" if "crafted" in batch.parts else f" ({batches.describe(step, mask)})"
        return f"{int(mask.sum())} of {len(mask)} images{named}"

    weights = [name for name, p in ens.named_parameters() if not p.isfinite().all()]
    if weights:
        origin = ", the one before it made them so" if step else ""
        return f"weights were not finite before the step{origin}: {first_few(weights)}"
    pixels = ~batch.x.isfinite().flatten(-3).all(-1).view(-1, len(batch)).all(0)
    if pixels.any():
        return f"the batch itself has pixels that are not finite, at {these(pixels)}"
    losses = ~trusted_cross_entropy(logits, batch.y).isfinite()
    if losses.any():
        members = losses.any(1).nonzero().flatten().tolist()
        return (
            f"the loss of member {', '.join(map(str, members))} (counted from 0) is not finite, at"
            f" {these(losses.any(0))}"
        )
    gradients = [
        name
        for name, parameter in ens.named_parameters()
        if parameter.grad is not None and not parameter.grad.square().sum().isfinite()
    ]
    return f"the loss of every member is finite, the gradient is not: {first_few(gradients)}"


def _kept(state_file: Path | None, memory: str) -> str:
    if state_file is not None and state_file.exists():
        kept = f"the last good training state stays in {state_file}"
        return f"{memory}, and {kept}" if memory else kept
    return memory


def _advice(values: Mapping[str, float], step: int) -> str:
    tries = ["a lower learning rate", "float32 if the precision is bfloat16"]
    if not math.isfinite(values.get("gal", 0.0)):
        tries.insert(1, "a lower gal_weight or a higher temperature")
    first = "" if step else "nothing was learnt yet, so look at the model and the images first; "
    return f"{first}try {', '.join(tries)}"
