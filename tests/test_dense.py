"""Matrix products and dense layers: the CPU kernels against the definition, and the laws that decide their bits."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from laws import FLOATS, check_definition, check_kernel

import fastnn_kernels.cpu as cpu_set
from fastnn_kernels.contract import ACTIVATIONS_FROM_OUTPUT, ALPHA_ACTIVATIONS

SHAPES = [
    (0, 3, 5), (3, 0, 5), (3, 5, 0), (1, 1, 1), (2, 2, 5), (1, 31, 33), (1, 127, 300), (3, 17, 129), (5, 7, 65), (7, 33, 31),
    (10, 30, 10), (14, 16, 32), (15, 33, 17), (31, 7, 1), (33, 127, 31), (43, 61, 67), (127, 31, 127), (200, 3, 2),
    (57, 401, 97),
]  # fmt: skip
"""(M, K, N): empty ones, single rows and columns, one less and one more than tiles, primes, more than one block of K."""


def uniform(seed: int, *shapes: tuple[int, ...], dtype: str = "float32") -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1, 1, shape).astype(dtype) for shape in shapes]


def tolerance(k: int) -> float:
    """In epsilons, what rounding may leave in a sum of k products below 1: far less than one product."""
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


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("activation", ACTIVATIONS_FROM_OUTPUT)
def test_activations(activation: str, dtype: str) -> None:
    for m, k, n in ((0, 3, 5), (31, 33, 7), (33, 20, 127), (5, 40, 33)):
        x, w, b, dz, v, y = uniform(4, (m, k), (k, n), (n,), (m, k), (n, k), (m, n), dtype=dtype)
        settings = {"activation": activation, **alpha(activation)}
        check_kernel("dense", [x, w, b], [((m, n), dtype)], tolerance=2 * tolerance(k), **settings)
        check_kernel("dense_backward_input", [dz, v, y], [((m, n), dtype)], tolerance=2 * tolerance(k), **settings)


def run(name: str, *arrays: np.ndarray, **attributes: object) -> np.ndarray:
    cpu_set.run(name, [np.ascontiguousarray(array) for array in arrays[:-1]] + [arrays[-1]], attributes)
    return arrays[-1]


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS_FROM_OUTPUT])
@pytest.mark.parametrize(("m", "k", "n"), [(1, 5, 3), (31, 47, 33), (57, 401, 97), (9, 20, 300)])
def test_fused_equals_unfused(m: int, k: int, n: int, activation: str | None, dtype: str) -> None:
    x, w, b, dz, v, y = uniform(5, (m, k), (k, n), (n,), (m, k), (n, k), (m, n), dtype=dtype)
    empty = np.empty((m, n), dtype)
    z = run("matmul", x, w, empty.copy(), transpose_a=False, transpose_b=False)
    expected = run("add", z, b, empty.copy())
    dy = run("matmul", dz, v, empty.copy(), transpose_a=False, transpose_b=True)
    if activation is not None:
        expected = run(activation, expected, empty.copy(), **alpha(activation))
        dy = run(f"{activation}_backward", dy, y, empty.copy(), **alpha(activation))
    settings = {"activation": activation, **alpha(activation)}
    assert same_bits(run("dense", x, w, b, empty.copy(), **settings), expected)
    assert same_bits(run("dense_backward_input", dz, v, y, empty.copy(), **settings), dy)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("batch", "outputs"), [(0, 5), (1, 1), (33, 10), (400, 131)])
def test_bias_gradient_equals_sum(batch: int, outputs: int, dtype: str) -> None:
    x, dz = uniform(6, (batch, 3), (batch, outputs), dtype=dtype)
    db = np.empty(outputs, dtype)
    cpu_set.run("dense_backward_weight", [x, dz, np.empty((3, outputs), dtype), db], {})
    assert same_bits(db, run("sum", dz, np.empty(outputs, dtype), axis=(0,)))


def rounded(value: Fraction, dtype: str) -> Fraction:
    """`value` to the nearest number of `dtype`, ties to even; neither too large nor too small for it."""
    if not value:
        return value
    bits = 24 if dtype == "float32" else 53
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length()
    unit = Fraction(2) ** (exponent - bits + 1)
    if abs(value) < Fraction(2) ** exponent:
        unit /= 2
    return round(value / unit) * unit


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("m", "k", "n"), [(2, 19, 3), (1, 33, 17), (15, 9, 2), (2, 400, 2)])
def test_sequential_fused_multiply_add(m: int, k: int, n: int, dtype: str) -> None:
    """Every element is the chain of fused multiply-adds in the order of k, whatever the layout of the operands."""
    a, b = uniform(7, (m, k), (k, n), dtype=dtype)
    expected = np.empty((m, n), dtype)
    for i, j in np.ndindex(m, n):
        total = Fraction(0)
        for x, y in zip(a[i].tolist(), b[:, j].tolist(), strict=True):
            total = rounded(total + Fraction(x) * Fraction(y), dtype)
        expected[i, j] = float(total)
    for transpose_a, transpose_b in itertools.product((False, True), repeat=2):
        operands = a.T if transpose_a else a, b.T if transpose_b else b
        c = run("matmul", *operands, np.empty((m, n), dtype), transpose_a=transpose_a, transpose_b=transpose_b)
        assert same_bits(c, expected)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("m", "k", "n"), [(130, 70, 1024), (70, 1024, 130), (161, 1031, 512), (300, 9, 512), (20, 520, 640), (29, 50, 1024)]
)
def test_bits_depend_on_no_block(m: int, k: int, n: int, dtype: str) -> None:
    """Large products, packed or not, transposed or not, hold the bits of their rows computed one at a time."""
    a, b = uniform(8, (m, k), (k, n), dtype=dtype)
    rows = np.empty((m, n), dtype)
    for i in range(m):
        run("matmul", a[i : i + 1], b, rows[i : i + 1], transpose_a=False, transpose_b=False)
    np.testing.assert_allclose(rows, a.astype("f8") @ b.astype("f8"), atol=1e-4 if dtype == "float32" else 1e-12, rtol=0)
    for transpose_a, transpose_b in itertools.product((False, True), repeat=2):
        operands = a.T if transpose_a else a, b.T if transpose_b else b
        for part_count in (1, 2):
            c = np.full((m, n), np.nan, dtype)
            attributes = {"transpose_a": transpose_a, "transpose_b": transpose_b}
            cpu_set.run("matmul", [*map(np.ascontiguousarray, operands), c], attributes, parts=part_count)
            assert same_bits(c, rows), (transpose_a, transpose_b, part_count)


def test_exceptional_values() -> None:
    """NaN and infinities go where the sums take them, in the columns behind the last whole vector too."""
    x = np.ones((3, 2), "float32")
    w = np.ones((2, 37), "float32")
    w[0, 36], w[1, 35], w[0, 0] = np.nan, np.inf, -np.inf
    y = np.zeros((3, 37), "float32")
    cpu_set.run("dense", [x, w, np.zeros(37, "float32"), y], {"activation": None, "alpha": 0.0})
    np.testing.assert_array_equal(y, x @ w)


@pytest.mark.parametrize("dtype", FLOATS)
def test_definition_against_torch(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    functions = {
        None: lambda z: z, "relu": torch.relu, "leaky_relu": lambda z: torch.nn.functional.leaky_relu(z, 0.125),
        "elu": lambda z: torch.nn.functional.elu(z, 0.125), "sigmoid": torch.sigmoid, "tanh": torch.tanh,
    }  # fmt: skip
    arrays = uniform(9, (17, 11), (11, 7), (7,), (7, 5), (17, 5), dtype=dtype)
    for activation, function in functions.items():
        x, w, b, v, dz = (torch.from_numpy(array).requires_grad_() for array in arrays)
        y = function(x @ w + b)
        z = (x @ w + b).detach().requires_grad_()
        product = function(z) @ v
        product.backward(dz.detach())
        settings = {"activation": activation, **alpha(activation)}
        expected = y.detach().numpy()
        check_definition("dense", arrays[:3], {"y": expected}, tolerance=8, **settings)
        backward = [arrays[4], arrays[3], expected]
        check_definition("dense_backward_input", backward, {"dx": z.grad.numpy()}, tolerance=16, **settings)
        dv, db = v.grad.numpy(), dz.detach().numpy().sum(axis=0)
        check_definition("dense_backward_weight", [expected, arrays[4]], {"dw": dv, "db": db}, tolerance=32)
        transposed = {"transpose_a": True, "transpose_b": False}
        check_definition("matmul", [expected, arrays[4]], {"c": dv}, tolerance=32, **transposed)
        transposed = {"transpose_a": False, "transpose_b": True}
        check_definition("matmul", [arrays[4], arrays[3]], {"c": (dz @ v.T).detach().numpy()}, tolerance=32, **transposed)
