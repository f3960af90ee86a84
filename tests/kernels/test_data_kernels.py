"""Dropout, mini-batches, the shuffle and the bookkeeping of a program; what the random numbers are is in test_random.py."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from cuda_on_host import host
from cuda_on_host.outcomes import bodies, outcomes
from laws import AWKWARD, FLOATS, check_definition, check_kernel

import fastnn_kernels.cpu as cpu_set
import fastnn_kernels.numpy as numpy_set
from fastnn import random as stream
from fastnn_kernels.contract import KERNELS, SUM_BLOCK
from fastnn_kernels.cuda.lowering import Ahead, Number, Request

KEY = (0x12345678, 0x9ABCDEF0)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 1), (1,), (31, 33), (7, 127), (2, 3, 5, 7), (257, 4)])
def test_dropout(shape: tuple[int, ...], dtype: str) -> None:
    x = np.random.default_rng(1).normal(size=shape).astype(dtype)
    for rate, step in ((0.0, 0), (0.3, 5), (0.5, 2**32 - 1), (0.999, 2**40 + 3), (1.0, 1)):
        inputs = [x, np.array(step)]
        (y,) = check_kernel("dropout", inputs, [(shape, dtype)], tolerance=1, rate=rate, key=KEY)
        definition = np.empty_like(x)
        numpy_set.dropout(*inputs, definition, rate=rate, key=KEY)
        assert y.tobytes() == definition.tobytes()
        for *_, outcome in outcomes("dropout", [*inputs, np.full_like(x, np.nan)], {"rate": rate, "key": KEY}):
            assert outcome.tobytes() == definition.tobytes()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("rate", [0.0, 2.0**-24, 0.1, 0.5, 1 - 2.0**-24])
def test_dropout_keeps_where_the_uniform_reaches_the_rate(rate: float, dtype: str) -> None:
    x = np.random.default_rng(2).uniform(1, 2, (101, 37)).astype(dtype)
    kept = stream.uniform(KEY, 9, x.shape, np.float64) >= rate
    expected = np.where(kept, x * np.dtype(dtype).type(1 / (1 - rate)), 0)
    defined = np.empty_like(x)
    numpy_set.dropout(x, np.array(9), defined, rate=rate, key=KEY)
    np.testing.assert_array_equal(defined, expected)
    for run in (cpu_set.run, host.run):
        y = np.empty_like(x)
        run("dropout", [x, np.array(9), y], {"rate": rate, "key": KEY})
        np.testing.assert_array_equal(y, expected)


def test_kernels_in_16_bits() -> None:
    """Computed in float32, rounded once."""
    bfloat16 = np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    x = np.random.default_rng(3).normal(size=(31, 33)).astype(bfloat16)
    expected = np.empty(x.shape, np.float32)
    numpy_set.dropout(x.astype(np.float32), np.array(4), expected, rate=0.3, key=KEY)
    for *_, y in outcomes("dropout", [x, np.array(4), np.ones_like(x)], {"rate": 0.3, "key": KEY}):
        assert y.tobytes() == expected.astype(bfloat16).tobytes()
    for (y,) in outcomes("fill", [x], {"value": 0.1}):
        assert (y == bfloat16.type(0.1)).all()
    x.flat[:3] = np.nan, np.inf, -np.inf
    for _, counts in outcomes("count_nonfinite", [x.reshape(-1), np.zeros(1, np.int64)], {}):
        assert counts == 3


def test_dropped_elements_are_zero_whatever_they_were() -> None:
    x = np.full((50, 50), np.nan, np.float32)
    x[::2] = np.inf
    (y,) = check_kernel("dropout", [x, np.array(0)], [(x.shape, "float32")], tolerance=0, rate=0.5, key=KEY)
    assert 1000 < np.count_nonzero(y == 0) < 1500


def test_mask_depends_on_element_step_and_key_alone() -> None:
    """A mini-batch of fewer rows has the mask of the first rows; another step or key has another one."""

    def mask(rows: int, step: int, key: tuple[int, int]) -> np.ndarray:
        y = np.empty((rows, 33), np.float32)
        cpu_set.run("dropout", [np.ones((rows, 33), np.float32), np.array(step), y], {"rate": 0.5, "key": key})
        return y > 0

    whole = mask(100, 3, KEY)
    assert (mask(41, 3, KEY) == whole[:41]).all()
    for other in (mask(100, 4, KEY), mask(100, 3 + 2**32, KEY), mask(100, 3, (KEY[0] + 1, KEY[1])), mask(100, 3, KEY[::-1])):
        assert 0.4 < (other == whole).mean() < 0.6
    assert abs(whole.mean() - 0.5) < 0.03


SOURCES = ("uint8", "int64", "float32", "float64")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("source_type", SOURCES)
@pytest.mark.parametrize("row", [(), (1,), (2,), (31,), (7, 11), (127,), (2100,), (0,)])
def test_gather_rows(row: tuple[int, ...], source_type: str, dtype: str) -> None:
    random = np.random.default_rng(4)
    source = random.integers(0, 256, (40, *row)).astype(source_type)
    order = random.permutation(40)
    for rows, position, scale in ((0, 0, 1.0), (1, 39, 1.0), (33, 7, 1 / 255), (40, 0, 0.5)):
        inputs = [source, order, np.array(position)]
        # The bound is in units of the source's epsilon where that is a float, and one rounding of each is of y's.
        (y,) = check_kernel("gather_rows", inputs, [((rows, *row), dtype)], tolerance=2.0**31, scale=scale)
        expected = source[order[position : position + rows]].astype(dtype) * np.dtype(dtype).type(scale)
        assert y.tobytes() == expected.tobytes()
        for *_, outcome in outcomes("gather_rows", [*inputs, np.full_like(y, np.nan)], {"scale": scale}):
            assert outcome.tobytes() == expected.tobytes()


@pytest.mark.parametrize("source_type", SOURCES)
@pytest.mark.parametrize("width", [1, 2, 28, 31, 784])
def test_gather_rows_to_bfloat16(width: int, source_type: str) -> None:
    """The product is computed in float32 and rounded once."""
    bfloat16 = np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    random = np.random.default_rng(width)
    source = random.integers(0, 256, (40, width)).astype(source_type)
    order = random.permutation(40)
    expected = (source[order[3:36]].astype(np.float32) * np.float32(1 / 255)).astype(bfloat16)
    for *_, y in outcomes("gather_rows", [source, order, np.array(3), np.zeros((33, width), bfloat16)], {"scale": 1 / 255}):
        assert y.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("source_type", SOURCES)
@pytest.mark.parametrize("row", [(), (1,), (2,), (31,), (7, 11), (127,), (2100,), (0,)])
def test_gather_standardized(row: tuple[int, ...], source_type: str, dtype: str) -> None:
    """The definition in float64, rounded once: also where the values of float64 or int64 rows are closer than float32's."""
    random = np.random.default_rng(5)
    large = 1_700_000_000 if source_type in ("int64", "float64") else 0
    source = (random.integers(0, 256, (40, *row)) + large).astype(source_type)
    order = random.permutation(40)
    size = math.prod(row)
    offset, factor = large + random.uniform(100, 150, size), random.uniform(0.01, 3, size)
    for rows, position, scale in ((0, 0, 1.0), (1, 39, 1.0), (33, 7, 0.5), (40, 0, 1.0)):
        inputs = [source, order, np.array(position), offset * scale, factor]
        written = source[order[position : position + rows]].astype(np.float64) * scale
        expected = ((written - (offset * scale).reshape(row)) * factor.reshape(row)).astype(dtype)
        spacing = np.finfo(dtype).eps if dtype == "float32" else 2.0**-20  # a fused multiply rounds once less
        for *_, y in outcomes("gather_standardized", [*inputs, np.full_like(expected, np.nan)], {"scale": scale}):
            np.testing.assert_allclose(y, expected, rtol=spacing, atol=0)
        seen = set()
        for parts in (1, 2, 3):
            y = np.full_like(expected, np.nan)
            cpu_set.run("gather_standardized", [*inputs, y], {"scale": scale}, parts=parts)
            np.testing.assert_allclose(y, expected, rtol=2 * spacing, atol=0)  # float32 rows are not widened
            seen.add(y.tobytes())
        assert len(seen) == 1
        y = np.full_like(expected, np.nan)
        numpy_set.gather_standardized(*inputs, y, scale=scale)
        assert y.tobytes() == expected.tobytes()


