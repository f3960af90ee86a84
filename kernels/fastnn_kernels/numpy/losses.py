"""Losses, one value an example, and what is made of them. t is the target, z the output of the model.

Class indices outside 0 .. C-1 stand for a target of zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn_kernels.numpy.leaves import sum_rows

__all__ = [
    "is_correct",
    "sigmoid_cross_entropy",
    "sigmoid_cross_entropy_backward",
    "sigmoid_cross_entropy_with_gradient",
    "softmax_cross_entropy",
    "softmax_cross_entropy_backward",
    "softmax_cross_entropy_with_gradient",
    "squared_error",
    "squared_error_backward",
    "squared_error_with_gradient",
    "weighted_mean",
    "weighted_mean_backward",
]

Array = np.ndarray[Any, np.dtype[Any]]


@np.errstate(all="ignore")
def softmax_cross_entropy(z: Array, t: Array, losses: Array) -> None:
    """losses = -sum_j t_j log p_j, p the softmax of z (B, C); t (B,) int64 or (B, C). 0 log 0 is 0."""
    target, shifted = _distribution(t, z), _below_maximum(z)
    log_p = shifted - np.log(np.sum(np.exp(shifted), axis=1, keepdims=True))
    losses[...] = np.sum(np.where((target == 0) & np.isneginf(log_p), 0, -target * log_p), axis=1)


@np.errstate(all="ignore")
def softmax_cross_entropy_backward(z: Array, t: Array, dlosses: Array, dz: Array) -> None:
    """dz_j = dlosses (p_j sum_k t_k - t_j)."""
    target, p = _distribution(t, z), np.exp(_below_maximum(z))
    p /= np.sum(p, axis=1, keepdims=True)
    dz[...] = dlosses[:, None] * (p * np.sum(target, axis=1, keepdims=True) - target)


def softmax_cross_entropy_with_gradient(z: Array, t: Array, dlosses: Array, losses: Array, dz: Array) -> None:
    """`softmax_cross_entropy` and its backward."""
    softmax_cross_entropy(z, t, losses)
    softmax_cross_entropy_backward(z, t, dlosses, dz)


@np.errstate(all="ignore")
def sigmoid_cross_entropy(z: Array, t: Array, losses: Array) -> None:
    """losses = sum_j of max(z, 0) - z t + log(1 + exp(-|z|)), the cross entropy of t and sigmoid(z), both (B, O)."""
    losses[...] = np.sum(np.maximum(z, 0) - z * t + np.log1p(np.exp(-np.abs(z))), axis=1)


@np.errstate(all="ignore")
def sigmoid_cross_entropy_backward(z: Array, t: Array, dlosses: Array, dz: Array) -> None:
    """dz = dlosses (sigmoid(z) - t)."""
    small = np.exp(-np.abs(z))
    dz[...] = dlosses[:, None] * (np.where(z >= 0, 1, small) / (1 + small) - t)


def sigmoid_cross_entropy_with_gradient(z: Array, t: Array, dlosses: Array, losses: Array, dz: Array) -> None:
    """`sigmoid_cross_entropy` and its backward."""
    sigmoid_cross_entropy(z, t, losses)
    sigmoid_cross_entropy_backward(z, t, dlosses, dz)


@np.errstate(all="ignore")
def squared_error(z: Array, t: Array, losses: Array, *, scale: float) -> None:
    """losses = scale * sum_j (z_j - t_j)^2."""
    losses[...] = scale * np.sum((z - t) ** 2, axis=1)


@np.errstate(all="ignore")
def squared_error_backward(z: Array, t: Array, dlosses: Array, dz: Array, *, scale: float) -> None:
    """dz = 2 scale dlosses (z - t)."""
    dz[...] = 2 * scale * dlosses[:, None] * (z - t)


def squared_error_with_gradient(z: Array, t: Array, dlosses: Array, losses: Array, dz: Array, *, scale: float) -> None:
    """`squared_error` and its backward."""
    squared_error(z, t, losses, scale=scale)
    squared_error_backward(z, t, dlosses, dz, scale=scale)


@np.errstate(all="ignore")
def weighted_mean(losses: Array, weights: Array, mean: Array) -> None:
    """mean = sum(weights * losses) / sum(weights); 0 where the weights sum to 0."""
    total = sum_rows(weights)
    mean[...] = 0 if total == 0 else sum_rows(weights * losses) / total


@np.errstate(all="ignore")
def weighted_mean_backward(dmean: Array, weights: Array, dlosses: Array) -> None:
    """dlosses = dmean * weights / sum(weights); 0 where the weights sum to 0."""
    total = sum_rows(weights)
    dlosses[...] = 0 if total == 0 else dmean / total * weights


@np.errstate(all="ignore")
def is_correct(z: Array, t: Array, correct: Array, *, threshold: float, multilabel: bool) -> None:
    """1 or 0 an example: whether argmax(z) is the class t (B,) int64, or argmax(t) of t (B, C).

    Where z has one column, or `multilabel`: the share of columns in which (z > threshold) == (t > 0.5).
    """
    columns = z.shape[1]
    if multilabel or columns == 1:
        agree = (z > threshold) == (t.reshape(z.shape) > 0.5)
        correct[...] = np.sum(agree, axis=1) / correct.dtype.type(columns)
    else:
        correct[...] = _class(z) == (t if t.dtype == np.int64 else _class(t))


def _class(z: Array) -> Array:
    return np.argmax(z, axis=1) if z.shape[1] else np.zeros(len(z), np.int64)


def _distribution(t: Array, z: Array) -> Array:
    """The target as a (B, C) array."""
    return (t[:, None] == np.arange(z.shape[1])).astype(z.dtype) if t.dtype == np.int64 else t


def _below_maximum(z: Array) -> Array:
    return np.asarray(z - np.max(z, axis=1, keepdims=True, initial=-np.inf))
