"""Batch normalization of x (B, O) over B (Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167), with what comes behind it:
an activation, or None, and dropout.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn_kernels.numpy.data import dropout
from fastnn_kernels.numpy.elementwise import activate, activate_backward
from fastnn_kernels.numpy.leaves import combine, cut_leaves, sum_rows

__all__ = [
    "batch_norm", "batch_norm_backward", "batch_norm_dropout", "batch_norm_dropout_backward", "batch_norm_inference",
]  # fmt: skip

Array = np.ndarray[Any, np.dtype[Any]]


@np.errstate(all="ignore")
def batch_norm(
    x: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_variance: Array,
    y: Array,
    mean: Array,
    inverse_deviation: Array,
    *,
    momentum: float,
    epsilon: float,
    activation: str | None = None,
    alpha: float = 0.0,
) -> None:
    """y = activation(gamma * (x - mean) * inverse_deviation + beta), inverse_deviation = 1 / sqrt(biased variance + epsilon).

    running = momentum * running + (1 - momentum) * batch, with the unbiased variance, or 0 where B is 1. Where B is 0 the
    running statistics stay as they are; mean is then 0 and inverse_deviation 1 / sqrt(epsilon).
    """
    count, center, squares = combine([_moments(x[rows]) for rows in cut_leaves(len(x))], _join_moments)
    mean[...] = center
    inverse_deviation[...] = 1 / np.sqrt(squares / max(count, 1) + epsilon)
    activate(gamma * (x - mean) * inverse_deviation + beta, y, activation, alpha)
    if count > 0:
        running_mean[...] = momentum * running_mean + (1 - momentum) * center
        running_variance[...] = momentum * running_variance + (1 - momentum) * squares / max(count - 1, 1)


Moments = tuple[int, Any, Any]
"""Of some rows: how many they are, their mean, and the sum of the squares of their deviations from it, in float64."""


def _moments(x: Array) -> Moments:
    """Of one leaf."""
    count = len(x)
    center = np.sum(x, axis=0) / max(count, 1)
    deviations = x - center
    # A rounded mean leaves deviations that do not sum to 0; what they sum to corrects the mean and the sum of squares.
    left_over = np.sum(deviations, axis=0, dtype=np.float64)
    squares = np.sum(deviations**2, axis=0, dtype=np.float64) - left_over**2 / max(count, 1)
    return count, center.astype(np.float64) + left_over / max(count, 1), squares


def _join_moments(first: Moments, second: Moments) -> Moments:
    """Of the rows of both (Chan, Golub and LeVeque 1979)."""
    (count, mean, squares), (more, other_mean, other_squares) = first, second
    total, delta = count + more, other_mean - mean
    return total, mean + delta * (more / total), squares + other_squares + delta**2 * (count * more / total)


@np.errstate(all="ignore")
def batch_norm_inference(
    x: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_variance: Array,
    y: Array,
    *,
    epsilon: float,
    activation: str | None = None,
    alpha: float = 0.0,
) -> None:
    """y = activation(gamma * (x - running_mean) / sqrt(running_variance + epsilon) + beta)."""
    activate(gamma * (x - running_mean) / np.sqrt(running_variance + epsilon) + beta, y, activation, alpha)


@np.errstate(all="ignore")
def batch_norm_backward(
    dy: Array,
    x: Array,
    gamma: Array,
    beta: Array,
    mean: Array,
    inverse_deviation: Array,
    dx: Array,
    dgamma: Array,
    dbeta: Array,
    *,
    activation: str | None = None,
    alpha: float = 0.0,
) -> None:
    """dgamma = sum dz h, dbeta = sum dz, dx = gamma inverse_deviation / B (B dz - dbeta - h dgamma).

    h is the normalized input (x - mean) * inverse_deviation, dz = dy * activation'(at the output, gamma h + beta passed
    through the activation); sums run over B.
    """
    normalized = (x - mean) * inverse_deviation
    y, dz = np.empty_like(x), np.empty_like(x)
    activate(gamma * (x - mean) * inverse_deviation + beta, y, activation, alpha)
    activate_backward(dy, y, dz, activation, alpha)
    dgamma[...] = sum_rows(dz * normalized)
    dbeta[...] = sum_rows(dz)
    count = max(len(x), 1)
    dx[...] = gamma * inverse_deviation * (dz - dbeta / count - normalized * (dgamma / count))


def batch_norm_dropout(
    x: Array,
    gamma: Array,
    beta: Array,
    step: Array,
    running_mean: Array,
    running_variance: Array,
    y: Array,
    mean: Array,
    inverse_deviation: Array,
    *,
    momentum: float,
    epsilon: float,
    rate: float,
    key: tuple[int, int],
    activation: str | None = None,
    alpha: float = 0.0,
) -> None:
    """y = dropout(batch_norm(x))."""
    whole = np.empty_like(y)
    batch_norm(
        x, gamma, beta, running_mean, running_variance, whole, mean, inverse_deviation,
        momentum=momentum, epsilon=epsilon, activation=activation, alpha=alpha,
    )  # fmt: skip
    dropout(whole, step, y, rate=rate, key=key)


def batch_norm_dropout_backward(
    dy: Array,
    x: Array,
    gamma: Array,
    beta: Array,
    mean: Array,
    inverse_deviation: Array,
    step: Array,
    dx: Array,
    dgamma: Array,
    dbeta: Array,
    *,
    rate: float,
    key: tuple[int, int],
    activation: str | None = None,
    alpha: float = 0.0,
) -> None:
    """batch_norm_backward of what dropout lets through of dy."""
    kept = np.empty_like(dy)
    dropout(dy, step, kept, rate=rate, key=key)
    batch_norm_backward(
        kept, x, gamma, beta, mean, inverse_deviation, dx, dgamma, dbeta, activation=activation, alpha=alpha
    )  # fmt: skip
