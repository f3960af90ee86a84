"""Sums over the rows of a mini-batch on a CPU: the tree of leaves to the last bit, for any number of parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from laws import FLOATS

import fastnn_kernels.cpu as cpu_set
from fastnn_kernels.contract import LEAF_ROWS
from fastnn_kernels.numpy.leaves import combine, cut_leaves

Array = np.ndarray[Any, np.dtype[Any]]

ROWS = (1, 63, 64, 65, 127, 128, 129, 193, 300, 448, 1000, 2053)
"""One leaf and less, a last leaf of one row, odd and even numbers of leaves, several blocks of four leaves."""


def count(leaves: Sequence[Array]) -> Array:
    """The leaves added as a binary counter counts: another way to the tree than the definition's."""
    digits: list[Array | None] = []
    for leaf in leaves:
        carry, level = leaf, 0
        while level < len(digits) and (digit := digits[level]) is not None:
            carry, digits[level], level = digit + carry, None, level + 1
        digits[level : level + 1] = [carry]
    low, *higher = (digit for digit in digits if digit is not None)
    for digit in higher:
        low = digit + low
    return low


def leaves_of(rows: int) -> list[slice]:
    return [slice(start, min(start + 64, rows)) for start in range(0, rows, 64)]


def run(
    name: str, operands: Sequence[Array], outputs: Sequence[tuple[int, ...]], parts: int = 1, **attributes: Any
) -> list[Array]:
    dtype = next(operand.dtype for operand in operands if operand.dtype.kind == "f")
    results = [np.full(shape, np.nan, dtype) for shape in outputs]
    cpu_set.run(name, [*map(np.ascontiguousarray, operands), *results], attributes, parts=parts)
    return results


def test_the_definition_is_the_tree_of_a_binary_counter(rng: np.random.Generator) -> None:
    for leaf_count in (*range(1, 40), 127, 128, 129):
        leaves = list(rng.standard_normal((leaf_count, 3)).astype(np.float32))
        np.testing.assert_array_equal(combine(leaves, np.add), count(leaves))
    for rows in ROWS:
        assert cut_leaves(rows) == leaves_of(rows)
    assert cut_leaves(0) == [slice(0, 0)]
    assert LEAF_ROWS == 64  # the bits of models that were trained hang on it


def sum_columns(x: Array) -> Array:
    total = np.zeros(x.shape[1:], x.dtype)
    for row in x:
        total = total + row
    return total


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("rows", ROWS)
def test_columns(rows: int, dtype: str, rng: np.random.Generator) -> None:
    for shape in ((rows, 1), (rows, 33), (rows, 131), (rows, 3, 5)):
        x = rng.standard_normal(shape).astype(dtype)
        expected = count([sum_columns(x[leaf]) for leaf in leaves_of(rows)])
        for parts in (1, 2, 3):
            np.testing.assert_array_equal(run("sum", [x], [shape[1:]], parts, axis=(0,))[0], expected)
            mean = run("mean", [x], [shape[1:]], parts, axis=(0,))[0]
            np.testing.assert_array_equal(mean, expected / expected.dtype.type(rows))
    blocks = rng.standard_normal((3, rows, 5)).astype(dtype)
    expected = np.stack([count([sum_columns(block[leaf]) for leaf in leaves_of(rows)]) for block in blocks])
    np.testing.assert_array_equal(run("sum", [blocks], [(3, 5)], axis=(1,))[0], expected)


OPERATIONS: dict[str, tuple[Callable[[int], list[tuple[int, ...]]], list[tuple[int, ...]], dict[str, Any]]] = {
    "sum of a vector": (lambda rows: [(rows,)], [()], {"axis": (0,)}),
    "sum of a matrix": (lambda rows: [(rows, 7)], [()], {"axis": (0, 1)}),
    "sum of rows and pixels": (lambda rows: [(rows, 3, 5, 2)], [(3, 2)], {"axis": (0, 2)}),
    "sum of images": (lambda rows: [(rows, 3, 5, 2)], [(2,)], {"axis": (0, 1, 2)}),
    "dense_backward_weight": (lambda rows: [(rows, 37), (rows, 45)], [(37, 45), (45,)], {}),
    "dense_backward_weight of one column": (lambda rows: [(rows, 130), (rows, 1)], [(130, 1), (1,)], {}),
    "dense_backward_weight of packed rows": (lambda rows: [(rows, 1024), (rows, 1024)], [(1024, 1024), (1024,)], {}),
    "matmul": (lambda rows: [(rows, 20), (rows, 33)], [(20, 33)], {"transpose_a": True, "transpose_b": False}),
    "matmul of both transposed": (
        lambda rows: [(rows, 20), (33, rows)],
        [(20, 33)],
        {"transpose_a": True, "transpose_b": True},
    ),
    "grouped_dense_backward_weight": (lambda rows: [(rows, 3, 19), (rows, 5, 19)], [(3, 5, 19), (5, 19)], {}),
    "grouped_dense_backward_weight of shared inputs": (lambda rows: [(rows, 3), (rows, 5, 19)], [(3, 5, 19), (5, 19)], {}),
}
"""Shapes of the operands for a number of rows, shapes of the results, attributes."""


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_whole_sums_are_those_of_their_leaves(operation: str, rows: int, dtype: str, rng: np.random.Generator) -> None:
    """A call on all rows has the bits of calls on each leaf, whose results are added in the tree."""
    shapes, outputs, attributes = OPERATIONS[operation]
    if 1024 in outputs[0] and rows not in (129, 448, 1000):
        return
    name = operation.split()[0]
    operands = [rng.standard_normal(shape).astype(dtype) for shape in shapes(rows)]
    by_columns = [attributes.get("transpose_b", False) and index == 1 for index in range(len(operands))]
    parts_of = [
        run(
            name,
            [x[:, leaf] if column else x[leaf] for x, column in zip(operands, by_columns, strict=True)],
            outputs,
            **attributes,
        )
        for leaf in leaves_of(rows)
    ]
    expected = [count(results) for results in zip(*parts_of, strict=True)]
    for parts in (1, 2, 3):
        for result, wanted in zip(run(name, operands, outputs, parts, **attributes), expected, strict=True):
            np.testing.assert_array_equal(result, wanted)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("rows", ROWS)
