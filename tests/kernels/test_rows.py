"""Softmax and its kin, argmax and one-hot vectors: every shape, extreme rows, outside oracles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cuda_on_host import host
from laws import FLOATS, check_definition, check_kernel

SHAPES = [
    (0, 10), (10, 0), (1, 1), (31, 33), (33, 31), (127, 10), (2, 127), (7, 16), (103, 1), (3, 1025), (1, 2503), (2, 3, 5),
    (300, 4), (9, 28), (5, 1000), (2, 1028), (2, 8197),
]  # fmt: skip
INFINITY = np.inf


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape(shape, dtype, rng):
    x = (5 * rng.normal(size=shape)).astype(dtype)
    dy = rng.normal(size=shape).astype(dtype)
    output = (shape, dtype)
    (y,) = check_kernel("softmax", [x], [output], tolerance=4)
    check_kernel("softmax_backward", [dy, y], [output], tolerance=8, cancels=True)
    (y,) = check_kernel("log_softmax", [x], [output], tolerance=4)
    check_kernel("log_softmax_backward", [dy, y], [output], tolerance=20 + shape[-1] / 20)
    check_kernel("argmax", [x.round()], [(shape[:-1], "int64")], tolerance=0)
    labels = rng.integers(-2, shape[-1] + 2, shape[:-1])
    check_kernel("one_hot", [labels], [output], tolerance=0)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("shape", [(5, 3), (4, 40)])
def test_definition_is_what_torch_computes(name, shape, rng):
    torch = pytest.importorskip("torch")
    x = torch.tensor(5 * rng.normal(size=shape), requires_grad=True)
    dy = torch.tensor(rng.normal(size=shape))
    y = getattr(torch.nn.functional, name)(x, dim=-1)
    y.backward(dy)
    check_definition(name, [x.detach().numpy()], {"y": y.detach().numpy()}, tolerance=8)
    check_definition(f"{name}_backward", [dy.numpy(), y.detach().numpy()], {"dx": x.grad.numpy()}, tolerance=20)


@pytest.mark.parametrize("columns", [4, 28, 100, 1028])
@pytest.mark.parametrize("dtype", FLOATS)
def test_cuda_gives_the_same_bits_wherever_operands_lie(columns, dtype, rng):
    """Operands that are aligned to 16 bytes are read in packs, others are not."""
    shape, bits = (3, columns), set()
    values, slopes = rng.normal(size=(2, *shape))
    for offset in (0, 1):
        dy, y, dx = (aligned(shape, dtype, offset) for _ in range(3))
        dy[...], y[...] = slopes, values
        host.run("softmax_backward", [dy, y, dx], {})
        bits.add(dx.tobytes())
    assert len(bits) == 1


def aligned(shape, dtype, offset):
    """An array that starts `offset` elements behind a boundary of 64 bytes."""
    whole = np.zeros(math.prod(shape) + 64, dtype)
    start = -whole.ctypes.data % 64 // whole.itemsize + offset
    return whole[start : start + math.prod(shape)].reshape(shape)


ROWS = [
    [1e38, -1e38, 0, 1e38],
    [3e38, -3e38, 3e38, 0],
    [-1e38, -1e38, -1e38, -1e38],
    [-INFINITY, 0, 1, -INFINITY],
    [-INFINITY, -INFINITY, 5, -INFINITY],
    [200, 100, -300, 199],
    [-103, 0, -104, -87.5],
]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("columns", [4, 21])
def test_extreme_rows_give_no_nan(dtype, columns):
    x = np.full((len(ROWS), columns), -INFINITY)
    x[:, :4] = ROWS
    (y,) = check_kernel("softmax", [x.astype(dtype)], [(x.shape, dtype)], tolerance=4)
    assert not np.isnan(y).any()
    assert (y[np.isneginf(x)] == 0).all()
    np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-6)
    logits = x[2:].astype(dtype)  # without differences beyond the range of float32
    (y,) = check_kernel("log_softmax", [logits], [(logits.shape, dtype)], tolerance=4)
    assert not np.isnan(y).any()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("columns", [1, 3, 16, 37])
def test_a_nan_spoils_its_row_and_no_other(dtype, columns, rng):
    for position in range(columns):
        x = rng.normal(size=(3, columns)).astype(dtype)
        x[1, position] = np.nan
        for name in ("softmax", "log_softmax"):
            (y,) = check_kernel(name, [x], [(x.shape, dtype)], tolerance=4, parts=(1,))
            assert np.isnan(y[1]).all()
            assert not np.isnan(y[[0, 2]]).any()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("columns", [1, 2, 15, 16, 17, 33, 48])
def test_argmax_takes_the_first_of_equals_and_nan_before_all(dtype, columns, rng):
    x = rng.integers(0, 3, (200, columns)).astype(dtype)
    x[rng.uniform(size=x.shape) < 0.02] = np.nan
    x[rng.uniform(size=x.shape) < 0.05] = -np.inf
    x[0] = -np.inf
    (indices,) = check_kernel("argmax", [x], [((200,), "int64")], tolerance=0)
    np.testing.assert_array_equal(indices, np.argmax(x, axis=1))


@pytest.mark.parametrize("dtype", FLOATS)
def test_labels_outside_the_classes_give_rows_of_zeros(dtype):
    labels = np.array([-1, 0, 2, 3, 2**62, -(2**62)])
    (y,) = check_kernel("one_hot", [labels], [((6, 3), dtype)], tolerance=0)
    np.testing.assert_array_equal(y.sum(axis=1), [0, 1, 1, 0, 0, 0])
    assert y[1, 0] == y[2, 2] == 1