@pytest.mark.parametrize("size", [1e-37, 1e-33, 1.0, 1e30, 1e37])
def test_gather_standardized_of_very_small_and_very_large_numbers(size: float) -> None:
    """float32 rows whose differences or factors are below the normal numbers of float32, which are taken for 0."""
    random = np.random.default_rng(7)
    source = (random.uniform(1, 2, (40, 31)) * size).astype(np.float32)
    offset, factor = source.mean(0, dtype=np.float64), 1 / source.std(0, dtype=np.float64)
    expected = (source.astype(np.float64) - offset) * factor
    operands = [source, np.arange(40), np.array(0), offset, factor]
    y = np.full((40, 31), np.nan, np.float32)
    cpu_set.run("gather_standardized", [*operands, y], {"scale": 1.0})
    np.testing.assert_allclose(y, expected, rtol=3e-7, atol=1e-7)
    for *_, y in outcomes("gather_standardized", [*operands, np.full((40, 31), np.nan, np.float32)], {"scale": 1.0}):
        np.testing.assert_allclose(y, expected, rtol=3e-7, atol=1e-7)


def test_gather_standardized_to_bfloat16() -> None:
    bfloat16 = np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    source = np.random.default_rng(6).integers(0, 256, (40, 31)).astype(np.uint8)
    order, offset, factor = np.arange(40)[::-1].copy(), np.full(31, 128.0), np.full(31, 1 / 64)
    expected = ((source[order[3:36]] - offset) * factor).astype(bfloat16)
    operands = [source, order, np.array(3), offset, factor, np.zeros((33, 31), bfloat16)]
    for *_, y in outcomes("gather_standardized", operands, {"scale": 1.0}):
        assert y.tobytes() == expected.tobytes()


