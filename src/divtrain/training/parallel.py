"""One training in several processes, one per device: what each computes, and what they exchange.

The result is that of a single process, up to the order of sums:

* ``ddp``: every process holds all members and takes its slice of each batch. GAL and the
  cross-entropy are means over images, and slices are equal, so the mean of the processes' gradients
  is the gradient of the batch. Input gradients of an image never leave its process.
* ``members``: every process holds all images and a few of the members. Logits and input gradients
  of the others are exchanged in each step (`divtrain.training.step.step_apart`).

There is no DistributedDataParallel here. Its hooks expect one forward and one backward pass per
step; GAL's step has a backward pass inside its forward pass, may run two forward passes, or one per
member (`by_member`). One mean of the gradients after the step is right in all of them, but does not
overlap with the backward pass.

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

from divtrain.defences.crafters import Crafter
from divtrain.defences.terms import Term
from divtrain.ensemble import Ensemble
from divtrain.errors import DivtrainError, unknown_name
from divtrain.forward import Batch, leading
from divtrain.training.step import StepResult, step_apart, step_by_member, step_together

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Strategy = Literal["ddp", "members"]

RUNNING = ("running_mean", "running_var")
"""Buffers that are averaged over processes, as gradients are."""


def torchrun_processes() -> int:
    """Processes that torchrun started with this command, on all machines; 1 without torchrun."""
    started = dist.is_available() and dist.is_torchelastic_launched()
    return int(os.environ["WORLD_SIZE"]) if started else 1


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
            f"expected `devices` to be 1 or the {started} processes that torchrun started, got"
            f" {devices}; leave it out: under torchrun every process trains on another device"
        )
    return max(devices, started)


def leave_group() -> None:
    """Leave the group of processes, if this one is in any, when nothing is left to exchange.

    A process that ends with the threads of a Gloo group still running is sometimes aborted by them
    although its work is done. Fabric closes groups of GPUs only.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def make_strategy(
    fabric: "Fabric",
    strategy: Strategy,
    ens: Ensemble,
    batch: Batch,
    by_member: bool = False,
    crafter: Crafter | None = None,
) -> "DataParallel":
    """Return what this process does in a training, once `check_devices` passes a batch of it."""
    outside = batch.parts.get("outside", slice(0, 0))
    outside_size = outside.stop - outside.start
    check_devices(fabric.world_size, strategy, len(ens), len(batch), outside_size, crafter)
    apart = strategy == "members" and fabric.world_size > 1
    return (MemberParallel if apart else DataParallel)(fabric, ens, by_member)


def check_devices(
    devices: int,
    strategy: Strategy,
    members: int,
    batch_size: int,
    outside: int = 0,
    crafter: Crafter | None = None,
) -> None:
    """Check that devices, with one process each, can share a training.

    Args:
        devices: Number of devices.
        strategy: How they share the work.
        members: Number of members of the ensemble.
        batch_size: Images per step, over all devices.
        outside: How many of them are from outside the training distribution.
        crafter: What crafts examples from the last ones.

    Raises:
        DivtrainError: for an unknown strategy; for ``ddp``, when the devices do not divide every
            number of images; for ``members``, when there are more devices than members, or a
            crafter, which needs the weights of all members.
    """
    if strategy not in get_args(Strategy):
        raise unknown_name("strategy", strategy, get_args(Strategy))
    if strategy == "ddp" and batch_size % devices:
        nearest = max(1, round(batch_size / devices)) * devices
        raise DivtrainError(
            f"expected a `batch_size` that {devices} devices divide, got {batch_size}: each takes"
            f" an equal slice; take {nearest}, or another number of devices"
        )
    if strategy == "ddp" and outside % devices:
        raise DivtrainError(
            f"{outside} of the {batch_size} images of a batch are from outside the training"
            f" distribution, which {devices} devices do not divide: each takes an equal slice of"
            f" both parts; take a `batch_size` that {2 * devices} divides"
        )
    if crafter is not None:
        crafted = leading(crafter.share, batch_size)
        if crafter.share < 1 and crafted == batch_size and not crafter.adds:
            raise DivtrainError(
                f"examples would be crafted from all {batch_size} images of a batch, though from a"
                f" share of {crafter.share:g} only; raise `batch_size`"
            )
        if devices > 1 and strategy == "members":
            raise DivtrainError(
                f"{type(crafter).__name__} crafts examples from all members, but with the"
                " `strategy` members each device holds only some of them; take ddp"
            )
        if crafted % devices:
            raise DivtrainError(
                f"examples are crafted from {crafted} of the {batch_size} images of a batch, which"
                f" {devices} devices do not divide: each takes an equal slice; take another"
                " `batch_size` or share"
            )
    if strategy == "members" and devices > members:
        raise DivtrainError(
            f"expected at most one device per member, got {devices} devices for {members} members;"
            f" take {members} devices, or the strategy ddp"
        )


