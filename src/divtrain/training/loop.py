"""The one training loop: any ensemble, any terms, any stream; resumable at every step."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from divtrain.data.stream import Stream
from divtrain.ensemble import Ensemble, aggregate_logits
from divtrain.errors import DamagedFileError, DivtrainError
from divtrain.training.devices import OneDevice, Strategy, spread
from divtrain.training.divergence import check_weights, divergence, finite_log
from divtrain.training.interrupt import StopRequest
from divtrain.training.state import History, TrainingState, load_state, save_state
from divtrain.training.terms import Term

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Schedule = Literal["constant", "one_cycle"]
OnStep = Callable[[int, int, dict[str, float]], None]
"""Called with (steps done, steps in all, the running means of this epoch)."""


@dataclass(frozen=True)
class TrainingSettings:
    """How to optimise. The defaults are the paper's where it speaks.

    Attributes:
        epochs: Passes over the stream (each view of each image).
        learning_rate: Adam's; the peak of it under ``one_cycle``.
        schedule: ``constant`` (the paper's), or ``one_cycle``: from a 25th up to the peak over
            three tenths of the steps, then down to a 10,000th of the start, both as a cosine.
        save_every: Seconds between saved training states.
        by_member: Hold the graph of one member at a time (`step_by_member`): less memory, more
            time, the same gradients.
        strategy: What each of several processes does (`divtrain.training.devices`): ``ddp``, a
            slice of each batch with all members; ``members``, whole batches with some members.
        cuda_graph: Record steps into CUDA graphs and replay them (`divtrain.training.cuda_graph`):
            for a GPU that waits for Python to launch the kernels of small nets.
    """

    epochs: int = 10
    learning_rate: float = 1e-3
    schedule: Schedule = "constant"
    save_every: float = 120.0
    by_member: bool = False
    strategy: Strategy = field(default="ddp", repr=False)
    cuda_graph: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        """Check the values."""
        if self.epochs < 1:
            raise DivtrainError(f"expected epochs >= 1, got {self.epochs}")
        if not 0 < self.learning_rate < math.inf:
            raise DivtrainError(f"expected learning_rate > 0, got {self.learning_rate!r}")

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of `step` of `steps`."""
        if self.schedule == "constant":
            return self.learning_rate
        start, end = self.learning_rate / 25, self.learning_rate / 25e4
        peak = max(1, round(0.3 * steps))
        if step < peak:
            return _cosine(start, self.learning_rate, step / peak)
        return _cosine(self.learning_rate, end, (step - peak) / max(1, steps - 1 - peak))


def train(
    ens: Ensemble,
    stream: Stream,
    terms: Sequence[Term],
    settings: TrainingSettings,
    fabric: "Fabric | None" = None,
    state_file: Path | None = None,
    on_step: OnStep | None = None,
) -> History:
    """Train an ensemble in place with Adam.

    Args:
        ens: The ensemble; moved to fabric's device, laid out channels-last, left there in eval
            mode.
        stream: Training batches, on fabric's device.
        terms: The loss is their sum.
        settings: Epochs, learning rate, schedule.
        fabric: Device and precision, float32 or bfloat16; the CPU in float32 if None. With
            several processes, launched, every one of them calls this with the same arguments, and
            ends with the same weights.
        state_file: Where to keep the training state. If the file is there, training goes on from
            it, and ends with the same weights as an unbroken run (bit for bit on the CPU). Of
            several processes the first writes it and all read it; any number may go on from it.
        on_step: For showing progress; called in the first process only.

    Returns:
        The history, a row an epoch.

    Raises:
        DivtrainError: when the loss or a gradient is no longer finite: the step is not taken, and
            neither the weights nor the state file are touched by it. Also when the state file
            belongs to another run; `DamagedFileError` when it is damaged. When the processes
            cannot share the batch or the members.
        KeyboardInterrupt: on Ctrl-C or SIGTERM to any process, in all of them, after the running
            step; the state is saved first.
    """
    if fabric is None:
        from lightning_fabric import Fabric  # here: it takes longer to import than torch

        fabric = Fabric(accelerator="cpu", devices=1)
    _check_parts(ens, terms, stream)
    ens.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    fabric.to_device(ens)
    adam = torch.optim.Adam(ens.parameters(), settings.learning_rate, fused=True)
    optimizer: Any = fabric.setup_optimizers(adam)
    outside = stream.outside_size
    devices = spread(
        fabric, settings.strategy, ens, stream.batch_size, settings.by_member, outside,
        settings.cuda_graph,
    )  # fmt: skip
    steps = settings.epochs * stream.steps_per_epoch
    progress = TrainingState(steps)
    recipe = {
        "optimisation": repr(replace(settings, save_every=0.0, by_member=False)),
        "terms": repr(list(terms)),
        "stream": f"{len(stream.images)} images, batches of {stream.batch_size},"
        f" {list(stream.views)}, shift {stream.shift}, flip {stream.flip}, seed {stream.seed}",
    }
    if stream.outside is not None:
        recipe["outside"] = repr(stream.outside)
    if state_file is not None and devices.as_first(state_file.exists()):
        progress = _load_together(state_file, ens, optimizer, recipe, steps, devices)
    devices.begin(optimizer)
    ens.train()
    saved = time.monotonic()
    with StopRequest() as stop:
        while progress.step < steps:
            started = time.monotonic()
            rate = settings.rate(progress.step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            x, y = devices.share(*stream.batch(progress.step))
            optimizer.zero_grad()
            done = devices.step(x, y, terms, progress.step)
            right = aggregate_logits(done.logits, ens.aggregate).argmax(-1) == y
            right = right[outside * len(y) // stream.batch_size :]  # the others have no class
            log = {"loss": done.loss, **done.log, "accuracy": right.float().mean()}
            values, finite = finite_log(devices.mean(log), ens.parameters())
            (diverged,) = devices.any(not finite)
            if diverged:
                whole = stream.batch(progress.step), devices.whole_batch(done.logits)
                error = divergence(values, *whole, ens, stream, progress.step, steps, state_file)
                raise DivtrainError(devices.first_said(None if finite else str(error)))
            optimizer.step()
            progress.add(values, started)
            if on_step is not None and devices.first:
                on_step(progress.step, steps, progress.means())
            if progress.step % stream.steps_per_epoch == 0:
                progress.end_epoch(rate)
            due = time.monotonic() - saved >= settings.save_every
            due, stopping = devices.any(due, stop.requested)
            if state_file is not None and (due or stopping):
                devices.gather(optimizer)
                check_weights(ens, progress.step, steps, state_file)
                if devices.first:
                    save_state(state_file, ens, optimizer, progress, recipe)
                saved = time.monotonic()
            if stopping:
                raise KeyboardInterrupt
    devices.finish(optimizer)
    check_weights(ens, steps, steps, state_file)
    ens.eval()
    return progress.history


def _load_together(
    path: Path,
    ens: Ensemble,
    optimizer: Any,
    recipe: dict[str, str],
    steps: int,
    devices: OneDevice,
) -> TrainingState:
    """Load the state in every process, or raise the same kind of error in every one."""
    state, failure = TrainingState(steps), None
    try:
        state = load_state(path, ens, optimizer, recipe, steps)
    except DivtrainError as error:
        failure = error
    damaged = isinstance(failure, DamagedFileError)
    failed, damaged = devices.any(failure is not None, damaged)
    if failed:
        told = devices.first_said(None if failure is None else str(failure))
        raise (DamagedFileError if damaged else DivtrainError)(told) from failure
    return state


def _check_parts(ens: Ensemble, terms: Sequence[Term], stream: Stream) -> None:
    """Refuse a part of a batch where batch norm would normalise it apart from the rest."""
    normed = any(isinstance(module, _BatchNorm) for module in ens.modules())
    if stream.outside is not None and normed:
        raise DivtrainError(
            "images from outside the training distribution are trained on here, but these members"
            " have batch norm, whose statistics would be those of both kinds of images; use members"
            " without, such as conv3 and conv4"
        )
    parted = any(0 < term.share(step) < 1 for term in terms for step in (0, 1))
    if parted and normed:
        raise DivtrainError(
            "a part of each batch was asked for (--train.gal-part), but these members have batch"
            " norm, which would normalise the two parts apart and update its statistics twice; use"
            " --train.gal-every to take GAL at fewer steps instead"
        )


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
