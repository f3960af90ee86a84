"""Frames of pandas and polars as arrays of numbers and the names of their columns; neither library is imported for it.

What holds no numbers, or not all of them, is refused with the columns that do so, an example and what to do about it.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import sys
from collections.abc import Iterable, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from fastnn.errors import InputError, InputTypeError, nearest


class Table(NamedTuple):
    """The numbers of a frame, (n, columns), and the names of its columns."""

    numbers: Any
    """An array; a sparse matrix of SciPy where all columns are sparse and SciPy is there."""
    names: tuple[str, ...]


def is_frame(X: Any) -> bool:
    """Whether X is a frame."""
    return is_of(X, "pandas", "DataFrame") or is_of(X, "polars", "DataFrame") or is_of(X, "polars", "LazyFrame")


def is_series(X: Any) -> bool:
    """Whether X is a column, or a row of pandas."""
    return is_of(X, "pandas", "Series") or is_of(X, "polars", "Series")


def is_of(X: Any, library: str, kind: str) -> bool:
    """Whether X is of a class of a library, which is not imported for the question."""
    module = sys.modules.get(library)
    return module is not None and isinstance(X, getattr(module, kind, ()))


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, or the NA and NaT of pandas."""
    return value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, Real) and math.isnan(value))


def read(X: Any, name: str, expected: Sequence[str] | None, owner: str = "model") -> Table:
    """A frame as an array of numbers of the narrowest dtype that holds all of them, booleans being 0 and 1.

    `name`: what X is called in messages. `expected`: the names of the columns that a model was trained on, in whose order they
    are then taken; `owner`: what has these names. Raises InputError for wrong names and missing values, InputTypeError for
    columns that hold no numbers.
    """
    if is_of(X, "polars", "LazyFrame"):
        raise InputTypeError(f"{name}: expected an array or a frame, got a LazyFrame; use {name}.collect()")
    pandas = is_of(X, "pandas", "DataFrame")
    rename = f"set {name}.columns = {name}.columns.map(str)" if pandas else f"rename them with {name}.rename(...)"
    names = _names(X.columns, name, expected, rename, owner)
    if names != tuple(X.columns):
        X = X[list(names)]
    return Table((_read_pandas if pandas else _read_polars)(X, names, name), names)


def _read_pandas(X: Any, names: tuple[str, ...], name: str) -> Any:
    dtypes, frame = list(X.dtypes), name.split()[-1]
    objects = [n for n, dtype in zip(names, dtypes, strict=True) if dtype.kind in "OUS"]
    others = [n for n, dtype in zip(names, dtypes, strict=True) if dtype.kind not in "fiubOUS"]
    if objects or others:
        advice = _Advice(
            encode=f"encode them with pandas.get_dummies({frame}, columns=[{{columns}}])",
            parse=f"convert each with {frame}[column] = pandas.to_numeric({frame}[column])",
            cast=f"convert them with {frame}.astype(dict.fromkeys([{{columns}}], float))",
            drop=f"{frame}.drop(columns=[{{columns}}])",
            fill=f"{frame}.fillna(value)",
        )
        _refuse(X, objects, others, name, advice)
    kinds = [getattr(dtype, "numpy_dtype", None) or getattr(dtype, "subtype", dtype) for dtype in dtypes]  # nullable, sparse
    kind = np.result_type(np.bool_, *kinds)
    if dtypes and all(is_of(dtype, "pandas", "SparseDtype") and dtype.fill_value == 0 for dtype in dtypes):
        with contextlib.suppress(ImportError):  # without SciPy they are made dense
            # pandas would make objects of booleans and numbers
            return X.astype(type(dtypes[0])(kind, kind.type(0).item())).sparse.to_coo()
    for index, dtype in enumerate(dtypes):
        if not isinstance(dtype, np.dtype):
            _check_missing(np.asarray(X.iloc[:, index].isna()), names[index], name, f"{frame}.fillna(value)")
    return X.to_numpy(dtype=kind)


def _read_polars(X: Any, names: tuple[str, ...], name: str) -> Any:
    dtypes, frame = {n: str(dtype.base_type()) for n, dtype in X.schema.items()}, name.split()[-1]
    objects = [n for n, dtype in dtypes.items() if dtype in ("String", "Categorical", "Enum", "Decimal", "Object")]
    numbers = [n for n, dtype in X.schema.items() if dtype.is_integer() or dtype.is_float() or dtypes[n] == "Boolean"]
    others = [n for n in names if n not in {*objects, *numbers}]
    if objects or others:
        cast = f"convert them with {frame}.cast(dict.fromkeys([{{columns}}], polars.Float64))"
        advice = _Advice(
            encode=f"encode them with {frame}.to_dummies([{{columns}}])",
            parse=cast,
            cast=cast,
            drop=f"{frame}.drop([{{columns}}])",
            fill=f"{frame}.fill_null(value)",
        )
        _refuse(X, objects, others, name, advice)
    for column in names:
        if X[column].null_count():
            _check_missing(X[column].is_null().to_numpy(), column, name, f"{frame}.fill_null(value)")
    return X.to_numpy()


