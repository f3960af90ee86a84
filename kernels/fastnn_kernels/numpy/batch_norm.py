"""Batch normalisation of x (B, O) over B (Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167)."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["batch_norm", "batch_norm_backward", "batch_norm_inference"]

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
) -> None:
    """y = gamma * (x - mean) * inverse_deviation + beta, inverse_deviation = 1 / sqrt(biased variance + epsilon).

    running = momentum * running + (1 - momentum) * batch, with the unbiased variance, or 0 where B is 1. Where B is 0 the
    running statistics stay as they are; mean is then 0 and inverse_deviation 1 / sqrt(epsilon).
    """
    count = len(x)
    mean[...] = np.sum(x, axis=0) / max(count, 1)
    deviations = x - mean
    # A rounded mean leaves deviations that do not sum to 0; what they sum to corrects the mean and the sum of squares.
    left_over = np.sum(deviations, axis=0)
    squares = np.sum(deviations**2, axis=0) - left_over**2 / max(count, 1)
    mean += left_over / max(count, 1)
    inverse_deviation[...] = 1 / np.sqrt(squares / max(count, 1) + epsilon)
    y[...] = gamma * (x - mean) * inverse_deviation + beta
    if count > 0:
        running_mean[...] = momentum * running_mean + (1 - momentum) * mean
        running_variance[...] = momentum * running_variance + (1 - momentum) * squares / max(count - 1, 1)


@np.errstate(all="ignore")
def batch_norm_inference(
    x: Array, gamma: Array, beta: Array, running_mean: Array, running_variance: Array, y: Array, *, epsilon: float
) -> None:
    """y = gamma * (x - running_mean) / sqrt(running_variance + epsilon) + beta."""
    y[...] = gamma * (x - running_mean) / np.sqrt(running_variance + epsilon) + beta


@np.errstate(all="ignore")
def batch_norm_backward(
    dy: Array, x: Array, gamma: Array, mean: Array, inverse_deviation: Array, dx: Array, dgamma: Array, dbeta: Array
) -> None:
    """dgamma = sum dy h, dbeta = sum dy, dx = gamma inverse_deviation / B (B dy - dbeta - h dgamma).

    h is the normalised input (x - mean) * inverse_deviation; sums run over B.
    """
    normalised = (x - mean) * inverse_deviation
    dgamma[...] = np.sum(dy * normalised, axis=0)
    dbeta[...] = np.sum(dy, axis=0)
    count = max(len(x), 1)
    dx[...] = gamma * inverse_deviation * (dy - dbeta / count - normalised * (dgamma / count))
