"""Labels: the user's targets, read once at the border as class indices or values, and class indices as labels again.

Labels are integers, strings, booleans or, of two classes, numbers such as -1.0 and 1.0. They may come as NumPy arrays,
arrays of a GPU, anything that speaks `__array__` or DLPack, Series and frames of pandas or polars, or lists.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from numbers import Integral, Real
from typing import Any, Self

import numpy as np

from fastnn import arrays, frames
from fastnn.configurations import as_number
from fastnn.engines.host import spot
from fastnn.errors import InputError, InputTypeError, nearest
from fastnn.losses import PROBABILITIES, RANGES, Loss, find

KINDS = ("classes", "binary", "multilabel", "values")
"""What a model can be trained for: one of C classes, yes or no, several yeses or noes, numbers."""

WITH_CLASSES = ("classes", "binary")
NUMBERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")
"""Dtypes of labels that are numbers."""

SHOWN = 5
"""How many labels a message names."""

DENSE = 2**20
"""Integers that span at most so many numbers are told apart by a table, others by sorting those that differ."""


@dataclass(frozen=True, eq=False)
class Task:
    """What the model was trained for: found at the first `fit`, stored with the model.

    `classes`: the labels in the order of the outputs (of "binary": no, yes), 1-D, not writable, of the dtype in which they were
    given, which may be any of integers, floating-point numbers, strings and booleans; None for "multilabel" and "values".
    Raises InputError where the fields do not fit together.
    """

    loss: str
    kind: str
    """`"classes"`, `"binary"`, `"multilabel"` or `"values"`."""
    classes: np.ndarray | None = None
    link: str | None = None
    """What the loss takes the place of: "softmax", "sigmoid", "exp", or None; a loss of the library has its own."""
    flat: bool = False
    """Whether values were one a row, (n,), and are predicted so; else they are (n, O)."""

    def __post_init__(self) -> None:
        known = find(self.loss)
        if known is not None:
            object.__setattr__(self, "link", known.link)
        if self.kind not in KINDS:
            raise InputError(f"Task: unknown kind {self.kind!r}{nearest(self.kind, KINDS)}")
        if (self.classes is not None) != (self.kind in WITH_CLASSES):
            expected = "classes" if self.kind in WITH_CLASSES else "no classes"
            raise InputError(f"Task: expected {expected} for the kind {self.kind!r}, got {self.classes!r}")
        if self.classes is not None:
            classes = read_classes(self.classes, "Task: classes").copy()
            if self.kind == "binary" and len(classes) != 2:
                raise InputError(f"Task: expected two classes for the kind 'binary', got {abridge(classes)}")
            classes.flags.writeable = False
            object.__setattr__(self, "classes", classes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Task):
            return NotImplemented
        mine, others = ({**task.to_config(), "dtype": None} for task in (self, other))  # the widths of numbers do not count
        return mine == others and (self._type == other._type or {self._type, other._type} == {"i", "u"})

    @cached_property
    def indices(self) -> bool:
        """Whether the labels are the class indices 0, 1, ..., C - 1 themselves, or there are none."""
        return self.classes is None or (self._type in ("i", "u") and bool((self.classes == np.arange(len(self.classes))).all()))

    @property
    def _type(self) -> str | None:
        return None if self.classes is None else self.classes.dtype.kind

    def to_config(self) -> dict[str, Any]:
        """A dict of plain JSON values; the type of the classes is that of the values in the list."""
        classes = None if self.classes is None else self.classes.tolist()
        config = {"loss": self.loss, "kind": self.kind, "classes": classes, "link": self.link, "flat": self.flat}
        if self.classes is None or self.classes.dtype in (np.dtype("int64"), np.dtype("float64")) or self._type in ("U", "b"):
            return config  # what a list of them becomes
        return {**config, "dtype": self.classes.dtype.name}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The task that `to_config` described; older ones have no "link" and "flat". Raises InputError for what is none."""
        names, later = {"loss", "kind", "classes"}, {"link", "flat", "dtype"}
        if not isinstance(config, Mapping) or set(config) | later != names | later:
            raise InputError(f'expected a dict with "loss", "kind", "classes", "link" and "flat", got {config!r}')
        loss, kind, classes, link = config["loss"], config["kind"], config["classes"], config.get("link")
        if not isinstance(loss, str) or not isinstance(kind, str) or not isinstance(classes, list | None):
            raise InputError(f"expected a loss and a kind by name and a list of classes or None, got {config!r}")
        if link not in (None, *PROBABILITIES, *RANGES):
            raise InputError(f'expected a link "softmax", "sigmoid", "exp" or None, got {link!r}')
        flat = config.get("flat", False)
        if not isinstance(flat, bool):
            raise InputError(f"expected flat to be a boolean, got {flat!r}")
        dtype = config.get("dtype")
        if dtype not in (None, *NUMBERS):
            raise InputError(f"expected a dtype of numbers, got {dtype!r}")
        try:
            labels = None if classes is None else np.asarray(classes, dtype=dtype or object)
            return cls(loss, kind, labels, link, flat)
        except (InputTypeError, OverflowError, ValueError, TypeError) as error:
            raise InputError(str(error)) from error


