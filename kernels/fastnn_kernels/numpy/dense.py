"""Matrix products and dense layers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnn_kernels.numpy.elementwise import activate, activate_backward
from fastnn_kernels.numpy.leaves import sum_leaves, sum_rows

Array = NDArray[Any]

__all__ = [
    "dense", "dense_backward_input", "dense_backward_input_with_mask", "dense_backward_weight", "dense_with_mask", "matmul",
]  # fmt: skip


def matmul(a: Array, b: Array, c: Array, *, transpose_a: bool = False, transpose_b: bool = False) -> None:
    """c (M, N) = op(a) @ op(b): op(a) is a (M, K), or a (K, M) transposed; op(b) is b (K, N), or b (N, K) transposed.

    With `transpose_a` it is a sum over rows, in leaves.
    """
    right = b.T if transpose_b else b
    c[...] = sum_leaves(len(a), lambda rows: a[rows].T @ right[rows]) if transpose_a else a @ right


def dense(x: Array, w: Array, b: Array, y: Array, *, activation: str | None = None, alpha: float = 0.0) -> None:
    """y (B, O) = activation(x (B, I) @ w (I, O) + b (O,))."""
    activate(x @ w + b, y, activation, alpha)


def dense_backward_input(
    dz: Array, w: Array, y: Array, dx: Array, *, activation: str | None = None, alpha: float = 0.0
) -> None:
    """dx (B, I) = (dz (B, O) @ w (I, O).T) * activation'(at y (B, I)), y the output of the layer below."""
    activate_backward(dz @ w.T, y, dx, activation, alpha)


def dense_backward_weight(x: Array, dz: Array, dw: Array, db: Array) -> None:
    """dw (I, O) = x (B, I).T @ dz (B, O), db (O,) = sum of dz over B."""
    matmul(x, dz, dw, transpose_a=True)
    db[...] = sum_rows(dz)


def dense_with_mask(x: Array, w: Array, b: Array, y: Array, mask: Array) -> None:
    """y (B, O) = max(x (B, I) @ w (I, O) + b (O,), 0), and a bit of mask (B, P) for each element, set where y > 0."""
    dense(x, w, b, y, activation="relu")
    mask[...] = 0
    bits = np.packbits(y > 0, axis=1, bitorder="little")
    mask[:, : bits.shape[1]] = bits


def dense_backward_input_with_mask(dz: Array, w: Array, mask: Array, dx: Array, db: Array | None = None) -> None:
    """dx (B, I) = dz (B, O) @ w (I, O).T where the bit of mask (B, P) is set, else 0; db (I,) = sum of dx over B."""
    kept = np.unpackbits(mask, axis=1, count=dx.shape[1], bitorder="little")
    dx[...] = np.where(kept, dz @ w.T, 0)
    if db is not None:
        db[...] = sum_rows(dx)
