"""Ensembles on disk: weights as safetensors, everything needed to build them again as metadata."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from divtrain.ensemble import Aggregate, Ensemble
from divtrain.errors import DamagedFileError, DivtrainError
from divtrain.fields import from_json
from divtrain.files import read_tensors, write_tensors
from divtrain.models import Architecture, Normalized, build_architecture
from divtrain.version import __version__

FORMAT = "divtrain-ensemble-1"


@dataclass(frozen=True)
class _Metadata:
    """What a checkpoint holds beside weights; None is a member that divtrain cannot build."""

    format: str
    aggregate: Aggregate
    members: list[Architecture | None]
    about: dict[str, Any]


def save_ensemble(path: str | Path, ens: Ensemble, about: dict[str, Any] | None = None) -> None:
    """Save an ensemble to one safetensors file.

    Architecture, activation, normalisation and aggregation go into its metadata. Members that
    `divtrain.models` did not build are saved too; load them with `load_weights`.

    Args:
        path: File to write, completely or not at all.
        ens: The ensemble.
        about: JSON-able facts to keep with it: data, training, seed, versions.
    """
    members = [
        member.architecture if isinstance(member, Normalized) else None for member in ens.members
    ]
    metadata = _Metadata(FORMAT, ens.aggregate, members, {"divtrain": __version__, **(about or {})})
    write_tensors(Path(path), ens.state_dict(), asdict(metadata))


def load_ensemble(path: str | Path) -> tuple[Ensemble, dict[str, Any]]:
    """Load an ensemble and the facts saved with it.

    Returns:
        The ensemble in eval mode on the CPU, and `about` as given to `save_ensemble`.

    Raises:
        DivtrainError: when the file is missing, truncated, changed, of another format, or its
            weights do not fit the architecture it names. Nothing is ever unpickled, and no memory
            is taken for an architecture before the file is seen to hold its weights.
    """
    tensors, metadata = _read(path)
    architectures = _architectures(path, metadata.members, tensors)
    try:
        with torch.device("meta"):
            outline = _assemble(architectures, metadata.aggregate)
    except (RuntimeError, OverflowError, TypeError) as error:  # torch cannot count so far
        raise DamagedFileError(f"{path} has damaged metadata: no such network: {error}") from error
    _check_fit(path, outline, tensors)
    ens = _assemble(architectures, metadata.aggregate)
    ens.load_state_dict(tensors)
    return ens.eval(), metadata.about


def load_weights(path: str | Path, ens: Ensemble) -> dict[str, Any]:
    """Load saved weights into an ensemble of the same architecture that you built.

    Returns:
        `about` as given to `save_ensemble`.

    Raises:
        DivtrainError: when the file is unreadable or of another architecture; `ens` is untouched.
    """
    tensors, metadata = _read(path)
    _check_fit(path, ens, tensors)
    ens.load_state_dict(tensors)
    return metadata.about


def _read(path: str | Path) -> tuple[dict[str, Tensor], _Metadata]:
    tensors, metadata = read_tensors(Path(path))
    found = metadata.get("format") if isinstance(metadata, dict) else metadata
    if found != FORMAT:
        raise DivtrainError(
            f"{path} is not a saved ensemble: expected format {FORMAT}, got {found!r}"
        )
    return tensors, from_json(_Metadata, metadata, f"the metadata of {path}")


def _architectures(
    path: str | Path, members: list[Architecture | None], tensors: dict[str, Tensor]
) -> list[Architecture]:
    there = {name.split(".")[1] for name in tensors if name.startswith("members.")}
    if len(members) != len(there):
        raise DamagedFileError(
            f"{path} has damaged metadata: it names {len(members)} members and holds weights of"
            f" {len(there)}"
        )
    architectures = [each for each in members if each is not None]
    if len(architectures) < len(members):
        raise DivtrainError(
            f"member {members.index(None)} in {path} was not built by divtrain.models; build the"
            " ensemble yourself and use load_weights(path, ensemble)"
        )
    return architectures


def _assemble(architectures: list[Architecture], aggregate: Aggregate) -> Ensemble:
    return Ensemble([build_architecture(each) for each in architectures], aggregate)


def _check_fit(path: str | Path, ens: Ensemble, tensors: dict[str, Tensor]) -> None:
    expected = {name: tuple(t.shape) for name, t in ens.state_dict().items()}
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    if expected != shapes:
        name = next(n for n in [*expected, *shapes] if expected.get(n) != shapes.get(n))
        raise DivtrainError(
            f"{path} is of another architecture: expected {name} of shape"
            f" {expected.get(name, 'absent')}, the file has {shapes.get(name, 'none')}"
        )
    for name, tensor in ens.state_dict().items():
        found = tensors[name]
        if found.is_floating_point() != tensor.is_floating_point() or found.is_complex():
            raise DamagedFileError(
                f"{path} is damaged: expected {name} of {tensor.dtype}, got {found.dtype}"
            )
