"""The elementary functions of the CPU kernels: accuracy in units in the last place, and what they make of odd numbers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from laws import FLOATS
from numba import carray

import fastnn_kernels.cpu as cpu_set
from fastnn_kernels.contract import KERNELS
from fastnn_kernels.cpu import mathematics
from fastnn_kernels.cpu.compiling import TYPES, compile_function
from fastnn_kernels.cpu.intrinsics import KERNEL, POINTERS
from fastnn_kernels.cpu.team import Work

FUNCTIONS = ("exp", "expm1", "log", "log1p", "tanh", "sigmoid", "erf")

# Allowed units in the last place where the result is a normal number; exp rounds once more without fused multiply-add.
LIMITS = {
    "float32": {"exp": 1.0, "expm1": 2.0, "log": 1.0, "log1p": 2.0, "tanh": 2.5, "sigmoid": 3.0, "erf": 2.0},
    "float64": {"exp": 1.0, "expm1": 2.0, "log": 1.0, "log1p": 2.0, "tanh": 2.5, "sigmoid": 3.0, "erf": 4.0},
}
if not mathematics.FUSED:
    LIMITS["float32"]["exp"] = 1.25

# Where the values are drawn from.
RANGES = {
    "float32": {
        "exp": (-87.33, 88.72), "expm1": (-30.0, 88.72), "log": (0.0, 3e38), "log1p": (-0.9999999, 3e38),
        "tanh": (-12.0, 12.0), "sigmoid": (-87.3, 40.0), "erf": (-6.0, 6.0),
    },
    "float64": {
        "exp": (-708.3, 709.7), "expm1": (-60.0, 709.7), "log": (0.0, 1e308), "log1p": (-0.9999999, 1e308),
        "tanh": (-25.0, 25.0), "sigmoid": (-708.0, 60.0), "erf": (-8.0, 8.0),
    },
}  # fmt: skip

DEFINITIONS: dict[str, Callable[[Any], Any]] = {
    "exp": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "erf": np.vectorize(math.erf, otypes=[np.float64]),
}  # fmt: skip


@functools.cache
def compiled_function(name: str, dtype: str) -> Any:
    """A kernel that applies a function of `mathematics` which is not a kernel of its own."""
    float_type = TYPES[dtype]
    function, pointer = getattr(mathematics, name)(float_type), POINTERS[float_type]

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        x, y = carray(pointer(op[0]), op[2]), carray(pointer(op[1]), op[2])
        for i in range(op[2]):
            y[i] = function(x[i])

    return compile_function(body, KERNEL, f"test-{name}-{dtype}")


def evaluate(name: str, x: np.ndarray) -> np.ndarray:
    """The function as kernels compute it, denormals flushed."""
    x = np.ascontiguousarray(x)
    y = np.full_like(x, np.nan)
    if name in KERNELS:
        cpu_set.run(name, [x, y], {})
    else:
        words = np.array([x.ctypes.data, y.ctypes.data, x.size], np.int64)
        call = np.array([compiled_function(name, x.dtype.name).address, words.ctypes.data], np.int64)
        Work(call.reshape(1, 2), np.array([[0, 1, 1]])).play(1)
    return y


def reference(name: str, x: np.ndarray) -> np.ndarray:
    """The function in a wider type, or as the C library has it where there is none."""
    with np.errstate(all="ignore"):
        if x.dtype == np.float32 or name == "erf":
            return np.asarray(DEFINITIONS[name](x.astype(np.float64)))
        if np.finfo(np.longdouble).nmant <= 52:
            pytest.skip("no float type here is wider than float64")
        return np.asarray(DEFINITIONS[name](x.astype(np.longdouble)))


def worst_ulps(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest error, in units in the last place of the expected values that are normal numbers of actual's dtype."""
    info = np.finfo(actual.dtype)
    normal = (np.abs(expected) >= info.tiny) & (np.abs(expected) <= info.max)
    assert normal.any()
    unit = np.spacing(np.abs(expected[normal]).astype(actual.dtype)).astype(expected.dtype)
    return float(np.max(np.abs(actual[normal].astype(expected.dtype) - expected[normal]) / unit))


