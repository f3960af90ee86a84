"""Data sets: the bundled digits, IDX files and .npz files, and every way in which a file can be wrong."""

from __future__ import annotations

import dataclasses
import errno
import gzip
import hashlib
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnn.datasets import load, read_idx
from fastnn.errors import FileError, FormatError, InputError, InputTypeError

TYPES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, TYPES[array.dtype.name], array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def images(count: int, side: int = 3) -> np.ndarray:
    return (np.arange(count * side * side) % 256).astype(np.uint8).reshape(count, side, side)


def labels(count: int, classes: int = 4) -> np.ndarray:
    return (np.arange(count) % classes).astype(np.uint8)


def write_folder(folder: Path, dot: str = "-", end: str = "", **changed: np.ndarray) -> Path:
    parts = {"train_images": images(7), "train_labels": labels(7), "t10k_images": images(5), "t10k_labels": labels(5)} | changed
    folder.mkdir(exist_ok=True)
    for part, array in parts.items():
        content = idx(array)
        name = f"{part.replace('_', '-')}{dot}idx{3 if 'images' in part else 1}-ubyte{end}"
        (folder / name).write_bytes(gzip.compress(content, mtime=0) if end else content)
    return folder


def write_npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


# The digits.


def test_digits_are_all_of_scikit_learns_digits() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    X, y = datasets.load_digits(return_X_y=True)
    data = load("digits")
    assert data.X_train.shape == (1437, 64)
    assert data.X_test is not None
    assert data.y_test is not None
    assert data.X_test.shape == (360, 64)
    assert data.X_train.dtype == data.X_test.dtype == np.float32
    assert data.y_train.dtype == data.y_test.dtype == np.int64
    assert (data.shape, data.classes, data.scale, data.features, data.outputs) == ((8, 8), 10, 1.0, 64, 10)
    ours = np.column_stack([np.vstack([data.X_train, data.X_test]) * 16, np.concatenate([data.y_train, data.y_test])])
    theirs = np.column_stack([X, y])
    np.testing.assert_array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


