"""One training in several processes, one a device: what each does, and what they tell each other.

Whichever way, the run is the one that a single process would make, up to the order of sums:

* ``ddp``: every rank holds all members and takes its slice of each batch. GAL and the
  cross-entropy are means over images, and slices are equal, so the mean of the ranks' gradients is
  the gradient of the whole batch, each image's input gradients never leaving its rank.
* ``members``: every rank holds whole batches and some members. What a rank needs of the others is
  their logits and input gradients, exchanged once a step (`divtrain.training.step.step_apart`).

There is no DistributedDataParallel here. Its hooks expect one forward and one backward pass a step;
GAL's step has a backward pass inside its forward pass, may run two forward passes (`part`), or
one a member (`by_member`). One mean of the gradients after the step is right in all of them. What
is given up is that the exchange does not overlap with the backward pass.

Processes are launched, and their group is opened, by Fabric; they leave it before they end.
"""

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from divtrain.ensemble import Ensemble
from divtrain.errors import DivtrainError, unknown_name
from divtrain.training.cuda_graph import (
    CudaRecorder,
    RecordedSteps,
    Recorder,
    check_cuda_graph,
)
from divtrain.training.step import StepResult, step_apart, step_by_member, step_together
from divtrain.training.terms import Term

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
            " of a conversation; give the same command again after a failure, it goes on"
        )
    if started > 1 and devices not in (1, started):
        raise DivtrainError(
            f"torchrun started {started} processes, but --train.devices asks for {devices}; leave"
            " it out: under torchrun every process trains on a device of its own"
        )
    return max(devices, started)


def leave_group() -> None:
    """Leave the group of processes, if this one is in any; the last that it does with the others.

    A process that ends with the threads of a Gloo group still running is now and then aborted by
    them on its way out, its work done. Fabric closes groups of GPUs alone.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def spread(
    fabric: "Fabric",
    strategy: Strategy,
    ens: Ensemble,
    batch_size: int,
    by_member: bool,
    outside: int = 0,
    cuda_graph: bool = False,
) -> "OneDevice":
    """Return what this process does of a training.

    Args:
        fabric: Launched; its world size is the number of processes.
        strategy: How they share the work; of no account to one alone.
        ens: The whole ensemble, on fabric's device.
        batch_size: Images a step, over all processes.
        by_member: Hold the graph of one member at a time.
        outside: How many of the images, the first, are from outside the training distribution.
        cuda_graph: Record steps into CUDA graphs and replay them.

    Raises:
        DivtrainError: as `check_devices` and `check_cuda_graph` do.
    """
    check_devices(fabric.world_size, strategy, len(ens), batch_size, outside)
    alone = fabric.world_size == 1
    if cuda_graph:
        check_cuda_graph(fabric.device.type, by_member, alone or strategy == "ddp")
    several = {"ddp": DataParallel, "members": MembersApart}
    devices = (OneDevice if alone else several[strategy])(fabric, ens, by_member)
    if cuda_graph:
        devices.record_with(CudaRecorder(fabric.device))
    return devices


def check_devices(
    devices: int, strategy: Strategy, members: int, batch_size: int, outside: int = 0
) -> None:
    """Check that so many devices can share a training.

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
            f"expected a batch size that {devices} devices divide, got {batch_size}: each takes an"
            f" equal slice; take {nearest} (--train.batch-size), or another number of devices"
        )
    if strategy == "ddp" and outside % devices:
        raise DivtrainError(
            f"{outside} of the {batch_size} images of a batch are from outside the training"
            f" distribution, which {devices} devices do not divide: each takes an equal slice of"
            f" both parts; take a --train.batch-size that {2 * devices} divides"
        )
    if strategy == "members" and devices > members:
        raise DivtrainError(
            f"expected at most one device a member, got {devices} devices for {members} members;"
            f" take --train.devices {members}, or --train.strategy ddp"
        )


