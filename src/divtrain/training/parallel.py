"""One training in several processes, one per device: what each does, and what they exchange.

Whichever way, the run is the one that a single process would make, up to the order of sums:

* ``ddp``: every process holds all members and takes its slice of each batch. GAL and the
  cross-entropy are means over images, and slices are equal, so the mean of the processes' gradients
  is the gradient of the whole batch. Input gradients of an image never leave its process.
* ``members``: every process holds whole batches and some members. What it needs of the others is
  their logits and input gradients, exchanged in each step (`divtrain.training.step.step_apart`).

There is no DistributedDataParallel here. Its hooks expect one forward and one backward pass per
step; GAL's step has a backward pass inside its forward pass, may run two forward passes, or one per
member (`by_member`). One mean of the gradients after the step is right in all of them. What is
given up is that the exchange does not overlap with the backward pass.

Fabric launches processes, opens their group and broadcasts objects. Tensors are summed by
`torch.distributed` itself: Fabric's all_reduce begins with a barrier, which waits for the device.
"""

import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from divtrain.defences import Term
from divtrain.ensemble import Ensemble
from divtrain.errors import DivtrainError, unknown_name
from divtrain.forward import Batch
from divtrain.training.step import StepResult, step_apart, step_by_member, step_together

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Strategy = Literal["ddp", "members"]


def torchrun_processes() -> int:
    """Processes that torchrun started with this command, on all machines; 1 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if _under_torchrun() else 1


def _under_torchrun() -> bool:
    return dist.is_available() and dist.is_torchelastic_launched()


def training_processes(devices: int) -> int:
    """Processes that share a training: `devices`, or under torchrun all that it started.

    Raises:
        DivtrainError: when torchrun started another number than was asked for, or would start
            them again by itself.
    """
    started = torchrun_processes()
    if started > 1 and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0:
        raise DivtrainError(
            "expected torchrun without --max-restarts: its processes would meet again in the middle"
            " of an exchange; give the same command again after a failure, it resumes"
        )
    if started > 1 and devices not in (1, started):
        raise DivtrainError(
            f"expected devices to be 1 or the {started} processes that torchrun started, got"
            f" {devices}; leave it out: under torchrun every process trains on a device of its own"
        )
    return max(devices, started)


def leave_group() -> None:
    """Leave the group of processes, if this one is in any; the last that it does with the others.

    A process that ends with the threads of a Gloo group still running is now and then aborted by
    them on its way out, its work done. Fabric closes groups of GPUs alone.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def make_strategy(
    fabric: "Fabric", strategy: Strategy, ens: Ensemble, batch: Batch, by_member: bool = False
) -> "SingleProcess":
    """Return what this process does of a training.

    Args:
        fabric: Launched; its world size is the number of processes.
        strategy: How they share the work; of no account to one alone.
        ens: The whole ensemble, on fabric's device.
        batch: A batch of the training, for the sizes of its parts.
        by_member: Hold the graph of one member at a time.

    Raises:
        DivtrainError: as `check_devices` does.
    """
    outside = batch.parts.get("outside", slice(0, 0))
    check_devices(fabric.world_size, strategy, len(ens), len(batch), outside.stop - outside.start)
    if fabric.world_size == 1:
        return SingleProcess(fabric, ens, by_member)
    several = {"ddp": DataParallel, "members": MemberParallel}
    return several[strategy](fabric, ens, by_member)


def check_devices(
    devices: int, strategy: Strategy, members: int, batch_size: int, outside: int = 0
) -> None:
    """Check that so many devices can share a training.

    Args:
        devices: Number of devices, a process each.
        strategy: How they share the work.
        members: Members of the ensemble.
        batch_size: Images per step, over all devices.
        outside: How many of them are from outside the training distribution.

    Raises:
        DivtrainError: for an unknown strategy, a batch, or a part of it from outside the training
            distribution, that they do not divide (``ddp``), or more devices than members
            (``members``).
    """
    if strategy not in get_args(Strategy):
        raise unknown_name("strategy", strategy, get_args(Strategy))
    if strategy == "ddp" and batch_size % devices:
        nearest = max(1, round(batch_size / devices)) * devices
        raise DivtrainError(
            f"expected a batch_size that {devices} devices divide, got {batch_size}: each takes an"
            f" equal slice; take {nearest}, or another number of devices"
        )
    if strategy == "ddp" and outside % devices:
        raise DivtrainError(
            f"{outside} of the {batch_size} images of a batch are from outside the training"
            f" distribution, which {devices} devices do not divide: each takes an equal slice of"
            f" both parts; take a batch_size that {2 * devices} divides"
        )
    if strategy == "members" and devices > members:
        raise DivtrainError(
            f"expected at most one device per member, got {devices} devices for {members} members;"
            f" take {members} devices, or the strategy ddp"
        )


