"""Elementwise kernels against their definition, and the definition against PyTorch and the C library."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from cuda_on_host import host
from laws import EPSILON, FLOATS, assert_close, check_definition, check_kernel

import fastnn_kernels.cpu as cpu_set
import fastnn_kernels.numpy as numpy_set
from fastnn_kernels.contract import (
    ACTIVATIONS_FROM_INPUT,
    ACTIVATIONS_FROM_OUTPUT,
    ALPHA_ACTIVATIONS,
    BINARY,
    COMPARISONS,
    UNARY,
    Operand,
)
from fastnn_kernels.shapes import collapse

ACTIVATIONS = ACTIVATIONS_FROM_OUTPUT + ACTIVATIONS_FROM_INPUT
SHAPES = ((0,), (0, 5), (1,), (31,), (33,), (7, 127), (3, 1, 67), (1009,))

# In units of epsilon relative to max(1, |expected|).
TOLERANCE = {"identity": 0, "negative": 0, "abs": 0, "sign": 0, "step": 0, "relu": 0, "sqrt": 1, "leaky_relu": 1}


def attributes(name: str) -> dict[str, float]:
    return {"alpha": 0.3} if name in ALPHA_ACTIVATIONS else {}


def values(shape: tuple[int, ...], dtype: str, seed: int = 0, scale: float = 3.0) -> np.ndarray:
    """Normal numbers, with zeros of both signs, infinities and NaN among them where there is room."""
    rng = np.random.default_rng([seed, *shape])
    x = np.asarray(rng.normal(0, scale, shape)).astype(dtype)
    if x.size >= 31:
        x.flat[[3, 8, 13, 18, 23]] = 0.0, -0.0, np.inf, -np.inf, np.nan
    return x


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", UNARY + ACTIVATIONS)
def test_unary(name: str, dtype: str) -> None:
    for shape in SHAPES:
        x = values(shape, dtype)
        check_kernel(name, [x], [(shape, dtype)], tolerance=TOLERANCE.get(name, 4), **attributes(name))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_backward(name: str, dtype: str) -> None:
    for shape in SHAPES:
        dy = np.asarray(np.random.default_rng(1).normal(size=shape)).astype(dtype)
        at = values(shape, dtype, seed=2)
        if name in ("sigmoid", "tanh"):
            at = np.clip(at, 0 if name == "sigmoid" else -1, 1)  # what these two can put out
        if name == "elu":
            at = np.maximum(at, np.array(-0.3, dtype))
        tolerance = 0 if name == "relu" else 6
        check_kernel(f"{name}_backward", [dy, at], [(shape, dtype)], tolerance=tolerance, **attributes(name))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_definition_against_torch(name: str) -> None:
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(3).normal(0, 3, (7, 31))
    x[0, :4] = 0.0, 50.0, -50.0, 1e-8
    dy = np.random.default_rng(4).normal(size=x.shape)
    tx = torch.tensor(x, requires_grad=True)
    ty = getattr(torch.nn.functional, name)(tx, *attributes(name).values())
    ty.backward(torch.tensor(dy))
    y, dx = ty.detach().numpy(), tx.grad.numpy()
    check_definition(name, [x], {"y": y}, 8, **attributes(name))
    at = y if name in ACTIVATIONS_FROM_OUTPUT else x
    # PyTorch's softplus is x itself beyond 20, where the rest is 2e-9.
    tolerance = 2e7 if name == "softplus" else 8
    check_definition(f"{name}_backward", [dy, at], {"dx": dx}, tolerance, **attributes(name))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_is_not_hidden(name: str) -> None:
    x = np.full(40, np.nan, np.float32)
    y = np.zeros_like(x)
    cpu_set.run(name, [x, y], attributes(name))
    assert np.isnan(y).all()


def test_derivative_of_relu_at_zero_is_zero() -> None:
    dx = check_kernel("relu_backward", [np.ones(3), np.array([0.0, -0.0, 1.0])], [((3,), "float64")], tolerance=0)
    assert dx[0].tolist() == [0.0, 0.0, 1.0]


PAIRS = (
    ((), ()), ((0,), ()), ((0,), (0,)), ((0, 3), (3,)), ((3, 0), (3, 1)), ((1,), (1,)), ((31,), (31,)), ((33,), ()),
    ((), (33,)), ((7, 127), (7, 127)), ((7, 127), (127,)), ((127,), (7, 127)), ((7, 127), (7, 1)), ((7, 1), (7, 127)),
    ((7, 1), (127,)), ((31, 10), (31, 1)), ((2, 3, 5), (3, 1)), ((5, 2, 1, 3), (2, 4, 1)), ((1, 1, 67), (1, 1)),
    ((2, 1, 3, 1, 5, 1), (1, 2, 1, 3, 1, 2)), ((3, 1, 2, 1, 7), (3, 5, 1, 2, 1)), ((1, 1031), (2, 1)),
)  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", BINARY + COMPARISONS)
def test_binary(name: str, dtype: str) -> None:
    for a_shape, b_shape in PAIRS:
        a, b = values(a_shape, dtype, seed=5), values(b_shape, dtype, seed=6)
        if name == "power":
            b = np.clip(b, np.array(-3, dtype), np.array(3, dtype))
        elif name in COMPARISONS:
            a, b = np.round(a), np.round(b)  # so that some are equal
        shape = np.broadcast_shapes(a_shape, b_shape)
        check_kernel(name, [a, b], [(shape, "bool" if name in COMPARISONS else dtype)], tolerance=0.5 if name != "power" else 4)


@pytest.mark.parametrize("dtype", FLOATS)
def test_where(dtype: str) -> None:
    rng = np.random.default_rng(7)
    for a_shape, b_shape in PAIRS:
        shape = np.broadcast_shapes(a_shape, b_shape)
        a, b = values(a_shape, dtype, seed=5), values(b_shape, dtype, seed=6)
        for condition_shape in {shape, a_shape, b_shape, shape[1:], (*shape[:-1], 1)[: len(shape)], ()}:
            condition = np.asarray(rng.random(condition_shape) < 0.5)
            check_kernel("where", [condition, a, b], [(shape, dtype)], tolerance=0)


def random_shapes(rng: np.random.Generator) -> tuple[tuple[int, ...], ...]:
    """A shape of one to six axes and three shapes that broadcast to it."""
    full = rng.integers(1, 6, rng.integers(1, 7))
    return tuple(
        tuple(int(n) for n in np.where(rng.random(len(full)) < 0.5, full, 1)[rng.integers(0, len(full) + 1) :])
        for _ in range(3)
    )


def test_broadcasting_of_random_shapes() -> None:
    rng = np.random.default_rng(8)
    for _ in range(150):
        condition_shape, a_shape, b_shape = random_shapes(rng)
        a, b = values(a_shape, "float32", seed=1), values(b_shape, "float32", seed=2)
        check_kernel("subtract", [a, b], [(np.broadcast_shapes(a_shape, b_shape), "float32")], tolerance=0.5)
        condition = np.asarray(rng.random(condition_shape) < 0.5)
        shape = np.broadcast_shapes(condition_shape, a_shape, b_shape)
        check_kernel("where", [condition, a, b], [(shape, "float32")], tolerance=0)


def test_axes_are_collapsed() -> None:
    def operand(*shape: int) -> Operand:
        return Operand(shape, np.dtype("float32"))

    assert collapse((8, 9), operand(8, 9), operand(8, 9)) == [(72, 1, 1)]
    assert collapse((8, 9), operand(8, 9), operand(9)) == [(9, 1, 1), (8, 9, 0)]
    assert collapse((8, 9), operand(8, 9), operand(8, 1)) == [(9, 1, 0), (8, 9, 1)]
    assert collapse((8, 9), operand(8, 9), operand()) == [(72, 1, 0)]
    assert collapse((4, 1, 8, 9), operand(4, 1, 8, 9), operand(8, 9)) == [(72, 1, 1), (4, 72, 0)]
    assert collapse((2, 3, 4), operand(2, 1, 1), operand(3, 4)) == [(12, 0, 1), (2, 1, 0)]
    assert collapse((1, 1), operand(1, 1), operand()) == []


def test_more_than_six_axes_are_refused() -> None:
    a, b = Operand((2, 1, 2, 1, 2, 1, 2), np.dtype("float32")), Operand((1, 2, 1, 2, 1, 2, 1), np.dtype("float32"))
    with pytest.raises(ValueError, match="up to 6 axes"):
        cpu_set.lower("add", [a, b, Operand((2,) * 7, np.dtype("float32"))], {})


# power


SETS = {"cpu": cpu_set.run, "cuda": host.run}


@pytest.fixture(params=SETS)
def run_power(request: pytest.FixtureRequest) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def run(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = (np.atleast_1d(np.asarray(operand)) for operand in (a, b))
        c = np.full(np.broadcast_shapes(a.shape, b.shape), np.nan, a.dtype)
        SETS[request.param]("power", [a, b, c], {})
        return c

    return run


@pytest.mark.parametrize("dtype", FLOATS)
def test_power_of_odd_numbers(dtype: str, run_power: Any) -> None:
    """Zeros, ones, infinities, NaN, negative bases: as C's `pow`, signs of zeros included."""
    odd = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 0.5, -0.5, 2.5, -2.5, 1e30, -1e30, math.inf, -math.inf, math.nan]
    a, b = (np.ascontiguousarray(grid, dtype) for grid in np.meshgrid(odd, odd))
    with np.errstate(all="ignore"):
        expected = np.power(a, b)
    # Results below the normal numbers are flushed.
    expected[np.abs(expected) < np.finfo(dtype).tiny] *= 0
    actual = run_power(a, b)
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    np.testing.assert_array_equal(np.signbit(actual)[~np.isnan(actual)], np.signbit(expected)[~np.isnan(actual)])
    np.testing.assert_allclose(actual, expected, rtol=4 * np.finfo(dtype).eps)
    for exponent in odd:  # one exponent for all bases takes another way through the kernel, to the same bits
        column = np.array(odd, dtype)
        alone = run_power(column, np.array([exponent], dtype))
        np.testing.assert_array_equal(alone, run_power(column, np.full_like(column, exponent)))


