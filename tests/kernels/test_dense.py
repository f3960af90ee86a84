"""Matrix products and dense layers: the CPU kernels against the definition, and the laws that decide their bits."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from cuda_on_host import host
from laws import FLOATS, PRODUCT_SHAPES, by_turns, check_definition, check_kernel, fenced, guarded, guards_whole

import fastnn_kernels.cpu as cpu_set
from fastnn_kernels.contract import ACTIVATIONS_FROM_OUTPUT, ALPHA_ACTIVATIONS, LEAF_ROWS, Operand
from fastnn_kernels.cuda import tiles as cuda_tiles
from fastnn_kernels.cuda.families import dense as cuda_dense
from fastnn_kernels.cuda.lowering import Device, lower
from fastnn_kernels.memory import aligned_zeros
from fastnn_kernels.numpy.leaves import combine


def uniform(seed: int, *shapes: tuple[int, ...], dtype: str = "float32") -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1, 1, shape).astype(dtype) for shape in shapes]


def tolerance(k: int) -> float:
    """In epsilons, what rounding may leave in a sum of k products below 1: far less than one product."""
    return 8 + k / 4


def alpha(activation: str | None) -> dict[str, float]:
    return {"alpha": 0.125} if activation in ALPHA_ACTIVATIONS else {}


@pytest.mark.parametrize(("shape", "dtype"), by_turns(PRODUCT_SHAPES, FLOATS))
def test_matmul(shape: tuple[int, int, int], dtype: str) -> None:
    m, k, n = shape
    for transpose_a, transpose_b in itertools.product((False, True), repeat=2):
        a, b = uniform(0, (k, m) if transpose_a else (m, k), (n, k) if transpose_b else (k, n), dtype=dtype)
        check_kernel(
            "matmul", [a, b], [((m, n), dtype)], tolerance=tolerance(k), transpose_a=transpose_a, transpose_b=transpose_b
        )


@pytest.mark.parametrize(("shape", "dtype"), by_turns(PRODUCT_SHAPES, FLOATS))
def test_dense(shape: tuple[int, int, int], dtype: str) -> None:
    m, k, n = shape
    x, w, b = uniform(1, (m, k), (k, n), (n,), dtype=dtype)
    for activation in (None, "relu"):
        check_kernel("dense", [x, w, b], [((m, n), dtype)], tolerance=tolerance(k), activation=activation)


@pytest.mark.parametrize(("shape", "dtype"), by_turns(PRODUCT_SHAPES, FLOATS))
def test_dense_backward_input(shape: tuple[int, int, int], dtype: str) -> None:
    m, k, n = shape
    dz, w, y = uniform(2, (m, k), (n, k), (m, n), dtype=dtype)
    for activation in (None, "relu"):
        check_kernel("dense_backward_input", [dz, w, y], [((m, n), dtype)], tolerance=tolerance(k), activation=activation)


@pytest.mark.parametrize(("shape", "dtype"), by_turns(PRODUCT_SHAPES, FLOATS))
def test_dense_backward_weight(shape: tuple[int, int, int], dtype: str) -> None:
    m, k, n = shape
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
    """Every element is the chain of fused multiply-adds in the order of k, whatever the layout of the operands; where k are
    rows of both, there is a chain for each leaf.
    """
    a, b = uniform(7, (m, k), (k, n), dtype=dtype)

    def chain(first: int, last: int) -> np.ndarray:
        sums = np.empty((m, n), dtype)
        for i, j in np.ndindex(m, n):
            total = Fraction(0)
            for x, y in zip(a[i, first:last].tolist(), b[first:last, j].tolist(), strict=True):
                total = rounded(total + Fraction(x) * Fraction(y), dtype)
            sums[i, j] = float(total)
        return sums

    in_leaves = combine([chain(first, min(first + LEAF_ROWS, k)) for first in range(0, k, LEAF_ROWS)], np.add)
    for transpose_a, transpose_b in itertools.product((False, True), repeat=2):
        operands = a.T if transpose_a else a, b.T if transpose_b else b
        c = run("matmul", *operands, np.empty((m, n), dtype), transpose_a=transpose_a, transpose_b=transpose_b)
        assert same_bits(c, in_leaves if transpose_a else chain(0, k))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("m", "k", "n"), [(130, 70, 1024), (70, 1024, 130), (161, 1031, 512), (300, 9, 512), (20, 520, 640), (29, 50, 1024)]
)
def test_bits_depend_on_no_block(m: int, k: int, n: int, dtype: str) -> None:
    """Large products, packed or not, transposed or not, hold the bits of their rows computed one at a time."""
    a, b = uniform(8, (m, k), (k, n), dtype=dtype)
    rows, in_leaves = np.empty((m, n), dtype), np.empty((m, n), dtype)
    for i in range(m):
        run("matmul", a[i : i + 1], b, rows[i : i + 1], transpose_a=False, transpose_b=False)
        run("matmul", a[i : i + 1].T, b, in_leaves[i : i + 1], transpose_a=True, transpose_b=False)
    np.testing.assert_allclose(rows, a.astype("f8") @ b.astype("f8"), atol=1e-4 if dtype == "float32" else 1e-12, rtol=0)
    for transpose_a, transpose_b in itertools.product((False, True), repeat=2):
        operands = a.T if transpose_a else a, b.T if transpose_b else b
        for part_count in (1, 2, 6):
            c = np.full((m, n), np.nan, dtype)
            attributes = {"transpose_a": transpose_a, "transpose_b": transpose_b}
            cpu_set.run("matmul", [*map(np.ascontiguousarray, operands), c], attributes, parts=part_count)
            assert same_bits(c, in_leaves if transpose_a else rows), (transpose_a, transpose_b, part_count)


def run_fenced(name: str, arrays: Sequence[np.ndarray], attributes: dict[str, object], parts: int) -> list[np.ndarray]:
    """Run a kernel on fenced copies, with scratch memory between guards; every part on its own. Returns the copies."""
    arrays = [fenced(array) for array in arrays]
    lowered = cpu_set.lower(name, [Operand(array.shape, array.dtype) for array in arrays], attributes)
    scratch, whole = guarded(aligned_zeros(lowered.scratch or 0))
    words = np.array(lowered.words([array.ctypes.data for array in arrays], scratch.ctypes.data), np.int64)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(lowered.address)
    for part in range(parts):
        call(words.ctypes.data, part, parts, 0)
    assert guards_whole(scratch, whole), (name, [array.shape for array in arrays], attributes)
    return arrays


AROUND_TILES = (1, 3, 7, 13, 15, 16, 17, 31, 33, 47, 64, 65, 77, 100, 129, 160, 255, 257, 512, 800, 801, 1000, 1024, 2048)
"""Around the edges of vectors, tiles, leaves and blocks; and rows of A whose panels are packed."""


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("seed", range(4))
def test_products_stay_within_their_memory(seed: int, dtype: str) -> None:
    """No element beyond an operand is read, which would end the process, nor one beyond the scratch memory written."""
    rng = np.random.default_rng(seed)
    # First, packed rows times blocks that part of a vector makes too large.
    shapes = [(33, 512, 499), (33, 1024, 999), (33, 1024, 1000)]
    while len(shapes) < 25:
        m, k, n = map(int, rng.choice(AROUND_TILES, 3))
        if m * k * n < 10**8:
            shapes.append((m, k, n))
    for index, (m, k, n) in enumerate(shapes):
        parts = int(rng.choice((1, 2, 3, 4, 6, 7, 8, 12))) if index > 2 else 1
        for transpose_a, transpose_b in itertools.product((False, True), repeat=2):
            in_memory = (k, m) if transpose_a else (m, k), (n, k) if transpose_b else (k, n)
            a, b = (rng.integers(-4, 5, shape).astype(dtype) for shape in in_memory)  # whose sums are exact
            flags = {"transpose_a": transpose_a, "transpose_b": transpose_b}
            c = run_fenced("matmul", [a, b, np.full((m, n), np.nan, dtype)], flags, parts)[2]
            exact = (a.T if transpose_a else a).astype("f8") @ (b.T if transpose_b else b).astype("f8")
            np.testing.assert_array_equal(c, exact)
            if transpose_b:
                continue
            if transpose_a:
                outputs = [np.full((m, n), np.nan, dtype), np.full(n, np.nan, dtype)]
                assert same_bits(run_fenced("dense_backward_weight", [a, b, *outputs], {}, parts)[2], c)
            else:
                bias, y = uniform(seed, (n,), dtype=dtype)[0], np.full((m, n), np.nan, dtype)
                assert same_bits(run_fenced("dense", [a, b, bias, y], {"activation": None}, parts)[3], c + bias)


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


# --- the bodies of the CUDA set, by every tile ------------------------------------------------------------------------------


def force(monkeypatch: pytest.MonkeyPatch, index: int, splits: int) -> None:
    """Let every product be computed in the tiles with this index and in at most so many splits."""

    def cut(rows: int, columns: int, inner: int, itemsize: int) -> cuda_tiles.Cut:
        return cuda_tiles.divide(cuda_tiles.TILES[itemsize][index], splits, rows, columns, inner)

    monkeypatch.setattr(cuda_dense, "cut", cut)


def long_enough(index: int, dtype: str) -> int:
    """An inner axis of two whole depths of a tile and a bit."""
    return 2 * cuda_tiles.TILES[np.dtype(dtype).itemsize][index].depth + 7


@pytest.mark.parametrize(("index", "splits", "dtype"), by_turns(range(4), [1, 3], FLOATS))
def test_cuda_tiles(index: int, splits: int, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, index, splits)
    long = long_enough(index, dtype)
    for m, k, n in ((5, 3, 9), (37, long, 68), (68, long - 3, 21), (0, long, 3), (3, 0, 5), (70, 4, 1)):
        assert cuda_dense.cut(m, n, k, np.dtype(dtype).itemsize).splits == (splits if k > 4 else 1)
        for transpose in (False, True):
            a, b = uniform(9, (k, m) if transpose else (m, k), (n, k) if transpose else (k, n), dtype=dtype)
            flags = {"transpose_a": transpose, "transpose_b": transpose}
            check_kernel("matmul", [a, b], [((m, n), dtype)], tolerance=tolerance(k), parts=(1,), **flags)
        x, dz = uniform(10, (k, m), (k, n), dtype=dtype)
        outputs = [((m, n), dtype), ((n,), dtype)]
        check_kernel("dense_backward_weight", [x, dz], outputs, tolerance=tolerance(k), parts=(1,))


@pytest.mark.parametrize("dtype", FLOATS)
def test_cuda_activations_of_splits(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, 3, 3)
    m, k, n = 9, long_enough(3, dtype), 33
    x, w, b, dz, v, y = uniform(11, (m, k), (k, n), (n,), (m, k), (n, k), (m, n), dtype=dtype)
    for activation in (None, "leaky_relu"):
        settings = {"activation": activation, **alpha(activation)}
        check_kernel("dense", [x, w, b], [((m, n), dtype)], tolerance=tolerance(k), parts=(1,), **settings)
        check_kernel("dense_backward_input", [dz, v, y], [((m, n), dtype)], tolerance=tolerance(k), parts=(1,), **settings)


def shifted(array: np.ndarray, elements: int) -> np.ndarray:
    """A copy that starts so many elements behind a boundary of 64 bytes."""
    whole = np.empty(array.nbytes + 128, np.uint8)
    start = -whole.ctypes.data % 64 + elements * array.itemsize
    inner = whole[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    inner[...] = array
    return inner


@pytest.mark.parametrize("index", range(4))
def test_cuda_bits_depend_on_shape_alone(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on the number of blocks, and not on alignment, which decides how elements are loaded."""
    force(monkeypatch, index, 2)
    m, k, n = 36, long_enough(index, "float32") + 1, 44
    x, dz = uniform(12, (k, m), (k, n))
    expected: list[bytes] = []
    for blocks, shift in ((None, 0), (1, 0), (3, 0), (None, 1), (2, 2)):
        arrays = [shifted(array, shift) for array in (x, dz, np.empty((m, n), "f4"), np.empty(n, "f4"))]
        host.run("dense_backward_weight", arrays, {}, blocks=blocks)
        actual = [array.tobytes() for array in arrays[2:]]
        expected = expected or actual
        assert actual == expected, (blocks, shift)


