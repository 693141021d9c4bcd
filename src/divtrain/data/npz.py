"""Arrays from a user's .npz file, with nothing in it trusted."""

import math
import zipfile
from pathlib import Path

import numpy as np

from divtrain.errors import DivtrainError
from divtrain.files import check_regular_file

HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
NAMES = {
    "x_train": ("train_images", "train_x", "train_data"),
    "y_train": ("train_labels", "train_y"),
    "x_test": ("test_images", "test_x", "test_data"),
    "y_test": ("test_labels", "test_y"),
}
"""Keras' names, and others that are in use: MedMNIST's first. Capitals do not matter."""
LARGE = 1 << 30
BOMB = 100
"""A zip bomb is more than `LARGE` bytes and `BOMB` times its file; images shrink to a tenth."""


def read_npz(path: Path) -> list[np.ndarray]:
    """Read arrays by Keras' or MedMNIST's names: images and labels to train on, then to test with.

    Others, such as those of images to validate with, are left alone. Every array must fill its
    entry of the archive to the last byte, so that the checksums of the archive cover it.

    Raises:
        DivtrainError: when the file is missing, damaged or of another format, lacks an array,
            holds pickled objects (never loaded), or is a zip bomb.
    """
    check_regular_file(path)
    try:
        # zipfile would leave a damaged file open if it opened it itself.
        with path.open("rb") as raw, zipfile.ZipFile(raw) as archive:
            entries = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            by_name = {name.lower(): info for name, info in entries.items()}
            found = {
                name: next((by_name[each] for each in (name, *others) if each in by_name), None)
                for name, others in NAMES.items()
            }
            chosen = [info for info in found.values() if info is not None]
            if len(chosen) < len(NAMES):
                missing = [name for name, info in found.items() if info is None]
                raise DivtrainError(
                    f"{path} lacks {', '.join(missing)}: expected the arrays {', '.join(NAMES)}"
                    " (Keras' names, or MedMNIST's train_images, train_labels, ...), found"
                    f" {', '.join(entries) or 'none'}"
                )
            _check_sizes(path, chosen)
            return [_read_array(archive, info) for info in chosen]
    except DivtrainError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise many kinds for damage
        raise DivtrainError(
            f"{path} is not a readable .npz file ({error}); it may be truncated, or hold pickled"
            " objects, which are never loaded"
        ) from error


def _check_sizes(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Check the sizes that the archive declares, which it cannot exceed, before unpacking it."""
    for entry in entries:
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DivtrainError(
                f"{path} is not a readable .npz file: {entry.filename} is compressed in a way numpy"
                " never does; write it with numpy.savez"
            )
    size = sum(entry.file_size for entry in entries)
    if size > LARGE and size > BOMB * path.stat().st_size:
        raise DivtrainError(
            f"{path} would unpack to {size / 2**30:.1f} GiB, over {BOMB} times its size, as no"
            " images do; if it is no zip bomb, write it with numpy.savez, uncompressed"
        )


def _read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(entry) as content:
        version = np.lib.format.read_magic(content)
        if version not in HEADERS:
            raise ValueError(f"{entry.filename} is of version {version} of numpy's format")
        shape, _, kind = HEADERS[version](content)
        if kind.hasobject:
            raise ValueError(f"{entry.filename} holds pickled objects")
        if kind.itemsize * math.prod(map(int, shape)) != entry.file_size - content.tell():
            raise ValueError(
                f"{entry.filename} declares {shape} of {kind}, which is not what it holds"
            )
    with archive.open(entry) as content:
        array = np.lib.format.read_array(content, allow_pickle=False)
        if content.read(1):
            raise ValueError(f"{entry.filename} has more bytes than its array")
    return np.asarray(array)