def test_weighted_means(rows: int, dtype: str, rng: np.random.Generator) -> None:
    """Numerator and denominator are each a tree; losses of weight one have the bits of their mean."""
    losses, weights = rng.uniform(0.1, 2, (2, rows)).astype(dtype)
    ones = np.ones(rows, dtype)
    exact = float(np.dot(losses.astype(np.float64), weights) / weights.astype(np.float64).sum())
    (mean,) = run("weighted_mean", [losses, weights], [()])
    assert abs(mean / exact - 1) < 8 * np.finfo(dtype).eps
    (plain,) = run("weighted_mean", [losses, ones], [()])
    np.testing.assert_array_equal(plain, run("mean", [losses], [()], axis=(0,))[0])
    total = run("sum", [weights], [()], axis=(0,))[0]
    for parts in (1, 2, 3):
        (slopes,) = run("weighted_mean_backward", [np.ones((), dtype), weights], [(rows,)], parts)
        np.testing.assert_array_equal(slopes, weights * (weights.dtype.type(1) / total))


@pytest.mark.parametrize("name", ["batch_norm", "layer_norm"])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("rows", [2, 64, 65, 128, 300, 1000])
def test_gradients_of_normalization(rows: int, dtype: str, name: str, rng: np.random.Generator) -> None:
    """dgamma and dbeta of all rows are those of each leaf, added in float64 in the tree, and rounded once."""
    width = 600  # more than one strip of batch norm
    dy, x = rng.standard_normal((2, rows, width)).astype(dtype)
    gamma, beta = np.ones((2, width), dtype)
    per_column = name == "batch_norm"
    mean = rng.standard_normal(width if per_column else rows).astype(dtype)
    inverse = np.ones_like(mean)  # so that what is rounded is only the sum
    backward, settings = f"{name}_backward", {"activation": None, "alpha": 0.0}

    def gradients(leaf: slice, parts: int = 1) -> list[Array]:
        statistics = [mean, inverse] if per_column else [mean[leaf], inverse[leaf]]
        outputs = [x[leaf].shape, (width,), (width,)]
        return run(backward, [dy[leaf], x[leaf], gamma, beta, *statistics], outputs, parts, **settings)[1:]

    whole = gradients(slice(0, rows))
    leaves = [gradients(leaf) for leaf in leaves_of(rows)]
    for index, result in enumerate(whole):
        expected = count([leaf[index].astype(np.float64) for leaf in leaves])
        np.testing.assert_array_equal(result, expected.astype(dtype))
        for parts in (2, 3):
            np.testing.assert_array_equal(gradients(slice(0, rows), parts)[index], result)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("rows", [1, 64, 65, 192, 1000, 5003])
def test_moments_of_batch_norm(rows: int, dtype: str, rng: np.random.Generator) -> None:
    """Exact to the last digits, also of columns with a large mean, with outliers first, or without any spread."""
    x = rng.standard_normal((rows, 37)).astype(dtype)
    x[:, 1] += 1000
    x[:, 2] = 3
    x[0, 3] = 300
    x[::64, 4] += 50  # the first row of each leaf
    gamma, beta = np.ones(37, dtype), np.zeros(37, dtype)
    bits = set()
    for parts in (1, 2, 3):
        y, mean, inverse = (np.full(shape, np.nan, dtype) for shape in (x.shape, (37,), (37,)))
        running = [np.zeros(37, dtype), np.ones(37, dtype)]
        settings = {"momentum": 0.9, "epsilon": 1e-5, "activation": None, "alpha": 0.0}
        cpu_set.run("batch_norm", [x, gamma, beta, *running, y, mean, inverse], settings, parts=parts)
        bits.add(b"".join(array.tobytes() for array in (y, mean, inverse, *running)))
    assert len(bits) == 1
    exact = x.astype(np.longdouble)
    epsilon = np.finfo(dtype).eps
    center, deviation = exact.mean(axis=0), np.sqrt(exact.var(axis=0) + 1e-5)
    assert (np.abs(mean - center) <= 2 * epsilon * np.maximum(np.abs(center), deviation)).all()
    assert (np.abs(inverse * deviation - 1) <= 8 * epsilon * np.maximum(1, np.abs(center) / deviation / 100)).all()
