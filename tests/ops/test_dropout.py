"""Dropout whose mask is given: the values, gradients and bits of the one that is drawn; masks of an exercise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_on_host.runtime import HostRuntime

import fastnn
from fastnn import ops, random
from fastnn.errors import InputError, InputTypeError

KEY = random.key(7, random.DROPOUT, 2)
FLOATS = ("float32", "float64")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (31, 33), (33, 31), (4, 5, 6)])
@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5])
def test_the_mask_that_is_drawn_gives_the_same_bits(rate: float, shape: tuple[int, ...], dtype: str) -> None:
    x = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    mask = random.uniform(KEY, 5, shape, dtype) >= rate
    masked = ops.dropout(x, rate, mask=mask)
    assert masked.dtype == dtype
    assert masked.tobytes() == ops.dropout(x, rate, KEY, 5).tobytes()


@pytest.mark.parametrize("device", ["numpy", "cpu", "cuda"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_values_and_gradients_are_those_of_the_drawn_mask_on_every_device(
    dtype: str, device: str, cuda_host: HostRuntime
) -> None:
    x = np.random.default_rng(2).standard_normal((31, 33)).astype(dtype)
    mask = random.uniform(KEY, 5, x.shape, dtype) >= 0.3

    def drawn(x: Any, step: Any) -> Any:
        y = ops.dropout(x, 0.3, KEY, step)
        return {"cost": ops.sum(y * y), "y": y}

    def masked(x: Any, mask: Any) -> Any:
        y = ops.dropout(x, 0.3, mask=mask)
        return {"cost": ops.sum(y * y), "y": y}

    shape, options = ("B", 33), {"dtype": dtype, "gradients": "x"}
    expected = fastnn.record(drawn, x=shape, step=(), dtypes={"step": "int64"}, **options).run(
        {"x": x, "step": 5}, device="cpu"
    )
    results = fastnn.record(masked, x=shape, mask=shape, dtypes={"mask": "bool"}, **options).run(
        {"x": x, "mask": mask}, device=device
    )
    assert results["y"].tobytes() == expected["y"].tobytes()
    assert results["d x"].tobytes() == expected["d x"].tobytes()


def test_what_is_dropped_is_0_even_where_it_was_not_finite() -> None:
    x = np.array([[np.nan, np.inf, 3.0]])
    assert ops.dropout(x, 0.5, mask=np.array([[False, False, True]])).tolist() == [[0.0, 0.0, 6.0]]


def test_one_mask_of_units_for_all_examples() -> None:
    """As in Nielsen's chapter 3, where the same hidden neurons are deleted for a whole mini-batch."""
    x = np.ones((4, 3), np.float32)
    assert ops.dropout(x, 0.5, mask=np.array([True, False, True])).tolist() == [[2.0, 0.0, 2.0]] * 4


def test_a_network_with_the_masks_of_an_exercise_has_the_costs_and_gradients_written_out_in_numpy() -> None:
    """Two ReLU layers with masks D1 and D2, keep probability 0.7, a sigmoid and cross-entropy: an exercise of Andrew Ng's."""
    rng = np.random.default_rng(3)
    X, y = rng.standard_normal((5, 2)), rng.integers(0, 2, (5, 1)).astype(float)
    W1, W2, W3 = rng.standard_normal((2, 4)), rng.standard_normal((4, 3)), rng.standard_normal((3, 1))
    D1, D2, keep = rng.random((5, 4)) < 0.7, rng.random((5, 3)) < 0.7, 0.7

    def cost(X: Any, y: Any, W1: Any, W2: Any, W3: Any, D1: Any, D2: Any) -> Any:
        A1 = ops.dropout(ops.relu(X @ W1), 0.3, mask=D1)
        A2 = ops.dropout(ops.relu(A1 @ W2), 0.3, mask=D2)
        return ops.mean(ops.sigmoid_cross_entropy(A2 @ W3, y))

    recorded = fastnn.record(
        cost, X=("B", 2), y=("B", 1), W1=(2, 4), W2=(4, 3), W3=(3, 1), D1=("B", 4), D2=("B", 3), dtype="float64",
        dtypes={"D1": "bool", "D2": "bool"}, gradients=["W1", "W2", "W3"],
    )  # fmt: skip
    results = recorded(X=X, y=y, W1=W1, W2=W2, W3=W3, D1=D1, D2=D2)

    Z1 = X @ W1
    A1 = np.maximum(Z1, 0) * D1 / keep
    Z2 = A1 @ W2
    A2 = np.maximum(Z2, 0) * D2 / keep
    A3 = 1 / (1 + np.exp(-(A2 @ W3)))
    dZ3 = (A3 - y) / 5
    dZ2 = dZ3 @ W3.T * D2 / keep * (Z2 > 0)
    dZ1 = dZ2 @ W2.T * D1 / keep * (Z1 > 0)
    expected = {
        "value": -np.mean(y * np.log(A3) + (1 - y) * np.log(1 - A3)),
        "d W1": X.T @ dZ1,
        "d W2": A1.T @ dZ2,
        "d W3": A2.T @ dZ3,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(results[name], value, rtol=1e-12, atol=1e-14, err_msg=name)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({}, InputError, "expected key and step, or a mask, got neither"),
        ({"key": KEY}, InputError, "expected key and step, or a mask, got neither"),
        ({"key": KEY, "step": 1, "mask": np.ones((2, 3), bool)}, InputError, "expected key and step, or a mask, got both"),
        ({"mask": np.ones((2, 3), bool), "channels": True}, InputError, "channels is for a mask that is drawn"),
        ({"mask": np.ones((2, 3))}, InputTypeError, r"expected a bool mask.*got float64; use mask\.astype\(bool\)"),
        ({"mask": [[True] * 3] * 2}, InputTypeError, "expected a bool mask.*got list"),
        ({"mask": np.ones((2, 4), bool)}, InputError, r"dropout"),
        ({"mask": np.ones((5, 2, 3), bool)}, InputError, r"expected a mask that is broadcast to \(2, 3\), got \(5, 2, 3\)"),
    ],
)
def test_other_masks_are_refused(options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        ops.dropout(np.ones((2, 3)), 0.5, **options)