class SingleProcess:
    """A process alone: it does everything and has nobody to exchange with.

    Attributes:
        first: Whether this process is the one that writes files and calls callbacks.
    """

    def __init__(self, fabric: "Fabric", ens: Ensemble, by_member: bool):
        self.first = fabric.global_rank == 0
        self._fabric = fabric
        self._ens = ens
        self._by_member = by_member

    def broadcast(self, value: Any) -> Any:
        """Return the first process's value, in every process."""
        return value

    def first_message(self, message: Any | None) -> Any | None:
        """Return the first message that is not None, by rank, in every process."""
        return message

    def begin(self, optimizer: torch.optim.Optimizer) -> None:
        """Make the processes equal before the first step, once any saved state is loaded."""
        del optimizer

    def share(self, batch: Batch) -> Batch:
        """Return this process's share of a batch."""
        return batch

    def step(self, batch: Batch, terms: Sequence[Term], step: int) -> StepResult:
        """Add the gradients of the whole batch to the parameters that this process optimises.

        Args:
            batch: This process's share.
            terms: The loss is their sum.
            step: Steps done before this one.
        """
        take = step_by_member if self._by_member else step_together
        # Explicit, since Fabric would wrap `forward` in autocast, but no other method.
        return take(self._ens, batch, terms, step, self._fabric.autocast, self._fabric.backward)

    def exchange(
        self, log: dict[str, Tensor], finite: Tensor, due: bool, stop: bool
    ) -> tuple[dict[str, float], bool, bool, bool]:
        """Read what a step logged, its means over the processes, and what they agree on.

        Args:
            log: Scalars by name.
            finite: Whether this process may take the step, a boolean tensor.
            due: Whether this process finds that it is time to save.
            stop: Whether this process was asked to stop.

        Returns:
            The means; whether all may take the step; whether any is due, and was asked to stop.
        """
        scalars = [*(value.detach() for value in log.values()), finite]
        kind = functools.reduce(torch.promote_types, (scalar.dtype for scalar in scalars))
        *values, fine = torch.stack([scalar.to(kind) for scalar in scalars]).tolist()
        return dict(zip(log, values, strict=True)), bool(fine), due, stop

    def whole_batch(self, logits: Tensor) -> Tensor:
        """Return what the members answer to the whole batch, (member, batch, class)."""
        return logits

    def gather(self, optimizer: torch.optim.Optimizer) -> None:
        """Give the first process all that a training state holds."""
        del optimizer

    def finish(self, optimizer: torch.optim.Optimizer) -> None:
        """Give every process the trained ensemble."""
        del optimizer


class SeveralProcesses(SingleProcess):
    """What both strategies do alike.

    The first process draws from torch's generator as a process alone would; the others draw from
    it, their rank and the step, so that no two drop out the same units and a resumed run draws as
    an unbroken one does.
    """

    def __init__(self, fabric: "Fabric", ens: Ensemble, by_member: bool):
        super().__init__(fabric, ens, by_member)
        self.rank, self.world = fabric.global_rank, fabric.world_size

    def broadcast(self, value: Any, source: int = 0) -> Any:
        """See `SingleProcess`; of any process's value."""
        return self._fabric.broadcast(value, source)

    def first_message(self, message: Any | None) -> Any | None:
        """See `SingleProcess`."""
        messages = [self.broadcast(message, rank) for rank in range(self.world)]
        return next((each for each in messages if each is not None), None)

    def begin(self, optimizer: torch.optim.Optimizer) -> None:
        """See `SingleProcess`."""
        del optimizer
        self._seed = self.broadcast(torch.initial_seed())
        self._ens.load_state_dict(self.broadcast(_on_cpu(self._ens.state_dict())))

    def exchange(
        self, log: dict[str, Tensor], finite: Tensor, due: bool, stop: bool
    ) -> tuple[dict[str, float], bool, bool, bool]:
        """See `SingleProcess`; in one message."""
        flags = [finite.new_full((), flag) for flag in (due, stop)]
        scalars = [*(value.detach() for value in log.values()), ~finite, *flags]
        sums = torch.stack([scalar.double() for scalar in scalars])
        dist.all_reduce(sums)
        *values, broken, dues, stops = sums.tolist()
        means = {name: value / self.world for name, value in zip(log, values, strict=True)}
        return means, not broken, bool(dues), bool(stops)

    def _draw_apart(self, step: int) -> None:
        if not self.first:
            torch.manual_seed(hash((self._seed, self.rank, step)))


