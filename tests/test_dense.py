"""Matrix products and dense layers: the CPU kernels against the definition, and the laws that decide their bits."""

from __future__ import annotations

import itertools
from fractions import Fraction

import fastnn_kernels.cpu as cpu_set
import numpy as np
import pytest
from fastnn_kernels.contract import ACTIVATIONS_FROM_OUTPUT, ALPHA_ACTIVATIONS
from laws import FLOATS, check_definition, check_kernel

SHAPES = [
    (0, 3, 5), (3, 0, 5), (3, 5, 0), (1, 1, 1), (2, 2, 5), (1, 31, 33), (1, 127, 300), (3, 17, 129), (5, 7, 65), (7, 33, 31),
    (10, 30, 10), (14, 16, 32), (15, 33, 17), (31, 7, 1), (33, 127, 31), (43, 61, 67), (127, 31, 127), (200, 3, 2), (57, 401, 97),
]  # fmt: skip
"""(M, K, N): empty ones, single rows and columns, one less and one more than tiles, primes, more than one block of K."""


def uniform(seed: int, *shapes: tuple[int, ...], dtype: str = "float32") -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1, 1, shape).astype(dtype) for shape in shapes]


def tolerance(k: int) -> float:
    """In epsilons, what rounding may leave in a sum of k products below 1: rather more than it does, far less than one product."""
    return 8 + k / 4


def alpha(activation: str | None) -> dict[str, float]:
    return {"alpha": 0.125} if activation in ALPHA_ACTIVATIONS else {}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_matmul(m: int, k: int, n: int, dtype: str) -> None:
    for transpose_a, transpose_b in itertools.product((False, True), repeat=2):
        a, b = uniform(0, (k, m) if transpose_a else (m, k), (n, k) if transpose_b else (k, n), dtype=dtype)
        check_kernel(
            "matmul", [a, b], [((m, n), dtype)], tolerance=tolerance(k), transpose_a=transpose_a, transpose_b=transpose_b
        )


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_dense(m: int, k: int, n: int, dtype: str) -> None:
    x, w, b = uniform(1, (m, k), (k, n), (n,), dtype=dtype)
    for activation in (None, "relu"):
        check_kernel("dense", [x, w, b], [((m, n), dtype)], tolerance=tolerance(k), activation=activation)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_dense_backward_input(m: int, k: int, n: int, dtype: str) -> None:
    dz, w, y = uniform(2, (m, k), (n, k), (m, n), dtype=dtype)
    for activation in (None, "relu"):
        check_kernel("dense_backward_input", [dz, w, y], [((m, n), dtype)], tolerance=tolerance(k), activation=activation)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_dense_backward_weight(m: int, k: int, n: int, dtype: str) -> None:
    x, dz = uniform(3, (k, m), (k, n), dtype=dtype)
    check_kernel("dense_backward_weight", [x, dz], [((m, n), dtype), ((n,), dtype)], tolerance=tolerance(k))