@dataclass(frozen=True, eq=False)
class Targets:
    """Targets as programs read them: int64 class indices (n,), or values (n, O) in the model's dtype, rows one after another.

    `kind` and `classes` are those of the `Task` they make.
    """

    values: np.ndarray
    kind: str
    classes: np.ndarray | None
    flat: bool = False
    """Whether values were given one a row, (n,)."""


# --- reading --------------------------------------------------------------------------------------------------------


def read(
    y: Any,
    n: int,
    outputs: int,
    loss: Loss,
    squashed: bool,
    dtype: np.dtype[Any],
    what: str = "y",
    classes: Any = None,
    known: Task | None = None,
    part: bool = False,
) -> Targets:
    """The targets of n examples for a network of so many outputs, checked.

    Several outputs C: labels (n,) become indices of classes. Integers from 0 to C - 1 are indices already; of other labels
    there must be C different ones, which are sorted. Rows (n, C) of shares that add up to 1 are classes for a loss that
    compares classes; rows of integers or booleans with a single 1 are so for every loss but a sigmoid's. Other rows of 0
    and 1 are "multilabel" where the outputs are squashed to 0 ... 1 (`squashed`, or the link of the loss), and all others
    "values". A loss that compares numbers only takes values only.

    One output, (n,) or (n, 1): where it is squashed, 0 and 1, booleans or two different labels (strings or integers,
    sorted: the second is yes) are "binary", and numbers between are "values"; where it is not, numbers are "values".

    `classes` names the labels in the order of the outputs, whether all of them occur or not. `known` is the task that a
    model was trained for: its labels are looked up, and its kind decides. `part`: these are some of the examples only, which
    may all be of one class. Values are never written to, and copied only where dtype or layout ask for it.

    Raises InputError and InputTypeError, with the first row that is wrong.
    """
    array = plain(y, what)
    flat = array.ndim == 1
    if array.ndim == 2 and array.shape[1] == 1 and (outputs == 1 or hasattr(y, "columns")):
        array = array[:, 0]
    if array.ndim == 0 or len(array) != n:
        raise InputError(f"{what}: expected one target for each of the {n} examples, got shape {array.shape}")
    if n == 0:
        raise InputError(f"{what}: expected at least one example, got none")
    _check_outputs(loss, outputs)
    kind = None if known is None else known.kind
    if loss.of_numbers and (classes is not None or kind not in (None, "values")):
        problem = f"the model is trained for {kind}" if classes is None else "classes=[...] names labels"
        raise InputError(f"{what}: {loss.name} compares numbers, and {problem}; use a cross-entropy, or a new model")
    squashed = (squashed and not loss.of_numbers) or loss.link == "sigmoid"
    reader = _Reader(outputs, loss, squashed, dtype, what, _expected_classes(classes, known, outputs), kind, part)
    if array.ndim > 1:
        return reader.rows(array)
    if outputs > 1:
        return reader.labels(array)
    targets = reader.single(array)
    return replace(targets, flat=flat and targets.kind == "values")


def task_of(loss: Loss, outputs: int, squashed: bool, classes: Any = None) -> Task:
    """The task of a model with so many outputs, before there are targets; arguments as in `read`.

    Without `classes` the labels are 0 to C - 1 for a loss that compares classes, and 0 and 1 for one squashed output; several
    such outputs are "multilabel", and all others values, of one output (n,). Raises InputError for classes that do not fit.
    """
    _check_outputs(loss, outputs)
    squashed = squashed or loss.link == "sigmoid"
    if classes is None and (loss.accepts == "classes" or (squashed and outputs == 1)):
        classes = range(max(2, outputs))
    labels = _expected_classes(classes, None, outputs)
    kind = "multilabel" if squashed else "values"
    if labels is not None:
        kind = "binary" if outputs == 1 else "classes"
    return Task(loss.name, kind, labels, loss.link, kind == "values" and outputs == 1)


