"""Convolution of images, and its gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnn_kernels.contract import LEAF_IMAGES
from fastnn_kernels.numpy.elementwise import activate
from fastnn_kernels.numpy.leaves import combine, cut_leaves
from fastnn_kernels.numpy.pooling import max_pool2d, max_pool2d_backward
from fastnn_kernels.numpy.windows import Pair, taps

Array = NDArray[Any]
Pool = tuple[Pair, Pair, Pair]

__all__ = [
    "add_leaves", "conv2d", "conv2d_backward_input", "conv2d_backward_weight", "conv2d_max_pool",
    "conv2d_max_pool_backward_input", "conv2d_max_pool_backward_weight",
]  # fmt: skip


def conv2d(
    x: Array,
    w: Array,
    b: Array,
    y: Array,
    *,
    strides: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    activation: str | None = None,
    alpha: float = 0.0,
) -> None:
    """y (B, OH, OW, O) = activation(b (O,) + sum of x[tap] @ w[tap] over the taps of w (KH, KW, C / groups, O))."""
    total = np.zeros_like(y)
    for (windows, pixels), tap in zip(taps(x.shape, y.shape, w.shape[:2], strides, padding, dilation), _flat(w), strict=True):
        total[windows] += _join(np.einsum("bhwgc,gco->bhwgo", _split(x[pixels], groups), _matrices(tap, groups)))
    activate(total + b, y, activation, alpha)


def conv2d_backward_input(dz: Array, w: Array, dx: Array, *, strides: Pair, padding: Pair, dilation: Pair, groups: int) -> None:
    """dx (B, H, W, C) = the sum of dz[windows] @ w[tap].T over the windows that a pixel is in, from the first window on."""
    dx[...] = 0
    places = zip(taps(dx.shape, dz.shape, w.shape[:2], strides, padding, dilation), _flat(w), strict=True)
    for (windows, pixels), tap in reversed(list(places)):
        dx[pixels] += _join(np.einsum("bhwgo,gco->bhwgc", _split(dz[windows], groups), _matrices(tap, groups)))


def conv2d_backward_weight(
    x: Array, dz: Array, leaves: Array, *, size: Pair, strides: Pair, padding: Pair, dilation: Pair, groups: int
) -> None:
    """A row for each leaf of images: dw[tap] = x[tap].T @ dz summed over its pixels, then db = the sum of dz over them."""
    for row, leaf in zip(leaves, cut_leaves(len(x), LEAF_IMAGES), strict=True) if len(x) else ():
        images, slopes = x[leaf], dz[leaf]
        parts = [
            np.einsum("bhwgc,bhwgo->cgo", _split(images[pixels], groups), _split(slopes[windows], groups))
            for windows, pixels in taps(images.shape, slopes.shape, size, strides, padding, dilation)
        ]
        row[...] = np.concatenate([*(part.reshape(-1) for part in parts), slopes.sum(axis=(0, 1, 2))])


def conv2d_max_pool(x: Array, w: Array, b: Array, y: Array, places: Array, *, image: Pair, pool: Pool, **how: Any) -> None:
    """conv2d, then max_pool2d of its outputs (B, *image, O)."""
    z = np.empty((len(x), *image, w.shape[3]), y.dtype)
    conv2d(x, w, b, z, **how)
    max_pool2d(z, y, places, **_windows(pool))


def conv2d_max_pool_backward_input(
    dy: Array, places: Array, w: Array, dx: Array, *, image: Pair, pool: Pool, **how: Any
) -> None:
    """max_pool2d_backward, then conv2d_backward_input."""
    conv2d_backward_input(_unpooled(dy, places, image, pool), w, dx, **how)


def conv2d_max_pool_backward_weight(
    x: Array, dy: Array, places: Array, leaves: Array, *, image: Pair, pool: Pool, **how: Any
) -> None:
    """max_pool2d_backward, then conv2d_backward_weight."""
    conv2d_backward_weight(x, _unpooled(dy, places, image, pool), leaves, **how)


def _unpooled(dy: Array, places: Array, image: Pair, pool: Pool) -> Array:
    dz = np.empty((len(dy), *image, dy.shape[3]), dy.dtype)
    max_pool2d_backward(dy, places, dz, **_windows(pool))
    return dz


def _windows(pool: Pool) -> dict[str, Pair]:
    return dict(zip(("size", "strides", "padding"), pool, strict=True))


def add_leaves(leaves: Array, dw: Array, db: Array) -> None:
    """dw and db, one behind the other, are the sum of the rows of `leaves`; 0 of none."""
    total = combine(list(leaves), np.add) if len(leaves) else np.zeros_like(leaves, shape=leaves.shape[1:])
    dw[...] = total[: dw.size].reshape(dw.shape)
    db[...] = total[dw.size :]


def _flat(w: Array) -> Array:
    """The taps of w, row by row: (KH KW, C / groups, O)."""
    return w.reshape(-1, *w.shape[2:])


def _split(images: Array, groups: int) -> Array:
    """The last axis in groups: (B, H, W, groups, C / groups)."""
    return images.reshape(*images.shape[:3], groups, images.shape[3] // groups)


def _join(images: Array) -> Array:
    return images.reshape(*images.shape[:3], images.shape[3] * images.shape[4])


def _matrices(tap: Array, groups: int) -> Array:
    """A tap of w as a matrix for each group: (groups, C / groups, O / groups)."""
    return tap.reshape(len(tap), groups, -1).transpose(1, 0, 2)
