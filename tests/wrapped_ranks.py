"""What tests of `diversity_loss` under wrappers run in each of two processes."""

from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import divtrain as dt
from divtrain.training import leave_group
from ranks import batch_norm, mixed

IMAGES = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.arange(12) % 10
STEPS = 3


def ensemble(nets: Any = mixed) -> dt.Ensemble:
    torch.manual_seed(1)
    return dt.Ensemble(nets()).double()


class Own(nn.Module):
    """A module of the user's whose forward is the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.ens = ensemble()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return dt.diversity_loss(self.ens, x, y).total


def steps(
    ens: Any, model: Any, optimizer: Any, backward: Any, rank: int, world: int
) -> dict[str, Tensor]:
    """A few steps of a loop of one's own, each process on every other image."""
    x, y = IMAGES[rank::world], LABELS[rank::world]
    for step in range(STEPS):
        optimizer.zero_grad()
        own = isinstance(ens, Own)
        backward(model(x, y) if own else dt.diversity_loss(model, x, y).total)
        optimizer.step()
        if rank == 0 and step == 0 and not own:  # this process alone: nobody else takes part
            assert dt.input_gradients(model, x, y).shape[1] == len(x)
    return {name: value.detach().clone() for name, value in ens.state_dict().items()}


def backward(loss: Tensor) -> None:
    loss.backward()


def descent(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.5, momentum=0.9)


def work(fabric: Fabric, folder: Path) -> None:
    torch.set_num_threads(1)
    rank, found = fabric.global_rank, dict[str, Any]()
    for name, ens in (
        ("ddp", ensemble()), ("own", Own().double()), ("batch norm", ensemble(batch_norm))
    ):  # fmt: skip
        ddp = DistributedDataParallel(ens)
        found[name] = steps(ens, ddp, descent(ddp), backward, rank, 2)
    ens = ensemble()
    wrapped, optimizer = fabric.setup(ens, descent(ens))
    found["fabric"] = steps(ens, wrapped, optimizer, fabric.backward, rank, 2)
    torch.save(found, folder / f"{rank}.pt")
    leave_group()