def _check_outputs(loss: Loss, outputs: int) -> None:
    """Raise InputError for one output and a loss of classes."""
    if loss.accepts == "classes" and outputs == 1:
        raise InputError(
            f"{loss.name} compares classes and needs at least two outputs; for one use loss='sigmoid_cross_entropy' (yes or "
            "no) or loss='mean_squared_error' (numbers)"
        )


@dataclass(frozen=True)
class _Reader:
    """What targets are for, and what is known of them before they are looked at; see `read`."""

    outputs: int
    loss: Loss
    squashed: bool
    dtype: np.dtype[Any]
    what: str
    classes: np.ndarray | None
    kind: str | None
    part: bool

    def labels(self, array: np.ndarray) -> Targets:
        """Labels (n,) of one of several classes."""
        what, outputs, classes = self.what, self.outputs, self.classes
        if self.loss.of_numbers:
            raise InputError(
                f"{what}: {self.loss.name} compares numbers, expected shape (n, {outputs}) for {outputs} outputs, got "
                f"{array.shape}; to predict one number, end in Dense(1)"
            )
        if self.kind not in (None, "classes"):
            raise InputError(
                f"{what}: the model is trained for {self.kind}, expected shape (n, {outputs}), got labels {array.shape}"
            )
        if array.dtype.kind == "f":
            _check_labels_present(array, what)
            whole = bool((array == np.floor(array)).all() and np.isfinite(array).all())
            compared = self.loss.link is not None or self.loss.accepts == "classes"
            if (not whole and (classes is None or classes.dtype.kind != "f")) or (classes is None and not compared):
                cure = "class indices can be converted with .astype(int)"
                if not whole:
                    cure = "to predict one number, end in Dense(1) and use loss='mean_squared_error'"
                raise InputError(
                    f"{what}: expected class indices (integers) or shape (n, {outputs}) for {outputs} outputs, "
                    f"got {array.dtype} of shape {array.shape}; {cure}"
                )
        if classes is None:
            classes = self._several_classes(array)
        return Targets(indices(array, classes, what), "classes", classes)

    def single(self, array: np.ndarray) -> Targets:
        """Yes-or-no labels or values (n,) of one output."""
        classes = self.classes
        if classes is None and self.kind is None and self.squashed:
            classes = self._two_classes(array)
        if classes is not None and not (self.kind == "binary" and _are_shares(array)):
            yes = indices(array, classes, self.what)
            return Targets(yes.astype(self.dtype)[:, np.newaxis], "binary", classes)
        return Targets(self._values(array[:, np.newaxis]), self.kind or "values", classes)

    def rows(self, array: np.ndarray) -> Targets:
        """Rows (n, O): shares of classes, yeses and noes, or values."""
        what, outputs, kind = self.what, self.outputs, self.kind
        if array.shape[1:] != (outputs,):
            column = array.shape[1:] == (1,) and array.dtype.kind != "f"
            cure = f"; labels are 1-D: use {what.split()[-1]}.ravel()" if column else ""
            raise InputError(f"{what}: expected shape (n, {outputs}), got {array.shape}{cure}")
        values = self._values(array)
        if kind is None:
            kind = self._kind_of_rows(array)
            one = kind == "classes" and self.classes is None and self._whole(array)
            if one and np.count_nonzero(used := values.any(axis=0)) == 1:
                raise self._one_class(used.argmax())
        elif self.loss.accepts == "classes" and kind != "classes":
            raise InputError(f"{what}: the model is trained for {kind}, and {self.loss.name} compares classes")
        if kind != "classes":
            return Targets(values, kind, None)
        sums = values.sum(axis=1, dtype=np.float64)
        wrong = (values.min(axis=1) < 0) | (np.abs(sums - 1.0) > 1e-3)
        if wrong.any():
            row = int(wrong.argmax())
            answers = bool(((values == 0) | (values == 1)).all())
            cure = "'sigmoid_cross_entropy' (several yeses or none in a row)" if answers else "'mean_squared_error' (numbers)"
            raise InputError(
                f"{what}: expected one-hot rows, or shares of at least 0 that add up to 1; row {row} adds up to {sums[row]:g}, "
                f"its least is {values[row].min():g}; otherwise use loss={cure}"
            )
        return Targets(values, kind, np.arange(outputs) if self.classes is None else self.classes)

    def _kind_of_rows(self, array: np.ndarray) -> str:
        if self.classes is not None or self.loss.accepts == "classes":
            return "classes"
        if self.loss.of_numbers:
            return "values"
        if not ((array == 0) | (array == 1)).all():
            return "values"
        if array.dtype.kind != "f" and self.loss.link != "sigmoid" and (np.count_nonzero(array, axis=1) == 1).all():
            return "classes"
        return "multilabel" if self.squashed else "values"

    def _values(self, array: np.ndarray) -> np.ndarray:
        """Numbers (n, O) as rows of `dtype`, one after another; raises for what is not finite, or not for this loss."""
        what = self.what
        if array.dtype.kind == "U":
            raise InputTypeError(
                f"{what}: expected numbers, got labels such as {array.flat[0].item()!r}; for two classes use the loss "
                "sigmoid_cross_entropy with one output, for C of them softmax_cross_entropy with C outputs and y of shape (n,)"
            )
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(array, self.dtype)
        finite = np.isfinite(values)
        if not finite.all():
            row, column = np.argwhere(~finite)[0].tolist()
            problem = "NaN or infinite" if not np.isfinite(array[row, column]) else f"too large for {self.dtype}"
            where = spot((row, column) if values.shape[1] > 1 else (row,))
            raise InputError(
                f"{what}: {np.count_nonzero(~finite)} values are NaN, infinite or too large; the first, in {where}, is "
                f"{problem}; remove or replace them"
            )
        least, most = RANGES.get(self.loss.link or "", (-math.inf, math.inf))
        if values.min() < least or values.max() > most:
            expected = f"of at least {least:g}" if math.isinf(most) else f"from {least:g} to {most:g}"
            raise InputError(f"{what}: {self.loss.name} expects targets {expected}, got {values.min():g} to {values.max():g}")
        return values

    def _several_classes(self, array: np.ndarray) -> np.ndarray:
        """The classes that labels (n,) of several outputs make."""
        outputs, whole = self.outputs, self._whole(array)
        if array.dtype.kind == "b" and outputs == 2:
            if whole and array.all() == array.any():
                raise self._one_class(array[0])
            return np.array([False, True])
        if array.dtype.kind in "iuf":
            low, high = array.min(), array.max()
            if low >= 0 and high < outputs:
                if whole and low == high:
                    raise self._one_class(low)
                return _first_integers(outputs, array.dtype)
        labels = _distinct(array)
        if whole and len(labels) == 1:
            raise self._one_class(labels[0], f"; expected class indices 0 to {outputs - 1} or {outputs} different labels")
        if len(labels) != outputs:
            raise self._wrong_count(labels)
        return labels

    def _two_classes(self, array: np.ndarray) -> np.ndarray | None:
        """The classes that the targets (n,) of one squashed output make; None where they are values."""
        if array.dtype.kind == "f" and (not np.isfinite(array).all() or _are_shares(array)):
            return None
        labels = _distinct(array)
        if array.dtype.kind == "f" and (len(labels) > 2 or not (labels == np.floor(labels)).all()):
            return None
        if len(labels) == 1:
            if self._whole(array) or labels[0] not in (0, 1):
                raise self._one_class(labels[0])
            return np.arange(2).astype(array.dtype)
        if len(labels) != 2:
            raise self._wrong_count(labels)
        return labels

    def _whole(self, array: np.ndarray) -> bool:
        """Whether these are all targets, and enough for two classes."""
        return len(array) > 1 and not self.part

    def _one_class(self, label: Any, cure: str = "") -> InputError:
        return InputError(
            f"{self.what} holds one class only ({label.item()!r}){cure}; pass classes=[...] with all labels if that is meant"
        )

    def _wrong_count(self, labels: np.ndarray) -> InputError:
        units = f"{self.outputs} unit{'s' if self.outputs > 1 else ''}"
        also = "targets from 0 to 1" if self.outputs == 1 else f"class indices 0 to {self.outputs - 1}"
        others = f", {also}" if labels.dtype.kind in "if" else ""
        missing = ", or classes=[...] with all labels" if len(labels) < self.outputs else ""
        return InputError(
            f"{self.what} holds {len(labels)} different labels ({abridge(labels)}), the last layer has {units}: "
            f"use Dense({len(labels)}){others}{missing}"
        )


