"""What tests of several processes run in each; a module of its own, for spawned ones to import."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from lightning_fabric import Fabric
from torch import nn

import divtrain as dt
from divtrain.data import Images, Stream
from divtrain.defences import BaseNoise, Defence, Detector, Div
from divtrain.models import build
from divtrain.training import adam, leave_group, train
from made import DIV, digits

OnProgress = Callable[[int, int, str], None]
STOP_AT = 5
BASE = BaseNoise(0.2)


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
    def net() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
        )

    return [net() for _ in "abc"]


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

    def train(
        self, ens: dt.Ensemble, *callbacks: object, batch_size: int = 40, rate: float = 1e-3,
        **options: Any,
    ) -> list[dict[str, float]]:  # fmt: skip
        images = Images(digits().x.to(self.dtype), digits().y)
        batches = Stream(images, batch_size, shift=1, seed=5)
        return train(
            ens, batches, self.defence, self.epochs, adam(rate), "constant", callbacks,
            save_every=1e6, by_member=self.by_member, **options,
        )  # fmt: skip


CASES = {
    "base": Case(conv3, BASE, epochs=1),
    "div": Case(conv3, epochs=1),
    "base-float32": Case(conv3, BASE, torch.float32, epochs=1),
    "div-float32": Case(conv3, dtype=torch.float32, epochs=1),
    "mixed": Case(),
    "lazy": Case(defence=Div(gal_every=2, gal_part=0.3, noise=0.2)),
    "by-member": Case(by_member=True),
    "batch-norm": Case(batch_norm),
    "detector": Case(defence=Detector(outside="smooth")),
}

DIVERGING = Case(dtype=torch.float32)


def ensemble(case: Case, seed: int = 0) -> dt.Ensemble:
    torch.manual_seed(seed)
    return dt.Ensemble(case.nets()).to(case.dtype)


def keep(folder: Path, name: str, ens: dt.Ensemble) -> None:
    tensors = {n: t.contiguous() for n, t in ens.state_dict().items()}
    (folder / f"{name}.safetensors").write_bytes(safetensors.torch.save(tensors))


def work(fabric: Fabric, folder: Path) -> None:
    """Run every case with both strategies in this process, one of several."""
    torch.set_num_threads(1)
    rank = fabric.global_rank
    for strategy in ("ddp", "members"):
        own = {"fabric": fabric, "strategy": strategy}
        for name, case in CASES.items():
            ens = ensemble(case, seed=7 * rank)  # only the first rank's weights count
            rows = case.train(ens, **own)
            keep(folder, f"{strategy}-{name}-{rank}", ens)
            (folder / f"{strategy}-{name}-{rank}.json").write_text(json.dumps(rows))
        _stop_and_resume(folder, own)
        _refuse(folder, own)
        _damage(folder, own)
    leave_group()


class KillTheOther:
    """The first process asks the second to stop."""

    def __init__(self, other: int):
        self.other = other

    def on_step(self, step: int, steps: int, means: dict[str, float]) -> None:
        if step == STOP_AT:
            os.kill(self.other, signal.SIGTERM)


def _stop_and_resume(folder: Path, own: dict[str, Any]) -> None:
    fabric, strategy = own["fabric"], own["strategy"]
    case, rank = CASES["mixed"], fabric.global_rank
    kill = KillTheOther(fabric.broadcast(os.getpid(), src=1))
    for name, kind in {"stopped": case, "dropout": Case(dropout)}.items():
        state, whole = folder / f"{strategy}-{name}.state", ensemble(kind)
        kind.train(whole, **own)
        try:
            kind.train(ensemble(kind), kill, state_file=state, **own)
        except KeyboardInterrupt:
            (folder / f"{strategy}-{name}-{rank}.stopped").touch()
        again = ensemble(kind, seed=9)
        torch.manual_seed(77)
        kind.train(again, state_file=state, **own)
        keep(folder, f"{strategy}-{name}-whole-{rank}", whole)
        keep(folder, f"{strategy}-{name}-again-{rank}", again)
    from_one = ensemble(case, seed=9)
    case.train(from_one, state_file=folder / "one.state", **own)
    keep(folder, f"{strategy}-from-one-{rank}", from_one)


def _refuse(folder: Path, own: dict[str, Any]) -> None:
    case, rank, strategy = CASES["mixed"], own["fabric"].global_rank, own["strategy"]
    ens = ensemble(case)
    if strategy == "members":
        ens = dt.Ensemble(list(ens.members)[:1])
        case = replace(case, defence=BASE)
    try:
        DIVERGING.train(ensemble(DIVERGING), rate=1e38, **own)
    except dt.DivtrainError as error:
        (folder / f"{strategy}-diverged-{rank}").write_text(str(error))
    try:
        case.train(ens, batch_size=15, **own)
    except dt.DivtrainError as error:
        (folder / f"{strategy}-refused-{rank}").write_text(str(error))


def _damage(folder: Path, own: dict[str, Any]) -> None:
    """Only the first process finds its state damaged."""
    case, rank, strategy = CASES["mixed"], own["fabric"].global_rank, own["strategy"]
    state, content = folder / f"{strategy}-seen-{rank}.state", (folder / "one.state").read_bytes()
    state.write_bytes(content if rank else content[:-9])
    try:
        case.train(ensemble(case), state_file=state, **own)
    except dt.DivtrainError as error:
        text = f"{type(error).__name__} {error}"
        (folder / f"{strategy}-damaged-{rank}").write_text(text)
