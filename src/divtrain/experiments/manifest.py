"""The manifest of a stage's folder, and its files, checked as they are opened."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from divtrain.errors import DamagedFileError, DivtrainError
from divtrain.experiments.stage import Stage, stage_key
from divtrain.files import file_digest

CODE = "the code has changed"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a stage's folder holds once the stage is done.

    Attributes:
        name: Name of the stage.
        key: See `Stage`; so are kind, target, detail, seed and spec.
        code: Digest of the code that the stage uses.
        inputs: Keys of its inputs by name.
        files: SHA-256 of each file by name; None while the stage is not done.
        seconds: How long it took.
        versions: Of what its result depends on.
    """

    name: str
    key: str
    kind: str
    target: str
    seed: int
    spec: dict[str, Any]
    code: str
    inputs: dict[str, str]
    files: dict[str, str] | None = None
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    detail: str = ""

    def fits(self) -> bool:
        """Whether the key is that of the manifest's other fields."""
        inputs = [*self.inputs.values()]
        return self.key == stage_key(
            self.kind, self.target, self.seed, self.spec, self.code, inputs
        )

    def changes(self, stage: Stage) -> list[str]:
        """Return the differences of a stage from this one; `CODE` alone where only code differs."""
        then = _leaves({"spec": self.spec, "code": self.code})
        now = _leaves({"spec": stage.spec, "code": stage.code_digest})
        found = [  # a defence or attack of one's own has the digest of its code in its spec
            CODE if name.rpartition(".")[2] == "code" else f"{name} was {old}, is now {new}"
            for name in dict.fromkeys([*then, *now])
            if (old := then.get(name, "absent")) != (new := now.get(name, "absent"))
        ]
        return list(dict.fromkeys(found))


@dataclass(frozen=True, kw_only=True)
class FinishedStage(Manifest):
    """A stage that is done.

    Attributes:
        folder: Its folder.
    """

    folder: Path

    def file(self, name: str) -> Path:
        """Return the path of one of its files.

        Raises:
            DamagedFileError: when it is not what the stage wrote.
        """
        path = self.folder / name
        if not is_whole(path, (self.files or {}).get(name, "")):
            raise DamagedFileError(
                f"{path} is damaged: its content does not match the manifest; the same command"
                " computes it again"
            )
        return path


def manifest_of(stage: Stage) -> Manifest:
    """Return the manifest of a stage that is not done yet."""
    return Manifest(
        name=stage.name, key=stage.key, kind=stage.kind, target=stage.target, seed=stage.seed,
        spec=dict(stage.spec), code=stage.code_digest, detail=stage.detail,
        inputs={each.name: each.key for each in stage.inputs},
    )  # fmt: skip


def is_whole(file: Path, digest: str) -> bool:
    """Whether a file is there and its SHA-256 is `digest`."""
    try:
        return file_digest(file) == digest
    except DivtrainError:
        return False


def _leaves(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values of nested mappings by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            found |= _leaves(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found
