"""The one training loop: any ensemble, defence, batches and optimiser; resumable at every step."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from divtrain.data import Stream
from divtrain.defences.base import Defence
from divtrain.defences.crafters import Moment, craft
from divtrain.defences.registry import build_defence
from divtrain.ensemble import Ensemble, aggregate_logits
from divtrain.errors import DivtrainError, warn_once
from divtrain.gal import VANISHING_SHARE, VANISHING_WARNING
from divtrain.identity import spec_of
from divtrain.module_state import saved_tensors
from divtrain.training.batches import Loaded, prepare_batches
from divtrain.training.divergence import are_finite, check_weights, divergence
from divtrain.training.interrupt import StopRequest
from divtrain.training.parallel import DataParallel, Strategy, make_strategy
from divtrain.training.schedule import Schedule, rate_at
from divtrain.training.state import History, TrainingState, lay_out, load_state, save_state

if TYPE_CHECKING:
    from lightning_fabric import Fabric

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
PRECISIONS = ("32-true", "bf16-mixed")
CALLBACKS = ("on_step", "on_epoch", "on_end")


def adam(learning_rate: float = 1e-3) -> MakeOptimizer:
    """Return what makes the default optimiser: Adam, fused."""
    return partial(torch.optim.Adam, lr=learning_rate, fused=True)


def train(
    ens: Ensemble,
    batches: Stream | Iterable[Sequence[Tensor]],
    defence: Defence | str = "div",
    epochs: int = 10,
    optimizer: torch.optim.Optimizer | MakeOptimizer | None = None,
    schedule: Schedule = "constant",
    callbacks: Sequence[object] = (),
    *,
    fabric: "Fabric | None" = None,
    state_file: str | Path | None = None,
    save_every: float = 120.0,
    by_member: bool = False,
    strategy: Strategy = "ddp",
) -> History:
    """Train an ensemble in place.

    Args:
        ens: The ensemble; moved to fabric's device, laid out channels-last, left there in eval
            mode.
        batches: A `divtrain.data.Stream` of plain images on fabric's device; or an iterable of
            (images, labels) with a length, such as a DataLoader, which is iterated over anew in
            each epoch. The defence makes their views. All images and labels are checked.
        defence: A `divtrain.defences.Defence` or the name of one. Defences with static nets are
            given them first: ``dt.defences.Adv(nets=[net])``.
        epochs: Passes over the images, once in each view.
        optimizer: Any of torch, over the ensemble's parameters, or what makes one of parameters;
            `adam()` if None.
        schedule: ``constant`` (the paper's), ``one_cycle``, or a function of (step, steps) that
            returns a factor of the optimiser's learning rate.
        callbacks: Objects with at least one of these methods, called in the first process only:
            ``on_step(step, steps, means)`` with the steps done, the steps in all and the means
            since the epoch began of all that was logged; ``on_epoch(row)`` with the epoch's row of
            the history; ``on_end(history)``.
        fabric: Device and precision, 32-true or bf16-mixed; the CPU in float32 if None, for an
            ensemble that is on the CPU. With several processes, launched, every one of them calls
            this with the same arguments, and ends with the same weights.
        state_file: Where to keep the training state. If the file is there, training resumes from
            it, and ends with the same weights as an unbroken run (bit for bit on the CPU). With an
            iterable this holds only if it yields the same batches whenever it is iterated over; a
            shuffling one draws the remaining batches of the epoch anew. The first process writes
            the file and all read it; any number of processes may resume from it.
        save_every: Seconds between saved training states.
        by_member: Hold the graph of one member at a time (`step_by_member`): less memory, more
            time, the same gradients.
        strategy: What each of several processes computes (`divtrain.training.parallel`): ``ddp``, a
            slice of each batch with all members; ``members``, all images with a few of the members.

    Returns:
        The history, a row per epoch: epoch, step, learning_rate, means of loss, its terms' logs
        and accuracy (a fraction), seconds.

    Raises:
        DivtrainError: when the loss or a gradient is no longer finite: the step is not taken, and
            neither the weights nor the state file are touched by it. When the state file belongs
            to another run; `DamagedFileError` when it is damaged. When the processes cannot share
            the batch or the members. For a callback with none of the methods.
        KeyboardInterrupt: on Ctrl-C or SIGTERM to any process, in all of them, after the running
            step or the one after it; the state is saved first.
    """
    if not isinstance(epochs, int) or epochs < 1:
        raise DivtrainError(f"expected a whole number of `epochs` >= 1, got {epochs!r}")
    if not torch.is_grad_enabled():
        raise DivtrainError("training needs gradients, which are disabled here; see torch.no_grad")
    _check_trainable(ens)
    state_file = None if state_file is None else Path(state_file)
    for callback in callbacks:
        if not any(hasattr(callback, name) for name in CALLBACKS):
            raise DivtrainError(
                f"expected `callbacks` with a method {' or '.join(CALLBACKS)}, got"
                f" {type(callback).__name__} with none of them"
            )
    if fabric is None:
        elsewhere = {p.device.type for p in ens.parameters()} - {"cpu"}
        if elsewhere:
            raise DivtrainError(
                "expected `fabric` with the device to train on, since the ensemble is on"
                f" {', '.join(sorted(elsewhere))}: give fabric=lightning_fabric.Fabric("
                f"accelerator={min(elsewhere)!r}, devices=1). Without, training runs on the CPU"
            )
        from lightning_fabric import Fabric  # here: it takes longer to import than torch

        fabric = Fabric(accelerator="cpu", devices=1)
    precision = fabric.strategy.precision.precision
    if precision not in PRECISIONS:
        raise DivtrainError(
            f"expected `fabric` of precision {' or '.join(PRECISIONS)}, got {precision!r}; for"
            " float64 give an ensemble and images of float64"
        )
    defence = build_defence(defence) if isinstance(defence, str) else defence
    if not isinstance(defence, Defence):
        raise DivtrainError(
            "expected `defence` to be the name of a defence, or one with its settings, such as"
            f" dt.defences.Div(), got {defence!r}"
        )
    if defence.needs_static_nets:
        raise DivtrainError(
            "expected a defence with its static nets, got none: give trained nets, as in"
            f" dt.defences.{type(defence).__name__}(nets=[net])"
        )
    defence.check_ensemble(ens)
    ens.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    fabric.to_device(ens)
    source, terms = prepare_batches(batches, defence, ens), defence.terms
    crafter = defence.crafter
    if isinstance(source, Loaded) and fabric.world_size > 1:
        raise DivtrainError("expected batches from a Stream, which several processes can share")
    steps = epochs * source.steps_per_epoch
    defence.check_steps(steps)
    if callable(optimizer) or optimizer is None:
        optimizer = (optimizer or adam())(ens.parameters())
    names = _check_optimizer(optimizer, ens)
    lay_out(optimizer)  # the ensemble's parameters may lie in memory as they did not before
    rates = [group["lr"] for group in optimizer.param_groups]
    recipe: dict[str, Any] = {}
    if state_file is not None:
        saved_tensors(ens)  # raises now, not when the first state is saved
        recipe = {
            "defence": spec_of(defence),
            "batches": source.spec(),
            "images": source.images.digest if isinstance(source, Stream) else "",
            "optimizer": _describe(optimizer, names),
            "schedule": spec_of(schedule),
            "epochs": epochs,
            "precision": precision,
        }
    wrapped: Any = fabric.setup_optimizers(optimizer)
    processes = make_strategy(fabric, strategy, ens, source.batch(0), by_member, crafter)
    progress = TrainingState(steps)
    if state_file is not None and processes.broadcast(state_file.exists()):
        progress = _load_together(state_file, ens, wrapped, recipe, steps, processes)
    processes.begin(wrapped)
    ens.train()
    saved = time.monotonic()
    modes = [each.training for each in ens.modules()]
    with StopRequest() as stop, _rates_restored(optimizer, rates):
        while progress.step < steps:
            started = time.monotonic()
            for group, rate in zip(wrapped.param_groups, rates, strict=True):
                group["lr"] = rate_at(schedule, progress.step, steps, rate)
            batch = source.batch(progress.step)
            if crafter is None:
                batch = processes.share(batch)
            else:
                moment = Moment(source.seed, progress.step, steps)
                with fabric.autocast():
                    batch = craft(crafter, ens, batch, moment, processes.rank, processes.world)
            ens.zero_grad()  # also what the optimiser does not train
            done = processes.step(batch, terms, progress.step)
            log = {"loss": done.loss, **done.log}
            given = batch.parts["given"]  # images from outside have no class
            if given.stop > given.start:
                right = aggregate_logits(done.logits, ens.aggregate).argmax(-1) == batch.y
                log["accuracy"] = right[given].float().mean()
            finite = are_finite(log, ens.parameters())
            due = started - saved >= save_every
            # The only wait for the device, and the last exchange between processes, of a step.
            values, finite_everywhere, due, stopping = processes.exchange(
                log, finite, due, stop.requested
            )
            if values.get("vanishing", 0.0) > VANISHING_SHARE:
                warn_once(VANISHING_WARNING)
            if not finite_everywhere:
                at = batch, done.logits
                crafted = batch.parts.get("crafted", slice(0, 0))
                if crafted.stop == crafted.start:
                    at = source.batch(progress.step), processes.all_logits(done.logits)
                error = divergence(values, *at, ens, source, progress.step, steps, state_file)
                raise DivtrainError(processes.first_message(None if finite else str(error)))
            wrapped.step()
            progress.add(values, started)
            if processes.first:
                _call(callbacks, "on_step", progress.step, steps, progress.means())
            if progress.step % source.steps_per_epoch == 0:
                progress.end_epoch(wrapped.param_groups[0]["lr"])
                if processes.first:
                    _call(callbacks, "on_epoch", progress.history[-1])
            if callbacks and modes != [each.training for each in ens.modules()]:
                ens.train()  # a callback may have evaluated it
            if state_file is not None and (due or stopping):
                processes.gather(wrapped)
                check_weights(ens, progress.step, steps, state_file)
                if processes.first:
                    save_state(state_file, ens, wrapped, progress, recipe)
                saved = time.monotonic()
            if stopping:
                raise KeyboardInterrupt
    processes.finish(wrapped)
    check_weights(ens, steps, steps, state_file)
    ens.eval()
    if processes.first:
        _call(callbacks, "on_end", progress.history)
    return progress.history


@contextmanager
def _rates_restored(optimizer: torch.optim.Optimizer, rates: Sequence[Any]) -> Iterator[None]:
    """Context in which a schedule sets the learning rates; afterwards they are the caller's."""
    try:
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def _call(callbacks: Sequence[object], name: str, *arguments: object) -> None:
    for callback in callbacks:
        if hasattr(callback, name):
            getattr(callback, name)(*arguments)


def _check_trainable(ens: object) -> None:
    """Check that this is an ensemble with weights to train."""
    if not isinstance(ens, Ensemble):
        raise DivtrainError(
            f"expected a divtrain.Ensemble, got {type(ens).__name__}; make one of a list of modules"
        )
    if any(isinstance(each, UninitializedParameter) for each in ens.parameters()):
        raise DivtrainError(
            "expected members whose layers know their sizes, got lazy ones that have seen no images"
            " yet; call the ensemble on some first"
        )
    if not any(parameter.requires_grad for parameter in ens.parameters()):
        raise DivtrainError(
            "expected an ensemble with a parameter to train, got none that requires a gradient;"
            " thaw some with ens.requires_grad_(True)"
        )


def _check_optimizer(optimizer: object, ens: Ensemble) -> list[list[str]]:
    """Return the names of the parameters that an optimiser trains, group by group.

    Raises:
        DivtrainError: for no optimiser, one that must run the loss itself, or one of parameters
            that are not the ensemble's.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise DivtrainError(
            "expected an `optimizer` of torch, or a function that makes one of parameters, got"
            f" {optimizer!r}"
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise DivtrainError("LBFGS runs the loss itself, which a training by batches cannot let it")
    known = {id(parameter): name for name, parameter in ens.named_parameters()}
    groups = [[known.get(id(each), "") for each in g["params"]] for g in optimizer.param_groups]
    foreign = sum(not name for group in groups for name in group)
    if foreign:
        raise DivtrainError(
            f"expected an `optimizer` of the ensemble's parameters, got one with {foreign} others:"
            " make it of ens.parameters() once the ensemble has its members"
        )
    return groups


def _describe(optimizer: torch.optim.Optimizer, names: list[list[str]]) -> dict[str, Any]:
    """Describe an optimiser by its kind, settings and the parameters it trains."""
    groups = [
        {name: spec_of(value) for name, value in group.items() if name != "params"}
        | {"parameters": own}
        for group, own in zip(optimizer.param_groups, names, strict=True)
    ]
    return {"kind": type(optimizer).__qualname__, "groups": groups}


def _load_together(
    path: Path,
    ens: Ensemble,
    optimizer: Any,
    recipe: dict[str, Any],
    steps: int,
    processes: DataParallel,
) -> TrainingState:
    """Load the state in every process, or raise the same error in every one."""
    state, failure = TrainingState(steps), None
    try:
        state = load_state(path, ens, optimizer, recipe, steps)
    except DivtrainError as error:
        failure = type(error), str(error)
    failure = processes.first_message(failure)
    if failure is not None:
        kind, message = failure
        raise kind(message)
    return state
