"""What tests of several processes run in each; a module of its own, for spawned ones to import."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

import divtrain as dt
from divtrain.data import (
    NOISES,
    Clean,
    Images,
    Noisy,
    OutsidePart,
    Stream,
    balanced_subset,
    load_dataset,
)
from divtrain.models import build
from divtrain.training import (
    CrossEntropy,
    GradientAlignment,
    InsideCrossEntropy,
    Term,
    TrainingSettings,
    leave_group,
    train,
)
from tape import tapes_for_cuda_graphs

STOP_AT = 5
BASE: tuple[Term, ...] = (CrossEntropy(),)
DIV: tuple[Term, ...] = (CrossEntropy(), GradientAlignment(0.5))
PART: tuple[Term, ...] = (CrossEntropy(), GradientAlignment(0.5, every=2, part=0.3))
DETECTOR: tuple[Term, ...] = (InsideCrossEntropy(0.5), GradientAlignment(0.5, part=0.5))


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
    terms: tuple[Term, ...] = DIV
    dtype: torch.dtype = torch.float64
    by_member: bool = False
    epochs: int = 2
    outside: OutsidePart | None = None


CASES = {
    "base": Case(conv3, BASE, epochs=1),
    "div": Case(conv3, epochs=1),
    "base-float32": Case(conv3, BASE, torch.float32, epochs=1),
    "div-float32": Case(conv3, dtype=torch.float32, epochs=1),
    "mixed": Case(),
    "lazy": Case(terms=PART),
    "by-member": Case(by_member=True),
    "batch-norm": Case(batch_norm),
    "detector": Case(terms=DETECTOR, outside=OutsidePart(NOISES["smooth"], 0.5, 10)),
}

DIVERGING = Case(dtype=torch.float32)


def ensemble(case: Case, seed: int = 0) -> dt.Ensemble:
    torch.manual_seed(seed)
    return dt.Ensemble(case.nets()).to(case.dtype)


class Counted(Stream):
    """A stream that knows the last batch it gave."""

    last: int = -1

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        object.__setattr__(self, "last", step)
        return super().batch(step)


def stream(case: Case, batch_size: int = 40) -> Counted:
    images = balanced_subset(load_dataset("digits").train, 120)
    images = Images(images.x.to(case.dtype), images.y)
    views = (Clean(), Noisy(0.2))
    return Counted(images, batch_size, views, shift=1, seed=5, outside=case.outside)


def settings(case: Case, strategy: str = "ddp") -> TrainingSettings:
    return TrainingSettings(
        case.epochs, 1e-3, "constant", 1e6, case.by_member, strategy  # pyright: ignore
    )  # fmt: skip


def keep(folder: Path, name: str, ens: dt.Ensemble) -> None:
    tensors = {n: t.contiguous() for n, t in ens.state_dict().items()}
    (folder / f"{name}.safetensors").write_bytes(safetensors.torch.save(tensors))


def work(fabric: Fabric, folder: Path) -> None:
    """Run every case with both strategies in this process, one of several."""
    torch.set_num_threads(1)
    rank = fabric.global_rank
    for strategy in ("ddp", "members"):
        for name, case in CASES.items():
            ens = ensemble(case, seed=7 * rank)  # only the first rank's weights count
            rows = train(ens, stream(case), case.terms, settings(case, strategy), fabric)
            keep(folder, f"{strategy}-{name}-{rank}", ens)
            (folder / f"{strategy}-{name}-{rank}.json").write_text(json.dumps(rows))
        if strategy == "ddp":
            _record(fabric, folder)
        _stop_and_go_on(fabric, folder, strategy)
        _refuse(fabric, folder, strategy)
        _damage(fabric, folder, strategy)
    leave_group()


def _record(fabric: Fabric, folder: Path) -> None:
    """Take the steps from recordings; the mean over the processes is no part of them."""
    case, rank = CASES["mixed"], fabric.global_rank
    ens = ensemble(case, seed=7 * rank)
    recorded = replace(settings(case), cuda_graph=True)
    with tapes_for_cuda_graphs() as made:
        train(ens, stream(case), case.terms, recorded, fabric)
    keep(folder, f"ddp-recorded-{rank}", ens)
    (folder / f"ddp-recorded-{rank}.played").write_text(str(made[0].tapes[0].played))


def _stop_and_go_on(fabric: Fabric, folder: Path, strategy: str) -> None:
    case, rank = CASES["mixed"], fabric.global_rank
    other = fabric.broadcast(os.getpid(), src=1)

    def kill_the_other(step: int, steps: int, means: dict[str, float]) -> None:
        if step == STOP_AT:
            os.kill(other, signal.SIGTERM)

    for name, kind in {"stopped": case, "dropout": Case(dropout)}.items():
        state, batches = folder / f"{strategy}-{name}.state", stream(kind)
        whole = ensemble(kind)
        train(whole, stream(kind), kind.terms, settings(kind, strategy), fabric)
        try:
            train(
                ensemble(kind), batches, kind.terms, settings(kind, strategy), fabric, state,
                kill_the_other,
            )  # fmt: skip
        except KeyboardInterrupt:
            (folder / f"{strategy}-{name}-{rank}.last").write_text(str(batches.last))
        again = ensemble(kind, seed=9)
        torch.manual_seed(77)
        train(again, stream(kind), kind.terms, settings(kind, strategy), fabric, state)
        keep(folder, f"{strategy}-{name}-whole-{rank}", whole)
        keep(folder, f"{strategy}-{name}-again-{rank}", again)
    from_one = ensemble(case, seed=9)
    state = folder / "one.state"
    train(from_one, stream(case), case.terms, settings(case, strategy), fabric, state)
    keep(folder, f"{strategy}-from-one-{rank}", from_one)


def _refuse(fabric: Fabric, folder: Path, strategy: str) -> None:
    case = CASES["mixed"]
    ens = ensemble(case) if strategy == "ddp" else dt.Ensemble(case.nets()[:1]).to(case.dtype)
    diverging = replace(settings(DIVERGING, strategy), learning_rate=1e38)
    try:
        train(ensemble(DIVERGING), stream(DIVERGING), DIV, diverging, fabric)
    except dt.DivtrainError as error:
        (folder / f"{strategy}-diverged-{fabric.global_rank}").write_text(str(error))
    try:
        train(ens, stream(case, 15), BASE, settings(case, strategy), fabric)
    except dt.DivtrainError as error:
        (folder / f"{strategy}-refused-{fabric.global_rank}").write_text(str(error))


def _damage(fabric: Fabric, folder: Path, strategy: str) -> None:
    """Only the first process finds its state damaged."""
    case, state = CASES["mixed"], folder / f"{strategy}-seen-{fabric.global_rank}.state"
    content = (folder / "one.state").read_bytes()
    state.write_bytes(content if fabric.global_rank else content[:-9])
    try:
        train(ensemble(case), stream(case), case.terms, settings(case, strategy), fabric, state)
    except dt.DivtrainError as error:
        told = f"{type(error).__name__} {error}"
        (folder / f"{strategy}-damaged-{fabric.global_rank}").write_text(told)
