"""`load`: a data set by its name or from a path, checked and in one form."""

from __future__ import annotations

import gzip
import math
import os
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import fastnn.random
from fastnn.datasets import cifar, samples
from fastnn.datasets.idx import read_idx
from fastnn.datasets.planar import PLANAR
from fastnn.datasets.splitting import split
from fastnn.datasets.tables import Table, is_number, is_table, listing, read_table, select
from fastnn.datasets.text import ENDS
from fastnn.errors import FileError, FormatError, InputError, InputTypeError, nearest

DIGITS_TEST = 360
IDX_NAMES = {"train": "train", "test": "t10k"}
FOLDERS: dict[str, tuple[str, ...]] = {
    "mnist": ("mnist",),
    **{name: (name, kind.archive) for name, kind in cifar.KINDS.items()},
}
"""Data sets that are looked for in $FASTNN_DATA, and what their folders may be called there."""
NAMES = ("digits", *FOLDERS, *samples.TARGETS, *PLANAR)
TARGETS = ("y", "target", "label", "class")
"""Columns that are the target where none is named."""
FORMATS = f"expected an .npz file, a table ({', '.join(ENDS)})"


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Examples in rows: `X` is (examples, features), `y` labels (examples,) or targets (examples, outputs). `as_images` makes
    images of rows.

    Labels are integers (int64), text or booleans, and need not be 0, 1, 2, ...; targets are floating-point numbers.
    """

    name: str
    X_train: np.ndarray
    y_train: np.ndarray
    X_test: np.ndarray | None
    y_test: np.ndarray | None
    shape: tuple[int, ...]
    """The shape of one example before it was made a row, e.g. (28, 28)."""
    classes: int | None
    """How many different labels there are; None if `y` holds targets."""
    scale: float
    """What the features are to be multiplied by: 1/255 for uint8 images, else 1."""
    source: str
    """Where the data come from, in one sentence."""
    feature_names: tuple[str, ...] | None = None
    """The names of the columns of `X`, where it was a table."""

    def __repr__(self) -> str:
        arrays = ((name, getattr(self, name)) for name in ("X_train", "y_train", "X_test", "y_test"))
        shown = (f"{name}: {array.dtype} {array.shape}" for name, array in arrays if array is not None)
        return f"Dataset({self.name!r}, {', '.join(shown)}, classes={self.classes}, scale={self.scale:.4g})"

    @property
    def features(self) -> int:
        """How many numbers an example has."""
        return math.prod(self.X_train.shape[1:])

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """(H, W) or (H, W, C) where the examples are images; else None."""
        return self.shape if len(self.shape) in (2, 3) else None

    def as_images(self, shape: Sequence[int] | None = None) -> Dataset:
        """The same with images (n, H, W) or (n, H, W, C) in the place of rows, views of the same memory:

            data = fastnn.datasets.load("mnist").as_images()    # X_train: uint8 (60000, 28, 28)

        `shape`: (H, W) or (H, W, C) where `image_shape` does not know it. Raises InputError where it does not fit, and where
        the examples are no images.
        """
        if shape is None and self.image_shape is None:
            raise InputError(
                f"{self.name}: the examples are {self.features} numbers of no known shape; say it, as in as_images((28, 28))"
            )
        image = tuple(self.shape if shape is None else shape)
        if len(image) not in (2, 3) or not all(isinstance(length, int) and length >= 1 for length in image):
            raise InputError(f"shape: expected (H, W) or (H, W, C), integers >= 1, got {shape!r}")
        if math.prod(image) != self.features:
            numbers = f"{' x '.join(map(str, image))} = {math.prod(image)}"
            raise InputError(f"shape: an image has {numbers} numbers, and an example of {self.name} {self.features}")
        X_test = None if self.X_test is None else self.X_test.reshape(len(self.X_test), *image)
        return replace(self, X_train=self.X_train.reshape(len(self.X_train), *image), X_test=X_test, shape=image)

    @property
    def outputs(self) -> int:
        """The number of outputs that a network for these data has."""
        if self.classes is not None:
            return self.classes
        return int(self.y_train.shape[1])


def load(
    name: str | os.PathLike[str],
    target: str | Sequence[str] | None = None,
    *,
    features: Sequence[str] | None = None,
    drop: str | Sequence[str] = (),
    separator: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    missing: str | Sequence[str] | None = None,
) -> Dataset:
    """The data set called `name`, or the one in the folder or file of that path.

    - `"digits"`: 1,797 images of 8 x 8 pixels, handwritten, that come with fastnn (float32, 0 to 1), 1,437 to train
      on and 360 to test on: the first 360 of the permutation `permutation(key(0, SPLIT), 0, 1797)` of `fastnn.random` are the
      test images.
    - `"mnist"`, `"cifar10"`, `"cifar100"`: the folder of that name in `$FASTNN_DATA` (of CIFAR also `cifar-10-batches-bin` or
      `cifar-100-binary`, as the archives unpack), read as any folder of such files.
    - `"houses"`, `"flowers"`: two small tables that come with fastnn, see `houses` and `flowers`.
    - `"flower"`, `"circles"`, `"moons"`, `"blobs"`, `"quantiles"`: points in the plane, see `fastnn.datasets.planar`; a fifth
      of each class are test data.
    - a folder with MNIST's four IDX files (`train-images-idx3-ubyte`, with `.` before `idx3` or `.gz` at the end as well):
      uint8 rows and the scale 1/255; with `.as_images()` behind it, images (n, 28, 28). Fashion-MNIST, KMNIST and EMNIST's
      splits of the same names are read the same way.
    - a folder with the binary files of CIFAR-10 (`data_batch_1.bin` to `data_batch_5.bin`, `test_batch.bin`) or CIFAR-100
      (`train.bin`, `test.bin`), see `read_cifar`: uint8 rows, images (n, 32, 32, 3) with `.as_images()`, and the scale 1/255.
      The labels are the names of the classes where `batches.meta.txt` (or `fine_label_names.txt`) says them, else numbers;
      `target="coarse"` takes the 20 coarse labels of CIFAR-100.
    - a `.npz` file with `X` and `y`, and `X_test` and `y_test` if there are test data (`X_train`, `y_train` are understood
      too, and small letters). Integers, text and booleans in `y` are labels, floating-point numbers are targets.
    - a table (`.csv`, `.tsv`, either with `.gz`, or `.parquet`; needs PyArrow) with the names of its columns in the first row.
      `target` names the column to be predicted; None takes the one called `y`, `target`, `label` or `class`. Text, truth
      values and integers in it are labels, floating-point numbers a target; several columns, `["a", "b"]` or `["a"]`, are
      targets in any case. The features are the columns in `features`, in this order, or all others but those in `drop` and an
      index of pandas without a name; they must hold numbers. `separator`, `decimal`, `encoding` and `missing` say how a text is
      written, see `read_table`. `"-"` is a table in standard input.
    """
    if not isinstance(name, str | os.PathLike):
        raise InputTypeError(f"expected the name of a data set or a path, got {name!r}")
    path = Path(name).expanduser()
    if target is not None and not (is_table(path) or name in NAMES) and not path.exists():
        raise FileError(f"there is no file {path}")
    folder = _folder_of(name) if name in FOLDERS else path if path.is_dir() else None
    kind = None if folder is None else cifar.kind_of(folder)
    if target is not None and kind is None and not is_table(path):
        raise InputError(f"target: only tables ({', '.join(ENDS)}) have columns to choose from, and {str(name)!r} is none")
    if not is_table(path):
        options = {
            "features": features, "drop": drop or None, "separator": separator, "decimal": decimal, "encoding": encoding,
            "missing": missing,
        }  # fmt: skip
        for option in (option for option, value in options.items() if value is not None):
            raise InputError(f"{option}: only tables ({', '.join(ENDS)}) are read so, and {str(name)!r} is none")
    if name == "digits":
        return _digits()
    if name in samples.TARGETS:
        return {"houses": houses, "flowers": flowers}[str(name)]()
    if name in PLANAR:
        return _planar(str(name))
    if folder is not None:
        title = str(name) if name in FOLDERS else folder.resolve().name
        if name in cifar.KINDS and name != kind:
            raise FileError(f"there are no binary files of {cifar.KINDS[str(name)].title} in {folder}")
        if kind is not None and name != "mnist":
            return _cifar_folder(folder, kind, title, target)
        return _idx_folder(folder, title)
    if path.suffix == ".npz":
        return _npz(path)
    if is_table(path):
        table = read_table(path, separator=separator, decimal=decimal, encoding=encoding, missing=missing)
        return _table(table, target, features, drop)
    if path.exists():
        raise FormatError(f"cannot read {path}: {FORMATS} or a folder with IDX files or CIFAR's binary files")
    if path.parent != Path("."):
        raise FileError(f"there is no file or folder {path}")
    raise InputError(f"there is no data set or file called {str(name)!r}{nearest(name, NAMES)}")


def houses() -> Dataset:
    """400 made-up houses and their prices, a regression: 320 to train on and 80 to test on.

    The features are area (square meters), rooms, age (years), distance (kilometers to the center) and garden (square meters),
    the target is the price. No house of them is real: `fastnn.datasets.samples` says by which rule they were made. They are
    part of fastnn, under its license. `fastnn data houses --to houses.csv` writes them as a table.
    """
    names, (X, y), (X_test, y_test) = _sample("houses")
    y, y_test = (values.astype(np.float64).reshape(-1, 1) for values in (y, y_test))
    return Dataset("houses", X, y, X_test, y_test, (len(names),), None, 1.0, "Made by fastnn.datasets.samples.", names)


def flowers() -> Dataset:
    """300 made-up flowers of three species, daisy, poppy and tulip: 240 to train on and 60 to test on, as many of each.

    The features are the lengths of stem and petal, the width of a petal (centimeters) and the number of petals; the labels are
    strings. `fastnn.datasets.samples` says by which rule they were made. They are part of fastnn, under its license.
    `fastnn data flowers --to flowers.csv` writes them as a table.
    """
    names, (X, y), (X_test, y_test) = _sample("flowers")
    return Dataset("flowers", X, y, X_test, y_test, (len(names),), 3, 1.0, "Made by fastnn.datasets.samples.", names)


def split_sample(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a sample table to train on and to test on, in order: a fifth, and as much of each label."""
    names, rows = samples.read(name)
    target = names.index(samples.TARGETS[name])
    train, test = split(np.arange(len(rows)), stratify=[row[target] for row in rows] if name == "flowers" else None)
    return np.sort(train), np.sort(test)


