import pickle
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import sklearn.datasets
import torch
import torchvision
from PIL import Image
from torch import Tensor

from divtrain.data import Dataset, Images, load_dataset
from divtrain.errors import DivtrainError

DRAW = np.random.default_rng(0)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def keras(**changes: Any) -> dict[str, Any]:
    """Arrays as Keras stores them: six training and four test images."""
    arrays = {
        "x_train": DRAW.integers(0, 256, (6, 5, 5)).astype(np.uint8),
        "y_train": LABELS,
        "x_test": DRAW.integers(0, 256, (4, 5, 5)).astype(np.uint8),
        "y_test": LABELS[:4],
    }
    return {name: array for name, array in (arrays | changes).items() if array is not None}


def save(folder: Path, **changes: Any) -> str:
    path = folder / "mine.npz"
    np.savez_compressed(path, **keras(**changes))
    return str(path)


def save_folder(folder: Path, parts: dict[str, dict[str, list[np.ndarray]]]) -> str:
    for part, classes in parts.items():
        for label, images in classes.items():
            (folder / part / label).mkdir(parents=True)
            for index, image in enumerate(images):
                Image.fromarray(image).save(folder / part / label / f"{index}.png")
    return str(folder)


def colour(size: int = 6) -> np.ndarray:
    return DRAW.integers(0, 256, (size, size, 3)).astype(np.uint8)


def rows(x: Tensor) -> Counter[bytes]:
    return Counter(image.numpy().tobytes() for image in x)


def test_digits_are_scikit_learns_images_each_once_stratified_and_in_the_unit_interval() -> None:
    digits = load_dataset("digits")
    assert (digits.name, digits.classes, len(digits.train)) == ("digits", 10, 1297)
    for images, count in ((digits.train, 1297), (digits.test, 500)):
        assert images.x.shape == (count, 1, 8, 8)
        assert images.x.dtype == torch.float32 and images.y.dtype == torch.int64
        assert (images.x.min(), images.x.max()) == (0, 1)
    test, train = digits.test.y.bincount(), digits.train.y.bincount()
    assert (test - 500 * (test + train) / 1797).abs().max() < 1
    scikit = sklearn.datasets.load_digits().images  # pyright: ignore[reportAttributeAccessIssue]
    expected = torch.from_numpy(scikit / 16).float()[:, None]
    assert rows(digits.train.x) + rows(digits.test.x) == rows(expected)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((6, 28, 28), (6, 1, 28, 28)),
        ((6, 28, 28, 1), (6, 1, 28, 28)),
        ((6, 32, 32, 3), (6, 3, 32, 32)),
        ((6, 3, 32, 32), (6, 3, 32, 32)),
    ],
)
def test_npz_images_become_channel_first_and_are_divided_by_255(
    tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    x = DRAW.integers(0, 256, shape).astype(np.uint8)
    dataset = load_dataset(save(tmp_path, x_train=x, x_test=x[:4]))
    assert dataset.train.x.shape == expected
    pixels = torch.from_numpy(x).float() / 255
    if shape[-1] in (1, 3):
        pixels = pixels.permute(0, 3, 1, 2)
    assert torch.equal(dataset.train.x, pixels.reshape(expected))
    assert torch.equal(dataset.test.x, dataset.train.x[:4])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_npz_floats_in_the_unit_interval_are_kept(tmp_path: Path, dtype: type) -> None:
    x = DRAW.random((6, 5, 5)).astype(dtype)
    dataset = load_dataset(save(tmp_path, x_train=x, x_test=x[:4]))
    assert np.array_equal(dataset.train.x[:, 0].numpy(), x.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64])
@pytest.mark.parametrize("column", [False, True])
def test_npz_labels_of_any_integer_type_may_be_a_column(
    tmp_path: Path, dtype: type, column: bool
) -> None:
    y = LABELS.astype(dtype).reshape((6, 1) if column else (6,))
    dataset = load_dataset(save(tmp_path, y_train=y, y_test=y[:4]))
    assert dataset.train.y.tolist() == LABELS.tolist()
    assert dataset.train.y.dtype == torch.int64
    assert (dataset.classes, Path(dataset.name).name) == (3, "mine.npz")


