"""What tests of several processes run in each; a module of its own, for spawned ones to import."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

import divtrain as dt
from divtrain.data import Images, Stream
from divtrain.defences import DVERGE, TRS, BaseNoise, CrossDiv, Defence, Detector, Div, PGDATNoise
from divtrain.models import build
from divtrain.training import History, adam, leave_group, train
from made import DIV, digits

STRATEGIES = ("ddp", "members")
STOP_AT = 5
BASE = BaseNoise(noise=0.2)


def conv3() -> list[nn.Module]:
    return [build("conv3", 1, 8, 10) for _ in "abc"]


def mixed() -> list[nn.Module]:
    """Members that differ: 3, to be dealt out to 2 ranks."""
    return [
        nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10)),
        nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.LeakyReLU(0.1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 10)
        ),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
    ]


def batch_norm() -> list[nn.Module]:
    return [
        nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
        )
        for _ in "abc"
    ]


def dropout() -> list[nn.Module]:
    return [nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10)) for _ in "abc"]


@dataclass(frozen=True)
class Case:
    """One training to make in one process and in two."""

    nets: Callable[[], list[nn.Module]] = mixed
    defence: Defence = DIV
    dtype: torch.dtype = torch.float64
    by_member: bool = False
    epochs: int = 2

    def ensemble(self, seed: int = 0) -> dt.Ensemble:
        torch.manual_seed(seed)
        return dt.Ensemble(self.nets()).to(self.dtype)

    def train(
        self, ens: dt.Ensemble, *callbacks: object, batch_size: int = 40, rate: float = 1e-3,
        **options: Any,
    ) -> tuple[dict[str, Tensor], History]:  # fmt: skip
        """Train, and return the weights and the history."""
        images = Images(digits().x.to(self.dtype), digits().y)
        batches = Stream(images, batch_size, shift=1, seed=5)
        history = train(
            ens, batches, self.defence, self.epochs, adam(rate), "constant", callbacks,
            save_every=1e6, by_member=self.by_member, **options,
        )  # fmt: skip
        return ens.state_dict(), history


MIXED = Case()
CASES = {
    "base": Case(conv3, BASE, epochs=1),
    "div": Case(conv3, epochs=1),
    "base-float32": Case(conv3, BASE, torch.float32, epochs=1),
    "div-float32": Case(conv3, dtype=torch.float32, epochs=1),
    "mixed": MIXED,
    "lazy": Case(defence=Div(gal_every=2, gal_part=0.3, noise=0.2)),
    "by-member": Case(by_member=True),
    "batch-norm": Case(batch_norm),
    "detector": Case(defence=Detector(outside="smooth")),
}
CRAFTED = {
    "cross+div": Case(defence=CrossDiv()),
    "pgd-at": Case(defence=PGDATNoise(crafted_steps=2, attacked="member")),
    "trs": Case(defence=TRS(crafted_steps=2)),
    "dverge": Case(defence=DVERGE(crafted_steps=2)),
}
"""Examples are made from all members, so only ddp takes these."""
DIVERGING = Case(dtype=torch.float32)


class Kill:
    """Sends a signal to a process."""

    def __init__(self, process: int, number: signal.Signals):
        self.process, self.number = process, number

    def on_step(self, step: int, steps: int, means: dict[str, float]) -> None:
        if step == STOP_AT:
            os.kill(self.process, self.number)


def work(fabric: Fabric, folder: Path) -> None:
    """Run every case with both strategies in this process, one of several; write what came out."""
    torch.set_num_threads(1)
    found: dict[tuple[str, str], Any] = {}
    for strategy in STRATEGIES:
        own = {"fabric": fabric, "strategy": strategy}
        for name, case in (CASES | CRAFTED if strategy == "ddp" else CASES).items():
            ens = case.ensemble(seed=7 * fabric.global_rank)  # only the first rank's weights count
            found[strategy, name] = case.train(ens, **own)
        made = _stop_and_resume(folder, own) | _refuse(folder, own)
        found |= {(strategy, name): value for name, value in made.items()}
    torch.save(found, folder / f"{fabric.global_rank}.pt")
    leave_group()


def _stop_and_resume(folder: Path, own: dict[str, Any]) -> dict[str, Any]:
    fabric, found = own["fabric"], {}
    kill = Kill(fabric.broadcast(os.getpid(), src=1), signal.SIGTERM)  # of the second, by the first
    for name, case in {"stopped": MIXED, "dropout": Case(dropout)}.items():
        state = folder / f"{own['strategy']}-{name}.state"
        found[f"{name}-whole"] = case.train(case.ensemble(), **own)[0]
        found[f"{name}-error"] = error_of(case, case.ensemble(), kill, state_file=state, **own)
        again = case.ensemble(seed=9)
        torch.manual_seed(77)
        found[f"{name}-again"] = case.train(again, state_file=state, **own)[0]
    found["from-one"] = MIXED.train(MIXED.ensemble(9), state_file=folder / "one.state", **own)[0]
    return found


def _refuse(folder: Path, own: dict[str, Any]) -> dict[str, Any]:
    found = {"diverged": error_of(DIVERGING, DIVERGING.ensemble(), rate=1e38, **own)}
    members = 1 if own["strategy"] == "members" else 3
    few = dt.Ensemble(list(MIXED.ensemble().members)[:members])
    found["refused"] = error_of(Case(defence=BASE), few, batch_size=15, **own)
    # Only the first process finds its state damaged.
    rank, content = own["fabric"].global_rank, (folder / "one.state").read_bytes()
    state = folder / f"{own['strategy']}-seen-{rank}.state"
    state.write_bytes(content if rank else content[:-9])
    found["damaged"] = error_of(MIXED, MIXED.ensemble(), state_file=state, **own)
    return found


def error_of(case: Case, ens: dt.Ensemble, *callbacks: object, **options: Any) -> str:
    """Return the kind and message of the error that a training ends with."""
    try:
        case.train(ens, *callbacks, **options)
    except (dt.DivtrainError, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}"
    return ""