class DataParallel:
    """All members, and a slice of each batch: every `world`-th image, from the rank-th on.

    A process alone takes all images, and exchanges nothing.

    The leading share of a part of every slice is the same share of that part of the batch, rounded
    up to what the processes divide. Batch norm normalises by the statistics of the slice; its
    running statistics are means over the slices, equal in every process. Of any other buffers the
    first process's are kept.

    The first process draws from torch's generator as a process alone would; the others draw from
    it, their rank and the step, so that no two drop out the same units and a resumed run draws as
    an unbroken one does.

    Attributes:
        first: Whether this process is the one that writes files and calls callbacks.
    """

    def __init__(self, fabric: "Fabric", ens: Ensemble, by_member: bool):
        self.rank, self.world = fabric.global_rank, fabric.world_size
        self.first, self.alone = self.rank == 0, self.world == 1
        self._fabric, self._ens, self._by_member = fabric, ens, by_member

    def broadcast(self, value: Any, source: int = 0) -> Any:
        """Return the value of process `source`, in every process."""
        return self._fabric.broadcast(value, source)

    def first_message(self, message: Any | None) -> Any | None:
        """Return the first message that is not None, by rank, in every process."""
        messages = [self.broadcast(message, rank) for rank in range(self.world)]
        return next((each for each in messages if each is not None), None)

    def begin(self, optimizer: torch.optim.Optimizer) -> None:
        """Make the processes equal before the first step, once any saved state is loaded."""
        if not self.alone:
            self._seed = self.broadcast(torch.initial_seed())
            self._ens.load_state_dict(self.broadcast(_on_cpu(self._ens.state_dict())))

    def share(self, batch: Batch) -> Batch:
        """Return what this process takes of a batch."""
        return batch.every(self.world, self.rank)

    def step(self, batch: Batch, terms: Sequence[Term], step: int) -> StepResult:
        """Add the gradients of all images to the parameters that this process optimises.

        `batch` is what `share` returned, and the result is of that.
        """
        self._draw_apart(step)
        take = step_by_member if self._by_member else step_together
        # Explicit, since Fabric would wrap `forward` in autocast, but no other method.
        autocast, backward = self._fabric.autocast, self._fabric.backward
        done = take(self._ens, batch, terms, step, autocast, backward)
        if not self.alone:
            self._average_gradients()
        return done

    def exchange(
        self, log: dict[str, Tensor], finite: Tensor, due: bool, stop: bool
    ) -> tuple[dict[str, float], bool, bool, bool]:
        """Return means over the processes, and what they agree on, from one message.

        It waits for the device once. They agree to take the step if it is finite in all, and to
        save or stop if that is due in any.
        """
        scalars = [*(value.detach() for value in log.values()), ~finite]
        if self.alone:  # not in float64, which some devices lack
            kind = functools.reduce(torch.promote_types, (scalar.dtype for scalar in scalars))
            *values, broken = torch.stack([scalar.to(kind) for scalar in scalars]).tolist()
            return dict(zip(log, values, strict=True)), not broken, due, stop
        scalars += [finite.new_full((), flag) for flag in (due, stop)]
        sums = torch.stack([scalar.double() for scalar in scalars])
        dist.all_reduce(sums)
        *values, broken, dues, stops = sums.tolist()
        means = {name: value / self.world for name, value in zip(log, values, strict=True)}
        return means, not broken, bool(dues), bool(stops)

    def all_logits(self, logits: Tensor) -> Tensor:
        """Return the members' logits of all images of the batch, (member, batch, class)."""
        if self.alone:
            return logits
        members, images, classes = logits.shape
        gathered = logits.new_zeros(members, images * self.world, classes)
        gathered[:, self.rank :: self.world] = logits
        dist.all_reduce(gathered)
        return gathered

    def gather(self, optimizer: torch.optim.Optimizer) -> None:
        """Give the first process all that a training state holds."""

    @torch.no_grad()
    def finish(self, optimizer: torch.optim.Optimizer) -> None:
        """Give every process the trained ensemble."""
        if not self.alone:
            buffers = dict(self._ens.named_buffers())
            for name, value in self.broadcast(_on_cpu(buffers)).items():
                buffers[name].copy_(value)

    def _draw_apart(self, step: int) -> None:
        if not self.first:
            torch.manual_seed(hash((self._seed, self.rank, step)))

    @torch.no_grad()
    def _average_gradients(self) -> None:
        """Replace gradients and running statistics by their means, in one exchange."""
        tensors = [p.grad for p in self._ens.parameters() if p.grad is not None]
        for module in self._ens.modules():
            statistics = dict(module.named_buffers(recurse=False))
            tensors += [statistics[name] for name in RUNNING if name in statistics]
        if not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.world
        means = flat.split([tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, means, strict=True):
            tensor.copy_(mean.view_as(tensor))


class MemberParallel(DataParallel):
    """All images and every `world`-th member; the weights of the other members are stale.

    Only the members held are trained, and only their optimiser's slots kept up to date. Batch norm
    sees all images, as in a process alone. With `by_member` a process holds the graph of one of its
    members at a time.
    """

    def __init__(self, fabric: "Fabric", ens: Ensemble, by_member: bool):
        super().__init__(fabric, ens, by_member)
        self._held = slice(self.rank, None, self.world)
        self._trained = Ensemble(list(ens.members)[self._held])

    def begin(self, optimizer: torch.optim.Optimizer) -> None:
        """As in `DataParallel`, and drop the slots of members held elsewhere."""
        super().begin(optimizer)
        trained = {id(parameter) for parameter in self._trained.parameters()}
        for parameter in self._ens.parameters():
            if id(parameter) not in trained:
                optimizer.state.pop(parameter, None)

    def share(self, batch: Batch) -> Batch:
        """Return the batch: members are shared, images are not."""
        return batch

    def step(self, batch: Batch, terms: Sequence[Term], step: int) -> StepResult:
        """As in `DataParallel`; the result is of all members, the same in every process."""
        self._draw_apart(step)
        take = step_by_member if self._by_member else step_apart
        autocast, backward = self._fabric.autocast, self._fabric.backward
        return take(
            self._trained, batch.of_members(self._held), terms, step, autocast, backward,
            self._all_members, self._held,
        )  # fmt: skip

    def all_logits(self, logits: Tensor) -> Tensor:
        """Return the logits, which are of all images already."""
        return logits

    def gather(self, optimizer: torch.optim.Optimizer) -> None:
        """Give every process the weights and slots of every member."""
        for rank in range(self.world):
            members = list(self._ens.members)[rank :: self.world]
            held = None
            if rank == self.rank:
                held = [_state_of(each, optimizer) for each in members]
            for member, (weights, slots) in zip(members, self.broadcast(held, rank), strict=True):
                if rank == self.rank:
                    continue
                member.load_state_dict(weights)
                for parameter, found in zip(member.parameters(), slots, strict=True):
                    if found:
                        optimizer.state[parameter] = found

    def finish(self, optimizer: torch.optim.Optimizer) -> None:
        """Give every process the trained ensemble."""
        self.gather(optimizer)

    def _all_members(self, held: Tensor) -> Tensor:
        """Return values of all members: a sum with zeros, exact however they are dealt out."""
        values = held.new_zeros((len(self._ens), *held.shape[1:]))
        values[self._held] = held
        dist.all_reduce(values)
        return values


def _state_of(member: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
    slots = [_on_cpu(optimizer.state.get(p, {})) for p in member.parameters()]
    return _on_cpu(member.state_dict()), slots


def _on_cpu(values: dict[str, Any]) -> dict[str, Any]:
    return {n: v.detach().cpu() if isinstance(v, Tensor) else v for n, v in values.items()}
