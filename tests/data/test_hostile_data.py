"""Images of a stranger's: bombs, links, pipes, damage; an error that tells, or the same images."""

import io
import os
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from damage import cases, damaged, survives
from divtrain.data import image_folder, load_dataset, npz
from divtrain.errors import DivtrainError

pytestmark = pytest.mark.usefixtures("no_shape_checks")

DRAW = np.random.default_rng(0)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def arrays(**changes: Any) -> dict[str, Any]:
    x = DRAW.integers(0, 256, (6, 5, 5)).astype(np.uint8)
    return {"x_train": x, "y_train": LABELS, "x_test": x[:4], "y_test": LABELS[:4]} | changes


def load(path: Path) -> str:
    return load_dataset(str(path)).fingerprint


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_npz_is_an_error_or_the_same_images(tmp_path: Path, compressed: bool) -> None:
    """Checksums of the archive cover every array to its end, headers included."""
    path, draw = tmp_path / "mine.npz", random.Random(f"npz {compressed}")
    (np.savez_compressed if compressed else np.savez)(path, **arrays())
    whole, expected = path.read_bytes(), load(path)
    refused = 0
    for case in range(cases(300)):
        path.write_bytes(damaged(whole, draw))
        returned, found = survives(lambda: load(path), DivtrainError)
        assert not returned or found == expected, f"case {case}"
        refused += not returned
    assert refused > 0.5 * cases(300)


def test_arrays_of_any_other_kind_are_refused(tmp_path: Path) -> None:
    path, draw = tmp_path / "mine.npz", random.Random("arrays")
    kinds = ("?", "u1", "i8", "u8", "f2", "f4", "f8", "g", "c8", "S3", "U2", "M8[s]", "V4", "i4,f4")
    for _ in range(cases(150)):
        shape = tuple(draw.choice((0, 1, 3, 5, 6)) for _ in range(draw.randrange(6)))
        array = np.zeros(shape, draw.choice(kinds))
        if array.dtype.kind in "f" and draw.random() < 0.5 and array.size:
            array.flat[0] = draw.choice((np.nan, np.inf, -1, 2, 1e-30))
        name = draw.choice([*npz.NAMES])
        np.savez(path, **arrays(**{name: array}))
        returned, _ = survives(lambda: load(path), DivtrainError)
        assert not returned or array.dtype.kind in ("uif" if name.startswith("x") else "ui")
    for kind in ("?", "c8", "S3", "U2", "M8[s]", "V4", "i4,f4"):  # of the right shape
        for name, array in arrays().items():
            np.savez(path, **arrays(**{name: np.zeros(array.shape, kind)}))
            with pytest.raises(DivtrainError, match=r"expected .*dtype|labels"):
                load(path)


def npy(header: str, content: bytes) -> bytes:
    """A .npy file with any header."""
    head = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + content


def write_npz(path: Path, **entries: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays().items():
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(f"{name}.npy", entries.get(name, content.getvalue()))


@pytest.mark.parametrize(
    "shape",
    ["(6, 5, 5)", "(5, 5, 5)", "(7, 5, 5)", "(10**18,)", "(1000000000, 1000, 1000)", "(-6, 5, -5)",
     "(4611686018427387904, 4, 4)", "(0, 9999999999999)", "[6, 5, 5]", "()", "None",
     "(" * 60 + ")" * 60],
)  # fmt: skip
def test_a_header_that_declares_what_is_not_there_takes_no_memory(
    tmp_path: Path, shape: str
) -> None:
    path = tmp_path / "mine.npz"
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    write_npz(path, x_train=npy(header, bytes(range(150))))
    returned, _ = survives(lambda: load(path), DivtrainError, 5)
    assert returned == (shape == "(6, 5, 5)")


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, **arrays(x_train=np.zeros((6, 3000, 3000), np.uint8)))
    assert path.stat().st_size * npz.BOMB < 54_000_000
    with pytest.raises(DivtrainError, match="must agree"):  # small enough to be looked at
        load(path)
    monkeypatch.setattr(npz, "LARGE", 50_000_000)
    monkeypatch.setattr(np.lib.format, "read_array", None)  # nothing is read
    with pytest.raises(DivtrainError, match=r"would unpack to 0\.1 GiB, over 100 times its size"):
        load(path)
    np.savez(path, **arrays(x_train=np.zeros((6, 3000, 3000), np.uint8)))
    with pytest.raises(DivtrainError, match="not a readable"):  # as large, and no bomb
        load(path)


def test_an_archive_cannot_yield_more_than_it_declares(tmp_path: Path) -> None:
    """The size is written in two places, neither of them trusted."""
    path = tmp_path / "mine.npz"
    write_npz(path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo("x_train.npy").file_size.to_bytes(4, "little")
    for other in (0, 1, 100, 277, 279, 2**31):
        path.write_bytes(whole.replace(size, other.to_bytes(4, "little")))
        returned, _ = survives(lambda: load(path), DivtrainError, 5)
        assert not returned


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path: Path, kind: int) -> None:
    path, other = tmp_path / "mine.npz", tmp_path / "other.npz"
    write_npz(path)
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(other, "w", kind) as copy:
        for name in archive.namelist():
            copy.writestr(name, archive.read(name))
    with pytest.raises(DivtrainError, match="compressed in a way numpy never does"):
        load(other)