UINT8 = DRAW.integers(0, 256, (6, 5, 5)).astype(np.uint8)
FLOAT = np.full((6, 5, 5), 0.5)


def one_pixel(value: float) -> np.ndarray:
    x = FLOAT.copy()
    x[2, 3, 1] = value
    return x


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"x_train": None, "y_test": None}, r"lacks x_train, y_test: expected .*found y_train, x_"),
        ({"x_train": one_pixel(np.nan)}, "NaN or infinite"),
        ({"x_train": one_pixel(np.inf)}, "NaN or infinite"),
        ({"x_train": one_pixel(1.5)}, r"numbers in \[0, 1\], got float64 from 0.5 to 1.5; divide"),
        ({"x_test": one_pixel(-0.25)[:4]}, r"numbers in \[0, 1\], got float64 from -0.25 to 0.5"),
        ({"x_train": UINT8.astype(int) * 0 + 255}, "got int64 from 255 to 255; divide"),
        ({"x_train": 16 * FLOAT + one_pixel(0)}, "from 8 to 8.5; divide .*, 255"),
        ({"x_train": 8000 * FLOAT}, "from 4000 to 4000; divide .*, 4095"),
        ({"x_train": 9000 * FLOAT}, "from 4500 to 4500; divide .*, 65535"),
        ({"x_train": one_pixel(-0.5)}, r"-0.5 to 0.5; take them from .* with \(x \+ 1\) / 2"),
        ({"x_train": 2 * one_pixel(-0.5)}, r"-1 to 1; take them from .* with \(x \+ 1\) / 2"),
        ({"x_train": 4 * one_pixel(-0.5)}, r"-2 to 2; undo the normalisation, as in x \* std"),
        ({"x_train": one_pixel(-0.02)}, r"-0\.02 to 0\.5; if that is rounding.*clip\(0, 1\)"),
        ({"x_train": 2 * one_pixel(0.50000006)}, r"1\.000000\d to|to 1\.000000\d; .*clip"),
        ({"x_train": UINT8.transpose(1, 2, 0)}, r"images first.*\(5, 5, 6\) for 6.*\(2, 0, 1\)"),
        ({"x_train": DRAW.random((8, 8, 3, 6))}, r"x\.transpose\(3, 2, 0, 1\)"),
        ({"x_train": np.zeros((6,))}, r"expected images .* got shape \(6,\)"),
        ({"x_train": np.zeros((6, 5))}, r"expected images .* got shape \(6, 5\)"),
        ({"x_train": np.zeros((6, 1, 5, 5, 1))}, r"got shape \(6, 1, 5, 5, 1\)"),
        ({"x_train": np.float32(0)}, r"got shape \(\)"),
        ({"x_train": UINT8[:0], "y_train": LABELS[:0]}, r"got shape \(0, 1, 5, 5\)"),
        ({"x_train": np.zeros((6, 0, 0)), "x_test": np.zeros((4, 0, 0))}, "expected"),
        ({"x_test": UINT8[:4, 1:, 1:]}, r"\(1, 5, 5\), test images \(1, 4, 4\); they must agree"),
        ({"x_test": np.zeros((4, 5, 5, 3))}, r"\(1, 5, 5\), test images \(3, 5, 5\)"),
        ({"x_train": UINT8 // 255, "x_test": UINT8[:4] // 255}, "show nothing|lie in"),
        ({"x_train": UINT8 % 2}, r"training images lie in \[0, 0.0039\].*25 times their range"),
        ({"x_train": UINT8 % 64}, r"training images lie in \[0, 0.25\].* float32 in \[0, 1\]"),
        ({"x_train": UINT8.astype(np.uint16)}, r"lie in \[0, 0.0039\]"),
        ({"x_train": UINT8 / 255 / 255}, r"lie in \[0, 0.0039\]"),
        ({"x_test": UINT8[:4] % 16}, r"test images lie in \[0, 0.059\]"),
        ({"x_train": UINT8 * 0 + 255}, "training images show nothing: every pixel is 1"),
        ({"x_test": FLOAT[:4]}, "test images show nothing"),
        ({"x_train": DRAW.random((6, 8, 8, 4))}, r"channels last, with 4 channels.*x\[..., :3\]"),
        (
            {"x_train": DRAW.random((6, 8, 9, 2))},
            r"channels last, with 2.*transpose\(0, 3, 1, 2\)$",
        ),
        ({"x_train": DRAW.random((6, 12, 12, 7))}, "look channels last, with 7 channels"),
        ({"x_train": DRAW.random((6, 3, 8, 3))}, "channels first or last"),
        ({"x_train": UINT8.astype(bool)}, "numbers, got dtype bool; convert with astype"),
        ({"x_train": UINT8.astype(str)}, "expected images of numbers, got dtype"),
        ({"y_train": LABELS * 0, "y_test": LABELS[:4] * 0}, "at least two classes, got 1"),
        ({"y_train": LABELS - 1}, "expected labels from 0 up, got -1"),
        ({"y_train": LABELS.astype(float)}, r"got float64 of shape \(6,\); .*y.astype\(int\)"),
        ({"y_train": LABELS[:5]}, r"6 integer labels, one per image, got int64 of shape \(5,\)"),
        ({"y_test": np.eye(4, dtype=int)}, r"4 integer labels, .* shape \(4, 4\); .*argmax\(1\)"),
        ({"y_test": 1 - np.eye(4, dtype=int)}, r"shape \(4, 4\); an image has one class here"),
        (
            {"y_test": LABELS[:4, None] / 1},
            r"float64 of shape \(4,\); convert with y.astype\(int\)",
        ),
        ({"y_train": LABELS.astype(str)}, "6 integer labels"),
        ({"y_test": LABELS[None, :4]}, r"shape \(1, 4\); drop the other dimension with y\.ravel"),
        ({"y_train": LABELS % 2}, "test images are of classes 2, of which there is no training"),
        ({"y_train": LABELS + 1, "y_test": LABELS[:4]}, "test images are of classes 0, of which"),
        ({"y_train": LABELS + 1, "y_test": LABELS[:4] + 1}, r"labels from 1 to 3.*class 0.*y - 1"),
        ({"y_train": 60 * LABELS, "y_test": 60 * LABELS[:4]}, "no image of class 1; .*np.unique"),
    ],
)
def test_npz_of_another_form_is_refused_with_a_reason(
    tmp_path: Path, changes: dict[str, Any], match: str
) -> None:
    with pytest.raises(DivtrainError, match=match):
        load_dataset(save(tmp_path, **changes))