class OneDevice:
    """A process alone: it does everything and has nobody to tell.

    Attributes:
        first: Whether this process is the one that writes files and shows progress.
    """

    def __init__(self, fabric: "Fabric", ens: Ensemble, by_member: bool):
        self.first = fabric.global_rank == 0
        self._fabric = fabric
        self._ens = ens
        self._by_member = by_member
        self._recorded: RecordedSteps | None = None

    def record_with(self, recorder: Recorder) -> None:
        """Take steps by replaying recordings of them, from now on."""
        parameters = [each for each in self._ens.parameters() if each.requires_grad]
        self._recorded = RecordedSteps(parameters, recorder)

    def as_first(self, value: Any) -> Any:
        """Return the first process's value, in every process."""
        return value

    def begin(self, optimizer: torch.optim.Optimizer) -> None:
        """Make the processes equal before the first step, once any saved state is loaded."""
        del optimizer

    def share(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return this process's share of a batch of images and labels."""
        return x, y

    def step(self, x: Tensor, y: Tensor, terms: Sequence[Term], number: int) -> StepResult:
        """Add the gradients of the whole batch to the parameters that this process optimises.

        What is returned may be overwritten by the next step.

        Args:
            x: This process's images, (batch, channel, height, width).
            y: Their labels, (batch,).
            terms: The loss is their sum.
            number: Steps done before this one.
        """
        step = step_by_member if self._by_member else step_together
        # Explicit, since Fabric would wrap `forward` in autocast, but no other method.
        autocast, backward = self._fabric.autocast, self._fabric.backward

        def take(x: Tensor, y: Tensor) -> StepResult:
            return step(self._ens, x, y, terms, number, autocast, backward)

        if self._recorded is None:
            return take(x, y)
        return self._recorded(take, x, y, tuple(term.share(number) for term in terms))

    def mean(self, log: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the means over the processes of scalars, the same in every process."""
        return log

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return, for each flag, whether it is set in any process."""
        return flags

    def whole_batch(self, logits: Tensor) -> Tensor:
        """Return what the members answer to the whole batch, (member, batch, class)."""
        return logits

    def first_said(self, text: str | None) -> str:
        """Return the first text that a process has to say, by rank; one at least must."""
        return text or ""

    def gather(self, optimizer: torch.optim.Optimizer) -> None:
        """Give the first process all that a training state holds."""
        del optimizer

    def finish(self, optimizer: torch.optim.Optimizer) -> None:
        """Give every process the trained ensemble."""
        del optimizer


class SeveralDevices(OneDevice):
    """What both strategies do alike.

    The first process draws from torch's generator as a process alone would; the others draw from
    it, their rank and the step, so that no two drop out the same units and a resumed run draws as
    an unbroken one does.
    """

    def __init__(self, fabric: "Fabric", ens: Ensemble, by_member: bool):
        super().__init__(fabric, ens, by_member)
        self.rank, self.world = fabric.global_rank, fabric.world_size

    def as_first(self, value: Any) -> Any:
        """See `OneDevice`."""
        return self._fabric.broadcast(value)

    def begin(self, optimizer: torch.optim.Optimizer) -> None:
        """See `OneDevice`."""
        del optimizer
        self._seed = self.as_first(torch.initial_seed())
        self._copy_first(self._ens.state_dict().values())

    def mean(self, log: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `OneDevice`."""
        values = torch.stack([value.detach().double() for value in log.values()])
        dist.all_reduce(values)
        return dict(zip(log, (values / self.world).unbind(), strict=True))

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """See `OneDevice`."""
        counts = torch.tensor(flags, dtype=torch.int32, device=self._fabric.device)
        dist.all_reduce(counts)
        return tuple(bool(count) for count in counts.tolist())

    def first_said(self, text: str | None) -> str:
        """See `OneDevice`."""
        texts: list[Any] = [None] * self.world
        dist.all_gather_object(texts, text)
        return next(each for each in texts if each is not None)

    def _draw_apart(self, number: int) -> None:
        if not self.first:
            torch.manual_seed(hash((self._seed, self.rank, number)))

    @torch.no_grad()
    def _copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors by those of the first process."""
        for tensor in tensors:
            flat = tensor.detach().contiguous()
            dist.broadcast(flat, 0)
            tensor.copy_(flat)


class DataParallel(SeveralDevices):
    """All members, and a slice of each batch: every `world`-th image, from the rank-th on.

    A share of the first images of every slice is then the same share of the first images of the
    batch (`GradientAlignment.part`), rounded up to what the ranks divide. Batch norm normalises by
    the statistics of the slice; its running statistics are means over the slices, equal in every
    process. Any other buffers are each process's own; those of the first are kept.
    """

    def share(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `OneDevice`."""
        return x[self.rank :: self.world], y[self.rank :: self.world]

    def step(self, x: Tensor, y: Tensor, terms: Sequence[Term], number: int) -> StepResult:
        """See `OneDevice`; the result is of this process's slice."""
        self._draw_apart(number)
        done = super().step(x, y, terms, number)
        for member in self._ens.members:
            tensors = [p.grad for p in member.parameters() if p.grad is not None]
            for module in member.modules():
                if isinstance(module, _NormBase) and module.running_mean is not None:
                    tensors += [module.running_mean, module.running_var]
            self._average(tensors)
        return done

    def whole_batch(self, logits: Tensor) -> Tensor:
        """See `OneDevice`."""
        members, images, classes = logits.shape
        whole = logits.new_zeros(members, images * self.world, classes)
        whole[:, self.rank :: self.world] = logits
        dist.all_reduce(whole)
        return whole

    def finish(self, optimizer: torch.optim.Optimizer) -> None:
        """See `OneDevice`."""
        del optimizer
        self._copy_first(self._ens.buffers())

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


class MembersApart(SeveralDevices):
    """Whole batches, and some members, dealt out in turn; the weights of the others are stale.

    Only the members held are trained, and only their optimiser's slots kept up to date. Batch norm
    sees whole batches, as in a process alone. With `by_member` a process holds the graph of one of
    its members at a time.
    """

    def __init__(self, fabric: "Fabric", ens: Ensemble, by_member: bool):
        super().__init__(fabric, ens, by_member)
        self._held = list(range(self.rank, len(ens), self.world))
        self._own = Ensemble([ens.members[index] for index in self._held])

    def begin(self, optimizer: torch.optim.Optimizer) -> None:
        """See `OneDevice`; slots of members held elsewhere are dropped."""
        super().begin(optimizer)
        own = {id(parameter) for parameter in self._own.parameters()}
        for parameter in self._ens.parameters():
            if id(parameter) not in own:
                optimizer.state.pop(parameter, None)

    def step(self, x: Tensor, y: Tensor, terms: Sequence[Term], number: int) -> StepResult:
        """See `OneDevice`; the result is of all members, the same in every process."""
        self._draw_apart(number)
        step = step_by_member if self._by_member else step_apart
        autocast, backward = self._fabric.autocast, self._fabric.backward
        return step(self._own, x, y, terms, number, autocast, backward, self)

    def whole(self, own: Tensor) -> Tensor:
        """See `divtrain.training.step.Exchange`: a sum with zeros, exact for any deal."""
        whole = own.new_zeros((len(self._ens), *own.shape[1:]))
        whole[self._held] = own
        dist.all_reduce(whole)
        return whole

    def own(self, whole: Tensor) -> Tensor:
        """See `divtrain.training.step.Exchange`."""
        return whole[self._held]

    def gather(self, optimizer: torch.optim.Optimizer) -> None:
        """See `OneDevice`; every process is given the weights and slots of every member."""
        mine = {}
        for index in self._held:
            member = self._ens.members[index]
            slots = [_on_cpu(optimizer.state.get(p, {})) for p in member.parameters()]
            mine[index] = _on_cpu(member.state_dict()), slots
        everyones: list[Any] = [None] * self.world
        dist.all_gather_object(everyones, mine)
        for index, (weights, slots) in _merged(everyones).items():
            if index in self._held:
                continue
            member = self._ens.members[index]
            member.load_state_dict(weights)
            for parameter, own in zip(member.parameters(), slots, strict=True):
                if own:
                    optimizer.state[parameter] = own

    def finish(self, optimizer: torch.optim.Optimizer) -> None:
        """See `OneDevice`."""
        self.gather(optimizer)


def _on_cpu(tensors: dict[str, Any]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()}


def _merged(parts: Iterable[dict[int, Any]]) -> dict[int, Any]:
    return {index: value for part in parts for index, value in part.items()}