def test_digits_are_split_the_same_everywhere() -> None:
    data = load("digits")
    assert data.X_test is not None
    assert data.y_test is not None
    assert np.bincount(data.y_test, minlength=10).min() >= 20
    digest = hashlib.sha256(data.X_test.astype("<f4").tobytes() + data.y_test.astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "51f25625349e6f60"


def test_loading_the_digits_needs_numpy_alone() -> None:
    code = """
import sys
import fastnn.datasets
fastnn.datasets.load("digits")
print([name for name in ("sklearn", "scipy", "numba", "cupy") if name in sys.modules])
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


# IDX.


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(0,), (1,), (31,), (7, 0), (3, 5, 2), (2, 3, 4, 5)])
def test_read_idx_reads_every_type(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = (np.arange(np.prod(shape)) * 37 - 60).astype(dtype).reshape(shape)
    for name, content in (("plain", idx(array)), ("small.gz", gzip.compress(idx(array), mtime=0))):
        (tmp_path / name).write_bytes(content)
        result = read_idx(tmp_path / name)
        assert result.dtype == np.dtype(dtype)
        assert result.dtype.isnative
        np.testing.assert_array_equal(result, array)
        assert result.shape == shape


def test_read_idx_reads_more_than_one_piece(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (3, 1000, 999), np.uint8)
    (tmp_path / "large").write_bytes(idx(array))
    np.testing.assert_array_equal(read_idx(tmp_path / "large"), array)


WHOLE = idx(images(2))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file.*nothing"),
        (b"\0\0\x08", "not an IDX file"),
        (b"PNG?" + WHOLE[4:], "not an IDX file.*50 4e 47 3f"),
        (b"\0\0\x07\x03" + WHOLE[4:], "not an IDX file.*00 00 07 03"),
        (b"\0\0\x08\x00" + WHOLE[4:], "not an IDX file"),
        (WHOLE[:9], "ends within its header: expected 12 bytes of dimensions, got 5"),
        (WHOLE[:-1], r"ends early: its header \(2, 3, 3\) promises 18 bytes of uint8, got 17"),
        (WHOLE[:16], "ends early.*got 0"),
        (WHOLE + b"\0", "continues after its end"),
        # A header that promises 2^128 bytes costs no memory.
        (b"\0\0\x08\x04" + b"\xff" * 16 + b"few", "ends early.*got 3"),
        (gzip.compress(WHOLE, mtime=0)[:-12], "not a whole gzip file"),
        (gzip.compress(WHOLE, mtime=0)[:20] + b"\xff\xff\xff\xff" + gzip.compress(WHOLE)[24:], "not a whole gzip file"),
        (gzip.compress(WHOLE[:-1], mtime=0), "ends early"),
    ],
)
def test_read_idx_says_what_is_wrong(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(FormatError, match=message) as caught:
        read_idx(tmp_path / "file")
    assert str(tmp_path / "file") in str(caught.value)


def test_read_idx_of_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=rf"cannot read .*missing: {os.strerror(errno.ENOENT)}"):
        read_idx(tmp_path / "missing")
    with pytest.raises(FileError, match="cannot read"):
        read_idx(tmp_path)


@pytest.mark.parametrize("dot", ["-", "."])
@pytest.mark.parametrize("end", ["", ".gz"])
def test_a_folder_of_idx_files(tmp_path: Path, dot: str, end: str) -> None:
    data = load(write_folder(tmp_path / "shapes", dot, end))
    assert data.name == "shapes"
    assert (data.shape, data.classes, data.scale) == ((3, 3), 4, 1 / 255)
    np.testing.assert_array_equal(data.X_train, images(7).reshape(7, 9))
    np.testing.assert_array_equal(data.X_test, images(5).reshape(5, 9))
    np.testing.assert_array_equal(data.y_train, labels(7))
    np.testing.assert_array_equal(data.y_test, labels(5))
    assert data.X_train.dtype == np.uint8
    assert data.y_train.dtype == np.int64


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_labels": labels(8)}, "holds 7 images and .* 8 labels"),
        ({"t10k_images": images(4)}, "holds 4 images and .* 5 labels"),
        ({"t10k_images": images(5, 4)}, r"the training images are \(3, 3\), the test images \(4, 4\)"),
        ({"train_images": labels(7)}, "expected uint8 of 3 dimensions"),
        ({"train_labels": np.zeros(7, np.float32)}, "holds float32 of shape .*, expected uint8 of 1 dim"),
        ({"train_images": images(0), "train_labels": labels(0)}, "no training images"),
    ],
)
def test_a_folder_whose_files_do_not_fit(tmp_path: Path, changed: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        load(write_folder(tmp_path / "shapes", **changed))


def test_a_folder_that_lacks_a_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"there is no train-images-idx3-ubyte in .*train-images.idx3-ubyte.gz"):
        load(tmp_path)
    (write_folder(tmp_path / "shapes") / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileError, match="there is no t10k-labels-idx1-ubyte in"):
        load(tmp_path / "shapes")


def test_mnist_is_looked_for_in_fastnn_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTNN_DATA", raising=False)
    with pytest.raises(FileError, match="set FASTNN_DATA"):
        load("mnist")
    monkeypatch.setenv("FASTNN_DATA", str(tmp_path))
    with pytest.raises(FileError, match=r"there is no folder .*mnist"):
        load("mnist")
    write_folder(tmp_path / "mnist")
    assert load("mnist").name == "mnist"


@pytest.mark.skipif(not Path(os.environ.get("FASTNN_DATA", "/nowhere"), "mnist").is_dir(), reason="no MNIST in $FASTNN_DATA")
def test_mnist_itself() -> None:
    data = load("mnist")
    assert data.X_test is not None
    assert data.y_test is not None
    assert (data.X_train.shape, data.X_test.shape) == ((60000, 784), (10000, 784))
    assert (data.shape, data.classes) == ((28, 28), 10)
    # The published counts of the digits 0 to 9.
    assert np.bincount(data.y_train).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(data.y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    # And the published mean of the training pixels.
    assert round(float(data.X_train.mean()) / 255, 4) == 0.1307


# .npz.


@pytest.mark.parametrize(
    "names",
    [("X", "y", "X_test", "y_test"), ("x_train", "y_train", "x_test", "y_test"), ("X_train", "Y_train", "X_test", "Y_test")],
)
def test_npz_with_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    X, y = np.arange(12.0).reshape(4, 3), np.array([0, 1, 1, 0], np.uint8)
    arrays = dict(zip(names, (X, y, X[:2], np.array([0, 2], np.int32)), strict=True))
    data = load(write_npz(tmp_path / "mine.npz", **arrays, comment=np.array("unread")))
    assert (data.name, data.shape, data.classes, data.outputs, data.scale) == ("mine", (3,), 3, 3, 1.0)
    np.testing.assert_array_equal(data.X_train, X)
    np.testing.assert_array_equal(data.X_test, X[:2])
    assert data.y_train.dtype == np.int64
    np.testing.assert_array_equal(data.y_train, y)
    np.testing.assert_array_equal(data.y_test, [0, 2])


def test_npz_with_targets_and_no_test_data(tmp_path: Path) -> None:
    X, y = np.zeros((5, 2, 3), np.uint8), np.linspace(0, 1, 5)
    data = load(write_npz(tmp_path / "mine.npz", X=X, y=y))
    assert (data.X_train.shape, data.y_train.shape) == ((5, 6), (5, 1))
    assert (data.X_test, data.y_test) == (None, None)
    assert (data.shape, data.classes, data.outputs, data.scale) == ((2, 3), None, 1, 1 / 255)


@pytest.mark.parametrize(
    ("y", "test", "classes"),
    [
        (np.array([-1, 1, 7, 7]), np.array([9]), 4),
        (np.array(["red", "blue", "red", "red"]), np.array(["green"]), 3),
        (np.array([True, False, True, True]), np.array([True]), 2),
    ],
)
def test_npz_with_labels_of_any_kind(tmp_path: Path, y: np.ndarray, test: np.ndarray, classes: int) -> None:
    X = np.zeros((4, 2))
    data = load(write_npz(tmp_path / "mine.npz", X=X, y=y, X_test=X[:1], y_test=test))
    np.testing.assert_array_equal(data.y_train, y)
    np.testing.assert_array_equal(data.y_test, test)
    assert data.y_train.dtype == y.dtype
    assert (data.classes, data.outputs, data.feature_names) == (classes, classes, None)


X3, Y3 = np.zeros((3, 2)), np.array([0, 1, 2])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "has no array 'X'; it holds nothing"),
        ({"X": X3}, "has no array 'y'; it holds 'X'"),
        ({"X": X3, "y": Y3, "X_test": X3}, "has no array 'y_test'"),
        ({"X": X3, "y": Y3, "y_test": Y3}, "has no array 'X_test'"),
        ({"X": X3, "y": Y3, "X_train": X3}, "twice"),
        ({"X": X3, "y": Y3[:2]}, "X has 3 rows and its y 2"),
        ({"X": X3[:, 0], "y": Y3}, r"X is float64 \(3,\), expected .*\(examples, features\)"),
        ({"X": X3.astype("U8"), "y": Y3}, f"X is {np.dtype('U8')}"),
        ({"X": X3[:0], "y": Y3[:0]}, "X has no rows"),
        ({"X": X3, "y": Y3.astype("S")}, "expected labels"),
        ({"X": X3, "y": np.eye(3, dtype=int)}, "expected labels"),
        ({"X": X3, "y": np.zeros((3, 1, 1))}, "expected labels"),
        ({"X": X3, "y": Y3, "X_test": X3[:, :1], "y_test": Y3}, r"an example of X has the shape \(2,\), one of X_test \(1,\)"),
        ({"X": X3, "y": Y3, "X_test": X3, "y_test": Y3 / 2}, "they must be alike"),
        ({"X": np.array([[None]]), "y": Y3[:1]}, r"X holds Python objects, .* save X.astype\(str\)"),
    ],
)
def test_npz_that_does_not_fit(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        load(write_npz(tmp_path / "mine.npz", **arrays))


def test_npz_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    with pytest.raises(FileError, match="there is no file"):
        load(path)
    for text in (b"text", b""):
        path.write_bytes(text)
        with pytest.raises(FormatError, match=r"mine.npz is no .npz file, or is damaged$"):
            load(path)
    for name in (3, None):
        with pytest.raises(InputTypeError, match=f"expected the name of a data set or a path, got {name}"):
            load(name)  # type: ignore[arg-type]
    with path.open("wb") as file:
        np.save(file, X3)
    with pytest.raises(FormatError, match="single array"):
        load(path)
    whole = write_npz(tmp_path / "whole.npz", X=X3, y=Y3).read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(FormatError, match="cannot read"):
        load(path)


# Names.


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'digts'; did you mean 'digits'\?"):
        load("digts")
    with pytest.raises(
        InputError,
        match="known are 'blobs', 'cifar10', 'cifar100', 'circles', 'digits', 'flower', 'flowers', 'houses', 'mnist'",
    ):
        load("zzz")
    with pytest.raises(FileError, match="there is no file or folder"):
        load(tmp_path / "missing")
    (tmp_path / "table.xls").write_text("1,2\n")
    with pytest.raises(FormatError, match=r"expected an \.npz file, a table \(\.csv, .*\) or a folder with IDX files"):
        load(tmp_path / "table.xls")


def test_a_data_set_says_what_it_holds_and_prints_no_arrays() -> None:
    digits = load("digits")
    assert repr(digits) == (
        "Dataset('digits', X_train: float32 (1437, 64), y_train: int64 (1437,), X_test: float32 (360, 64), "
        "y_test: int64 (360,), classes=10, scale=1)"
    )
    assert "X_test" not in repr(dataclasses.replace(digits, X_test=None, y_test=None))


def test_rows_of_images_are_images_again(tmp_path: Path) -> None:
    digits = load("digits")
    assert (digits.image_shape, digits.features) == ((8, 8), 64)
    shown = digits.as_images()
    assert shown.X_train.shape == (1437, 8, 8)
    assert shown.X_test is not None
    assert shown.X_test.shape == (360, 8, 8)
    assert np.shares_memory(shown.X_train, digits.X_train)
    assert (shown.features, shown.shape, shown.image_shape, shown.outputs) == (64, (8, 8), (8, 8), 10)
    np.testing.assert_array_equal(shown.as_images((8, 4, 2)).X_train.reshape(-1, 64), digits.X_train)
    folder = load(write_folder(tmp_path / "set")).as_images()
    np.testing.assert_array_equal(folder.X_train, images(7))
    color = np.arange(2 * 4 * 5 * 3, dtype="uint8").reshape(2, 4, 5, 3)
    np.savez(tmp_path / "color.npz", X=color, y=[0, 1])
    np.testing.assert_array_equal(load(tmp_path / "color.npz").as_images().X_train, color)
    np.savez(tmp_path / "flat.npz", X=color.reshape(2, 60), y=[0, 1])
    flat = load(tmp_path / "flat.npz")
    assert flat.image_shape is None
    np.testing.assert_array_equal(flat.as_images((4, 5, 3)).X_train, color)
    with pytest.raises(InputError, match=r"flat: the examples are 60 numbers of no known shape; say it, as in as_images\(\(28"):
        flat.as_images()
    with pytest.raises(InputError, match="shape: an image has 4 x 5 = 20 numbers, and an example of flat 60"):
        flat.as_images((4, 5))
    for wrong in ((60,), (4, 5, 3, 1), (-4, -15), (4, 15.0)):
        with pytest.raises(InputError, match=r"shape: expected \(H, W\) or \(H, W, C\), integers >= 1, got"):
            flat.as_images(wrong)  # type: ignore[arg-type]