class DataParallel(SeveralProcesses):
    """All members, and a slice of each batch: every `world`-th image, from the rank-th on.

    The leading share of a part of every slice is then the same share of that part of the batch,
    rounded up to what the processes divide. Batch norm normalises by the statistics of the slice;
    its running statistics are means over the slices, equal in every process. Any other buffers are
    each process's own; those of the first are kept.
    """

    def share(self, batch: Batch) -> Batch:
        """See `SingleProcess`."""
        return batch.every(self.world, self.rank)

    def step(self, batch: Batch, terms: Sequence[Term], step: int) -> StepResult:
        """See `SingleProcess`; the result is of this process's slice."""
        self._draw_apart(step)
        done = super().step(batch, terms, step)
        tensors = [p.grad for p in self._ens.parameters() if p.grad is not None]
        for module in self._ens.modules():
            if isinstance(module, _NormBase) and module.running_mean is not None:
                tensors += [module.running_mean, module.running_var]
        self._average(tensors)
        return done

    def whole_batch(self, logits: Tensor) -> Tensor:
        """See `SingleProcess`."""
        members, images, classes = logits.shape
        whole = logits.new_zeros(members, images * self.world, classes)
        whole[:, self.rank :: self.world] = logits
        dist.all_reduce(whole)
        return whole

    @torch.no_grad()
    def finish(self, optimizer: torch.optim.Optimizer) -> None:
        """See `SingleProcess`."""
        del optimizer
        buffers = dict(self._ens.named_buffers())
        for name, value in self.broadcast(_on_cpu(buffers)).items():
            buffers[name].copy_(value)

    @torch.no_grad()
    def _average(self, tensors: list[Tensor]) -> None:
        """Replace tensors by their means over the processes, in one exchange."""
        if not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.world
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


class MemberParallel(SeveralProcesses):
    """Whole batches, and some members, dealt out in turn; the weights of the others are stale.

    Only the members held are trained, and only their optimiser's slots kept up to date. Batch norm
    sees whole batches, as in a process alone. With `by_member` a process holds the graph of one of
    its members at a time.
    """

    def __init__(self, fabric: "Fabric", ens: Ensemble, by_member: bool):
        super().__init__(fabric, ens, by_member)
        held = slice(self.rank, None, self.world)
        self._own = Ensemble(list(ens.members)[held])
        self._members = MemberExchange(len(ens), held)

    def begin(self, optimizer: torch.optim.Optimizer) -> None:
        """See `SingleProcess`; slots of members held elsewhere are dropped."""
        super().begin(optimizer)
        own = {id(parameter) for parameter in self._own.parameters()}
        for parameter in self._ens.parameters():
            if id(parameter) not in own:
                optimizer.state.pop(parameter, None)

    def step(self, batch: Batch, terms: Sequence[Term], step: int) -> StepResult:
        """See `SingleProcess`; the result is of all members, the same in every process."""
        self._draw_apart(step)
        take = step_by_member if self._by_member else step_apart
        autocast, backward = self._fabric.autocast, self._fabric.backward
        return take(self._own, batch, terms, step, autocast, backward, self._members)

    def gather(self, optimizer: torch.optim.Optimizer) -> None:
        """See `SingleProcess`; every process is given the weights and slots of every member."""
        for rank in range(self.world):
            members = list(self._ens.members)[rank :: self.world]
            held = None
            if rank == self.rank:
                held = [self._state_of(each, optimizer) for each in members]
            for member, (weights, slots) in zip(members, self.broadcast(held, rank), strict=True):
                if rank == self.rank:
                    continue
                member.load_state_dict(weights)
                for parameter, own in zip(member.parameters(), slots, strict=True):
                    if own:
                        optimizer.state[parameter] = own

    def finish(self, optimizer: torch.optim.Optimizer) -> None:
        """See `SingleProcess`."""
        self.gather(optimizer)

    def _state_of(self, member: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        slots = [_on_cpu(optimizer.state.get(p, {})) for p in member.parameters()]
        return _on_cpu(member.state_dict()), slots


class MemberExchange:
    """The `divtrain.training.step.Exchange` of a process that holds some members.

    Args:
        members: Number of members.
        held: Which of them are held here.
    """

    def __init__(self, members: int, held: slice):
        self._number, self._held = members, held

    def gather(self, held: Tensor) -> Tensor:
        """See `Exchange`: a sum with zeros, exact however the members are dealt out."""
        values = held.new_zeros((self._number, *held.shape[1:]))
        values[self._held] = held
        dist.all_reduce(values)
        return values

    def held(self, values: Tensor) -> Tensor:
        """See `Exchange`."""
        return values[self._held]


def _on_cpu(values: dict[str, Any]) -> dict[str, Any]:
    return {n: v.detach().cpu() if isinstance(v, Tensor) else v for n, v in values.items()}
