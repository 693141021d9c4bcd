"""Files that are whole or absent: written aside, flushed to disk, then renamed into place."""

import errno
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from divtrain.errors import DivtrainError

_REMEDY = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again, it goes on"
    " where it stopped",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EACCES: "no permission to write there; choose another folder with --out",
    errno.EPERM: "no permission to write there; choose another folder with --out",
    errno.EROFS: "the file system is read-only; choose another folder with --out",
    errno.ENOTDIR: "a part of that path is a file, not a folder; choose another with --out",
    errno.ENOENT: "that folder cannot be made there; choose another with --out",
    errno.EEXIST: "a file of that name is in the way; choose another folder with --out",
}


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
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part.

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
    """Write one JSON object a line as `write_bytes` does."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        DivtrainError: when the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DivtrainError(f"no file at {path}") from error
    except (OSError, ValueError) as error:
        raise DivtrainError(f"{path} is damaged: {error}; delete it and run again") from error


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object a line; raises as `read_json` does."""
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except FileNotFoundError as error:
        raise DivtrainError(f"no file at {path}") from error
    except (OSError, ValueError) as error:
        raise DivtrainError(f"{path} is damaged: {error}; delete it and run again") from error


def write_tensors(path: Path, tensors: dict[str, Tensor], about: Any) -> None:
    """Write tensors and a JSON-able `about` to one safetensors file, as `write_bytes` does.

    Tensors that share memory (tied weights) are written each for itself.
    """
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    write_bytes(path, safetensors.torch.save(tensors, {"divtrain": json.dumps(about)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Read what `write_tensors` wrote: tensors and `about`. Nothing is ever unpickled.

    Raises:
        DivtrainError: when the file is missing, truncated, no safetensors, or not divtrain's.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = (file.metadata() or {}).get("divtrain")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise DivtrainError(f"no file at {path}") from error
    except (OSError, safetensors.SafetensorError) as error:
        raise DivtrainError(
            f"{path} is not a readable safetensors file ({error}); it may be truncated, or of"
            " another format such as a pickled .pt, which is never loaded"
        ) from error
    if about is None:
        raise DivtrainError(
            f"{path} holds tensors but no divtrain metadata; to load weights from elsewhere, build"
            " the ensemble yourself and use load_state_dict"
        )
    try:
        return tensors, json.loads(about)
    except ValueError as error:
        raise DivtrainError(f"{path} has damaged divtrain metadata: {error}") from error