@pytest.mark.parametrize("dtype", FLOATS)
def test_whole_powers_are_exact(dtype: str, run_power: Any) -> None:
    bases = np.arange(-20, 21).astype(dtype)
    for exponent in range(6):
        expected = [float(int(base) ** exponent) for base in bases]
        assert run_power(bases, np.array([exponent], dtype)).tolist() == expected
        assert run_power(bases, np.full_like(bases, exponent)).tolist() == expected
    positive = np.arange(1, 2000).astype(dtype)
    squares = positive * positive
    assert run_power(squares, np.array([0.5], dtype)).tolist() == positive.tolist()
    np.testing.assert_array_equal(run_power(positive, np.array([-1], dtype)), 1 / positive)
    np.testing.assert_array_equal(run_power(positive / 7, np.array([2], dtype)), (positive / 7) ** 2)


def test_power_is_rounded_well(run_power: Any) -> None:
    rng = np.random.default_rng(9)
    a = np.exp(rng.uniform(-20, 20, 100_000)).astype(np.float32)
    b = rng.uniform(-4, 4, a.size).astype(np.float32)
    expected = a.astype(np.float64) ** b.astype(np.float64)
    normal = (expected > np.finfo(np.float32).tiny) & (expected < np.finfo(np.float32).max)
    error = np.abs(run_power(a, b) - expected)[normal] / np.spacing(expected[normal].astype(np.float32))
    assert error.max() <= 0.51


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_extremes_pass_nan_on(name: str) -> None:
    one = np.ones(40, np.float32)
    nan = np.full(40, np.nan, np.float32)
    for a, b in ((one, nan), (nan, one), (nan, nan), (one, nan[:1]), (nan[:1], one)):
        c = np.zeros(40, np.float32)
        cpu_set.run(name, [a, b, c], {})
        assert np.isnan(c).all()


