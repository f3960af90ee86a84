"""Exponentially weighted averages: against the sum they stand for, pandas, and the numbers of the course."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import errors
from fastnn.averages import exponentially_weighted_average as average


def by_definition(theta: np.ndarray, beta: float) -> np.ndarray:
    """v_t = sum over k of (1 - beta) beta^(t - k) theta_k, written out."""
    n = len(theta)
    weights = np.array([[(1 - beta) * beta ** (t - k) if k <= t else 0.0 for k in range(n)] for t in range(n)])
    return np.tensordot(weights, theta, 1)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.98, 0.999999])
@pytest.mark.parametrize("shape", [(1,), (31,), (17, 3), (5, 2, 4)])
def test_the_weighted_sum(shape: tuple[int, ...], beta: float) -> None:
    theta = np.random.default_rng(0).standard_normal(shape)
    v = by_definition(theta, beta)
    t = np.arange(1, len(theta) + 1).reshape(-1, *(1,) * (theta.ndim - 1))
    np.testing.assert_allclose(average(theta, beta, False), v, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(average(theta, beta), v / (1 - beta**t), rtol=1e-9, atol=1e-12)
    for axis in range(theta.ndim):
        for at in (axis, axis - theta.ndim):
            moved = np.moveaxis(theta, 0, axis)
            np.testing.assert_array_equal(np.moveaxis(average(moved, beta, axis=at), axis, 0), average(theta, beta))


def test_pandas() -> None:
    """`ewm(adjust=True)` divides by the sum of the weights, which is the correction."""
    pandas = pytest.importorskip("pandas")
    theta = np.random.default_rng(1).standard_normal(200).cumsum()
    np.testing.assert_allclose(average(theta, 0.93), pandas.Series(theta).ewm(alpha=0.07, adjust=True).mean(), rtol=1e-12)


def test_by_hand() -> None:
    assert average([1.0, 2.0, 3.0], 0.5, False).tolist() == [0.5, 1.25, 2.125]
    np.testing.assert_allclose(average([1, 2, 3], 0.5), [1, 5 / 3, 17 / 7], rtol=1e-15)
    assert average([3, 1, 2], 0.0).tolist() == [3, 1, 2]
    assert average([True, False], 0.5, corrected=False).tolist() == [0.5, 0.25]


def test_it_is_the_mean_of_about_so_many_values() -> None:
    """1 / (1 - beta): the mean age of what is averaged is that less 1, and values so old weigh 1/e of the newest."""
    for beta, points in ((0.9, 10), (0.98, 50), (0.5, 2)):
        line = np.arange(4000.0)
        assert line[-1] - average(line, beta)[-1] == pytest.approx(points - 1)
        assert beta**points == pytest.approx(math.exp(-1), abs=0.12)


def test_a_constant_stays_one() -> None:
    """Without the correction it begins at (1 - beta) of it."""
    for beta in (0.9, 0.999, 1 - 1e-12):
        np.testing.assert_allclose(average(np.full(50, 7.0), beta), 7.0, rtol=1e-12)
    assert average(np.full(50, 7.0), 0.98, False)[0] == pytest.approx(0.14)


def test_other_arrays_and_what_is_not_finite() -> None:
    for dtype in ("float32", "uint8", "int64", "float16"):
        values = np.array([3, 1, 2], dtype)
        found = average(values)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, average([3.0, 1.0, 2.0]))
        assert values.tolist() == [3, 1, 2]
    assert average([]).shape == (0,)
    assert average(np.zeros((3, 0))).shape == (3, 0)
    assert np.isnan(average([1.0, math.nan, 1.0])).tolist() == [False, True, True]
    assert np.isnan(average([math.inf, -math.inf])).tolist() == [False, True]
    history = {"loss": [3.0, 2.0, 2.5]}
    assert len(fastnn.averages.exponentially_weighted_average(history["loss"])) == 3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1.0], 1.0), errors.InputError, r"beta: expected 0 <= beta < 1, such as 0\.9, got 1\.0"),
        (([1.0], -0.1), errors.InputError, "got -0.1"),
        (([1.0], math.nan), errors.InputError, "beta"),
        (([1.0], "0.9"), errors.InputError, "beta"),
        ((3.0,), errors.InputError, r"expected a sequence to average, got the number 3\.0"),
        ((["a", "b"],), errors.InputTypeError, "expected real numbers"),
        (([[1.0], [1.0, 2.0]],), errors.InputError, "rows of one length"),
        (([1j],), errors.InputTypeError, "complex"),
        (([1.0], 0.9, True, 1), errors.InputError, "axis: expected one of 0 to 0, got 1"),
        (([1.0], 0.9, True, None), errors.InputError, "axis"),
    ],
)
def test_bad_input(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        average(*arguments)
