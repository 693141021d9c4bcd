"""Images out of train/CLASS/* and test/CLASS/*, with nothing in the folders trusted."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from divtrain.errors import DivtrainError

ENDINGS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Which files are images."""
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Decoders that may run, whatever a file's content asks for: some of Pillow's others start
programs."""
LARGEST_IMAGE = 4096 * 4096
"""Pixels of an image beyond which it is taken for a decompression bomb."""


def read_image_folders(path: Path) -> list[np.ndarray]:
    """Read images and labels to train on, then to test with.

    Classes are numbered in alphabetical order, images are in the order of their paths, in RGB.

    Returns:
        Images (image, channel, height, width) in 8 bits, labels (image,), twice.

    Raises:
        DivtrainError: for folders of another form, a link that leads out of them, a file that is
            no image, images of different sizes, or larger than `LARGEST_IMAGE`.
    """
    parts: list[np.ndarray] = []
    classes: list[list[str]] = []
    for part in ("train", "test"):
        if not (path / part).is_dir():
            raise DivtrainError(f"no folder {path / part}: expected {path}/train/CLASS/IMAGE files")
        files = _list_images(path, path / part)
        if not all(files.values()) or not files:
            empty = ", ".join(name for name, found in files.items() if not found)
            raise DivtrainError(
                f"{path / part} holds no class folders of images"
                + (f": no image in {empty}" if empty else "")
                + f"; known are {', '.join(ENDINGS)}"
            )
        classes.append(list(files))
        images = _read_images(path / part, [file for found in files.values() for file in found])
        labels = [index for index, found in enumerate(files.values()) for _ in found]
        parts += [images, np.asarray(labels)]
    if classes[0] != classes[1]:
        only = set(classes[0]) ^ set(classes[1])
        raise DivtrainError(
            f"train and test hold different classes: {', '.join(sorted(only))} in one only"
        )
    return parts


def _list_images(root: Path, part: Path) -> dict[str, list[Path]]:
    """Image files of each class; no link is followed out of `root`, nor any to a folder."""
    _check_no_link(part)
    found: dict[str, list[Path]] = {}
    for folder in sorted(part.iterdir()):
        if not folder.is_dir():
            continue
        _check_no_link(folder)
        found[folder.name] = []
        for inside, folders, names in sorted(os.walk(folder)):
            for name in folders:
                _check_no_link(Path(inside) / name)
            files = [Path(inside) / name for name in sorted(names)]
            images = [file for file in files if file.suffix.lower() in ENDINGS]
            for file in images:
                _check_inside(root, file)
            found[folder.name] += images
    return found


def _check_no_link(folder: Path) -> None:
    if folder.is_symlink():
        raise DivtrainError(
            f"{folder} is a link to a folder, which is not followed; put the folder itself there"
        )


def _check_inside(root: Path, file: Path) -> None:
    try:
        inside = file.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError) as error:  # a loop of links
        raise DivtrainError(f"{file} is a link that leads nowhere: {error}") from error
    if not inside:
        raise DivtrainError(
            f"{file} is a link that leads out of {root}, which is not followed; put the image there"
        )
    if not file.is_file():
        raise DivtrainError(f"{file} is not a readable image: it is no file at all")


def _read_images(part: Path, files: list[Path]) -> np.ndarray:
    """Decode images of one size, (image, channel, height, width)."""
    images: list[np.ndarray] = []
    sizes: set[tuple[int, int]] = set()
    for file in files:
        try:
            with (
                file.open("rb") as raw,
                Image.open(raw, formats=FORMATS) as image,
            ):
                width, height = image.size
                sizes.add((height, width))
                if len(sizes) == 1 and width * height <= LARGEST_IMAGE:
                    images.append(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
        except Exception as error:  # Pillow's decoders each have their own words for damage
            raise DivtrainError(f"{file} is not a readable image ({error})") from error
        if width * height > LARGEST_IMAGE:
            raise DivtrainError(
                f"{file} is an image of {width}x{height} pixels, too many to be one to classify;"
                " scale it down, or remove it if it is a decompression bomb"
            )
        if len(sizes) > 1:
            raise DivtrainError(
                f"the images in {part} have different sizes, e.g."
                f" {', '.join(f'{h}x{w}' for h, w in sorted(sizes)[:3])}; resize them to one"
            )
    return np.stack(images)
