"""Kernels along the last axis of (B, C)."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["argmax", "log_softmax", "log_softmax_backward", "one_hot", "softmax", "softmax_backward"]

Array = np.ndarray[Any, np.dtype[Any]]


@np.errstate(all="ignore")
def softmax(x: Array, y: Array) -> None:
    """y_j = exp(x_j) / sum_k exp(x_k), computed from x - max(x) so that nothing overflows."""
    y[...] = np.exp(_below_maximum(x))
    y /= np.sum(y, axis=-1, keepdims=True)


@np.errstate(all="ignore")
def softmax_backward(dy: Array, y: Array, dx: Array) -> None:
    """dx_j = y_j (dy_j - sum_k dy_k y_k), with y the softmax."""
    dx[...] = y * (dy - np.sum(dy * y, axis=-1, keepdims=True))


@np.errstate(all="ignore")
def log_softmax(x: Array, y: Array) -> None:
    """y_j = x_j - log sum_k exp(x_k), computed from x - max(x)."""
    shifted = _below_maximum(x)
    y[...] = shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))


@np.errstate(all="ignore")
def log_softmax_backward(dy: Array, y: Array, dx: Array) -> None:
    """dx_j = dy_j - exp(y_j) sum_k dy_k, with y the logarithm of the softmax."""
    dx[...] = dy - np.exp(y) * np.sum(dy, axis=-1, keepdims=True)


def argmax(x: Array, indices: Array) -> None:
    """indices = position of the greatest element, the first of equal ones; NaN is the greatest; 0 where C is 0."""
    indices[...] = np.argmax(x, axis=-1) if x.shape[-1] else 0


def one_hot(labels: Array, y: Array) -> None:
    """y_j = 1 where j is the label, else 0; all 0 where the label is none of 0 .. C-1."""
    y[...] = labels[..., None] == np.arange(y.shape[-1])


def _below_maximum(x: Array) -> Array:
    return np.asarray(x - np.max(x, axis=-1, keepdims=True, initial=-np.inf))