@pytest.mark.parametrize(
    "names",
    [
        ("train_images", "train_labels", "test_images", "test_labels"),  # MedMNIST's
        ("X_train", "Y_train", "X_test", "Y_test"),
        ("train_x", "train_y", "test_x", "test_y"),
    ],
)
def test_arrays_may_have_the_names_that_others_give_them(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    arrays = keras()
    plain = load_dataset(save(tmp_path, **arrays))
    column = {key: each[:, None] if "y_" in key else each for key, each in arrays.items()}
    others = dict(zip(names, column.values(), strict=True))
    np.savez(tmp_path / "theirs.npz", val_images=arrays["x_test"], **others)
    assert load_dataset(str(tmp_path / "theirs.npz")).fingerprint == plain.fingerprint


def test_images_need_not_be_square(tmp_path: Path) -> None:
    x = DRAW.integers(0, 256, (6, 4, 7)).astype(np.uint8)
    dataset = load_dataset(save(tmp_path, x_train=x, x_test=x[:4]))
    assert torch.equal(dataset.train.x, torch.from_numpy(x[:, None]) / 255)
    thin = DRAW.random((6, 9, 3)).astype(np.float32)
    assert load_dataset(save(tmp_path, x_train=thin, x_test=thin[:4])).train.x.shape == (6, 1, 9, 3)
    narrow = DRAW.random((6, 2, 9, 3)).astype(np.float32)  # channels last
    dataset = load_dataset(save(tmp_path, x_train=narrow, x_test=narrow[:4]))
    assert dataset.train.x.shape == (6, 3, 2, 9)


@pytest.mark.parametrize("ending", ["png", "tiff", "pgm"])
@pytest.mark.parametrize("mixed", [False, True])
def test_grey_images_of_16_bits_are_divided_by_their_largest_value(
    tmp_path: Path, ending: str, mixed: bool
) -> None:
    deep = DRAW.integers(0, 2**16, (4, 6, 6)).astype(np.uint16)
    for index, (part, label) in enumerate(
        [(part, label) for part in ("train", "test") for label in ("cat", "dog")]
    ):
        (tmp_path / part / label).mkdir(parents=True)
        Image.fromarray(deep[index]).save(tmp_path / part / label / f"0.{ending}")
    if mixed:
        Image.fromarray((deep[0] >> 8).astype(np.uint8)).save(tmp_path / "train/cat/1.png")
    dataset = load_dataset(f"{tmp_path}/")
    expected = torch.from_numpy(deep[0].astype(np.float32) / 65535).expand(3, 6, 6)
    assert torch.allclose(dataset.train.x[0], expected)
    assert torch.allclose(dataset.test.x[1, 2], torch.from_numpy(deep[3] / 65535).float())
    if mixed:
        assert torch.allclose(dataset.train.x[1], (expected * 65535 / 256).floor() / 255)


@pytest.mark.parametrize(
    ("mode", "array"),
    [("F", DRAW.random((6, 6)).astype(np.float32)), ("I", np.arange(36, dtype=np.int32) * 10**6)],
)
def test_pixels_without_a_range_of_their_own_are_refused_by_the_name_of_their_mode(
    tmp_path: Path, mode: str, array: np.ndarray
) -> None:
    save_folder(tmp_path, pets())
    Image.fromarray(array.reshape(6, 6)).save(tmp_path / "train/dog/1.tiff")
    with pytest.raises(DivtrainError, match=rf"dog/1.tiff has pixels of Pillow's mode {mode}, "):
        load_dataset(f"{tmp_path}/")


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_images_are_turned_as_their_exif_says(tmp_path: Path, turn: int, ending: str) -> None:
    """A white corner goes where EXIF 2.3, tag 274, puts the first row and the first column."""
    save_folder(tmp_path, {part: {"a": [], "b": []} for part in ("train", "test")})
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[274] = turn
    for part in ("train", "test"):
        for label in ("a", "b"):
            Image.fromarray(pixels).save(tmp_path / part / label / f"0.{ending}", exif=exif)
    x = load_dataset(f"{tmp_path}/").train.x[0, 0]
    assert x.shape == ((16, 24) if turn < 5 else (24, 16))
    bottom, right = turn in (3, 4, 7, 8), turn in (2, 3, 6, 7)
    corner = x[-8 * bottom :][:8] if bottom else x[:8]
    corner = corner[:, -8:] if right else corner[:, :8]
    assert corner.min() > 0.9 and (x > 0.5).float().mean() < 0.25


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "@eaDir"])
def test_folders_of_other_programs_are_left_out(tmp_path: Path, name: str) -> None:
    plain = load_dataset(save_folder(tmp_path, pets()))
    for place in ("train", "test", "train/cat"):
        (tmp_path / place / name).mkdir()
        Image.fromarray(colour()).save(tmp_path / place / name / "0.png")
    (tmp_path / "train/dog/._0.png").write_bytes(b"what macOS writes beside a file")
    assert load_dataset(str(tmp_path)).fingerprint == plain.fingerprint


