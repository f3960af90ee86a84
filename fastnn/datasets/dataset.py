"""`load`: a data set by its name or from a path, checked and in one form."""

from __future__ import annotations

import gzip
import importlib.util
import math
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import fastnn.random
from fastnn.datasets.idx import read_idx
from fastnn.errors import FileError, FormatError, InputError, nearest

DIGITS_TEST = 360
IDX_NAMES = {"train": "train", "test": "t10k"}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples in rows: `X` is (examples, features), `y` class indices (examples,) or targets (examples, outputs)."""

    name: str
    X_train: np.ndarray
    y_train: np.ndarray
    X_test: np.ndarray | None
    y_test: np.ndarray | None
    shape: tuple[int, ...]
    """The shape of one example before it was made a row, e.g. (28, 28)."""
    classes: int | None
    """The number of classes; None if `y` holds targets."""
    scale: float
    """What the features are to be multiplied by: 1/255 for uint8 images, else 1."""
    source: str
    """Where the data come from, in one sentence."""

    @property
    def features(self) -> int:
        return int(self.X_train.shape[1])

    @property
    def outputs(self) -> int:
        """The number of outputs that a network for these data has."""
        if self.classes is not None:
            return self.classes
        return int(self.y_train.shape[1])


def load(name: str | os.PathLike[str]) -> Dataset:
    """The data set called `name`, or the one in the folder or file of that path.

    - `"digits"`: 1,797 images of 8 x 8 pixels that come with scikit-learn (float32, 0 to 1), 1,437 to train on and 360 to
      test on: the first 360 of the permutation `permutation(key(0, SPLIT), 0, 1797)` of `fastnn.random` are the test images.
    - `"mnist"`: the folder `$FASTNN_DATA/mnist`, read as any folder of IDX files.
    - a folder with MNIST's four IDX files (`train-images-idx3-ubyte`, with `.` before `idx3` or `.gz` at the end as well):
      uint8 rows and the scale 1/255. Fashion-MNIST, KMNIST and EMNIST's splits of the same names are read the same way.
    - a `.npz` file with `X` and `y`, and `X_test` and `y_test` if there are test data (`X_train`, `y_train` are understood
      too, and small letters). Integers in `y` are class indices, floating-point numbers are targets.
    """
    if name == "digits":
        return _digits()
    if name == "mnist":
        return _mnist()
    path = Path(name).expanduser()
    if path.is_dir():
        return _idx_folder(path)
    if path.suffix == ".npz":
        return _npz(path)
    if path.exists():
        raise FormatError(f"cannot read {path}: expected an .npz file or a folder with IDX files")
    if path.parent != Path("."):
        raise FileError(f"there is no file or folder {path}")
    raise InputError(f"there is no data set or file called {str(name)!r}{nearest(name, ('digits', 'mnist'))}")


def _digits() -> Dataset:
    # The file alone: importing scikit-learn takes a second, and brings SciPy and joblib with it.
    spec = importlib.util.find_spec("sklearn")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise FileError("the digits come with scikit-learn, which is not installed: pip install scikit-learn")
    path = Path(folders[0], "datasets", "data", "digits.csv.gz")
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    except (OSError, EOFError, ValueError) as error:
        raise FileError(f"cannot read the digits of the installed scikit-learn: {error}") from error
    if table.shape != (1797, 65):
        raise FormatError(f"the digits of the installed scikit-learn have the shape {table.shape}, expected (1797, 65): {path}")
    X = table[:, :64].astype(np.float32) / np.float32(16)
    y = table[:, 64].astype(np.int64)
    order = fastnn.random.permutation(fastnn.random.key(0, fastnn.random.SPLIT), 0, len(y))
    test, train = np.sort(order[:DIGITS_TEST]), np.sort(order[DIGITS_TEST:])
    source = "Test part of UCI's Optical Recognition of Handwritten Digits, as bundled with scikit-learn."
    return Dataset("digits", X[train], y[train], X[test], y[test], (8, 8), 10, 1.0, source)


def _mnist() -> Dataset:
    root = os.environ.get("FASTNN_DATA")
    if not root:
        raise FileError(
            "where is MNIST? Put its four IDX files into a folder 'mnist' and set FASTNN_DATA to the folder around it, "
            "or give the path of the folder instead of the name"
        )
    folder = Path(root).expanduser() / "mnist"
    if not folder.is_dir():
        raise FileError(f"there is no folder {folder} (FASTNN_DATA is {root})")
    return _idx_folder(folder, "mnist")


def _idx_folder(folder: Path, name: str | None = None) -> Dataset:
    parts = {}
    for part, prefix in IDX_NAMES.items():
        images = _find_idx(folder, prefix, "images", 3)
        labels = _find_idx(folder, prefix, "labels", 1)
        X, y = read_idx(images), read_idx(labels)
        for array, path, dimensions in ((X, images, 3), (y, labels, 1)):
            if array.dtype != np.uint8 or array.ndim != dimensions:
                found = f"{array.dtype} of shape {array.shape}"
                raise FormatError(f"{path} holds {found}, expected uint8 of {dimensions} dimensions")
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
        name or folder.resolve().name,
        X_train.reshape(len(X_train), math.prod(shape)),
        y_train.astype(np.int64),
        X_test.reshape(len(X_test), math.prod(shape)),
        y_test.astype(np.int64),
        shape,
        int(max(y_train.max(), y_test.max(initial=0))) + 1,
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
    if not path.is_file():
        raise FileError(f"there is no file {path}")
    arrays: dict[str, np.ndarray] = {}
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise FormatError(f"{path} holds a single array, expected an .npz file with X and y")
            for name in file.files:
                key = name.lower().removesuffix("_train")
                if key in arrays:
                    raise FormatError(f"{path} has {name!r} twice: X and X_train, y and y_train mean the same")
                if key in ("x", "y", "x_test", "y_test"):
                    arrays[key] = file[name]
            found = ", ".join(map(repr, file.files)) or "nothing"
    except FormatError:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise FormatError(f"cannot read {path}: {error}") from error
    for key, called in {"x": "X", "y": "y", "x_test": "X_test", "y_test": "y_test"}.items():
        if key not in arrays and (key in ("x", "y") or {"x_test", "y_test"} & arrays.keys()):
            raise FormatError(f"{path} has no array {called!r}; it holds {found}")
    X, y = _checked(path, "X", arrays["x"], arrays["y"])
    X_test, y_test = _checked(path, "X_test", arrays["x_test"], arrays["y_test"]) if "x_test" in arrays else (None, None)
    shape = X.shape[1:]
    classes = None
    if y.dtype.kind == "i":
        classes = int(y.max()) + 1
    if X_test is not None and y_test is not None:
        if X_test.shape[1:] != shape:
            raise FormatError(f"{path}: an example of X has the shape {shape}, one of X_test {X_test.shape[1:]}")
        if y_test.dtype.kind != y.dtype.kind or y_test.shape[1:] != y.shape[1:]:
            raise FormatError(f"{path}: y is {y.dtype} {y.shape}, y_test {y_test.dtype} {y_test.shape}: they must be alike")
        if classes is not None:
            classes = max(classes, int(y_test.max(initial=0)) + 1)
        X_test = X_test.reshape(len(X_test), math.prod(shape))
    scale = 1 / 255 if X.dtype == np.uint8 else 1.0
    X = X.reshape(len(X), math.prod(shape))
    return Dataset(path.stem, X, y, X_test, y_test, shape, classes, scale, f"Arrays in {path}.")


def _checked(path: Path, name: str, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`X` as it is, and `y` as int64 class indices (n,) or floating-point targets (n, outputs)."""
    if X.dtype.kind not in "fiub" or X.ndim < 2:
        raise FormatError(f"{path}: {name} is {X.dtype} {X.shape}, expected numbers of shape (examples, features)")
    if y.ndim not in (1, 2) or y.dtype.kind not in "fiub" or (y.dtype.kind != "f" and y.ndim != 1):
        raise FormatError(
            f"{path}: the y of {name} is {y.dtype} {y.shape}, expected integer class indices (examples,) "
            "or floating-point targets (examples, outputs)"
        )
    if len(X) != len(y):
        raise FormatError(f"{path}: {name} has {len(X)} rows and its y {len(y)}: they must be of equal number")
    if name == "X" and not len(X):
        raise FormatError(f"{path}: X has no rows")
    if y.dtype.kind == "f":
        return X, y.reshape(len(y), -1) if len(y) else y.reshape(0, 1)
    y = y.astype(np.int64)
    if y.min(initial=0) < 0:
        raise FormatError(f"{path}: the y of {name} holds the class index {y.min()}, expected 0, 1, 2, ...")
    return X, y
