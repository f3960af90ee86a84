"""What users give as X: arrays, frames and sparse matrices as one array of rows, or as a `RowSource`, made dense in blocks.

Everything is looked at once, here; what a program can read as it is (uint8, float32, float64, contiguous) is not copied.
"""

from __future__ import annotations

import math
import mmap
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from fastnn import arrays, engines, frames
from fastnn.engines import AS_IT_IS, InputMap
from fastnn.engines.host import spot
from fastnn.errors import InputError, InputTypeError

READABLE = (np.dtype("uint8"), np.dtype("float32"), np.dtype("float64"))
"""What programs read: these dtypes, native, in contiguous rows."""

LARGE_BYTES = 2**28
"""From this size on, the pages of a memory map are let go of when they have been read."""

RELEASE_BYTES = 2**26
"""About how much of a memory map is read before its pages are let go of."""

FAULT_BYTES = 2**21
"""What Linux maps at most around a page that is read, where files lie in its cache in large pieces (measured: 1.5 MiB): the
memory that one row costs where rows are read in any order."""

COPY_BYTES = 2**26
"""Rows of other dtypes that are standardized as they are read are copied up to this size."""

MOST_ROUNDING = 1e-3
"""Rounding of inputs to be standardized that goes through, in deviations."""

CURES = {
    "O": "convert it with {name}.astype(float)",
    "U": "encode strings as numbers, such as with sklearn.preprocessing.OneHotEncoder",
    "S": "encode strings as numbers, such as with sklearn.preprocessing.OneHotEncoder",
    "c": "use {name}.real, {name}.imag or both side by side",
    "M": "convert dates to numbers, such as with {name}.astype('int64')",
    "m": "convert times to numbers, such as with {name}.astype('int64')",
    "V": "use numpy.lib.recfunctions.structured_to_unstructured({name})",
}
"""What to do about the kinds of dtypes that are no numbers."""