def transparent(size: int = 6) -> Image.Image:
    image = Image.fromarray(colour(size)).convert("RGBA")
    image.putpixel((1, 2), (0, 0, 0, 254))
    return image


@pytest.mark.parametrize(
    ("image", "name", "match"),
    [
        (transparent(), "train/cat/1.png", "cat/1.png is transparent in places"),
        (transparent().convert("LA"), "train/cat/1.png", "cat/1.png is transparent in places"),
        (transparent().convert("L"), "train/cat/1.gif", r"cat/1.gif is a picture of a kind that"),
        (transparent().convert("L"), "train/1.png", r"1.png lies in no class: expected .*/CLASS"),
    ],
)
def test_pictures_that_would_be_missed_or_misread_are_told(
    tmp_path: Path, image: Image.Image, name: str, match: str
) -> None:
    save_folder(tmp_path, pets())
    image.save(tmp_path / name)
    with pytest.raises(DivtrainError, match=match):
        load_dataset(str(tmp_path))


def test_several_pictures_in_a_file_are_told_and_opaque_ones_are_images(tmp_path: Path) -> None:
    save_folder(tmp_path, pets())
    opaque = Image.fromarray(colour()).convert("RGBA")
    opaque.save(tmp_path / "train/cat/1.png")
    assert len(load_dataset(str(tmp_path)).train) == 3
    opaque.save(tmp_path / "train/cat/2.tif", save_all=True, append_images=[opaque])
    with pytest.raises(DivtrainError, match="several pictures"):
        load_dataset(str(tmp_path))


