"""Ensembles on disk: weights as safetensors, everything needed to build them again as metadata."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from divtrain.ensemble import Ensemble
from divtrain.errors import DivtrainError
from divtrain.files import read_tensors, write_tensors
from divtrain.models import Architecture, Normalized, build_architecture
from divtrain.version import __version__

FORMAT = "divtrain-ensemble-1"


def save_ensemble(path: str | Path, ens: Ensemble, about: dict[str, Any] | None = None) -> None:
    """Save an ensemble to one safetensors file.

    Architecture, activation, normalisation and aggregation go into its metadata. Members that
    `divtrain.models` did not build are saved too; load them with `load_weights`.

    Args:
        path: File to write, whole or not at all.
        ens: The ensemble.
        about: JSON-able facts to keep with it: data, training, seed, versions.
    """
    members = [
        asdict(member.architecture) if isinstance(member, Normalized) else None
        for member in ens.members
    ]
    metadata = {
        "format": FORMAT,
        "aggregate": ens.aggregate,
        "members": members,
        "about": {"divtrain": __version__, **(about or {})},
    }
    write_tensors(Path(path), ens.state_dict(), metadata)


def load_ensemble(path: str | Path) -> tuple[Ensemble, dict[str, Any]]:
    """Load an ensemble and the facts saved with it.

    Returns:
        The ensemble in eval mode on the CPU, and `about` as given to `save_ensemble`.

    Raises:
        DivtrainError: when the file is missing, truncated, of another format, or its weights do
            not fit the architecture it names. Nothing is ever unpickled.
    """
    tensors, metadata = _read(path)
    members: list[Normalized] = []
    for index, fields in enumerate(metadata["members"]):
        if fields is None:
            raise DivtrainError(
                f"member {index} in {path} was not built by divtrain.models; build the ensemble"
                " yourself and use load_weights(path, ensemble)"
            )
        members.append(build_architecture(_architecture(path, fields)))
    ens = Ensemble(members, metadata["aggregate"])
    _fill(path, ens, tensors)
    return ens.eval(), metadata["about"]


def load_weights(path: str | Path, ens: Ensemble) -> dict[str, Any]:
    """Load saved weights into an ensemble of the same architecture that you built.

    Returns:
        `about` as given to `save_ensemble`.

    Raises:
        DivtrainError: when the file is unreadable or of another architecture; `ens` is untouched.
    """
    tensors, metadata = _read(path)
    _fill(path, ens, tensors)
    return metadata["about"]


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    tensors, metadata = read_tensors(Path(path))
    keys = {"aggregate": str, "members": list, "about": dict}
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        found = metadata.get("format") if isinstance(metadata, dict) else metadata
        raise DivtrainError(
            f"{path} is not a saved ensemble: expected format {FORMAT}, got {found!r}"
        )
    for key, kind in keys.items():
        if not isinstance(metadata.get(key), kind):
            raise DivtrainError(f"{path} has damaged metadata: {key} is missing or of another type")
    return tensors, metadata


def _architecture(path: str | Path, fields: Any) -> Architecture:
    try:
        fields = dict(fields, mean=tuple(fields["mean"]), std=tuple(fields["std"]))
        return Architecture(**fields)
    except (TypeError, KeyError) as error:
        raise DivtrainError(f"{path} has damaged metadata: {error}") from error


def _fill(path: str | Path, ens: Ensemble, tensors: dict[str, Any]) -> None:
    expected = {name: tuple(t.shape) for name, t in ens.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    if expected != found:
        name = next(n for n in [*expected, *found] if expected.get(n) != found.get(n))
        raise DivtrainError(
            f"{path} is of another architecture: expected {name} of shape"
            f" {expected.get(name, 'absent')}, the file has {found.get(name, 'none')}"
        )
    ens.load_state_dict(tensors)