def spread(name: str, dtype: str, size: int) -> np.ndarray:
    """Half the values even over the range, half over the exponents; the logarithms get a third share close to 1 and 0."""
    rng = np.random.default_rng(20)
    low, high = RANGES[dtype][name]
    even = rng.uniform(low, high, size // 2)
    magnitudes = np.exp(rng.uniform(math.log(1e-36), math.log(max(abs(low), high)), size // 2))
    signs = 1.0 if low == 0 else rng.choice([-1.0, 1.0], size // 2)
    near = rng.uniform(0.4, 2.5, size // 2) - (name == "log1p") if name.startswith("log") else np.empty(0)
    return np.clip(np.concatenate([even, magnitudes * signs, near]), low, high).astype(dtype)


def check_accuracy(name: str, dtype: str, size: int) -> None:
    x = spread(name, dtype, size)
    assert worst_ulps(evaluate(name, x), reference(name, x)) <= LIMITS[dtype][name]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_accuracy(name: str, dtype: str) -> None:
    check_accuracy(name, dtype, 100_000)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_accuracy_on_many_values(name: str, dtype: str) -> None:
    check_accuracy(name, dtype, 10_000_000)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_against_many_digits(name: str, dtype: str) -> None:
    mp = pytest.importorskip("mpmath")
    x = spread(name, dtype, 1000)
    own = {"sigmoid": lambda v: 1 / (1 + mp.exp(-v))}
    actual = evaluate(name, x)
    info = np.finfo(dtype)
    with mp.workdps(400 if name == "sigmoid" else 50):
        for value, result in zip(x.tolist(), actual.tolist(), strict=True):
            exact = (own.get(name) or getattr(mp, name))(mp.mpf(value))
            if info.tiny <= abs(exact) <= info.max:
                unit = float(np.spacing(np.array(abs(float(exact)), dtype)))
                assert abs(float(mp.mpf(result) - exact)) / unit <= LIMITS[dtype][name], value


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_zeros_infinities_and_nan(name: str, dtype: str) -> None:
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e30, -1e30], dtype)
    actual = evaluate(name, x)
    with np.errstate(all="ignore"):
        expected = np.asarray(DEFINITIONS[name](x.astype(np.float64))).astype(dtype)
    if name.startswith("log"):
        assert actual[5] == pytest.approx(expected[5], rel=1e-6)
        actual[5] = expected[5]
    if name == "exp" and dtype == "float64":
        assert actual[6] == 0
    np.testing.assert_array_equal(actual, expected)
    zeros = expected == 0
    np.testing.assert_array_equal(np.signbit(actual[zeros]), np.signbit(expected[zeros]))


@pytest.mark.parametrize("dtype", FLOATS)
def test_exp_at_its_limits(dtype: str) -> None:
    low, high = mathematics._EXP_LIMITS[TYPES[dtype]]
    info, one = np.finfo(dtype), np.dtype(dtype).type
    x = np.array([high, np.nextafter(one(high), one(np.inf)), low, np.nextafter(one(low), one(-np.inf))], dtype)
    y = evaluate("exp", x)
    assert info.max * (1 - 1e-4) < y[0] <= info.max
    assert y[1] == np.inf
    assert info.tiny <= y[2] < info.tiny * (1 + 1e-4)
    assert y[3] == 0
    between = evaluate("expm1", x[:2])
    assert info.max * (1 - 1e-4) < between[0] <= info.max
    assert between[1] == np.inf


@pytest.mark.parametrize("dtype", FLOATS)
def test_bounded_functions_stay_in_bounds(dtype: str) -> None:
    x = np.linspace(-60, 60, 200_001).astype(dtype)
    assert np.abs(evaluate("tanh", x)).max() == 1
    assert np.abs(evaluate("erf", x)).max() == 1
    assert evaluate("expm1", x).min() == -1
    y = evaluate("sigmoid", x)
    assert y.min() >= 0
    assert y.max() == 1


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", ["expm1", "log1p", "tanh", "erf"])
def test_near_zero_the_slope_is_kept(name: str, dtype: str) -> None:
    """f(x) is slope * x to the last place for x so small that the next term vanishes."""
    info = np.finfo(dtype)
    x = np.array([info.tiny, 1e-30, 1e-20, float(info.eps) ** 2], dtype)
    x = np.concatenate([x, -x])
    slope = 2 / math.sqrt(math.pi) if name == "erf" else 1.0
    expected = x.astype(np.longdouble) * np.longdouble(slope)
    assert worst_ulps(evaluate(name, x), expected) <= 1.5


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_element_does_not_depend_on_its_neighbors(name: str) -> None:
    """The tail of a loop, which is not vectorized, computes the same bits."""
    x = spread(name, "float32", 300)[:200]
    whole = evaluate(name, x)
    for start, stop in ((0, 1), (3, 4), (1, 32), (5, 38), (7, 134), (199, 200)):
        assert evaluate(name, x[start:stop]).tobytes() == whole[start:stop].tobytes()


def test_the_normal_distribution_keeps_its_lower_tail() -> None:
    """gelu(x) = x Phi(x), relative to itself, down to where Phi is 1e-20."""
    x = np.linspace(-9, -1, 1001)
    y = np.full_like(x, np.nan)
    cpu_set.run("gelu", [x, y], {})
    expected = np.array([value * 0.5 * math.erfc(-value / math.sqrt(2)) for value in x])
    np.testing.assert_allclose(y, expected, rtol=2e-14)


def test_the_measure_sees_errors() -> None:
    expected = np.array([1.0, 3.0])
    assert worst_ulps(np.array([1.0, 3.0], np.float32), expected) == 0
    assert worst_ulps(np.array([1.0, np.nextafter(np.float32(3), np.float32(4))], np.float32), expected) == 1
    assert not worst_ulps(np.array([1.0, np.nan], np.float32), expected) <= 1e9
