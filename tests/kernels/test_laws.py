"""The comparator of the kernel tests fails when it should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from laws import FLOATS, assert_close, check_kernel

import fastnn_kernels.cpu as cpu_set

E = np.array([1.0, -2.0, 1e-3, 0.0])


@pytest.mark.parametrize(
    "wrong",
    [
        np.array([1.0, -2.0, 1e-3, np.nan]),
        np.array([1.0, 2.0, 1e-3, 0.0]),
        np.array([1.0, -2.0, 1e-3, np.inf]),
        np.array([4.0, -8.0, 4e-3, 0.0]),
        np.array([1.0, -2.0, 1e-3]),
        E.astype("float32").astype("float64") + np.array([0, 0, 1e-4, 0]),
    ],
    ids=["NaN", "sign", "infinity", "four times", "shape", "small element"],
)
def test_what_is_wrong_is_found(wrong: np.ndarray) -> None:
    assert_close(E, E.copy(), 0.0)
    with pytest.raises(AssertionError):
        assert_close(wrong, E, 1e-6)
    with pytest.raises(AssertionError):
        assert_close(E, wrong, 1e-6)


def test_small_tensors_are_compared_at_their_own_scale() -> None:
    small = 1e-5 * E
    with pytest.raises(AssertionError):
        assert_close(small * 1.001, small, 1e-6)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("fault", ["wrong value", "missed element", "beyond the end", "reads only", "parts"])
def test_a_faulty_kernel_is_found(fault: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = cpu_set.run

    def faulty(name: str, arrays: list[np.ndarray], attributes: dict[str, Any], parts: int = 1) -> None:
        right(name, arrays, attributes, parts)
        x, y = arrays
        if fault == "wrong value":
            y[3] *= 1.001
        elif fault == "missed element":
            y[-1] = np.nan
        elif fault == "beyond the end":
            np.lib.stride_tricks.as_strided(y, (len(y) + 1,))[-1] = 0
        elif fault == "reads only":
            x[0] += 1
        elif parts == 3:
            y[3] = np.nextafter(y[3], y.dtype.type(0))

    x = np.linspace(0.5, 2, 33).astype(dtype)
    check_kernel("exp", [x], [((33,), dtype)], tolerance=4)
    monkeypatch.setattr(cpu_set, "run", faulty)
    with pytest.raises(AssertionError):
        check_kernel("exp", [x], [((33,), dtype)], tolerance=4)