def test_names_of_classes_may_be_composed_in_either_way(tmp_path: Path) -> None:
    images = [colour()]
    parts = {"train": {"\u00e4": images, "b": images}, "test": {"a\u0308": images, "b": images}}
    assert load_dataset(save_folder(tmp_path, parts)).classes == 2


def test_a_data_set_is_shown_in_a_line() -> None:
    digits = load_dataset("digits")
    assert repr(digits) == (
        "Dataset 'digits': 10 classes, 1297 images of shape (1, 8, 8) to train on, 500 test images"
    )
    assert repr(digits.test) == "500 images of shape (1, 8, 8)"


@pytest.mark.parametrize("content", [b"no zip file", b"\x00" * 500, b""])
def test_npz_that_is_no_zip_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.npz"
    path.write_bytes(content)
    with pytest.raises(DivtrainError, match=r"not a readable \.npz file"):
        load_dataset(str(path))


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return (Path.mkdir, (self.path,))


@pytest.mark.parametrize("whole_file", [False, True])
def test_pickled_objects_are_never_loaded(tmp_path: Path, whole_file: bool) -> None:
    trace, path = tmp_path / "unpickled", tmp_path / "mine.npz"
    if whole_file:
        path.write_bytes(pickle.dumps(Bomb(trace)))
    else:
        np.savez(path, **keras(y_train=np.array([Bomb(trace)] * 6, dtype=object)))
    with pytest.raises(DivtrainError, match="pickled objects, which are never loaded"):
        load_dataset(str(path))
    assert not trace.exists()
    pickle.loads(pickle.dumps(Bomb(trace)))
    assert trace.exists()  # the bomb does work


def pets(**changes: Any) -> dict[str, Any]:
    parts = {part: {"cat": [colour()], "dog": [colour()]} for part in ("train", "test")}
    return parts | changes


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ({"test": pets()["test"]}, r"no folder .*/train: expected .*train/CLASS/IMAGE files"),
        ({"train": pets()["train"]}, r"no folder .*/test"),
        (pets(test={"cat": [colour()]}), "train and test hold different classes: dog in one only"),
        (pets(test={"cat": [], "dog": [colour()]}), "test holds no class folders of images.*cat"),
        (pets(train={"cat": [colour(6), colour(8)], "dog": [colour(6)]}), "sizes, e.g. 6x6, 8x8"),
        (pets(test={"cat": [colour(8)], "dog": [colour(8)]}), r"\(3, 8, 8\); they must agree"),
        ({p: {"cat": [colour()]} for p in ("train", "test")}, "at least two classes"),
    ],
)
def test_image_folders_of_another_form_are_refused_with_a_reason(
    tmp_path: Path, parts: dict[str, Any], match: str
) -> None:
    with pytest.raises(DivtrainError, match=match):
        load_dataset(save_folder(tmp_path, parts))


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("minst", r"unknown data set 'minst': did you mean 'mnist'\? Known: .*\.npz"),
        ("CIFAR-10", "did you mean 'cifar10'"),
        ("nothing_like_it", "unknown data set 'nothing_like_it'. Known: digits, mnist, cifar10"),
        (
            "no/such/folder",
            "no data set at no/such/folder: expected a FILE.npz, or a folder with train/ and test/",
        ),
        (__file__, "is no data set: expected .* a model goes to `divtrain evaluate` as --targets"),
        ("no/such/file.npz", "no file at no/such/file.npz"),
        ("~no_such_user/file.npz", "no_such_user"),
    ],
)
def test_data_set_that_is_nowhere_is_refused_with_a_hint(name: str, match: str) -> None:
    with pytest.raises(DivtrainError, match=match):
        load_dataset(name)


