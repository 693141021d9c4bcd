import errno
import hashlib
import os
import pickle
import struct
import threading
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from divtrain.errors import DivtrainError
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


def fail(monkeypatch: pytest.MonkeyPatch, function: str, error: BaseException) -> None:
    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(os, function, failing)


@settings(max_examples=25, deadline=None)
@given(content=st.binary(max_size=200))
def test_bytes_come_back(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes"
    write_bytes(path, content)
    assert path.read_bytes() == content


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
    ],
)
def test_failed_write_says_why_and_leaves_the_old_file_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, function: str, code: int, match: str
) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    fail(monkeypatch, function, OSError(code, os.strerror(code)))
    with pytest.raises(DivtrainError, match=f"cannot write .*/file: {match}"):
        write_bytes(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_interrupted_write_leaves_the_old_file_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_bytes(tmp_path / "file", b"old")
    fail(monkeypatch, "fsync", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="open files are counted in Linux' /proc"
)
def test_failed_write_leaves_no_file_open(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    fail(monkeypatch, "fsync", OSError(errno.ENOSPC, "full"))
    for _ in range(3):
        with pytest.raises(DivtrainError, match="disk is full"):
            write_bytes(tmp_path / "file", b"new")
    monkeypatch.undo()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DivtrainError, match=r"no permission to write there"):
        write_bytes(tmp_path / "file", b"new")
    with pytest.raises(DivtrainError, match=r"no permission to write there"):
        make_folder(tmp_path / "folder")


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "text")
    with pytest.raises(DivtrainError, match="a part of that path is a file, not a folder"):
        write_bytes(tmp_path / "file" / "inside", b"new")
    with pytest.raises(DivtrainError, match="a part of that path is a file, not a folder"):
        make_folder(tmp_path / "file" / "inside")
    with pytest.raises(DivtrainError, match="a file of that name is in the way"):
        make_folder(tmp_path / "file")


def test_folder_is_made_with_its_parents_once(tmp_path: Path) -> None:
    for _ in range(2):
        assert make_folder(tmp_path / "a" / "b").is_dir()


@settings(max_examples=25, deadline=None)
@given(content=JSON)
def test_json_comes_back(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "content.json"
    write_json(path, content)
    assert read_json(path) == content


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=4))
def test_json_lines_come_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.jsonl"
    write_json_lines(path, rows)
    assert read_json_lines(path) == rows


@pytest.mark.parametrize("read", [read_json, read_json_lines, read_tensors])
def test_missing_file_is_named(tmp_path: Path, read: Any) -> None:
    with pytest.raises(DivtrainError, match=r"no file at .*/absent"):
        read(tmp_path / "absent")


@pytest.mark.parametrize("read", [read_json, read_json_lines])
@pytest.mark.parametrize("content", [b'{"a": 1', b"\xff\xfe\x00", b"{'a': 1}", b"\x00" * 9])
def test_damaged_json_is_named(tmp_path: Path, read: Any, content: bytes) -> None:
    path = tmp_path / "damaged.json"
    path.write_bytes(content)
    with pytest.raises(DivtrainError, match=r"damaged\.json is damaged: .*; delete it and run"):
        read(path)


def test_json_cut_short_at_any_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    write_json(path, {"a": [1, 2.5, None], "b": "text"})
    whole = path.read_bytes().strip()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DivtrainError, match=r"cut\.json is damaged"):
            read_json(path)


def tensors() -> dict[str, Tensor]:
    return {
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


def test_tensors_that_share_memory_come_back(tmp_path: Path) -> None:
    tied = torch.randn(3)
    write_tensors(tmp_path / "t", {"first": tied, "second": tied, "part": tied[:2]}, {})
    read, _ = read_tensors(tmp_path / "t")
    assert torch.equal(read["first"], tied)
    assert torch.equal(read["second"], tied)
    assert torch.equal(read["part"], tied[:2])


def test_tensors_cut_short_at_any_length_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t"
    write_tensors(path, {"a": torch.randn(8), "b": torch.arange(3)}, {"step": 1})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DivtrainError, match=r"not a readable safetensors file.*truncated"):
            read_tensors(path)


def test_tensors_with_a_damaged_header_are_refused_or_read(tmp_path: Path) -> None:
    path = tmp_path / "t"
    write_tensors(path, {"a": torch.randn(2)}, {"step": 1})
    whole = path.read_bytes()
    for place in range(len(whole) - 8):
        damaged = bytearray(whole)
        damaged[place] ^= 0x05
        path.write_bytes(damaged)
        try:
            read_tensors(path)
        except DivtrainError:
            continue
        except Exception as error:
            pytest.fail(f"byte {place} damaged: {error!r}")


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


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=300), sensible_length=st.booleans())
def test_random_bytes_are_no_tensors(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, sensible_length: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "random"
    head = struct.pack("<Q", len(content)) if sensible_length else b""
    path.write_bytes(head + content)
    with pytest.raises(DivtrainError, match=r"not a readable safetensors|no divtrain metadata"):
        read_tensors(path)


def test_folder_is_no_file_of_tensors(tmp_path: Path) -> None:
    with pytest.raises(DivtrainError, match="is no file, but a folder, pipe or device"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_tensors_from_elsewhere_are_refused_with_a_way_out(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "t", metadata)
    with pytest.raises(DivtrainError, match=r"no divtrain metadata; .* load_state_dict"):
        read_tensors(tmp_path / "t")


def test_damaged_metadata_is_named(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "t", {"divtrain": "{oops"})
    with pytest.raises(DivtrainError, match="t is damaged"):
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


@pytest.mark.parametrize("number", [2**63, -(2**64), 10**400])
def test_integers_beyond_64_bits_are_refused(tmp_path: Path, number: int) -> None:
    write_json(tmp_path / "n.json", {"a": [number]})
    with pytest.raises(DivtrainError, match="n.json is damaged: .* does not fit into 64 bits"):
        read_json(tmp_path / "n.json")
