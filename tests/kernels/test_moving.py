"""Kernels that move elements: bit for bit what NumPy, torch and JAX move, whatever the dtype."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from cuda_on_host import host
from laws import AWKWARD, FLOATS, by_turns, check_definition, check_kernel

DTYPES = ("float32", "float64", "int64", "uint8", "bool")


def numbered(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An array in which neighbors differ, with a NaN and a negative zero where there are such."""
    if dtype == "bool":
        return np.random.default_rng(3).random(shape) < 0.5
    x = np.arange(math.prod(shape)).astype(dtype)
    if dtype.startswith("float") and x.size > 2:
        x[1], x[2] = np.nan, -0.0
    return x.reshape(shape)


@pytest.mark.parametrize(("shape", "dtype"), by_turns([*itertools.product(AWKWARD, AWKWARD[:5]), (100, 70)], DTYPES))
def test_transpose_of_a_matrix(shape: tuple[int, int], dtype: str) -> None:
    x = numbered(shape, dtype)
    (y,) = check_kernel("transpose", [x], [(shape[::-1], dtype)], tolerance=0, axes=(1, 0))
    assert y.tobytes() == x.T.copy().tobytes()


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (3, 1, 5, 2), (37, 3, 35), (2, 3, 2, 1, 3, 2), (2, 0, 3), ()])
def test_transpose_in_every_order(shape: tuple[int, ...]) -> None:
    x = numbered(shape, "float32")
    for axes in itertools.permutations(range(len(shape))):
        expected = x.transpose(axes)
        (y,) = check_kernel("transpose", [x], [(expected.shape, "float32")], tolerance=0, parts=(1, 3), axes=axes)
        assert y.tobytes() == expected.copy().tobytes()


def test_transpose_of_six_axes_that_stay_apart() -> None:
    x = numbered((3, 4, 5, 3, 4, 5), "int64")
    for axes in ((5, 4, 3, 2, 1, 0), (1, 0, 3, 2, 5, 4), (4, 2, 0, 1, 3, 5), (-1, 0, -2, 1, -3, 2)):
        check_kernel("transpose", [x], [(tuple(x.shape[a] for a in axes), "int64")], tolerance=0, axes=axes)


