import errno
import hashlib
import os
import pickle
import threading
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from divtrain.errors import DamagedFileError, DivtrainError
from divtrain.files import (
    file_digest,
    make_folder,
    read_json,
    read_json_lines,
    read_tensors,
    write_bytes,
    write_json,
    write_json_lines,
    write_tensors,
    write_text,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_a_written_file_is_alone_and_readable_by_others(tmp_path: Path) -> None:
    write_bytes(tmp_path / "file", b"old")
    write_bytes(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_a_reader_sees_the_old_content_or_the_new(tmp_path: Path) -> None:
    path, whole = tmp_path / "file", {b"a" * 100_000, b"b" * 70_000}
    write_bytes(path, min(whole))
    seen: set[bytes] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(10):
        for content in whole:
            write_bytes(path, content)
    done.set()
    reader.join()
    assert seen
    assert seen <= whole


@pytest.mark.parametrize("function", ["fsync", "fdopen", "replace"])
@pytest.mark.parametrize(
    ("code", "match"),
    [
        (errno.ENOSPC, "the disk is full; free some space and run the same command again"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EACCES, "no permission to write there; choose another folder"),
        (errno.EROFS, "the file system is read-only; choose another folder"),
        (errno.EIO, os.strerror(errno.EIO)),
        (None, "stopped"),
    ],
)
def test_a_failed_write_says_why_and_leaves_the_old_file_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, function: str, code: int | None, match: str
) -> None:
    path, open_files = tmp_path / "file", Path("/proc/self/fd")
    write_bytes(path, b"old")
    before = len(list(open_files.iterdir())) if open_files.is_dir() else 0  # Linux
    error = KeyboardInterrupt("stopped") if code is None else OSError(code, os.strerror(code))
    told = match if code is None else f"cannot write .*/file: {match}"
    with monkeypatch.context() as patch:
        patch.setattr(os, function, Mock(side_effect=error))
        with pytest.raises((DivtrainError, KeyboardInterrupt), match=told):
            write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    if function != "fdopen":  # which would have taken the open file
        assert len(list(open_files.iterdir()) if open_files.is_dir() else []) == before


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    for _ in range(2):
        assert make_folder(tmp_path / "a" / "b").is_dir()
    write_text(tmp_path / "file", "text")
    with pytest.raises(DivtrainError, match="a part of that path is a file, not a folder"):
        write_bytes(tmp_path / "file" / "inside", b"new")
    with pytest.raises(DivtrainError, match="a part of that path is a file, not a folder"):
        make_folder(tmp_path / "file" / "inside")
    with pytest.raises(DivtrainError, match="a file of that name is in the way"):
        make_folder(tmp_path / "file")


@settings(max_examples=25, deadline=None)
@given(content=JSON, rows=st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=4))
def test_json_comes_back(
    tmp_path_factory: pytest.TempPathFactory, content: Any, rows: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "content.json"
    write_json(path, content)
    assert read_json(path) == content
    write_json_lines(path, rows)
    assert read_json_lines(path) == rows


@pytest.mark.parametrize("read", [read_json, read_json_lines, read_tensors])
def test_missing_file_is_named(tmp_path: Path, read: Any) -> None:
    with pytest.raises(DivtrainError, match=r"no file at .*/absent"):
        read(tmp_path / "absent")


@pytest.mark.parametrize("read", [read_json, read_json_lines])
@pytest.mark.parametrize(
    "content",
    [
        b'{"a": 1',
        b"\xff\xfe\x00",
        b"{'a': 1}",
        b"\x00" * 9,
        b'{"a": 9223372036854775808}',
        b'{"a": [-1' + b"0" * 5000 + b"]}",
    ],
)
def test_damaged_json_is_named(tmp_path: Path, read: Any, content: bytes) -> None:
    path = tmp_path / "damaged.json"
    path.write_bytes(content)
    with pytest.raises(DivtrainError, match=r"damaged\.json is damaged: .*; delete it and run"):
        read(path)


def tensors() -> dict[str, Tensor]:
    tied = torch.randn(3)
    return {
        "tied": tied,
        "tied too": tied,
        "part of it": tied[:2],
        "weights": torch.randn(3, 4).t(),
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "half": torch.randn(2, 2).bfloat16(),
        "double": torch.tensor(0.1, dtype=torch.float64),
        "count": torch.tensor([2**40]),
        "mask": torch.tensor([True, False]),
        "none": torch.empty(0, 3),
        "slice": torch.arange(10.0)[2:4],
        "special": torch.tensor([torch.inf, -0.0, 1e-45]),
    }


def test_tensors_and_what_they_are_about_come_back_bit_for_bit(tmp_path: Path) -> None:
    about = {"name": "Ünï \n", "numbers": [1, 0.1], "nothing": None}
    written = tensors()
    write_tensors(tmp_path / "t", written, about)
    read, about_read = read_tensors(tmp_path / "t")
    assert about_read == about
    assert read.keys() == written.keys()
    for name, tensor in written.items():
        assert (read[name].dtype, read[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(read[name], tensor)
        assert torch.equal(read[name].signbit(), tensor.signbit())
        assert not read[name].requires_grad


@pytest.mark.parametrize("kind", ["json", "tensors"])
def test_a_file_cut_short_at_any_length_is_refused(tmp_path: Path, kind: str) -> None:
    path, about = tmp_path / "cut", {"a": [1, 2.5, None], "b": "text"}
    if kind == "json":
        write_json(path, about)
    else:
        write_tensors(path, {"a": torch.randn(4), "b": torch.arange(3)}, about)
    read, whole = read_json if kind == "json" else read_tensors, path.read_bytes().strip()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedFileError, match=r"cut is (damaged|not .*truncated)"):
            read(path)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return (Path.mkdir, (self.path,))


def save_pickle(thing: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(thing))


@pytest.mark.parametrize("save", [torch.save, save_pickle])
def test_pickled_checkpoint_is_refused_and_never_loaded(tmp_path: Path, save: Any) -> None:
    trace, path = tmp_path / "unpickled", tmp_path / "checkpoint.pt"
    save({"weights": torch.randn(3), "bomb": Bomb(trace)}, path)
    with pytest.raises(DivtrainError, match=r"such as a pickled \.pt, which is never loaded"):
        read_tensors(path)
    assert not trace.exists()
    torch.save(Bomb(trace), path)
    torch.load(path, weights_only=False)
    assert trace.exists()  # the bomb does work


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        (None, r"no divtrain metadata; .* load_state_dict"),
        ({"format": "pt"}, r"no divtrain metadata; .* load_state_dict"),
        ({"divtrain": "{oops"}, "t is damaged"),
    ],
)
def test_tensors_from_elsewhere_are_refused_with_a_way_out(
    tmp_path: Path, metadata: dict[str, str] | None, match: str
) -> None:
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "t", metadata)
    with pytest.raises(DivtrainError, match=match):
        read_tensors(tmp_path / "t")


def test_a_digest_is_of_the_bytes_of_a_file(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    write_bytes(tmp_path / "file", content)
    assert file_digest(tmp_path / "file") == hashlib.sha256(content).hexdigest()
    with pytest.raises(DivtrainError, match="no file at"):
        file_digest(tmp_path / "absent")


def test_tensors_without_a_seal_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in "ab":
        write_tensors(tmp_path / name, {"x": torch.arange(3.0)}, {"step": 1}, sealed=False)
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b")
    assert b"sha256" not in (tmp_path / "a").read_bytes()
    tensors, about = read_tensors(tmp_path / "a")
    assert torch.equal(tensors["x"], torch.arange(3.0))
    assert about == {"step": 1}
