"""Files that are complete or absent: written aside, flushed to disk, then renamed into place.

What is read is not trusted: nothing is unpickled, and sizes are looked at first. The manifest of a
stage holds the SHA-256 of its files (`file_digest`); tensors that are read without a manifest, such
as checkpoints, carry a digest in their metadata.
"""

import errno
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from divtrain.errors import DamagedFileError, DivtrainError

_REMEDY = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again to resume",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EACCES: "no permission to write there; choose another folder",
    errno.EPERM: "no permission to write there; choose another folder",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOTDIR: "a part of that path is a file, not a folder; choose another",
    errno.ENOENT: "that folder cannot be made there; choose another",
    errno.EEXIST: "a file of that name is in the way; choose another folder",
}

SEAL = "sha256:"
"""Before the digest in the metadata of tensors that have one."""
LARGEST_INTEGER = 2**63 - 1
"""Beyond which JSON is not taken, as no field holds a larger one."""
LARGEST_JSON = 256 << 20
"""Bytes of JSON beyond which a file is not read: divtrain's own are a thousand times smaller."""


def storage_error(path: Path, error: OSError) -> DivtrainError:
    """Return the error that explains why `path` could not be written, and what to do."""
    reason = _REMEDY.get(error.errno or 0, error.strerror or str(error))
    return DivtrainError(f"cannot write {path}: {reason}")


def make_folder(path: Path) -> Path:
    """Make a folder with its parents, or raise `DivtrainError` that says why it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error
    return path


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a mix.

    Raises:
        DivtrainError: when the disk is full, read-only or forbidden; the old file is untouched.
    """
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
        temporary = None
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    """Write text as `write_bytes` does."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON as `write_bytes` does."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object per line as `write_bytes` does."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def check_regular_file(path: Path) -> int:
    """Return the size of the file at `path`.

    Raises:
        DivtrainError: when there is none; `DamagedFileError` when it is a folder, pipe or device.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DivtrainError(f"no file at {path}") from error
    except (OSError, ValueError) as error:
        raise DivtrainError(f"cannot read {path}: {error}") from error
    if not stat.S_ISREG(found.st_mode):
        raise DamagedFileError(f"{path} is no file, but a folder, pipe or device; move it away")
    return found.st_size


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Context in which every failure to read a file, or what is in it, names that file.

    Raises:
        DivtrainError: when the system does not let it be read.
        DamagedFileError: in place of a missing key, a wrong type or a bad value.
    """
    try:
        yield
    except DivtrainError:
        raise
    except OSError as error:
        raise DivtrainError(f"cannot read {path}: {error.strerror or error}") from error
    except (
        LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError,
    ) as error:  # fmt: skip
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__} "
        raise DamagedFileError(
            f"{path} is damaged: {kind}{error}; delete it and run again"
        ) from error


def _read_text(path: Path) -> str:
    size = check_regular_file(path)
    if size > LARGEST_JSON:
        raise ValueError(f"{size >> 20} MiB are too many for JSON of divtrain's")
    return path.read_text(encoding="utf-8")


def _parse(text: str) -> Any:
    return json.loads(text, parse_int=_integer)


def _integer(digits: str) -> int:
    value = int(digits)
    if abs(value) > LARGEST_INTEGER:
        raise ValueError(f"{digits[:40]} does not fit into 64 bits")
    return value


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        DivtrainError: when the file is missing or cannot be read; `DamagedFileError` when it is
            not JSON.
    """
    with reading(path):
        return _parse(_read_text(path))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object per line; raises as `read_json` does."""
    with reading(path):
        rows = [_parse(line) for line in _read_text(path).split("\n") if line]
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError("expected an object per line")
    return rows


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    check_regular_file(path)
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], about: Any, *, sealed: bool = True
) -> None:
    """Write tensors and a JSON-able `about` to one safetensors file, as `write_bytes` does.

    Of tensors that share memory (tied weights) each is written.

    Args:
        path: File to write.
        tensors: By name.
        about: What they are.
        sealed: Whether to put a digest of both into the metadata, which `read_tensors` checks; not
            needed for a file whose SHA-256 is kept elsewhere.
    """
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    text = json.dumps(about)
    if sealed:  # in the one key, since safetensors writes several in a changing order
        text = f"{SEAL}{_tensor_digest(copies, text)} {text}"
    write_bytes(path, safetensors.torch.save(copies, {"divtrain": text}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Read what `write_tensors` wrote: tensors and `about`. Nothing is ever unpickled.

    Raises:
        DivtrainError: when the file is missing, or holds tensors that are not divtrain's;
            `DamagedFileError` when it is truncated, no safetensors, or does not fit its digest.
    """
    check_regular_file(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise DivtrainError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # safetensors and torch raise many kinds for damage
        raise DamagedFileError(
            f"{path} is not a readable safetensors file ({error}); it may be truncated, or of"
            " another format such as a pickled .pt, which is never loaded"
        ) from error
    text, sealed = metadata.get("divtrain"), any(v.startswith(SEAL) for v in metadata.values())
    if text is None and not sealed:
        raise DivtrainError(
            f"{path} holds tensors but no divtrain metadata; to load weights from elsewhere, build"
            " the ensemble yourself and use load_state_dict"
        )
    if sealed:
        seal, _, text = (text or "").partition(" ")
        if len(metadata) > 1 or seal != f"{SEAL}{_tensor_digest(tensors, text)}":
            raise DamagedFileError(
                f"{path} is damaged: its content does not fit the digest in it; copy or make it"
                " again"
            )
    with reading(path):
        return tensors, _parse(text or "")


def _tensor_digest(tensors: Mapping[str, Tensor], about: str) -> str:
    """SHA-256 of `about` and of every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