@pytest.mark.parametrize(("length", "axis", "dtype"), by_turns(AWKWARD, [0, 1, 2, -1], DTYPES))
def test_concatenate_and_slice(length: int, axis: int, dtype: str) -> None:
    shape = [3, 5, 33]
    shape[axis] = length
    a = numbered(tuple(shape), dtype)
    shape[axis] = 4
    b = numbered(tuple(shape), dtype)
    shape[axis] = length + 4
    (c,) = check_kernel("concatenate", [a, b], [(tuple(shape), dtype)], tolerance=0, axis=axis)
    check_kernel("concatenate", [b, a], [(tuple(shape), dtype)], tolerance=0, axis=axis)
    assert c.tobytes() == np.concatenate([a, b], axis).tobytes()
    # Cutting gives the two back, and what lies across the joint.
    joint = np.split(c, [length // 2, length // 2 + 4], axis)[1]
    for start, entries, expected in ((0, length, a), (length, 4, b), (length // 2, 4, joint)):
        shape[axis] = entries
        (y,) = check_kernel("slice", [c], [(tuple(shape), dtype)], tolerance=0, axis=axis, start=start)
        assert y.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("row", "count", "dtype"), by_turns([(), (1,), (33,), (2, 3), (0,)], AWKWARD, DTYPES))
def test_gather(row: tuple[int, ...], count: int, dtype: str) -> None:
    x = numbered((13, *row), dtype)
    indices = np.random.default_rng(count).integers(0, 13, count)
    (y,) = check_kernel("gather", [x, indices], [((count, *row), dtype)], tolerance=0)
    assert y.tobytes() == x[indices].tobytes()


@pytest.mark.parametrize(("row", "count", "dtype"), by_turns([(), (1,), (33,), (2, 100), (0,)], AWKWARD, [*FLOATS, "int64"]))
def test_scatter_add(row: tuple[int, ...], count: int, dtype: str) -> None:
    random = np.random.default_rng(count)
    dy = (100 * random.normal(size=(count, *row))).astype(dtype)
    indices = random.integers(0, 11, count)
    (dx,) = check_kernel("scatter_add", [indices, dy], [((13, *row), dtype)], tolerance=4096)
    # In the order of i, in the dtype itself: the same bits.
    expected = np.zeros((13, *row), dtype)
    for i, index in enumerate(indices):
        expected[index] += dy[i]
    assert dx.tobytes() == expected.tobytes()


def test_definition_of_scatter_add_against_torch() -> None:
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0)
    dy, indices = random.normal(size=(50, 7)), random.integers(0, 5, 50)
    expected = torch.zeros(6, 7, dtype=torch.float64).index_add_(0, torch.from_numpy(indices), torch.from_numpy(dy))
    check_definition("scatter_add", [indices, dy], {"dx": expected.numpy()}, 8)


def test_definitions_against_torch() -> None:
    torch = pytest.importorskip("torch")
    x = numbered((3, 4, 5), "int64")
    tensor = torch.from_numpy(x)
    check_definition("transpose", [x], {"y": tensor.permute(2, 0, 1).contiguous().numpy()}, 0, axes=(2, 0, 1))
    check_definition("concatenate", [x, x[:, :2]], {"c": torch.cat([tensor, tensor[:, :2]], 1).numpy()}, 0, axis=1)
    check_definition("slice", [x], {"y": tensor.narrow(1, 1, 2).contiguous().numpy()}, 0, axis=1, start=1)
    indices = np.array([2, 0, 2, 1])
    check_definition("gather", [x, indices], {"y": tensor[torch.from_numpy(indices)].numpy()}, 0)


# CUDA


@pytest.mark.parametrize("row", [(), (3,), (300,)])
@pytest.mark.parametrize(("rows", "count"), [(5, 2500), (700, 1500)])
def test_on_a_gpu_rows_are_added_in_order(rows: int, count: int, row: tuple[int, ...]) -> None:
    random = np.random.default_rng(count)
    dy = (100 * random.normal(size=(count, *row))).astype(np.float32)
    indices = random.integers(0, rows, count)
    expected = np.zeros((rows, *row), np.float32)
    np.add.at(expected, indices, dy)
    for blocks in (None, 1, 3):
        dx = np.full((rows, *row), np.nan, np.float32)
        host.run("scatter_add", [indices, dy, dx], {}, blocks=blocks)
        assert dx.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shifts", [(0, 0), (1, 0), (0, 1)])
@pytest.mark.parametrize("width", [64, 63])
def test_on_a_gpu_rows_move_in_packs_or_one_by_one(width: int, shifts: tuple[int, int], dtype: str) -> None:
    """Packs of 16 bytes need rows of whole packs and operands that begin at a boundary; the outcome is the same."""

    def placed(array: np.ndarray, shift: int) -> np.ndarray:
        whole = np.zeros(array.nbytes + 64, np.uint8)
        start = -whole.ctypes.data % 16 + shift * array.itemsize
        inner = whole[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        inner[...] = array
        return inner

    def run(name: str, inputs: list[np.ndarray], expected: np.ndarray, **attributes: int) -> None:
        for blocks in (None, 1, 2):
            y = placed(np.full_like(expected, 1), shifts[1])
            moved = [placed(x, shifts[0]) if x.dtype == expected.dtype and x.ndim == 2 else x for x in inputs]
            host.run(name, [*moved, y], attributes, blocks=blocks)
            assert y.tobytes() == expected.tobytes()

    x = numbered((40, width), dtype)
    run("concatenate", [x, x[::-1].copy()], np.concatenate([x, x[::-1]], 1), axis=1)
    run("slice", [x], x[:, 16:48], axis=1, start=16)
    run("slice", [x], x[:, 3:35], axis=1, start=3)
    indices = np.random.default_rng(1).integers(0, 40, 60)
    run("gather", [x, indices], x[indices])
