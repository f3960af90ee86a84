"""The binary files of CIFAR-10 and CIFAR-100 (Krizhevsky 2009, Learning multiple layers of features from tiny images).

A file is records without a header: the label (one byte; of CIFAR-100 two, the coarse one first), then the 32 x 32 pixels of
the red channel, of the green and of the blue one, each row by row, 3,072 bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastnn.errors import FileError, FormatError, InputError

SHAPE = (32, 32, 3)
"""Of an image as it is read, (H, W, C)."""
PIXELS = 32 * 32 * 3
RECORDS = 1000
"""Records that are read at a time."""


@dataclass(frozen=True)
class Kind:
    """One of the two data sets: its files, and its labels in the order of their bytes."""

    title: str
    train: tuple[str, ...]
    test: str
    labels: Mapping[str, int]
    """How many classes each label has; the last one is what is learned where none is named."""
    names: Mapping[str, str]
    """The file with the names of the classes of each label."""
    archive: str
    """The folder that the archive of the binary version makes."""
    others: tuple[str, ...]
    """Files of the version for Python, which are pickles."""


KINDS: dict[str, Kind] = {
    "cifar10": Kind(
        "CIFAR-10",
        tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        "test_batch.bin",
        {"label": 10},
        {"label": "batches.meta.txt"},
        "cifar-10-batches-bin",
        ("data_batch_1", "batches.meta"),
    ),
    "cifar100": Kind(
        "CIFAR-100",
        ("train.bin",),
        "test.bin",
        {"coarse": 20, "fine": 100},
        {label: f"{label}_label_names.txt" for label in ("coarse", "fine")},
        "cifar-100-binary",
        ("train", "meta"),
    ),
}


def read_cifar(path: str | os.PathLike[str], labels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The images, uint8 (n, 32, 32, 3), and the labels, uint8 (n, labels), in one binary file of CIFAR.

        images, labels = fastnn.datasets.read_cifar("cifar-10-batches-bin/test_batch.bin")
        images, labels = fastnn.datasets.read_cifar("cifar-100-binary/test.bin", labels=2)    # coarse, fine

    `labels`: label bytes of a record, 1 of CIFAR-10, 2 of CIFAR-100. Raises `FileError` if the file cannot be read,
    `FormatError` if it does not consist of whole records or has a label that the data set does not know, and `InputError` for
    another number of label bytes. Source: the section "Binary version" of the data sets' page, Krizhevsky 2009.
    """
    kind = next((kind for kind in KINDS.values() if len(kind.labels) == labels), None)
    if kind is None:
        raise InputError(f"labels: expected 1 label byte (CIFAR-10) or 2 (CIFAR-100), got {labels!r}")
    return _read([Path(path)], kind)


def kind_of(folder: Path) -> str | None:
    """The data set whose binary files, or a part of them, are in the folder: a key of `KINDS`, or None.

    Raises `FormatError` for a folder with files of both, and for one with the pickles of the version for Python.
    """
    found = [name for name, kind in KINDS.items() if any((folder / file).is_file() for file in (*kind.train, kind.test))]
    if len(found) > 1:
        raise FormatError(f"{folder} holds files of CIFAR-10 and of CIFAR-100; give each a folder of its own")
    for kind in () if found else KINDS.values():
        if all((folder / file).is_file() for file in kind.others):
            raise FormatError(f"{folder} holds {kind.title} for Python, in pickles; take the binary version, {kind.archive}")
    return found[0] if found else None


def read_part(folder: Path, name: str, part: str, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 32, 32, 3) and labels (n,) of the part "train" or "test": int64, or the names of the classes where a file says
    them. `label`: a key of the `labels` of the kind."""
    kind = KINDS[name]
    files = kind.train if part == "train" else (kind.test,)
    for file in files:
        if not (folder / file).is_file():
            rest = ", ".join((*kind.train, kind.test))
            raise FileError(f"there is no {file} in {folder}; the binary version of {kind.title} has {rest}")
    images, labels = _read([folder / file for file in files], kind)
    y = labels[:, list(kind.labels).index(label)]
    names = _read_names(folder / kind.names[label], kind.labels[label])
    return images, y.astype(np.int64) if names is None else names[y]


def _read(paths: Sequence[Path], kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of files, one behind the other, in one array each."""
    size = len(kind.labels) + PIXELS
    counts = [_count(path, size, kind) for path in paths]
    images, labels = np.empty((sum(counts), *SHAPE), np.uint8), np.empty((sum(counts), len(kind.labels)), np.uint8)
    start = 0
    for path, count in zip(paths, counts, strict=True):
        try:
            with path.open("rb") as file:
                for first in range(start, start + count, RECORDS):
                    rows = slice(first, min(first + RECORDS, start + count))
                    wanted = (rows.stop - first) * size
                    block = np.frombuffer(file.read(wanted), np.uint8)
                    if len(block) < wanted:
                        raise FormatError(f"{path} became shorter while it was read")
                    records = block.reshape(-1, size)
                    labels[rows] = records[:, : len(kind.labels)]
                    images[rows] = records[:, len(kind.labels) :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        except FormatError:
            raise
        except OSError as error:
            raise FileError(f"cannot read {path}: {error.strerror or error}") from error
        for column, (label, classes) in enumerate(kind.labels.items()):
            wrong = np.flatnonzero(labels[start : start + count, column] >= classes)
            if len(wrong):
                got = labels[start + wrong[0], column]
                called = "label" if len(kind.labels) == 1 else f"{label} label"
                raise FormatError(
                    f"{path}: the {called} of record {wrong[0]} is {got}, expected 0 to {classes - 1}: "
                    f"it is no binary file of {kind.title}, or is damaged"
                )
        start += count
    return images, labels


def _count(path: Path, size: int, kind: Kind) -> int:
    """How many records the file has."""
    if path.is_dir():
        raise FileError(f"{path} is a folder, expected one binary file of {kind.title} in it; load reads the whole folder")
    try:
        length = path.stat().st_size
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    count, rest = divmod(length, size)
    if rest or not count:
        left = f"{count:,} of them and {rest:,} more" if count else "less than one"
        raise FormatError(
            f"{path} has {length:,} bytes, expected records of {size:,} ({kind.title}), got {left if length else 'none'}: "
            "copy or download it again"
        )
    return count


def _read_names(path: Path, classes: int) -> np.ndarray | None:
    """The names of the classes, one a line; None without such a file."""
    if not path.is_file():
        return None
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{path}: expected the names of {classes} classes as text, got other bytes ({error.reason})"
        ) from error
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    if len(names) != classes or len(set(names)) < classes:
        raise FormatError(f"{path}: expected {classes} different names, one a line, got {len(names)}: {', '.join(names[:5])}")
    return np.array(names)
