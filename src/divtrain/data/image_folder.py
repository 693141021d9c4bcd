"""Images from train/CLASS/* and test/CLASS/*, with nothing in the folders trusted."""

import os
import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from divtrain.errors import DivtrainError

ENDINGS = (
    ".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
UNREAD = (".apng", ".avif", ".gif", ".heic", ".heif", ".jp2", ".jxl", ".svg", ".tga")
"""Endings of other pictures, which would be missed if they were left out without a word."""
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Decoders that may run, whatever a file contains: others of Pillow's start programs."""
LARGEST_IMAGE = 4096 * 4096
"""Pixels beyond which an image is taken for a decompression bomb."""
EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
"""Pillow's modes of 8 bits per channel or less, all of which it turns into RGB."""
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")


def read_image_folders(path: Path) -> list[np.ndarray]:
    """Read images and labels to train on, then to test with.

    Classes are numbered in alphabetical order, images are in the order of their paths, in RGB,
    turned upright as their EXIF orientation says. Files and folders whose names begin with a dot
    or are ``@eaDir`` are left out: they are copies and notes of other programs.

    Returns:
        Images (image, channel, height, width), labels (image,), twice. Images are in 8 bits, or
        where any has 16 in float32, each divided by the largest value of its format.

    Raises:
        DivtrainError: for folders of another form, a link that leads out of them, a file that is
            no image, a format without a range of its own, transparent pixels, several pictures in
            a file, pictures that are not read, or that lie in no class, images of different sizes,
            or larger than `LARGEST_IMAGE`.
    """
    arrays: list[np.ndarray] = []
    classes: list[list[str]] = []
    for split in (path / "train", path / "test"):
        if not split.is_dir():
            raise DivtrainError(f"no folder {split}: expected {path}/train/CLASS/IMAGE files")
        files = _list_images(path, split)
        if not all(files.values()) or not files:
            empty = ", ".join(name for name, found in files.items() if not found)
            where = f": no image in {empty}" if empty else ""
            raise DivtrainError(
                f"{split} holds no class folders of images{where}; known are {', '.join(ENDINGS)}"
            )
        classes.append([unicodedata.normalize("NFC", name) for name in files])
        images = _read_images(split, [file for found in files.values() for file in found])
        labels = [index for index, found in enumerate(files.values()) for _ in found]
        arrays += [images, np.asarray(labels)]
    only = set(classes[0]) ^ set(classes[1])
    if only:
        raise DivtrainError(
            f"train and test hold different classes: {', '.join(sorted(only))} in one only"
        )
    return arrays


def _list_images(root: Path, split: Path) -> dict[str, list[Path]]:
    """Image files of each class; no link is followed out of `root`, nor any to a folder."""
    _check_no_link(split)
    found: dict[str, list[Path]] = {}
    for folder in sorted(split.iterdir()):
        if _left_out(folder.name):
            continue
        if not folder.is_dir():
            if folder.suffix.lower() in (*ENDINGS, *UNREAD):
                raise DivtrainError(f"{folder} lies in no class: expected {split}/CLASS/IMAGE")
            continue
        _check_no_link(folder)
        found[folder.name] = []
        for inside, folders, names in os.walk(folder):
            folders[:] = sorted(name for name in folders if not _left_out(name))
            for name in folders:
                _check_no_link(Path(inside) / name)
            for file in (Path(inside) / name for name in names if not _left_out(name)):
                if file.suffix.lower() in UNREAD:
                    raise DivtrainError(
                        f"{file} is a picture of a kind that is not read; convert it or move it"
                        f" away: known are {', '.join(ENDINGS)}"
                    )
                if file.suffix.lower() in ENDINGS:
                    _check_inside(root, file)
                    found[folder.name].append(file)
        found[folder.name].sort(key=lambda file: (str(file.parent), file.name))
    return found


def _left_out(name: str) -> bool:
    return name.startswith(".") or name == "@eaDir"


def _check_no_link(folder: Path) -> None:
    if folder.is_symlink():
        raise DivtrainError(
            f"{folder} is a link to a folder, which is not followed; copy the folder there"
        )


def _check_inside(root: Path, file: Path) -> None:
    try:
        inside = file.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError) as error:  # a loop of links
        raise DivtrainError(f"{file} is a link that leads nowhere: {error}") from error
    if not inside:
        raise DivtrainError(
            f"{file} is a link that leads out of {root}, which is not followed; copy the image"
        )
    if not file.is_file():
        raise DivtrainError(f"{file} is not a readable image: it is no file at all")


def _read_images(split: Path, files: list[Path]) -> np.ndarray:
    """Decode images of one size, (image, channel, height, width)."""
    images: list[np.ndarray] = []
    sizes: set[tuple[int, ...]] = set()
    for file in files:
        try:
            with file.open("rb") as raw, Image.open(raw, formats=FORMATS) as image:
                width, height = image.size
                if width * height <= LARGEST_IMAGE:
                    images.append(_decode(image))
        except DivtrainError as error:
            raise DivtrainError(f"{file} {error}") from error
        except Exception as error:  # Pillow's decoders raise many kinds for damage
            raise DivtrainError(f"{file} is not a readable image ({error})") from error
        if width * height > LARGEST_IMAGE:
            raise DivtrainError(
                f"{file} is an image of {width}x{height} pixels, too many for a classifier; scale"
                " it down, or remove it if it is a decompression bomb"
            )
        sizes.add(images[-1].shape[1:])
        if len(sizes) > 1:
            raise DivtrainError(
                f"the images in {split} have different sizes, e.g."
                f" {', '.join(f'{h}x{w}' for h, w in sorted(sizes)[:3])}; resize them to one"
            )
    if len({image.dtype for image in images}) > 1:
        images = [each / np.float32(255) if each.dtype == np.uint8 else each for each in images]
    return np.stack(images)


def _decode(image: Image.Image) -> np.ndarray:
    """Return an image upright, in RGB, (channel, height, width): in 8 bits, or float32 in [0, 1].

    Raises:
        DivtrainError: for a mode whose pixels have no range of their own, transparent pixels, or
            several pictures in one.
    """
    if getattr(image, "n_frames", 1) > 1:
        raise DivtrainError("has several pictures in it; save the one that is meant")
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
        if alpha.getextrema() != (255, 255):
            raise DivtrainError(
                "is transparent in places, and nobody knows what is behind; put it on a background,"
                " or drop the transparency with image.convert('RGB')"
            )
    sixteen = image.mode in SIXTEEN_BITS or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if not sixteen and image.mode not in EIGHT_BITS:
        raise DivtrainError(
            f"has pixels of Pillow's mode {image.mode}, whose largest value nobody knows; convert"
            " it to 8 or 16 bits"
        )
    upright = ImageOps.exif_transpose(image)
    if not sixteen:
        return np.asarray(upright.convert("RGB")).transpose(2, 0, 1)
    grey = np.asarray(upright).astype(np.float32) / 65535
    return np.stack([grey] * 3)
