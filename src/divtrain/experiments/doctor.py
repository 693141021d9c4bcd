"""Checks of an installation: what divtrain needs is there, and its mathematics is right."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from divtrain.data import load_dataset
from divtrain.ensemble import Ensemble
from divtrain.errors import DivtrainError
from divtrain.experiments.precision import choose_precision
from divtrain.files import make_folder, write_text
from divtrain.gal import diversity_loss, gradient_alignment_loss
from divtrain.models import build
from divtrain.version import versions


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: What was looked at.
        good: Whether it is as it should be.
        detail: What was seen.
        needed: Whether divtrain cannot work without it.
    """

    name: str
    good: bool
    detail: str
    needed: bool = True


def examine(data_root: Path, out: Path) -> list[Check]:
    """Check versions, devices, the loss, the data and the output folder; download nothing.

    Args:
        data_root: Where torchvision's files are looked for.
        out: Folder that runs will be written to.
    """
    return [
        *(Check(name, True, version) for name, version in versions().items()),
        Check("accelerator", torch.cuda.is_available(), _devices(), needed=False),
        Check("--train.precision auto", True, " because ".join(choose_precision("auto"))),
        _loss(),
        _step(),
        _digits(),
        _files("mnist", data_root / "MNIST" / "raw" / "train-images-idx3-ubyte"),
        _files("cifar10", data_root / "cifar-10-batches-py" / "data_batch_1"),
        _writable(out),
    ]


def _devices() -> str:
    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return "none; everything runs on the CPU"


def _loss() -> Check:
    value = gradient_alignment_loss(torch.ones(5, 1, 8, dtype=torch.float64)).item()
    right = abs(value - 3.302585092994046) < 1e-12
    return Check("GAL of 5 equal gradients", right, f"{value:.6f}, expected 3.302585")


def _step() -> Check:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ens = Ensemble([build("conv3", 1, 8, 10) for _ in range(2)])
        loss = diversity_loss(ens, torch.rand(4, 1, 8, 8), torch.arange(4))
        loss.total.backward()
    finite = all(p.grad is not None and p.grad.isfinite().all() for p in ens.parameters())
    return Check("a Diversity Training step", finite, f"loss {loss.total.item():.3f}")


def _digits() -> Check:
    dataset = load_dataset("digits")
    return Check(
        "data: digits", True, f"{len(dataset.train)} + {len(dataset.test)} images, built in"
    )


def _files(name: str, file: Path) -> Check:
    if file.exists():
        return Check(f"data: {name}", True, f"in {file.parent}", needed=False)
    detail = f"not at {file.parent}; downloaded when a run needs it, or give --data.root"
    return Check(f"data: {name}", False, detail, needed=False)


def _writable(out: Path) -> Check:
    existing = next(folder for folder in (out, *out.resolve().parents) if folder.exists())
    try:
        with tempfile.TemporaryDirectory(dir=existing) as folder:
            write_text(make_folder(Path(folder)) / "probe", "")
    except (DivtrainError, OSError) as error:
        return Check("output folder", False, f"{out}: {error}")
    return Check("output folder", True, f"{out} can be written")