def test_a_pipe_or_device_is_no_npz(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "zero.npz").symlink_to("/dev/zero")
    for name in ("pipe.npz", "zero.npz"):
        assert not survives(lambda name=name: load(tmp_path / name), DivtrainError, 5)[0]


def save_folder(root: Path, ending: str = "png") -> Path:
    for part in ("train", "test"):
        for label in ("ant", "bee"):
            (root / part / label / "more").mkdir(parents=True)
            for name in ("1", "more/2", "more/10", "0"):
                image = Image.fromarray(DRAW.integers(0, 256, (6, 6, 3)).astype(np.uint8))
                image.save(root / part / label / f"{name}.{ending}")
    return root


def test_a_folder_is_read_as_torchvision_reads_it(tmp_path: Path) -> None:
    root = save_folder(tmp_path)
    (root / "train" / "ant" / "notes.txt").write_text("no image")
    (root / "train" / "README").write_text("no class")
    theirs = ImageFolder(str(root / "train"))
    expected = np.stack([np.asarray(image) for image, _ in theirs]).transpose(0, 3, 1, 2)
    ours = load_dataset(str(root)).train
    assert torch.equal(ours.x, torch.from_numpy(expected) / 255)
    assert ours.y.tolist() == theirs.targets


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "ppm", "tif", "webp"])
def test_damaged_images_are_errors_or_images(tmp_path: Path, ending: str) -> None:
    """Few formats have checksums: another image is another data set, by its fingerprint."""
    root, draw = save_folder(tmp_path, ending), random.Random(ending)
    path = root / "train" / "ant" / "more" / f"2.{ending}"
    whole = path.read_bytes()
    for _ in range(cases(25)):
        path.write_bytes(damaged(whole, draw, 60))
        survives(lambda: load(root), DivtrainError)


def test_a_png_may_be_called_jpg(tmp_path: Path) -> None:
    path = save_folder(tmp_path) / "train" / "ant" / "0.png"
    before = load(tmp_path)
    path.rename(path.with_suffix(".jpg"))
    assert load(tmp_path) == before


@pytest.mark.parametrize("kind", ["EPS", "GIF", "PDF", "TGA", "ICO"])
def test_no_other_decoder_runs_whatever_the_content(tmp_path: Path, kind: str) -> None:
    path = save_folder(tmp_path) / "test" / "bee" / "1.png"
    Image.fromarray(np.zeros((6, 6, 3), np.uint8)).save(path, kind)
    with pytest.raises(DivtrainError, match=r"bee/1\.png is not a readable image"):
        load(tmp_path)


def test_a_decompression_bomb_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_folder(tmp_path) / "train" / "ant" / "0.png"
    monkeypatch.setattr(image_folder, "LARGEST_IMAGE", 36)
    load(tmp_path)
    Image.new("1", (5000, 5000)).save(path)
    monkeypatch.setattr(Image.Image, "convert", None)
    with pytest.raises(DivtrainError, match=r"ant/0\.png is an image of 5000x5000 pixels, too"):
        load(tmp_path)
    monkeypatch.undo()
    for side in (5000, 20_000):  # ours, Pillow's own limit
        Image.new("1", (side, side)).save(path)
        returned, _ = survives(lambda: load(tmp_path), DivtrainError, 10)
        assert not returned


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    outside = save_folder(tmp_path / "outside") / "train" / "ant" / "0.png"
    root = save_folder(tmp_path / "mine")
    link = root / "train" / "ant" / "7.png"
    for target in (outside, Path("../../../outside/train/ant/0.png"), Path("/etc/passwd")):
        link.symlink_to(target)
        with pytest.raises(DivtrainError, match=r"7\.png is a link that leads out of .*mine"):
            load(root)
        link.unlink()
    link.symlink_to("0.png")
    load(root)  # inside
    alias = tmp_path / "alias"
    alias.symlink_to(root)
    assert load(alias) == load(root)  # the user's own word for it
    link.unlink()
    for target in ("7.png", "absent.png"):
        link.symlink_to(target)
        assert not survives(lambda: load(root), DivtrainError, 5)[0]
        link.unlink()


@pytest.mark.parametrize("place", ["train/ant/loop", "train/cat", "train/ant/more/other"])
def test_links_to_folders_are_refused_and_loops_end(tmp_path: Path, place: str) -> None:
    root = save_folder(tmp_path)
    (root / place).symlink_to(root)
    with pytest.raises(DivtrainError, match="is a link to a folder, which is not followed"):
        survives(lambda: load(root), ZeroDivisionError, 5)


def test_a_pipe_among_images_is_refused(tmp_path: Path) -> None:
    root = save_folder(tmp_path)
    os.mkfifo(root / "train" / "ant" / "8.png")
    with pytest.raises(DivtrainError, match="it is no file at all"):
        survives(lambda: load(root), ZeroDivisionError, 5)
