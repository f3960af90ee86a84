"""Averages of sequences: what smooths a noisy curve, and what momentum, RMSprop and Adam keep of their gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn import arrays
from fastnn.configurations import as_number
from fastnn.errors import InputError, InputTypeError


def exponentially_weighted_average(
    values: Any, beta: float = 0.9, corrected: bool = True, axis: int = 0
) -> npt.NDArray[np.float64]:
    """v_t of values theta_1, theta_2, ... along `axis`: an array of their shape, in float64.

        v_0 = 0,  v_t = beta v_(t-1) + (1 - beta) theta_t
        corrected: v_t / (1 - beta^t)

    That is about the mean of the last 1 / (1 - beta) values: older ones weigh less than 1/e of the newest. A larger beta, in
    0 <= beta < 1, is smoother and lags behind more. Without the correction the first averages are too small; with it v_1 is
    theta_1. NaN and infinity stay in all that follow.

        smooth = fastnn.averages.exponentially_weighted_average(costs, 0.98)    # of 50 mini-batches, about

    Raises InputError for another beta, for a number or rows of several lengths instead of a sequence and for an axis that
    is not there, InputTypeError for what are no real numbers. Source: Andrew Ng, Improving Deep Neural Networks, week 2,
    "Exponentially weighted averages" and "Bias correction"; the correction is that of Kingma & Ba 2015, section 3.
    """
    if not 0.0 <= as_number(beta) < 1.0:
        raise InputError(f"beta: expected 0 <= beta < 1, such as 0.9, got {beta!r}")
    try:
        array = arrays.to_host(values)
    except ValueError as error:
        raise InputError("values: expected rows of one length") from error
    if array.dtype.kind not in "biuf":
        raise InputTypeError(f"values: expected real numbers, got {array.dtype}")
    if not array.ndim:
        raise InputError(f"values: expected a sequence to average, got the number {array}")
    if isinstance(axis, bool) or not isinstance(axis, int | np.integer) or not -array.ndim <= axis < array.ndim:
        raise InputError(f"axis: expected one of 0 to {array.ndim - 1}, got {axis!r}")
    averages = np.array(np.moveaxis(array, axis, 0), np.float64)
    averages *= 1.0 - beta
    with np.errstate(invalid="ignore"):  # infinity - infinity
        for t in range(1, len(averages)):
            averages[t] += beta * averages[t - 1]
    if corrected and beta > 0:
        steps = np.arange(1, len(averages) + 1).reshape(-1, *(1,) * (averages.ndim - 1))
        averages /= -np.expm1(steps * math.log(beta))  # 1 - beta^t would lose half of its digits for a beta near 1
    return np.moveaxis(averages, 0, axis)


__all__ = ["exponentially_weighted_average"]