class RowSource(ABC):
    """A matrix on the host that is never dense as a whole: blocks of its rows are made when they are asked for."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows, were they dense."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def __getitem__(self, rows: slice) -> np.ndarray:
        """Rows as a dense array of `dtype`, to be looked at only."""

    @abstractmethod
    def take(self, indices: np.ndarray, out: np.ndarray) -> None:
        """out[i] = row indices[i]; `out` is C-contiguous and of `dtype`."""

    @abstractmethod
    def readable(self, dtype: np.dtype[Any]) -> RowSource:
        """These rows in a dtype that programs read: their own where it is one, else `dtype`."""


class SparseRows(RowSource):
    """A sparse matrix in CSR form, entries given several times summed. The matrix of the caller is not changed."""

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix
        self.shape, self.dtype = matrix.shape, matrix.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        return np.asarray(self.matrix[rows].toarray())

    def take(self, indices: np.ndarray, out: np.ndarray) -> None:
        self.matrix[indices].toarray(out=out)

    def readable(self, dtype: np.dtype[Any]) -> RowSource:
        return self if self.dtype in READABLE else SparseRows(self.matrix.astype(dtype))

    def spot(self, entry: int) -> tuple[int, int]:
        """Row and column of a stored entry."""
        row = int(np.searchsorted(self.matrix.indptr, entry, "right")) - 1
        return row, int(self.matrix.indices[entry])


class ConvertedRows(RowSource):
    """An array that programs cannot read as it is, and that is not copied as a whole: blocks of it are converted to `dtype`."""

    def __init__(self, array: np.ndarray, dtype: np.dtype[Any]) -> None:
        self.array = array
        self.shape, self.dtype = array.shape, dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self.array[rows].astype(self.dtype, copy=False)

    def take(self, indices: np.ndarray, out: np.ndarray) -> None:
        out[...] = self.array[indices]

    def readable(self, dtype: np.dtype[Any]) -> RowSource:
        return self if self.dtype in READABLE else ConvertedRows(self.array, dtype)


class MappedRows(ConvertedRows):
    """A memory map that is larger than the memory to be spent on it, or that programs cannot read as it is.

    Pages of a shared mapping are let go of behind the reader; the system keeps them in its cache as long as it likes. Those of
    a private one (mode "c") may hold what the user has written, and stay.
    """

    def __init__(self, array: np.ndarray, dtype: np.dtype[Any] | None = None) -> None:
        super().__init__(array, array.dtype if dtype is None else dtype)
        self._mapping = mapping(array)
        self._read = 0

    def __getitem__(self, rows: slice) -> np.ndarray:
        block = self.array[rows]
        self._count(block.nbytes if self.array.flags.c_contiguous else RELEASE_BYTES)
        return block.astype(self.dtype, copy=False)

    def take(self, indices: np.ndarray, out: np.ndarray) -> None:
        few = max(1, 2 * RELEASE_BYTES // (FAULT_BYTES + self.array[:1].nbytes))
        for start in range(0, len(indices), few):
            part = indices[start : start + few]
            out[start : start + len(part)] = self.array[part]  # numpy.take would copy a map that is not contiguous
            self.release()

    def readable(self, dtype: np.dtype[Any]) -> RowSource:
        return self if self.dtype in READABLE else MappedRows(self.array, dtype)

    def release(self) -> None:
        """Let go of all pages of a shared mapping, where the system can."""
        self._read = 0
        if self._mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._mapping.madvise(mmap.MADV_DONTNEED)

    def _count(self, read: int) -> None:
        self._read += read
        if self._read > RELEASE_BYTES:
            self.release()


class SelectedRows(RowSource):
    """Some rows of X, an array of the host or of a device or a `RowSource`, read by their numbers `rows`; nothing is copied."""

    def __init__(self, X: Any, rows: np.ndarray) -> None:
        self.X, self.rows = X, rows
        self.shape, self.dtype = (len(rows), *X.shape[1:]), X.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        numbers = self.rows[rows]
        block = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        take_rows(self.X, numbers, block)
        return block

    def take(self, indices: np.ndarray, out: np.ndarray) -> None:
        take_rows(self.X, self.rows[indices], out)

    def readable(self, dtype: np.dtype[Any]) -> RowSource:
        return self


def take_rows(X: Any, indices: np.ndarray, out: np.ndarray) -> None:
    """out[i] = row indices[i] of X, an array of the host or of a device or a `RowSource`; `out` is C-contiguous and of its
    dtype."""
    if isinstance(X, RowSource):
        X.take(indices, out)
    elif isinstance(X, np.ndarray):
        np.take(X, indices, axis=0, out=out, mode="clip")
    else:
        engine = engines.of(X)
        block = engine.empty(out.shape, out.dtype)
        engine.compute("gather", (engine.to_device(X), engine.to_device(indices), block), {})
        np.copyto(out, engine.read(block)[0])


@dataclass(frozen=True)
class Inputs:
    """Checked inputs: an array of the host or of a GPU, or `RowSource`; and the names of the columns where X has them."""

    array: Any
    names: tuple[str, ...] | None = None


def read(X: Any, features: tuple[int, ...] | None, name: str = "X", feature_names: Sequence[str] | None = None) -> Inputs:
    """X (n, ...) as rows of numbers with the features expected, on the host or where it lies on a GPU; copied only if need be.

    X: an array of NumPy, CuPy or any library that speaks `__array__` or `__dlpack__`; a memory map; a frame of pandas or polars
    with columns of numbers; a sparse matrix of SciPy; lists of rows; or `Inputs`. `name`: what X is called in messages.
    `feature_names`: those of the frame that a model was trained on; a frame is then taken by name, whatever the order of its
    columns, and everything else by position.

    Raises InputTypeError for what is not an array of numbers and InputError for wrong shapes, names and missing values.
    """
    checked = X if isinstance(X, Inputs) else _inputs(X, name, feature_names)
    shape = checked.array.shape
    if len(shape) < 2:
        variable = name.split()[-1]
        cure = f"use {variable}.reshape(1, -1) for one example or {variable}.reshape(-1, 1) for one feature"
        if frames.is_series(X):
            cure = "a frame of one row is frame[i : i + 1], one of one column frame[[name]]"
        elif isinstance(X, list | tuple):
            cure = f"use [{variable}] for one example or [[x] for x in {variable}] for one feature"
        raise InputError(f"{name}: expected rows of features, shape (n, features), got shape {shape}; {cure}")
    if features is not None and shape[1:] != features:
        raise InputError(f"{name}: expected shape {('n', *features)}, got {shape}")
    return checked


def readable(checked: Inputs, dtype: np.dtype[Any], name: str, input_map: InputMap = AS_IT_IS) -> Any:
    """The rows of checked inputs where a program can gather from them, else a copy in `dtype`, that of the model.

    Rows that are standardized as they are read lose nothing before: large ones of other dtypes are a `RowSource` of a dtype
    that holds them, and no copy. Raises InputError where a value is NaN, infinite or beyond the range of `dtype`.
    """
    X = checked.array
    standardized = input_map.offset is not None
    if not isinstance(X, np.ndarray | RowSource):
        check_spacing(X, input_map, name)
        return _readable_elsewhere(X, np.dtype(np.float64) if standardized else dtype, name)
    if standardized:
        dtype = _holding(X.dtype)
    check_finite(X, name, dtype, checked.names)
    if isinstance(X, RowSource):
        return X.readable(dtype)
    if standardized and not is_readable(X) and X.size * dtype.itemsize > COPY_BYTES:
        return ConvertedRows(X, dtype)
    return X if is_readable(X) else np.require(X, X.dtype if X.dtype in READABLE else dtype, ["C", "A"])


def _holding(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """float32 where it holds all numbers of `dtype`, else float64."""
    return np.dtype(np.float32 if np.can_cast(dtype, np.float32) else np.float64)


def check_spacing(X: Any, input_map: InputMap, name: str) -> None:
    """Raise InputError where numbers of the dtype of X, which does not lie on the host, are too far apart around a mean: more
    than a thousandth of a deviation. They were rounded when they were brought there."""
    offset, factor = input_map.offset, input_map.factor
    if offset is None or factor is None or X.dtype != np.float32:
        return
    steps = np.spacing(np.abs(offset / input_map.scale).astype(np.float32)) * input_map.scale * factor
    if not (steps <= MOST_ROUNDING).all():
        worst = int(steps.argmax())
        raise InputError(
            f"{name}: float32 numbers around the mean {offset[worst]:g} of feature {worst} are {steps[worst]:.2g} deviations "
            f"apart; give {name} in float64: the mean is then subtracted before anything is rounded"
        )


def check_finite(
    values: np.ndarray | RowSource, what: str, dtype: np.dtype[Any] | None = None, names: tuple[str, ...] | None = None
) -> None:
    """Raise where NaN, infinity or more than `dtype` holds is: how many, and the first.

    Looks at blocks, never at a copy of all; integers are always good.
    """
    stored = values.matrix.data if isinstance(values, SparseRows) else values
    if stored.dtype.kind != "f":
        return
    most = math.inf if dtype is None else float(np.finfo(dtype).max)
    largest = most if most < float(np.finfo(stored.dtype).max) else math.inf
    rows = max(1, 2**20 // max(1, math.prod(stored.shape[1:])))
    bad = 0
    first: tuple[int, ...] = (0,)
    value = math.nan
    for start in range(0, len(stored), rows):
        block = stored[start : start + rows]
        if np.isfinite(block).all() and (largest == math.inf or np.abs(block).max(initial=0.0) <= largest):
            continue
        nonfinite = ~(np.isfinite(block) & (np.abs(block) <= largest))
        if not bad:
            row, *rest = map(int, np.unravel_index(nonfinite.argmax(), nonfinite.shape))
            first, value = (start + row, *rest), float(block[row, *rest])
        bad += int(np.count_nonzero(nonfinite))
    if bad:
        place = values.spot(first[0]) if isinstance(values, SparseRows) else first
        cure = f", too large for {dtype}: scale the features, or make the model with dtype='float64'"
        raise InputError(
            f"{what}: {bad} values are NaN, infinite or too large, the first in {spot(place, names)}; remove or replace them "
            f"(it is {value:g}{cure if math.isfinite(value) else ''})"
        )


def is_readable(array: np.ndarray) -> bool:
    """Whether a program can gather rows from an array as it is."""
    return array.dtype in READABLE and array.flags.c_contiguous and array.flags.aligned


def mapping(array: np.ndarray) -> Any:
    """The shared memory map that an array of the host looks into; None for private ones and for other memory."""
    memmap = _memmap(array)
    return None if memmap is None or memmap.mode == "c" else memmap.base


def _memmap(array: Any) -> Any:
    """The memory map that an array looks into, as it was made: its base is the mapping."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap):
            return array
        array = array.base
    return None