class _Advice(NamedTuple):
    """What to do about columns that hold no numbers: categories, numbers as text and as objects, others, missing values."""

    encode: str
    parse: str
    cast: str
    drop: str
    fill: str


def _refuse(X: Any, objects: list[str], others: list[str], name: str, advice: _Advice) -> None:
    """Raise InputTypeError for columns whose dtype is none of numbers; those that hold alike are named together."""
    groups: dict[tuple[str, str], list[str]] = {}
    examples: dict[str, Any] = {}
    for column in [*objects, *others]:
        values = [value for value in X[column] if not is_missing(value)]
        examples[column] = values[0] if values else None
        groups.setdefault(_describe(values, column, column in others, name, advice), []).append(column)
    (kind, cure), columns = next(iter(groups.items()))
    listing = list_names(columns)
    example = "" if examples[columns[0]] is None else f", such as {shorten(examples[columns[0]])}"
    raise InputTypeError(f"{name}: the columns {listing} hold {kind}{example}; {cure.replace('{columns}', listing)}")


def _describe(values: list[Any], column: str, other: bool, name: str, advice: _Advice) -> tuple[str, str]:
    """What a column with these values, none of them missing, holds, and the cure."""
    leave = f"or leave them out with {advice.drop}"
    if not values:
        return "nothing but missing values", f"fill them with {advice.fill}, {leave}"
    if all(hasattr(value, "__len__") and not isinstance(value, str | bytes | dict) for value in values):
        return "lists or arrays", f"make them a matrix with numpy.stack({name.split()[-1]}[{column!r}]), {leave}"
    if all(isinstance(value, Real | Decimal | np.bool_) for value in values):
        return "numbers as objects", advice.cast
    if other or not all(isinstance(value, str | bytes) for value in values):
        mixed = not other and any(isinstance(value, str) for value in values)
        return ("text beside other values", advice.encode) if mixed else ("no numbers", f"convert them to numbers, {leave}")
    if all(_is_number(value) for value in values):
        return "numbers as text", advice.parse
    return "text or categories", advice.encode


def _is_number(text: Any) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _names(columns: Iterable[Any], name: str, expected: Sequence[str] | None, cure: str, owner: str) -> tuple[str, ...]:
    """The names of a frame's columns, or those that a model expects, all of which the frame must have, and no others."""
    present = tuple(columns)
    for column in present:
        if not isinstance(column, str):
            raise InputError(f"{name}: expected columns with names, got {column!r} ({type(column).__name__}); {cure}")
    if len(set(present)) < len(present):
        twice = next(column for column in present if present.count(column) > 1)
        raise InputError(f"{name}: expected columns with different names, got {twice!r} {present.count(twice)} times")
    if expected is None:
        return present
    known, names = set(expected), set(present)
    if missing := [column for column in expected if column not in names]:
        more = [column for column in present if column not in known]
        raise InputError(
            f"{name}: the columns {list_names(missing)} of training are missing{_near(missing[0], more or present)}"
        )
    if more := [column for column in present if column not in known]:
        raise InputError(
            f"{name}: the columns {list_names(more)} were not there in training{_near(more[0], expected)}; "
            f"leave them out with {name}[list({owner}.feature_names)]"
        )
    return tuple(expected)


def _check_missing(missing: np.ndarray, column: str, name: str, cure: str) -> None:
    if missing.any():
        raise InputError(
            f"{name}: the column {column!r} misses {int(missing.sum())} values, the first in row {int(missing.argmax())}; "
            f"fill them with {cure}, or leave these rows out"
        )


def _near(column: str, known: Sequence[str]) -> str:
    """The nearest of `known`, or all of them where they are few."""
    close = difflib.get_close_matches(column, known, n=1)
    return nearest(column, close or known) if close or len(known) <= 10 else ""


def list_names(columns: Sequence[str], most: int = 10) -> str:
    """Names for a message, in quotes."""
    shown = ", ".join(map(repr, columns[:most]))
    return shown if len(columns) <= most else f"{shown}, ... ({len(columns)})"


def shorten(value: Any, most: int = 60) -> str:
    """A value for a message."""
    value = value.to_list() if hasattr(value, "to_list") else value  # a cell of polars may be a column
    text = " ".join(repr(value).split())
    return text if len(text) <= most else f"{text[:most]}..."