def test_gather_rows_of_a_source_of_more_than_two_gibibytes() -> None:
    source = np.zeros((2**21 + 3, 1024), np.uint8)  # zeros that nobody touches take no memory
    source[-1] = np.arange(1024) % 251
    y = np.empty((2, 1024), np.float32)
    host.run("gather_rows", [source, np.array([1, len(source) - 1]), np.array(0), y], {"scale": 1.0})
    assert (y[0] == 0).all()
    assert (y[1] == source[-1]).all()


@pytest.mark.parametrize("row", [(), (3,)])
def test_gather_rows_of_labels(row: tuple[int, ...]) -> None:
    labels = np.arange(180).reshape(-1, *row)[:60] + 2**60
    order = np.random.default_rng(0).permutation(60)
    (y,) = check_kernel("gather_rows", [labels, order, np.array(11)], [((33, *row), "int64")], tolerance=0, scale=1.0)
    assert (y == labels[order[11:44]]).all()


@pytest.mark.parametrize("n", [*range(18), 31, 33, 127, 255, 256, 257, 1009, 4096, 4097, 65536 + 1])
def test_shuffle(n: int) -> None:
    for epoch in (0, 1, 2**32 + 5):
        (order,) = check_kernel("shuffle", [np.array(epoch)], [((n,), "int64")], tolerance=0, key=KEY)
        assert (np.sort(order) == np.arange(n)).all()