@pytest.mark.parametrize("error", [RuntimeError("no mirror"), URLError("no route to host")])
@pytest.mark.parametrize(("name", "kind"), [("mnist", "MNIST"), ("cifar10", "CIFAR10")])
def test_missing_files_without_a_network_name_the_ways_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, kind: str, error: Exception
) -> None:
    def download(*_: object) -> None:
        raise error

    monkeypatch.setattr(getattr(torchvision.datasets, kind), "download", download)
    with pytest.raises(DivtrainError, match=f"the {name} files are missing") as caught:
        load_dataset(name, tmp_path)
    for part in (str(error), str(tmp_path), "another folder as `root`", "the data set digits"):
        assert part in str(caught.value)


def test_a_folder_for_downloads_is_not_made_in_one_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DivtrainError, match=r"so is the parent folder .*another folder as `root`"):
        load_dataset("mnist", tmp_path / "no/such")
    assert not (tmp_path / "no").exists()


def save_mnist(root: Path, train: np.ndarray, test: np.ndarray) -> Path:
    """MNIST's own files, whose format is a magic number, the shape, the bytes."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, images in (("train", train), ("t10k", test)):
        labels = np.arange(len(images), dtype=np.uint8) % 10
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = np.array([0x800 + array.ndim, *array.shape], dtype=">u4").tobytes()
            (raw / f"{part}-{kind}-ubyte").write_bytes(head + array.tobytes())
    return raw


def test_mnist_files_are_read_pixel_for_pixel(tmp_path: Path) -> None:
    train, test = DRAW.integers(0, 256, (2, 12, 28, 28)).astype(np.uint8)
    save_mnist(tmp_path, train, test)
    dataset = load_dataset("mnist", tmp_path)
    assert torch.equal(dataset.train.x, torch.from_numpy(train)[:, None] / 255)
    assert torch.equal(dataset.test.x, torch.from_numpy(test)[:, None] / 255)
    assert dataset.train.y.tolist() == [*range(10), 0, 1]
    assert dataset.classes == 10


@pytest.mark.parametrize("keep", [0, 3, 40, 5000])
def test_damaged_mnist_files_are_refused(tmp_path: Path, keep: int) -> None:
    raw = save_mnist(tmp_path, *DRAW.integers(0, 256, (2, 12, 28, 28)).astype(np.uint8))
    file = raw / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(
        DivtrainError, match=r"the mnist files are .*damaged.*another folder as `root`"
    ):
        load_dataset("mnist", tmp_path)


def made(x: Tensor, y: Tensor) -> Dataset:
    return Dataset("made", Images(x, y), Images(x[:2].clone(), y[:2].clone()), 2)


def test_channel_mean_and_std_are_numpys_and_a_constant_channel_has_1() -> None:
    x = DRAW.random((7, 3, 4, 4)) * np.array([1, 0.5, 0.0])[:, None, None] + 0.1
    dataset = made(torch.from_numpy(x).float(), torch.arange(7) % 2)
    channels = x.transpose(1, 0, 2, 3).reshape(3, -1)
    assert dataset.channel_mean == pytest.approx(channels.mean(1), rel=1e-5)
    assert dataset.channel_std == pytest.approx([*channels.std(1, ddof=1)[:2], 1.0], rel=1e-5)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("what", ["x", "y"])
def test_fingerprint_changes_with_any_pixel_or_label_and_with_nothing_else(
    split: str, what: str
) -> None:
    def dataset() -> Dataset:
        return made(torch.zeros(4, 1, 3, 3), torch.arange(4) % 2)

    seen = {dataset().fingerprint, dataset().fingerprint}
    assert len(seen) == 1
    size = getattr(getattr(dataset(), split), what).numel()
    for place in range(size):
        changed = dataset()
        getattr(getattr(changed, split), what).view(-1)[place] += 1
        seen.add(changed.fingerprint)
    assert len(seen) == 1 + size


def test_fingerprint_tells_apart_the_same_bytes_in_another_shape_and_is_cached() -> None:
    x, y = torch.rand(4, 1, 4, 4), torch.arange(4) % 2
    dataset = made(x, y)
    assert dataset.fingerprint != made(x.reshape(4, 4, 2, 2), y).fingerprint
    before = dataset.fingerprint
    x.zero_()
    assert dataset.fingerprint == before