def _inputs(X: Any, name: str, feature_names: Sequence[str] | None) -> Inputs:
    if isinstance(X, RowSource):
        return Inputs(X)
    if isinstance(X, list | tuple):
        X = _of_lists(X, name)
    if frames.is_frame(X):
        return _of_frame(frames.read(X, name, feature_names), name)
    if (sparse := sys.modules.get("scipy.sparse")) is not None and sparse.issparse(X):
        return Inputs(_sparse(X, name))
    if isinstance(X, np.ma.MaskedArray) and (mask := np.ma.getmaskarray(X)).any():
        first = spot(tuple(int(i) for i in np.argwhere(mask)[0]))
        raise InputError(f"{name}: {mask.sum()} values are masked, the first in {first}; fill them with {name}.filled(value)")
    array = arrays.to_host(X) if arrays.on_host(X) else engines.of(X).to_device(X)
    _check_dtype(array.dtype, X, name)
    if isinstance(array, np.ndarray) and _memmap(array) is not None:
        private_or_small = array.nbytes < LARGE_BYTES or mapping(array) is None
        return Inputs(array if is_readable(array) and private_or_small else MappedRows(array))
    return Inputs(array)


def _of_frame(table: frames.Table, name: str) -> Inputs:
    """The numbers of a frame; looked at here, where a column can still be named."""
    if not isinstance(table.numbers, np.ndarray):
        return Inputs(_sparse(table.numbers, name), table.names)
    check_finite(table.numbers, name, names=table.names)
    return Inputs(table.numbers, table.names)


