"""Layer normalization of the rows of x (B, O) (Ba, Kiros and Hinton 2016, https://arxiv.org/abs/1607.06450), with what comes
behind it: an activation, or None.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn_kernels.numpy.elementwise import activate, activate_backward
from fastnn_kernels.numpy.leaves import sum_rows

__all__ = ["layer_norm", "layer_norm_backward"]

Array = np.ndarray[Any, np.dtype[Any]]


@np.errstate(all="ignore")
def layer_norm(
    x: Array,
    gamma: Array,
    beta: Array,
    y: Array,
    mean: Array,
    inverse_deviation: Array,
    *,
    epsilon: float,
    activation: str | None = None,
    alpha: float = 0.0,
) -> None:
    """y = activation(gamma * (x - mean) * inverse_deviation + beta), inverse_deviation = 1 / sqrt(biased variance + epsilon).

    Mean and variance are those of a row. Where O is 0, mean is 0 and inverse_deviation 1 / sqrt(epsilon).
    """
    count = max(x.shape[1], 1)
    mean[...] = np.sum(x, axis=1) / count
    deviations = x - mean[:, None]
    # As in batch_norm: what deviations from a rounded mean sum to corrects the mean and the sum of squares.
    left_over = np.sum(deviations, axis=1)
    squares = np.sum(deviations**2, axis=1) - left_over**2 / count
    mean += left_over / count
    inverse_deviation[...] = 1 / np.sqrt(squares / count + epsilon)
    activate(gamma * ((x - mean[:, None]) * inverse_deviation[:, None]) + beta, y, activation, alpha)


@np.errstate(all="ignore")
def layer_norm_backward(
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
    """dgamma = sum over B of dz h, dbeta = sum over B of dz, dx = inverse_deviation (g - mean g - h mean(g h)), g = gamma dz.

    h is the normalized input (x - mean) * inverse_deviation, dz = dy * activation'(at the output, gamma h + beta passed
    through the activation); the means run over O.
    """
    normalized = (x - mean[:, None]) * inverse_deviation[:, None]
    y, dz = np.empty_like(x), np.empty_like(x)
    activate(gamma * normalized + beta, y, activation, alpha)
    activate_backward(dy, y, dz, activation, alpha)
    dgamma[...] = sum_rows(dz * normalized)
    dbeta[...] = sum_rows(dz)
    count = max(x.shape[1], 1)
    scaled = gamma * dz
    level = np.sum(scaled, axis=1, keepdims=True) / count
    tilt = np.sum(scaled * normalized, axis=1, keepdims=True) / count
    dx[...] = inverse_deviation[:, None] * (scaled - level - normalized * tilt)
