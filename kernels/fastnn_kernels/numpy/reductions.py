"""Sums, means and maxima along axes, and their converse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastnn_kernels.numpy.leaves import sum_rows

__all__ = ["expand", "max", "mean", "sum"]

Array = np.ndarray[Any, np.dtype[Any]]
Axes = tuple[int, ...]


def sum(x: Array, y: Array, *, axis: Axes) -> None:
    """y = sum of x along `axis`; 0 of nothing."""
    y[...] = sum_rows(x, axis)


@np.errstate(all="ignore")
def mean(x: Array, y: Array, *, axis: Axes) -> None:
    """y = mean of x along `axis`; NaN of nothing."""
    y[...] = sum_rows(x, axis) / x.dtype.type(_count(x, axis))


def max(x: Array, y: Array, *, axis: Axes) -> None:
    """y = greatest element of x along `axis`, NaN where there is one; -inf of nothing."""
    y[...] = np.max(x, axis=axis, initial=-np.inf)


def expand(x: Array, y: Array, *, axis: Axes, mean: bool) -> None:
    """y = x repeated along `axis` of y, divided by the number of repeats if `mean`."""
    y[...] = np.expand_dims(x, axis)
    if mean and y.size:
        y /= _count(y, axis)


def _count(array: Array, axis: Axes) -> int:
    return math.prod(array.shape[i] for i in axis)
