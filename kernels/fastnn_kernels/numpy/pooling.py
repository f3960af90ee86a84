"""Pooling of images: the largest, the mean and the Euclidean norm of windows of pixels, and their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnn_kernels.numpy.windows import Pair, taps

Array = NDArray[Any]

__all__ = [
    "l2_pool2d", "l2_pool2d_backward", "max_pool2d", "max_pool2d_backward", "mean_pool2d", "mean_pool2d_backward",
]  # fmt: skip


def max_pool2d(x: Array, y: Array, places: Array, *, size: Pair, strides: Pair, padding: Pair) -> None:
    """y = the largest pixel of each window, places = which that is; the first of equal ones, and NaN is the largest."""
    y[...] = -np.inf
    places[...] = 0
    found = np.zeros(y.shape, bool)
    for place, (windows, pixels) in enumerate(taps(x.shape, y.shape, size, strides, padding)):
        best, value = y[windows], x[pixels]
        larger = (value > best) | (np.isnan(value) & ~np.isnan(best)) | ~found[windows]
        y[windows] = np.where(larger, value, best)
        places[windows] = np.where(larger, place, places[windows])
        found[windows] = True


def max_pool2d_backward(dy: Array, places: Array, dx: Array, *, size: Pair, strides: Pair, padding: Pair) -> None:
    """dx = the sum of dy over the windows in which the pixel is the largest."""
    _gather(dy, dx, size, strides, padding, places)


def mean_pool2d(x: Array, y: Array, *, size: Pair, strides: Pair, padding: Pair) -> None:
    """y = the mean of the pixels of each window."""
    y[...] = 0
    for windows, pixels in taps(x.shape, y.shape, size, strides, padding):
        y[windows] += x[pixels]
    y /= _pixels(x.shape, y.shape, size, strides, padding)


def mean_pool2d_backward(dy: Array, dx: Array, *, size: Pair, strides: Pair, padding: Pair) -> None:
    """dx = the sum of dy / pixels of the window over the windows that the pixel is in."""
    _gather(dy / _pixels(dx.shape, dy.shape, size, strides, padding), dx, size, strides, padding)


def l2_pool2d(x: Array, y: Array, *, size: Pair, strides: Pair, padding: Pair) -> None:
    """y = sqrt(sum of x^2) over the pixels of each window."""
    y[...] = 0
    for windows, pixels in taps(x.shape, y.shape, size, strides, padding):
        y[windows] += x[pixels] ** 2
    np.sqrt(y, out=y)


def l2_pool2d_backward(dy: Array, x: Array, y: Array, dx: Array, *, size: Pair, strides: Pair, padding: Pair) -> None:
    """dx = x * (sum of dy / y over the windows that the pixel is in); a window whose y is 0 adds nothing."""
    _gather(np.divide(dy, y, out=np.zeros_like(dy), where=y != 0), dx, size, strides, padding)
    dx *= x


def _pixels(image: tuple[int, ...], windows: tuple[int, ...], size: Pair, strides: Pair, padding: Pair) -> Array:
    """How many pixels of the image lie in each window, (1, OH, OW, 1)."""
    counts = np.zeros((1, *windows[1:3], 1), np.int64)
    for inside, _ in taps(image, windows, size, strides, padding):
        counts[inside] += 1
    return counts


def _gather(values: Array, dx: Array, size: Pair, strides: Pair, padding: Pair, places: Array | None = None) -> None:
    """dx = the sum of `values` over the windows that a pixel is in, or in which it is the one that `places` names.

    The taps backwards are the windows forwards: what lies later in a window is in an earlier one.
    """
    dx[...] = 0
    for place, (windows, pixels) in reversed(list(enumerate(taps(dx.shape, values.shape, size, strides, padding)))):
        chosen = values[windows] if places is None else np.where(places[windows] == place, values[windows], 0)
        dx[pixels] += chosen