# CUDA


def misaligned(array: np.ndarray, elements: int) -> np.ndarray:
    """A copy of `array` that begins `elements` elements behind a boundary of 16 bytes."""
    whole = np.zeros(array.nbytes + 64, np.uint8)
    start = -whole.ctypes.data % 16 + elements * array.itemsize
    inner = whole[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    inner[...] = array
    return inner


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shapes", [((6007,), (6007,)), ((75, 64), (64,)), ((75, 64), (75, 1)), ((6007,), ())])
def test_neither_alignment_nor_blocks_change_a_bit(shapes: Any, dtype: str) -> None:
    a, b = values(shapes[0], dtype, seed=1), values(shapes[1], dtype, seed=2)
    c = a + b
    for blocks in (None, 1, 3):
        for shifts in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)):
            arrays = [misaligned(each, shift) for each, shift in zip((a, b, np.full_like(c, 7)), shifts, strict=True)]
            host.run("add", arrays, {}, blocks=blocks)
            np.testing.assert_array_equal(arrays[2], c)
            mask = misaligned(np.zeros(c.shape, bool), shifts[2])
            host.run("less", [*arrays[:2], mask], {}, blocks=blocks)
            np.testing.assert_array_equal(mask, a < b)


@pytest.mark.parametrize("name", ["relu", "gelu"])
def test_bfloat16_is_read_and_written(name: str) -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    x = np.random.default_rng(3).normal(0, 3, (7, 127)).astype(bfloat16)
    exact = np.empty(x.shape)
    getattr(numpy_set, name)(x.astype(np.float64), exact)
    for y in (np.empty(x.shape, bfloat16), np.empty(x.shape, np.float32)):
        host.run(name, [x, y], {})
        tolerance = 2.0**-8 if y.dtype == bfloat16 else 4 * EPSILON["float32"]
        assert_close(y.astype(np.float32), exact, tolerance, name)


def test_parts_begin_on_cache_lines_and_cover_everything() -> None:
    from fastnn_kernels.cpu.families.elementwise import BLOCK, first_of_part

    first: Any = first_of_part.py_func
    for size in (0, 1, 63, 64, 65, 1000, 100_003):
        for parts in (1, 2, 3, 7):
            starts = [first(size, part, parts) for part in range(parts + 1)]
            assert starts[0] == 0
            assert starts[-1] == size
            assert all(low <= high for low, high in pairwise(starts))
            assert all(start % BLOCK == 0 or start == size for start in starts)