# --- classes --------------------------------------------------------------------------------------------------------


def indices(labels: np.ndarray, classes: np.ndarray, what: str = "y") -> np.ndarray:
    """The int64 indices (n,) of labels (n,) in `classes` (C,); InputError naming the first label that is none of them."""
    matches, outside = _look_up(labels, classes)
    if outside.any():
        raise _unknown(labels, outside, classes, what)
    return np.ascontiguousarray(matches, np.int64)


def _look_up(labels: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The indices of labels in `classes`, and which labels are none of them."""
    if (labels.dtype.kind == "U") != (classes.dtype.kind == "U"):
        return np.zeros(len(labels), np.int64), np.ones(len(labels), bool)
    if labels.dtype.kind in "iub" and classes.dtype.kind in "iub":
        labels, classes = labels.astype(np.int64, copy=False), classes.astype(np.int64, copy=False)
        first, last = int(classes[0]), int(classes[-1])
        if last - first == len(classes) - 1 and (classes[1:] - classes[:-1] == 1).all():  # one pass, no search for each
            return labels - first if first else labels, (labels < first) | (labels > last)
    order = np.argsort(classes)
    places = np.minimum(np.searchsorted(classes, labels, sorter=order), len(classes) - 1)
    indices = order[places]
    return indices, classes[indices] != labels


def decode(task: Task, indices: np.ndarray) -> np.ndarray:
    """The labels of class indices, of any shape ("binary": of 0 and 1); for tasks without classes `indices` as they are."""
    return indices if task.classes is None else task.classes[indices]


def abridge(labels: np.ndarray) -> str:
    """The first of some labels, and how many there are, for a message."""
    shown = ", ".join(repr(label) for label in labels[:SHOWN].tolist())
    return shown if len(labels) <= SHOWN else f"{shown}, ... ({len(labels)} in all)"


def _are_shares(array: np.ndarray) -> bool:
    """Whether these are floating-point numbers from 0 to 1 and not only 0 and 1."""
    if array.dtype.kind != "f" or not len(array) or not (array.min() >= 0 and array.max() <= 1):
        return False
    return not bool(((array == 0) | (array == 1)).all())


def _first_integers(count: int, dtype: np.dtype[Any]) -> np.ndarray:
    """0, 1, ..., `count` - 1 in this dtype, or in int64 where it does not hold them."""
    numbers = np.arange(count)
    return numbers.astype(dtype) if (numbers.astype(dtype) == numbers).all() else numbers


def _distinct(labels: np.ndarray) -> np.ndarray:
    """The different labels, sorted."""
    if labels.dtype.kind in "iu":
        low, high = int(labels.min()), int(labels.max())
        if high - low < DENSE:
            seen = np.zeros(high - low + 1, bool)
            seen[labels.astype(np.int64, copy=False) - low] = True
            return (np.flatnonzero(seen) + low).astype(labels.dtype)
    return np.unique(labels)


def _expected_classes(classes: Any, known: Task | None, outputs: int) -> np.ndarray | None:
    """The classes that are known before the targets are looked at."""
    if classes is None:
        return None if known is None else known.classes
    labels = read_classes(classes, "classes")
    if known is not None and (known.classes is None or labels.tolist() != known.classes.tolist()):
        trained = known.kind if known.classes is None else f"the classes {abridge(known.classes)}"
        raise InputError(f"classes: the model is trained for {trained}, got {abridge(labels)}; leave `classes` out")
    if len(labels) != max(2, outputs):
        units = "1 unit, which says no or yes" if outputs == 1 else f"{outputs} units"
        raise InputError(
            f"classes: expected {max(2, outputs)} labels, got {len(labels)}; the last layer has {units}: "
            f"use Dense({len(labels)})"
        )
    return labels


def read_classes(classes: Any, what: str) -> np.ndarray:
    """Different labels (C,), at least two."""
    labels = plain(list(classes) if isinstance(classes, range) else classes, what)
    if labels.ndim != 1 or len(labels) < 2:
        raise InputError(f"{what}: expected a list of at least two labels, got shape {labels.shape}")
    if labels.dtype.kind == "f":
        _check_labels_present(labels, what)
        if not np.isfinite(labels).all():
            raise InputError(f"{what}: expected finite numbers, got {abridge(labels)}")
    different, counts = np.unique(labels, return_counts=True)
    if len(different) < len(labels):
        raise InputError(f"{what}: expected different labels, got {different[counts.argmax()].item()!r} twice")
    return labels


def _unknown(labels: np.ndarray, outside: np.ndarray, classes: np.ndarray, what: str) -> InputError:
    row = int(outside.argmax())
    label = labels[row].item()
    if isinstance(label, float) and math.isnan(label):
        return _missing(int(np.count_nonzero(np.isnan(labels))), f"row {row}", what)
    near = nearest(label, classes.tolist()) if isinstance(label, str) and classes.dtype.kind == "U" else ""
    near = near if "did you mean" in near else ""
    return InputError(
        f"{what}: expected the labels {abridge(classes)}, got {label!r} in row {row} "
        f"({np.count_nonzero(outside)} such in all){near}"
    )


# --- the user's arrays ----------------------------------------------------------------------------------------------


def plain(y: Any, what: str) -> np.ndarray:
    """`y` on the host as booleans, integers within int64, floating-point numbers or strings."""
    if hasattr(y, "toarray") and hasattr(y, "tocsr"):
        raise InputTypeError(f"{what}: expected an array, got a sparse {type(y).__name__}; convert it with .toarray()")
    if isinstance(y, np.ma.MaskedArray) and np.ma.is_masked(y):
        raise InputError(f"{what}: {int(np.ma.getmaskarray(y).sum())} labels are masked; remove these rows")
    if isinstance(y, list | tuple):
        try:
            array = np.asarray(y, dtype=object)
        except ValueError as error:
            raise InputError(f"{what}: expected rows of one length; {error}") from error
    else:
        array = arrays.to_host(y)
    if array.dtype.kind == "T":
        array = array.astype(object)
    if array.dtype.kind == "O" and array.ndim:
        array = _infer_dtype(array, what)
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise InputError(f"{what}: expected integers up to {np.iinfo(np.int64).max}, got {array.max()}")
    if array.dtype.kind == "S":
        raise InputTypeError(f"{what}: expected strings, got bytes; convert them with .astype(str)")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind not in "biufU":
        got = f"a {type(y).__name__}" if array.ndim == 0 else f"dtype {array.dtype}"
        raise InputTypeError(f"{what}: expected numbers or labels (integers, strings, booleans), got {got}")
    return array


def _infer_dtype(array: np.ndarray, what: str) -> np.ndarray:
    """An array of Python objects as one of their type; raises where some are missing or types are mixed."""
    values = array.ravel().tolist()
    if any(isinstance(value, list | tuple | np.ndarray) for value in values):
        raise InputError(f"{what}: expected rows of one length, got some of others")
    families = {kind: _family(kind) for kind in set(map(type, values))}
    if "" in families.values() or "float" in families.values():
        missing = [place for place, value in enumerate(values) if frames.is_missing(value)]
        if missing:
            raise _missing(len(missing), _place(missing[0], array.shape), what)
    kinds = set(families.values())
    if kinds <= {"int", "float"} or (array.ndim > 1 and kinds <= {"bool", "int", "float"}):
        dtype: Any = np.float64 if "float" in kinds else np.int64 if "int" in kinds else bool
    elif len(kinds) == 1 and "" not in kinds:
        dtype = {"str": np.str_, "bool": bool}[kinds.pop()]
    else:
        firsts: dict[str, int] = {}
        for place, value in enumerate(values):
            firsts.setdefault(families[type(value)] or type(value).__name__, place)
        names = " and ".join(
            f"{type(values[place]).__name__} in {_place(place, array.shape)}" for place in list(firsts.values())[:2]
        )
        numbers = all(isinstance(value, Real | Decimal) for value in values)
        raise InputTypeError(
            f"{what}: expected labels of one type (integers, strings or booleans) or numbers, got {names}; "
            f"convert them with numpy.asarray({what.split()[-1]}).astype({'float' if numbers else 'str'})"
        )
    try:
        return np.array(values, dtype).reshape(array.shape)
    except OverflowError as error:
        raise InputError(f"{what}: expected integers of at most 64 bits; use strings for longer ones") from error


def _family(kind: type) -> str:
    for name, parents in {"str": str, "bool": bool | np.bool_, "int": Integral, "float": Real}.items():
        if issubclass(kind, parents):
            return name
    return ""


def _place(index: int, shape: Iterable[int]) -> str:
    return spot([int(i) for i in np.unravel_index(index, tuple(shape))])


def _check_labels_present(array: np.ndarray, what: str) -> None:
    absent = np.isnan(array)
    if absent.any():
        raise _missing(int(np.count_nonzero(absent)), f"row {int(absent.argmax())}", what)


def _missing(count: int, where: str, what: str) -> InputError:
    return InputError(f"{what}: {count} labels are missing (None or NaN), the first in {where}; remove these rows")


# --- weights --------------------------------------------------------------------------------------------------------


def weights(
    targets: Targets,
    n: int,
    sample_weight: Any,
    class_weight: Mapping[Any, float] | str | None,
    dtype: np.dtype[Any],
    outputs: int,
    what: str = "",
) -> np.ndarray | None:
    """One weight an example (n,), `sample_weight` times `class_weight` of its class; None where neither is given.

    `class_weight`: {label: weight}, 1 for labels that it leaves out, or "balanced", n / (classes that occur * examples of this
    class). `what`: what messages begin with. Raises InputError and InputTypeError.
    """
    if sample_weight is None and class_weight is None:
        return None
    product = np.ones(n)
    if sample_weight is not None:
        product *= _sample_weights(sample_weight, n, f"{what}sample_weight")
    if class_weight is not None:
        product *= _class_weights(targets, class_weight, max(2, outputs))
    with np.errstate(over="ignore", under="ignore"):
        rounded = product.astype(dtype)
    if not np.isfinite(rounded).all():
        raise InputError(
            f"{what or 'the '}weights are too large for {dtype}: expected at most {np.finfo(dtype).max:g}, "
            f"got {product.max():g}"
        )
    if not rounded.any():
        raise InputError(f"{what or 'the '}weights add up to 0, so that there is nothing to learn from")
    return rounded


def _sample_weights(sample_weight: Any, n: int, what: str) -> np.ndarray:
    """Finite numbers (n,) of at least 0."""
    try:
        weights = arrays.to_host(sample_weight)
    except ValueError as error:
        raise InputError(f"{what}: expected {n} numbers, got rows of different lengths") from error
    if weights.shape != (n,) or weights.dtype.kind not in "fiub":
        cure = "; use sample_weight.ravel()" if weights.shape == (n, 1) else ""
        raise InputError(f"{what}: expected {n} numbers, got {weights.dtype} of shape {weights.shape}{cure}")
    wrong = ~(np.isfinite(weights) & (weights >= 0))
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"{what}: expected finite numbers of at least 0, got {weights[row].item()!r} in row {row} "
            f"({np.count_nonzero(wrong)} such in all)"
        )
    return weights


def _class_weights(targets: Targets, class_weight: Mapping[Any, float] | str, outputs: int) -> np.ndarray:
    """The weight (n,) of the class of each example, in float64; of shares, that of the largest."""
    if targets.classes is None:
        raise InputError("class_weight: only a task with classes has them; use sample_weight")
    values = targets.values
    if values.ndim == 1:
        indices = values
    else:
        indices = values.argmax(axis=1) if targets.kind == "classes" else (values[:, 0] > 0.5).astype(np.int64)
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise InputError(f'class_weight: expected a dict or "balanced", got {class_weight!r}')
        counts = np.bincount(indices, minlength=outputs)
        table = len(indices) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    elif isinstance(class_weight, Mapping):
        table = np.ones(outputs)
        places = {label: place for place, label in enumerate(targets.classes.tolist())}
        for label, weight in class_weight.items():
            if label not in places:
                strings = isinstance(label, str) and targets.classes.dtype.kind == "U"
                known = nearest(label, places) if strings else f"; known are {abridge(targets.classes)}"
                raise InputError(f"class_weight: {label!r} is none of the labels{known}")
            number = as_number(weight)
            if not 0.0 <= number < math.inf:
                raise InputError(f"class_weight: expected finite numbers of at least 0, got {weight!r} for {label!r}")
            table[places[label]] = number
    else:
        raise InputTypeError(f'class_weight: expected a dict or "balanced", got a {type(class_weight).__name__}')
    return np.asarray(table[indices])
