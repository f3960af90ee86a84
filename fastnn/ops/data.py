"""Rows by index: mini-batches out of resident data, one-hot rows, shuffled orders."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastnn.errors import InputError, InputTypeError
from fastnn.ops.dispatch import Array, apply, check_labels, compute, integers
from fastnn.program.differentiate import backward
from fastnn.program.shapes import Dimension, describe
from fastnn.program.trace import FLOATS, Call, Symbol, family, floats

__all__ = ["gather", "gather_rows", "one_hot", "shuffle"]


def gather(x: Array, indices: Array) -> Array:
    """Rows x[indices] along the first axis; indices (N,) integers in 0 .. rows - 1. Equal indices add up in the gradient."""
    dtype = floats("gather", x)
    family("gather", x, indices)
    indices = integers("gather", indices)
    if len(x.shape) < 1 or len(indices.shape) != 1:
        raise InputError(
            f"gather: expected rows and a list of indices, got {describe(tuple(x.shape))} and {describe(tuple(indices.shape))}"
        )
    check_labels("gather", indices, x.shape[0])
    return apply("gather", (x, indices), [((indices.shape[0], *x.shape[1:]), dtype)])


@backward("gather")
def _gather_backward(call: Call, dy: Symbol) -> tuple[Symbol, None]:
    x, indices = call.inputs
    return apply("scatter_add", (indices, dy), [(x.shape, x.dtype)]), None


def one_hot(labels: Array, classes: int, dtype: Any = "float32") -> Array:
    """(B, C): 1 in the column of the label, 0 elsewhere; labels (B,) integers in 0 .. classes - 1."""
    labels = integers("one_hot", labels)
    if len(labels.shape) != 1 or not isinstance(classes, int | np.integer) or classes < 1:
        raise InputError(f"one_hot: expected labels (B,) and classes >= 1, got {describe(tuple(labels.shape))} and {classes}")
    check_labels("one_hot", labels, classes)
    if np.dtype(dtype) not in FLOATS:
        raise InputTypeError(f"one_hot: expected float32 or float64, got {np.dtype(dtype)}")
    return apply("one_hot", (labels,), [((labels.shape[0], int(classes)), np.dtype(dtype))])


def gather_rows(
    source: Array, order: Array, position: Array, rows: Dimension, dtype: Any, scale: float = 1.0,
    offset: Array | None = None, factor: Array | None = None,
) -> Array:  # fmt: skip
    """y[b] = source[order[position + b]] * scale for b = 0 .. rows - 1: a mini-batch out of the resident data.

    source (N, ...) uint8, int64, float32 or float64; order int64; position 0-d int64; y of `dtype`, (rows, ...). With `offset`
    and `factor`, float64 (K,) for rows of K elements, y[b] = (source[...] * scale - offset) * factor, computed in float64 and
    rounded once: large values close to each other stay apart.
    """
    family("gather_rows", source, order, position)
    if np.dtype(source.dtype) not in (np.dtype("uint8"), np.dtype("int64"), *FLOATS):
        raise InputTypeError(f"gather_rows: expected uint8, int64, float32 or float64, got {source.dtype}")
    order, position = integers("gather_rows", order), integers("gather_rows", position)
    if len(order.shape) != 1 or position.shape != () or len(source.shape) < 1:
        raise InputError(
            "gather_rows: expected rows, a list of indices and a 0-d position, got shapes "
            f"{', '.join(describe(tuple(x.shape)) for x in (source, order, position))}"
        )
    if not isinstance(order, Symbol):
        start = int(position)
        if not (isinstance(rows, int) and 0 <= start <= len(order) - rows and rows >= 0):
            raise InputError(f"gather_rows: {rows} rows from position {start} are not in an order of {len(order)}")
        check_labels("gather_rows", order[start : start + rows], len(source))
    result, attributes = [((rows, *source.shape[1:]), np.dtype(dtype))], {"scale": float(scale)}
    if offset is None or factor is None:
        return apply("gather_rows", (source, order, position), result, attributes)
    for name, values in (("offset", offset), ("factor", factor)):
        if values.shape != (math.prod(source.shape[1:]),) or values.dtype != np.float64:
            raise InputError(
                f"gather_rows: {name}: expected a float64 number for each element of a row, got {values.dtype} of shape "
                f"{describe(tuple(values.shape))}"
            )
    return apply("gather_standardized", (source, order, position, offset, factor), result, attributes)


def shuffle(n: int, key: tuple[int, int], epoch: int) -> np.ndarray:
    """The order (n,) int64 in which epoch `epoch` visits n examples: the bijection of `fastnn.random.permutation`."""
    order: np.ndarray = compute("shuffle", (np.asarray(epoch, np.int64),), [((n,), np.dtype("int64"))], {"key": key})[0]
    return order
