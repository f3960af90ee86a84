"""Definition of the kernels that move elements of any dtype; `fill` is with the data kernels."""

from __future__ import annotations

import numpy as np

__all__ = ["concatenate", "gather", "scatter_add", "slice", "transpose"]


def transpose(x: np.ndarray, y: np.ndarray, *, axes: tuple[int, ...]) -> None:
    """Axis k of y is axis axes[k] of x."""
    y[...] = np.transpose(x, axes)


def concatenate(a: np.ndarray, b: np.ndarray, c: np.ndarray, *, axis: int) -> None:
    """c = a, then b, along `axis`."""
    c[...] = np.concatenate([a, b], axis)


def slice(x: np.ndarray, y: np.ndarray, *, axis: int, start: int) -> None:
    """y = entries start, start + 1, ... of x along `axis`, as many as y has."""
    y[...] = np.moveaxis(np.moveaxis(x, axis, 0)[start : start + y.shape[axis]], 0, axis)


def gather(x: np.ndarray, indices: np.ndarray, y: np.ndarray) -> None:
    """y[i] = x[indices[i]]; indices lie in [0, len(x))."""
    y[...] = x[indices]


def scatter_add(indices: np.ndarray, dy: np.ndarray, dx: np.ndarray) -> None:
    """dx = 0, then dx[indices[i]] += dy[i] in the order of i; indices lie in [0, len(dx))."""
    dx[...] = 0
    np.add.at(dx, indices, dy)
