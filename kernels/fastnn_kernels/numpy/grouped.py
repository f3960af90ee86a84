"""Linear layers of G small models side by side: the last axis of an array tells the models apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnn_kernels.numpy.leaves import sum_leaves, sum_rows

Array = NDArray[Any]

__all__ = ["grouped_dense", "grouped_dense_backward_input", "grouped_dense_backward_weight"]


def grouped_dense(x: Array, w: Array, b: Array, y: Array) -> None:
    """y (B, O, G) = x @ w + b for each model, x (B, I, G), or (B, I) for all of them, w (I, O, G), b (O, G)."""
    y[...] = np.einsum("big,iog->bog" if x.ndim == 3 else "bi,iog->bog", x, w) + b


def grouped_dense_backward_input(dz: Array, w: Array, dx: Array) -> None:
    """dx (B, I, G) = dz @ w.T for each model, dz (B, O, G), w (I, O, G)."""
    dx[...] = np.einsum("bog,iog->big", dz, w)


def grouped_dense_backward_weight(x: Array, dz: Array, dw: Array, db: Array) -> None:
    """dw (I, O, G) = x.T @ dz, db (O, G) = sum of dz over B, for each model, x as for `grouped_dense`, dz (B, O, G)."""
    indices = "big,bog->iog" if x.ndim == 3 else "bi,bog->iog"
    dw[...] = sum_leaves(len(x), lambda rows: np.einsum(indices, x[rows], dz[rows]))
    db[...] = sum_rows(dz)