@pytest.mark.parametrize("index", [0, 2])
def test_cuda_bfloat16_operands(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read as bfloat16, computed in float32, written as either."""
    force(monkeypatch, index, 1)
    m, k, n = 12, 75, 28
    x, w, b, dz = uniform(13, (m, k), (k, n), (n,), (m, n))
    x, w, dz = (array.astype(ml_dtypes.bfloat16) for array in (x, w, dz))
    wide = [array.astype("f8") for array in (x, w, dz)]
    for dtype, allowed in (("float32", 1e-5), (ml_dtypes.bfloat16, 2.0**-7)):
        y = np.empty((m, n), dtype)
        host.run("dense", [x, w, b, y], {"activation": "tanh"})
        np.testing.assert_allclose(y.astype("f8"), np.tanh(wide[0] @ wide[1] + b), atol=allowed)
    dw, db = np.empty((k, n), "f4"), np.empty(n, "f4")
    host.run("dense_backward_weight", [x, dz, dw, db], {})
    np.testing.assert_allclose(dw, wide[0].T @ wide[2], atol=1e-5)
    np.testing.assert_allclose(db, wide[2].sum(axis=0), atol=1e-5)


@pytest.mark.parametrize("index", range(4))
def test_cuda_exceptional_values(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN and infinities go where the sums take them, and to no neighbor in a tile."""
    force(monkeypatch, index, 1)
    x, w, b = np.ones((3, 2), "f4"), np.ones((2, 37), "f4"), np.zeros(37, "f4")
    w[0, 36], w[1, 35], w[0, 0], x[2, 1] = np.nan, np.inf, -np.inf, 0
    for activation in (None, "relu"):
        check_kernel("dense", [x, w, b], [((3, 37), "float32")], tolerance=8, activation=activation)


@pytest.mark.parametrize("itemsize", [4, 8])
def test_cuda_cuts(itemsize: int) -> None:
    """A cut covers the whole product; only tall ones are split; blocks fit into the shared memory that every GPU has."""
    sizes = (0, 1, 31, 33, 784, 4096, 65_536)
    for m, n, k in itertools.product(sizes, repeat=3):
        way = cuda_tiles.cut(m, n, k, itemsize)
        assert way.length * way.splits >= k > way.length * (way.splits - 1) or k == 0
        assert way.length % way.tile.depth == 0
        assert way.tile.shared <= 48 * 1024
        assert way.splits == 1 or (k >= 1024 and way.blocks // way.splits < cuda_tiles.MULTIPROCESSORS)
    assert cuda_tiles.cut(30, 10, 65_536, itemsize).splits > 8
    assert cuda_tiles.cut(10, 30, 784, itemsize).blocks > 8


def test_cuda_scratch_holds_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, 3, 3)
    k = long_enough(3, "float32")
    shapes = ((k, 9), (k, 33), (9, 33), (33,))
    operands = [Operand(shape, np.dtype("float32")) for shape in shapes]
    lowered = lower("dense_backward_weight", operands, {}, Device(products=False))
    assert len(lowered.works) == 2
    assert 4 * 3 * (9 * 33 + 33) <= lowered.scratch < 4 * 3 * (9 * 33 + 33) + 512