def _of_lists(X: Sequence[Any], name: str) -> np.ndarray:
    """Rows that are lists of numbers, or lists of such, as an array."""
    try:
        array = np.asarray(X)
    except (ValueError, TypeError) as error:  # rows of different lengths, or what is no array of the host
        shapes = [_shape(row) for row in X]
        odd = next((row for row, shape in enumerate(shapes) if shape is None or shape != shapes[0]), None)
        if odd is None:
            raise InputTypeError(f"{name}: expected an array or lists of numbers, got a {type(X).__name__}: {error}") from error
        got = "that is ragged itself" if shapes[odd] is None else f"of shape {shapes[odd]}, and row 0 of shape {shapes[0]}"
        raise InputError(f"{name}: expected rows of one length, got row {odd} {got}") from error
    if array.dtype.kind not in "fiub":
        values = np.asarray(X, object)
        for index, value in enumerate(values.flat):
            if not isinstance(value, Real | np.bool_):
                place = spot(tuple(int(i) for i in np.unravel_index(index, values.shape)))
                raise InputTypeError(f"{name}: expected numbers, got {frames.shorten(value)} in {place}; convert or replace it")
    return array


def _shape(row: Any) -> tuple[int, ...] | None:
    """The shape of a row; None where it has none."""
    try:
        return tuple(np.shape(row))
    except ValueError:
        return None


def _check_dtype(dtype: np.dtype[Any], X: Any, name: str) -> None:
    if dtype.kind not in "fiub":
        got = f"dtype {dtype}" if hasattr(X, "dtype") else f"a {type(X).__name__}"
        cure = CURES.get(dtype.kind, "").format(name=name) if hasattr(X, "dtype") else ""
        raise InputTypeError(f"{name}: expected an array of numbers, got {got}" + (f"; {cure}" if cure else ""))


def _sparse(X: Any, name: str) -> SparseRows:
    from scipy.sparse import csr_array

    _check_dtype(X.dtype, X, name)
    if X.ndim != 2:
        raise InputError(f"{name}: expected a sparse matrix of shape (n, features), got shape {X.shape}")
    matrix = csr_array(X)
    try:
        matrix.check_format()  # an index out of range would be written to beside the block
    except ValueError as error:
        raise InputError(f"{name}: the sparse matrix is damaged: {error}") from error
    if not matrix.has_canonical_format:
        matrix = matrix.copy()  # a CSR matrix shares its arrays with the caller's
        matrix.sum_duplicates()
    return SparseRows(matrix)


def _readable_elsewhere(X: Any, dtype: np.dtype[Any], name: str) -> Any:
    """An array that does not lie on the host, which is looked at and left there."""
    if X.dtype not in READABLE or (X.dtype == np.float64 and dtype != np.float64):
        raise InputTypeError(
            f"{name}: expected uint8 or {dtype} on {arrays.device(X)}, got {X.dtype}; convert it with .astype('{dtype}')"
        )
    if X.dtype.kind == "f":
        engine = engines.of(X)
        bad = int(engine.read(engine.count_nonfinite(X))[0].sum())
        if bad:
            raise InputError(f"{name}: {bad} values are NaN or infinite; remove or replace them")
    return X