def _sample(name: str) -> tuple[tuple[str, ...], tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The names of the features of a sample table, and (X, y) to train on and to test on, y as text."""
    names, rows = samples.read(name)
    table, target = np.array(rows), names.index(samples.TARGETS[name])
    X, y = np.delete(table, target, axis=1).astype(np.float64), table[:, target]
    train, test = split_sample(name)
    return tuple(each for each in names if each != samples.TARGETS[name]), (X[train], y[train]), (X[test], y[test])


def read_features(
    path: str | os.PathLike[str], names: Sequence[str] | None = None
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """The inputs in a table or `.npz` file, to predict from, and the names of their columns: X (examples, features), names.

    `names`: the columns of a table to take, in this order; others are ignored. None takes all but an index of pandas without a
    name. An `.npz` file needs `X` alone, has no names, and is taken as it is.
    """
    path = Path(path).expanduser()
    if is_table(path):
        return take_features(read_table(path), names)
    if path.suffix != ".npz":
        raise FormatError(f"cannot read {path}: {FORMATS}") if path.exists() else FileError(f"there is no file {path}")
    arrays, contents = _read_npz(path)
    if "x" not in arrays:
        raise FormatError(f"{path} has no array 'X'; it holds {contents}")
    X = _numbers(path, "X", arrays["x"])
    if names is not None and math.prod(X.shape[1:]) != len(names):
        raise FormatError(f"{path}: expected {len(names)} features, got X of shape {X.shape}")
    return X.reshape(len(X), math.prod(X.shape[1:])), None


def take_features(table: Table, names: Sequence[str] | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """X (rows, columns) of these columns of a table, or of all but an unnamed index, and their names."""
    if names is None:
        table = table.drop_unnamed_index()
    chosen = table.names if names is None else tuple(names)
    return select(table, chosen), chosen


def _planar(name: str) -> Dataset:
    X, y = PLANAR[name]()
    (X, y), (X_test, y_test) = split(X, y, stratify=y)
    return Dataset(name, X, y, X_test, y_test, (2,), 2, 1.0, f"Points of fastnn.datasets.{name}().", ("x1", "x2"))


def _table(
    table: Table, target: str | Sequence[str] | None, features: Sequence[str] | None, drop: str | Sequence[str]
) -> Dataset:
    source = table.source
    if features is None:
        table = table.without([drop] if isinstance(drop, str) else drop)
    if target is None:
        target = _find_target(table)
    several = not isinstance(target, str)
    targets = [target] if isinstance(target, str) else list(target)
    if not targets or len(set(targets)) < len(targets):
        raise InputError(f"target: expected different names of columns, got {target!r}")
    y = select(table, targets).astype(np.float64) if several else table[targets[0]]
    others = tuple(name for name in table.names if name not in targets)
    labels = y.dtype.kind in "Ub" and target in np.unique(y).astype(str)
    if labels and others and all(map(is_number, others)):  # a spam mail may be called so in a column called so
        raise FormatError(
            f"{source}: expected the names of the columns in the first row, got {listing(table.names)}, and {target!r} "
            "is a label in other rows too; put the names there"
        )
    if not others:
        raise FormatError(f"{source}: there is no column beside the target")
    X, names = take_features(table if several else table.without(targets), features)
    if y.dtype.kind == "f":
        y, outputs = y.reshape(len(y), -1), None
    else:
        outputs = len(np.unique(y))
    return Dataset(source.name, X, y, None, None, (len(names),), outputs, 1.0, f"Table in {source}.", names)


def _find_target(table: Table) -> str:
    """The column that is called as targets are. Raises InputError where there is none, or more than one."""
    candidates = [name for name in TARGETS if name in table.names]
    if len(candidates) == 1:
        return candidates[0]
    which = f"{' and '.join(map(repr, candidates))} might be it" if candidates else f"there are {listing(table.names)}"
    example = (candidates or table.names)[-1]
    values = any(re.fullmatch(r"[-+]?\d*\.\d+", name) for name in table.names)
    which += "; if these are values, put the names of the columns above them" * values
    raise InputError(f"{table.source}: which column is the target? Name it, as in target={example!r}; {which}")


def _digits() -> Dataset:
    path = Path(__file__).with_name("digits.csv.gz")
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    except (OSError, EOFError, ValueError) as error:
        raise FileError(f"cannot read the digits of the installed fastnn: {error}") from error
    if table.shape != (1797, 65):
        raise FormatError(f"the digits of the installed fastnn have the shape {table.shape}, expected (1797, 65): {path}")
    X = table[:, :64].astype(np.float32) / np.float32(16)
    y = table[:, 64].astype(np.int64)
    order = fastnn.random.permutation(fastnn.random.key(0, fastnn.random.SPLIT), 0, len(y))
    test, train = np.sort(order[:DIGITS_TEST]), np.sort(order[DIGITS_TEST:])
    source = "Test part of Optical Recognition of Handwritten Digits (Alpaydin & Kaynak 1998, UCI, CC BY 4.0)."
    return Dataset("digits", X[train], y[train], X[test], y[test], (8, 8), 10, 1.0, source)


def _folder_of(name: str | os.PathLike[str]) -> Path:
    """The folder of a data set in $FASTNN_DATA."""
    root, names = os.environ.get("FASTNN_DATA"), FOLDERS[str(name)]
    if not root:
        title = cifar.KINDS[str(name)].title if name in cifar.KINDS else "MNIST"
        files = "binary files" if name in cifar.KINDS else "four IDX files"
        raise FileError(
            f"where is {title}? Put its {files} into a folder {names[0]!r} and set FASTNN_DATA to the folder around it, "
            "or give the path of the folder instead of the name"
        )
    folders = [Path(root).expanduser() / folder for folder in names]
    for folder in folders:
        if folder.is_dir():
            return folder
    others = "".join(f" (nor {folder.name})" for folder in folders[1:])
    raise FileError(f"there is no folder {folders[0]}{others}; FASTNN_DATA is {root}")


def labels_of(name: str | os.PathLike[str]) -> tuple[str, ...]:
    """The labels of which `target` chooses one, where the data are no table and have several kinds; else none."""
    folder = _folder_of(name) if name in FOLDERS else Path(name).expanduser()
    kind = cifar.kind_of(folder) if folder.is_dir() else None
    return () if kind is None else tuple(cifar.KINDS[kind].labels)


def _cifar_folder(folder: Path, kind: str, name: str, target: str | Sequence[str] | None) -> Dataset:
    labels = tuple(cifar.KINDS[kind].labels)
    label = labels[-1] if target is None else target
    if not isinstance(label, str) or label not in labels:
        raise InputError(
            f"target: the labels of {cifar.KINDS[kind].title} are {' and '.join(map(repr, labels))}, got {target!r}"
        )
    (X_train, y_train), (X_test, y_test) = (cifar.read_part(folder, kind, part, label) for part in ("train", "test"))
    return Dataset(
        name,
        X_train.reshape(len(X_train), cifar.PIXELS),
        y_train,
        X_test.reshape(len(X_test), cifar.PIXELS),
        y_test,
        cifar.SHAPE,
        len(np.union1d(y_train, y_test)),
        1 / 255,
        f"Binary files of {cifar.KINDS[kind].title} in {folder}.",
    )


def _idx_folder(folder: Path, name: str) -> Dataset:
    parts = {}
    for part, prefix in IDX_NAMES.items():
        images = _find_idx(folder, prefix, "images", 3)
        labels = _find_idx(folder, prefix, "labels", 1)
        X, y = read_idx(images), read_idx(labels)
        for array, path, dimensions in ((X, images, 3), (y, labels, 1)):
            if array.dtype != np.uint8 or array.ndim != dimensions:
                actual = f"{array.dtype} of shape {array.shape}"
                raise FormatError(f"{path} holds {actual}, expected uint8 of {dimensions} dimensions")
        if len(X) != len(y):
            raise FormatError(f"{images} holds {len(X)} images and {labels} {len(y)} labels: they do not belong together")
        parts[part] = X, y
    (X_train, y_train), (X_test, y_test) = parts["train"], parts["test"]
    if X_train.shape[1:] != X_test.shape[1:]:
        raise FormatError(f"{folder}: the training images are {X_train.shape[1:]}, the test images {X_test.shape[1:]}")
    if not len(X_train):
        raise FormatError(f"{folder}: there are no training images")
    shape = X_train.shape[1:]
    return Dataset(
        name,
        X_train.reshape(len(X_train), math.prod(shape)),
        y_train.astype(np.int64),
        X_test.reshape(len(X_test), math.prod(shape)),
        y_test.astype(np.int64),
        shape,
        len(np.union1d(y_train, y_test)),
        1 / 255,
        f"IDX files in {folder}.",
    )


def _find_idx(folder: Path, prefix: str, what: str, dimensions: int) -> Path:
    names = [f"{prefix}-{what}{dot}idx{dimensions}-ubyte{end}" for dot in "-." for end in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileError(f"there is no {names[0]} in {folder} (nor {', '.join(names[1:])})")


def _npz(path: Path) -> Dataset:
    arrays, contents = _read_npz(path)
    for key, called in {"x": "X", "y": "y", "x_test": "X_test", "y_test": "y_test"}.items():
        if key not in arrays and (key in ("x", "y") or {"x_test", "y_test"} & arrays.keys()):
            raise FormatError(f"{path} has no array {called!r}; it holds {contents}")
    X, y = _validate(path, "X", arrays["x"], arrays["y"])
    X_test, y_test = _validate(path, "X_test", arrays["x_test"], arrays["y_test"]) if "x_test" in arrays else (None, None)
    shape = X.shape[1:]
    if X_test is not None and y_test is not None:
        if X_test.shape[1:] != shape:
            raise FormatError(f"{path}: an example of X has the shape {shape}, one of X_test {X_test.shape[1:]}")
        if y_test.dtype.kind != y.dtype.kind or y_test.shape[1:] != y.shape[1:]:
            raise FormatError(f"{path}: y is {y.dtype} {y.shape}, y_test {y_test.dtype} {y_test.shape}: they must be alike")
        X_test = X_test.reshape(len(X_test), math.prod(shape))
    classes = None if y.dtype.kind == "f" else len(np.unique(y) if y_test is None else np.union1d(y, y_test))
    scale = 1 / 255 if X.dtype == np.uint8 else 1.0
    X = X.reshape(len(X), math.prod(shape))
    return Dataset(path.stem, X, y, X_test, y_test, shape, classes, scale, f"Arrays in {path}.")


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """The arrays x, y, x_test and y_test, as far as there are such, and what the file holds, in words."""
    if not path.is_file():
        raise FileError(f"there is no file {path}")
    arrays: dict[str, np.ndarray] = {}
    try:
        with path.open("rb") as stream:
            start = stream.read(6)
            stream.seek(0)
            if start == b"\x93NUMPY":
                raise FormatError(f"{path} holds a single array, expected an .npz file with X and y")
            if start[:2] != b"PK":
                raise FormatError(f"{path} is no .npz file, or is damaged")
            file = np.load(stream, allow_pickle=False)
            for name in file.files:
                key = name.lower().removesuffix("_train")
                if key in arrays:
                    raise FormatError(f"{path} has {name!r} twice: X and X_train, y and y_train mean the same")
                if key in ("x", "y", "x_test", "y_test"):
                    arrays[key] = _array(path, file, name)
            contents = ", ".join(map(repr, file.files)) or "nothing"
    except FormatError:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise FormatError(f"cannot read {path}: {error}") from error
    return arrays, contents


def _array(path: Path, file: Any, name: str) -> np.ndarray:
    try:
        array: np.ndarray = file[name]
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise
        cure = f"save {name}.astype(str) for strings, {name}.astype(float) for numbers"
        raise FormatError(f"{path}: {name} holds Python objects, expected numbers or strings; {cure}") from error
    return array


def _numbers(path: Path, name: str, X: np.ndarray) -> np.ndarray:
    if X.dtype.kind not in "fiub" or X.ndim < 2:
        raise FormatError(f"{path}: {name} is {X.dtype} {X.shape}, expected numbers of shape (examples, features)")
    return X


def _validate(path: Path, name: str, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`X` as it is, and `y` as labels (n,), integers as int64, or floating-point targets (n, outputs)."""
    _numbers(path, name, X)
    if y.ndim not in (1, 2) or y.dtype.kind not in "fiubU" or (y.dtype.kind != "f" and y.ndim != 1):
        raise FormatError(
            f"{path}: the y of {name} is {y.dtype} {y.shape}, expected labels (examples,) "
            "or floating-point targets (examples, outputs)"
        )
    if len(X) != len(y):
        raise FormatError(f"{path}: {name} has {len(X)} rows and its y {len(y)}: they must be of equal number")
    if name == "X" and not len(X):
        raise FormatError(f"{path}: X has no rows")
    if y.dtype.kind == "f":
        return X, y.reshape(len(y), -1) if len(y) else y.reshape(0, 1)
    return X, y.astype(np.int64) if y.dtype.kind in "iu" else y
