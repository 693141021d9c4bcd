"""Ensembles on disk: weights as safetensors, everything needed to build them again as metadata."""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from divtrain.ensemble import Aggregate, Ensemble
from divtrain.errors import DamagedFileError, DivtrainError
from divtrain.fields import checked, from_json
from divtrain.files import read_tensors, write_tensors
from divtrain.importing import calling, import_named
from divtrain.models import Architecture, Normalized, build_architecture
from divtrain.module_state import saved_tensors
from divtrain.version import __version__

FORMAT = "divtrain-ensemble-1"


@checked
class Factory:
    """How to build a member that divtrain did not build: a function of yours, and its arguments.

    Attributes:
        function: ``module:function``, importable where the ensemble is loaded.
        arguments: What it is called with, by name; JSON-able.

    >>> Factory("torch.nn:Linear", {"in_features": 3, "out_features": 2}).build()
    Linear(in_features=3, out_features=2, bias=True)
    """

    function: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that JSON gives the arguments back as they are."""
        try:
            same = json.loads(json.dumps(self.arguments)) == self.arguments
        except (TypeError, ValueError):
            same = False
        if not same:
            raise DivtrainError(
                f"expected `arguments` that JSON can hold (numbers, text, lists), got"
                f" {self.arguments!r}"
            )

    def build(self) -> nn.Module:
        """Import the function and call it.

        Raises:
            DivtrainError: when it cannot be imported, raises, or returns no module.
        """
        function = import_named("factory", self.function)
        with calling("member of factory", self.function):
            made = function(**self.arguments)
        if not isinstance(made, nn.Module):
            raise DivtrainError(
                f"expected {self.function} to return a torch.nn.Module, got {type(made).__name__}"
            )
        return made


@dataclass(frozen=True)
class _Metadata:
    """What a checkpoint holds beside weights.

    A member is None where divtrain cannot build it; then its factory may stand in `factories`.
    """

    format: str
    aggregate: Aggregate
    members: list[Architecture | None]
    about: dict[str, Any]
    factories: list[Factory | None] = field(default_factory=list)


def save_ensemble(
    path: str | Path,
    ens: Ensemble,
    about: dict[str, Any] | None = None,
    factories: Factory | Sequence[Factory] | None = None,
) -> None:
    """Save an ensemble to one safetensors file.

    Architecture, activation, normalisation and aggregation go into its metadata. Of members that
    `divtrain.models` did not build the weights are saved, and their factories if given; without,
    load them with `load_weights`.

    Args:
        path: File to write, completely or not at all.
        ens: The ensemble.
        about: JSON-able facts to keep with it: data, training, seed, versions.
        factories: How to build the members that divtrain did not: one for all of them, or one for
            each member of the ensemble, in order.

    Raises:
        DivtrainError: for another number of factories, what is no ensemble, or a state that is not
            made of tensors.
    """
    if not isinstance(ens, Ensemble):
        raise DivtrainError(
            f"expected a divtrain.Ensemble, got {type(ens).__name__}; of a wrapped ensemble give"
            " what was wrapped (for many wrappers .module), of plain modules Ensemble([a, b])"
        )
    members = [
        member.architecture if isinstance(member, Normalized) else None for member in ens.members
    ]
    if factories is not None and isinstance(factories, Factory):
        factories = [factories] * len(members)
    if factories is not None and len(factories) != len(members):
        raise DivtrainError(
            f"expected one of `factories` for each of {len(members)} members, got {len(factories)}"
        )
    pairs = zip(members, factories or (), strict=False)
    needed = [each if member is None else None for member, each in pairs]
    about = {"divtrain": __version__, **(about or {})}
    metadata = _Metadata(FORMAT, ens.aggregate, members, about, needed)
    tensors = {_uncompiled(name): tensor for name, tensor in saved_tensors(ens).items()}
    write_tensors(Path(path), tensors, asdict(metadata))


def load_ensemble(
    path: str | Path, factories: Collection[str] = ()
) -> tuple[Ensemble, dict[str, Any]]:
    """Load an ensemble and the facts saved with it.

    Args:
        path: File to read.
        factories: Functions that the file may name to build its members, as ``module:function``. No
            other is imported: what a file names is code, and runs with your rights.

    Returns:
        The ensemble in eval mode on the CPU, each member in the precision it was saved in if that
        is one, and `about` as given to `save_ensemble`.

    Raises:
        DivtrainError: when the file is missing, truncated, changed, of another format, or its
            weights do not fit the architecture it names. Nothing is ever unpickled, and no memory
            is taken for an architecture before the file is seen to hold its weights.
    """
    tensors, metadata = _read(path)
    plans = _plans(path, metadata, tensors, factories)
    try:
        with torch.device("meta"):
            outline = [
                build_architecture(each) if isinstance(each, Architecture) else None
                for each in plans
            ]
    except (RuntimeError, OverflowError, TypeError) as error:  # torch cannot count so far
        raise DamagedFileError(f"{path} has damaged metadata: no such network: {error}") from error
    for index, member in enumerate(outline):
        if member is not None:
            prefix = f"members.{index}."
            own = {name: t for name, t in tensors.items() if name.startswith(prefix)}
            _check_fit(path, member, own, prefix)
    ens = Ensemble(
        [
            build_architecture(each) if isinstance(each, Architecture) else each.build()
            for each in plans
        ],
        metadata.aggregate,
    )
    _check_fit(path, ens, tensors)
    for index, member in enumerate(ens):
        own = [each for name, each in tensors.items() if name.startswith(f"members.{index}.")]
        kinds = {each.dtype for each in own if each.is_floating_point()}
        if len(kinds) == 1:
            member.to(kinds.pop())
    ens.load_state_dict(tensors)
    return ens.eval(), metadata.about


def load_weights(path: str | Path, ens: Ensemble) -> dict[str, Any]:
    """Load saved weights into an ensemble of the same architecture that you built.

    Weights are converted to the precision of `ens`. Members may be compiled (`torch.compile`), in
    the file, in `ens`, in both or in neither.

    Returns:
        `about` as given to `save_ensemble`.

    Raises:
        DivtrainError: when the file is unreadable or of another architecture, or `ens` is on the
            meta device; it is untouched.
    """
    tensors, metadata = _read(path)
    _check_fit(path, ens, tensors)
    if any(each.is_meta for each in saved_tensors(ens).values()):
        raise DivtrainError(
            "expected an ensemble with memory for its weights, got one on the meta device; give it"
            " some with ens.to_empty(device='cpu') first"
        )
    ens.load_state_dict({name: tensors[_uncompiled(name)] for name in ens.state_dict()})
    return metadata.about


def _uncompiled(name: str) -> str:
    """The name of a weight without what `torch.compile` puts into it."""
    return name.replace("_orig_mod.", "")


def _read(path: str | Path) -> tuple[dict[str, Tensor], _Metadata]:
    tensors, metadata = read_tensors(Path(path))
    found = metadata.get("format") if isinstance(metadata, dict) else metadata
    if found != FORMAT:
        raise DivtrainError(
            f"{path} is not a saved ensemble: expected format {FORMAT}, got {found!r}"
        )
    tensors = {_uncompiled(name): tensor for name, tensor in tensors.items()}
    return tensors, from_json(_Metadata, metadata, f"the metadata of {path}")


def _plans(
    path: str | Path, metadata: _Metadata, tensors: dict[str, Tensor], allowed: Collection[str]
) -> list[Architecture | Factory]:
    """Return how to build each member."""
    members = metadata.members
    there = {name.split(".")[1] for name in tensors if name.startswith("members.")}
    if len(members) != len(there):
        raise DamagedFileError(
            f"{path} has damaged metadata: it names {len(members)} members and holds weights of"
            f" {len(there)}"
        )
    plans: list[Architecture | Factory] = []
    for index, (member, factory) in enumerate(zip_longest(members, metadata.factories)):
        plan = member or factory
        if plan is None:
            raise DivtrainError(
                f"member {index} in {path} was not built by divtrain.models; build the ensemble"
                " yourself and use load_weights(path, ensemble). For the command line, name a"
                " function that does so: my_module:load"
            )
        if isinstance(plan, Factory) and plan.function not in allowed:
            raise DivtrainError(
                f"member {index} in {path} is built by {plan.function}, which is not imported"
                " because a file names it; if you trust the file:"
                f" load_ensemble(path, factories=[{plan.function!r}]). For the command line, name a"
                " function that does so: my_module:load"
            )
        plans.append(plan)
    return plans


def _check_fit(
    path: str | Path, module: nn.Module, tensors: dict[str, Tensor], prefix: str = ""
) -> None:
    """Check that tensors are those of a module, whose names have `prefix` in the file."""
    state = {
        f"{prefix}{_uncompiled(name)}": tensor for name, tensor in saved_tensors(module).items()
    }
    expected = {name: tuple(t.shape) for name, t in state.items()}
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    if expected != shapes:
        name = next(n for n in [*expected, *shapes] if expected.get(n) != shapes.get(n))
        raise DivtrainError(
            f"{path} is of another architecture: expected {name} of shape"
            f" {expected.get(name, 'absent')}, the file has {shapes.get(name, 'none')}"
        )
    for name, tensor in state.items():
        found = tensors[name]
        if _kind(found) != _kind(tensor):
            raise DamagedFileError(
                f"{path} is damaged: expected {name} of {tensor.dtype}, got {found.dtype}"
            )


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()