def test_record_and_advance() -> None:
    log = np.zeros((5, 3), np.float32)
    check_kernel("log_value", [np.array(2.5, np.float32), np.array(3), log], [], tolerance=0, column=1)
    log64 = np.random.default_rng(0).normal(size=(4, 2))
    (after,) = check_kernel("log_value", [np.array(np.nan), np.array(0), log64], [], tolerance=0, column=0)
    assert np.isnan(after[0, 0])
    (control,) = check_kernel("advance", [np.array([1, 2**40, 3, 4, 5, 6, 7, 8])], [], tolerance=0, rows=128)
    assert control.tolist() == [2, 2**40 + 128, 4, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("dtype", "value"), [("float32", 0.1), ("float64", -np.inf), ("int64", 2**60 + 1), ("bool", True), ("uint8", 255)]
)
def test_fill(dtype: str, value: Any) -> None:
    for shape in ((0,), (), (1,), (31, 33), (127,)):
        (y,) = check_kernel("fill", [], [(shape, dtype)], tolerance=1, value=value)
        for (outcome,) in ([y], *outcomes("fill", [np.zeros_like(y)], {"value": value})):
            assert (outcome == np.dtype(dtype).type(value)).all()


def test_fill_of_truth_values() -> None:
    """Every number but 0 is true."""
    for value in (0, 0.0, 0.5, -3):
        y = np.empty(5, bool)
        host.run("fill", [y], {"value": value})
        assert (y == bool(value)).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [*AWKWARD, SUM_BLOCK - 1, SUM_BLOCK, SUM_BLOCK + 1, 3 * SUM_BLOCK + 33])
def test_count_nonfinite(size: int, dtype: str) -> None:
    random = np.random.default_rng(size)
    x = (random.uniform(-1, 1, size) * np.finfo(dtype).max).astype(dtype)
    for share in (0.0, 0.1, 1.0):
        chosen = random.random(size) < share
        x[chosen] = random.choice([np.nan, np.inf, -np.inf], np.count_nonzero(chosen))
        (counts,) = check_kernel("count_nonfinite", [x], [((-(-size // SUM_BLOCK),), "int64")], tolerance=0)
        assert counts.sum() == np.count_nonzero(chosen)
        for _, outcome in outcomes("count_nonfinite", [x, np.zeros_like(counts)], {}):
            assert (outcome == counts).all()


def test_steps_ahead_of_the_control_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU's program does three steps after the control block was moved on: it reads on, and moves on by four."""
    x = np.ones((20, 33), np.float32)
    source, order = np.arange(40.0), np.random.default_rng(0).permutation(40)
    calls: list[tuple[str, list[np.ndarray], dict[str, Any], str, int]] = [
        ("dropout", [x, np.array(5), np.empty_like(x)], {"rate": 0.5, "key": KEY}, "step", 1),
        ("gather_rows", [source, order, np.array(4), np.empty(9)], {"scale": 1.0}, "position", 9),
        ("log_value", [np.array(2.5), np.array(1), np.zeros((5, 3))], {"column": 1}, "index", 1),
    ]
    for name, arrays, attributes, operand, unit in calls:
        place = KERNELS[name].operands.index(operand)
        (body,) = bodies(name, arrays, attributes)
        assert [argument for argument in body.arguments if isinstance(argument, Ahead)] == [Ahead(unit, place)]
        expected = [*map(np.copy, arrays)]
        expected[place] += 3 * unit
        getattr(numpy_set, name)(*expected, **attributes)
        with monkeypatch.context() as patch:
            patch.setattr(Request, "ahead", lambda call, name, unit=1: Number("i64", 3 * unit))
            for outcome in outcomes(name, arrays, attributes):
                np.testing.assert_array_equal(outcome[-1], expected[-1])
    monkeypatch.setattr(Request, "ahead", lambda call, name, unit=1: Number("i64", 3 * unit))
    for (control,) in outcomes("advance", [np.arange(8)], {"rows": 128}):
        assert control.tolist() == [4, 1 + 4 * 128, 6, 3, 4, 5, 6, 7]


def test_definition_of_dropout_against_jax() -> None:
    """`jnp.where` of equinox's dropout, given the mask."""
    jnp = pytest.importorskip("jax.numpy")
    x = np.random.default_rng(0).normal(size=(13, 9)).astype(np.float32)
    mask = stream.uniform(KEY, 2, x.shape) >= 0.25
    expected = np.asarray(jnp.where(mask, x / (1 - 0.25), 0))
    check_definition("dropout", [x, np.array(2)], {"y": expected}, 1, rate=0.25, key=KEY)
