"""Sums, means, maxima and their converse: every shape and axis, NaN, order of summation, accuracy of long sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cuda_on_host import host
from laws import AWKWARD, FLOATS, check_definition, check_kernel

import fastnn_kernels.cpu as cpu_set

CASES = [
    *(((rows, 5), (axis,)) for rows in AWKWARD for axis in (0, 1)),
    *(((5, columns), (axis,)) for columns in AWKWARD for axis in (0, 1)),
    ((33, 127), (0, 1)),
    ((300, 130), (0,)),
    ((3, 4099), (1,)),
    ((7,), (0,)),
    ((0,), (0,)),
    ((2, 0, 3), (1,)),
    ((2, 0, 3), (0, 2)),
    ((127, 1), (0,)),
    ((127, 1), (0, 1)),
    ((1, 31), (0,)),
    ((31, 1), (1,)),
    ((3, 33, 17), (1,)),
    ((3, 4, 1), (0, 2)),
    ((3, 4, 5), (0, 2)),
    ((3, 1, 4), (0, 2)),
    ((2, 3, 4, 5, 6), (0, 2, 4)),
    ((2, 3, 4, 5, 6), (1, 3)),
    ((2, 3, 4, 5, 6), (1, 2)),
    ((2, 3, 2, 2, 2, 3), (0, 3, 5)),
]


def reduced(shape: tuple[int, ...], axis: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for i, size in enumerate(shape) if i not in axis)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_every_shape_and_axis(shape, axis, dtype, rng):
    x = rng.normal(size=shape).astype(dtype)
    output = (reduced(shape, axis), dtype)
    count = math.prod(shape[i] for i in axis)
    check_kernel("sum", [x], [output], tolerance=4 + count / 4, axis=axis)
    check_kernel("mean", [x], [output], tolerance=4 + count / 100, axis=axis)  # in float64 that of the definition, too
    check_kernel("max", [x], [output], tolerance=0, axis=axis)
    y = rng.normal(size=output[0]).astype(dtype)
    check_kernel("expand", [y], [(shape, dtype)], tolerance=0, axis=axis, mean=False)
    check_kernel("expand", [y], [(shape, dtype)], tolerance=1, axis=axis, mean=True)


@pytest.mark.parametrize(("shape", "axis"), [((6, 5), (0,)), ((6, 40), (1,)), ((3, 4, 5), (0, 2)), ((3, 4, 5), (0, 1, 2))])
def test_definition_is_what_torch_computes(shape, axis, rng):
    torch = pytest.importorskip("torch")
    x = rng.normal(size=shape)
    x.flat[7] = np.nan
    for name, oracle in (("sum", torch.sum), ("mean", torch.mean), ("max", torch.amax)):
        check_definition(name, [x], {"y": oracle(torch.tensor(x), dim=axis).numpy()}, tolerance=10, axis=axis)
    y = torch.tensor(rng.normal(size=reduced(shape, axis)))
    for mean, oracle in ((False, torch.sum), (True, torch.mean)):
        leaf = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        oracle(leaf, dim=axis).backward(y)
        check_definition("expand", [y.numpy()], {"y": leaf.grad.numpy()}, tolerance=10, axis=axis, mean=mean)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("count", [1, 15, 16, 17, 40])
def test_max_passes_nan_on_from_anywhere(axis, count):
    for position in range(count):
        x = np.zeros((count, 3) if axis == 0 else (3, count), np.float32)
        x[(position, 1) if axis == 0 else (1, position)] = np.nan
        (y,) = check_kernel("max", [x], [((3,), "float32")], tolerance=0, parts=(1,), axis=(axis,))
        assert np.isnan(y[1])
        assert not np.isnan(y[[0, 2]]).any()


def test_of_nothing():
    x = np.zeros((0, 3), np.float32)
    for name, value in (("sum", 0), ("mean", np.nan), ("max", -np.inf)):
        (y,) = check_kernel(name, [x], [((3,), "float32")], tolerance=0, axis=(0,))
        np.testing.assert_array_equal(y, np.full(3, value, np.float32))


@pytest.mark.parametrize("shape", [(33, 1), (127, 31), (300, 130)])
def test_column_sums_have_the_bits_of_the_bias_gradient(shape, rng):
    dz = rng.normal(size=shape).astype(np.float32)
    x = np.ones((shape[0], 2), np.float32)
    dw, db, y = np.empty((2, shape[1]), np.float32), np.empty(shape[1], np.float32), np.empty(shape[1], np.float32)
    cpu_set.run("dense_backward_weight", [x, dz, dw, db], {})
    cpu_set.run("sum", [dz, y], {"axis": (0,)})
    np.testing.assert_array_equal(y, db)


def test_a_row_has_the_same_sum_alone_and_among_others(rng):
    x = rng.normal(size=(7, 5003)).astype(np.float32)
    (together,) = check_kernel("sum", [x], [((7,), "float32")], tolerance=600, axis=(1,))
    for row, expected in zip(x, together, strict=True):
        (alone,) = check_kernel("sum", [row], [((), "float32")], tolerance=600, axis=(0,))
        assert alone == expected


@pytest.mark.parametrize("name", ["sum", "mean"])
def test_long_rows_are_summed_accurately(name, rng):
    x = rng.uniform(size=1_000_003).astype(np.float32)
    exact = math.fsum(x.tolist()) / (1 if name == "sum" else len(x))
    (y,) = check_kernel(name, [x], [((), "float32")], tolerance=20, parts=(1, 2), axis=(0,))
    assert abs(y / exact - 1) < 4 * 2.0**-23


@pytest.mark.parametrize("name", ["sum", "mean"])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((70_001,), (0,)),
        ((9, 9001), (1,)),
        ((8200, 33), (1,)),
        ((3001, 70), (0,)),
        ((3, 900, 5), (1,)),
        ((40, 9, 60, 7), (0, 2)),
    ],
)
def test_on_a_gpu_the_number_of_blocks_changes_no_bit(name, shape, axis, rng):
    x = rng.uniform(size=shape).astype(np.float32)
    exact = getattr(np, name)(x.astype(np.float64), axis=axis)
    results = []
    for blocks in (None, 1, 3):
        y = np.full(reduced(shape, axis), np.nan, np.float32)
        host.run(name, [x, y], {"axis": axis}, blocks=blocks)
        assert np.abs(y / exact - 1).max() < 8 * 2.0**-23  # of 70,001 numbers, too
        results.append(y.tobytes())
    assert len(set(results)) == 1
