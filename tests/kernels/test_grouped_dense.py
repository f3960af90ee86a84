"""Linear layers of several models side by side: every set against the definition, and each model against itself alone."""

from __future__ import annotations

import numpy as np
import pytest
from laws import FLOATS, check_definition, check_kernel

import fastnn_kernels.cpu as cpu_set
from fastnn import ops
from fastnn.errors import InputError, InputTypeError

SHAPES = [
    (0, 3, 2, 5), (3, 0, 2, 4), (1, 1, 1, 1), (16, 2, 4, 32), (31, 4, 1, 16), (33, 7, 3, 17), (7, 3, 5, 33), (2, 31, 1, 3),
    (5, 1, 33, 15), (64, 4, 4, 31),
]  # fmt: skip
"""(B, I, O, G): empty ones, single ones, one less and one more than the lanes of a register, primes."""


def arrays(seed: int, *shapes: tuple[int, ...], dtype: str) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1, 1, shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("rows", "inputs", "outputs", "groups"), SHAPES)
def test_every_set(rows: int, inputs: int, outputs: int, groups: int, shared: bool, dtype: str) -> None:
    lanes = () if shared else (groups,)
    x, w, b, dz = arrays(
        0, (rows, inputs, *lanes), (inputs, outputs, groups), (outputs, groups), (rows, outputs, groups), dtype=dtype
    )
    check_kernel("grouped_dense", [x, w, b], [(dz.shape, dtype)], tolerance=8 + inputs / 4)
    check_kernel("grouped_dense_backward_weight", [x, dz], [(w.shape, dtype), (b.shape, dtype)], tolerance=8 + rows / 4)
    if not shared:
        check_kernel("grouped_dense_backward_input", [dz, w], [(x.shape, dtype)], tolerance=8 + outputs / 4)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("groups", [1, 2, 5, 16, 32, 33])
def test_each_model_has_the_bits_it_has_alone(groups: int, dtype: str) -> None:
    rows, inputs, outputs = 33, 5, 7
    x, w, b, dz, every = arrays(
        1, (rows, inputs, groups), (inputs, outputs, groups), (outputs, groups), (rows, outputs, groups), (rows, inputs),
        dtype=dtype,
    )  # fmt: skip
    y, of_shared, dx, dw, db = (np.empty(shape, dtype) for shape in (dz.shape, dz.shape, x.shape, w.shape, b.shape))
    cpu_set.run("grouped_dense", [x, w, b, y], {})
    cpu_set.run("grouped_dense", [every, w, b, of_shared], {})
    cpu_set.run("grouped_dense_backward_input", [dz, w, dx], {})
    cpu_set.run("grouped_dense_backward_weight", [x, dz, dw, db], {})
    for g in range(groups):
        xg, wg, bg, zg = (np.ascontiguousarray(array[..., g]) for array in (x, w, b, dz))
        for given, found in ((xg, y), (every, of_shared)):
            alone = np.empty((rows, outputs), dtype)
            cpu_set.run("dense", [given, wg, bg, alone], {"activation": None, "alpha": 0.0})
            assert np.ascontiguousarray(found[..., g]).tobytes() == alone.tobytes()
        alone = np.empty((rows, inputs), dtype)
        cpu_set.run("matmul", [zg, wg, alone], {"transpose_a": False, "transpose_b": True})
        assert np.ascontiguousarray(dx[..., g]).tobytes() == alone.tobytes()
        weight, bias = np.empty((inputs, outputs), dtype), np.empty(outputs, dtype)
        cpu_set.run("dense_backward_weight", [xg, zg, weight, bias], {})
        assert np.ascontiguousarray(dw[..., g]).tobytes() == weight.tobytes()
        assert np.ascontiguousarray(db[..., g]).tobytes() == bias.tobytes()


def test_nan_stays_with_its_model() -> None:
    x, w, b = arrays(2, (9, 3, 20), (3, 4, 20), (4, 20), dtype="float32")
    y, spoilt = np.empty((2, 9, 4, 20), "float32")
    cpu_set.run("grouped_dense", [x, w, b, y], {})
    w[0, 0, 17] = np.nan
    cpu_set.run("grouped_dense", [x, w, b, spoilt], {})
    others = np.arange(20) != 17
    assert np.isnan(spoilt[:, 0, 17]).all()
    np.testing.assert_array_equal(spoilt[..., others], y[..., others])


@pytest.mark.parametrize("dtype", FLOATS)
def test_definition_against_torch(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    x, w, b, dz = arrays(3, (11, 6, 5), (6, 3, 5), (3, 5), (11, 3, 5), dtype=dtype)
    X, W, bias, Z = (torch.from_numpy(np.moveaxis(array, -1, 0).copy()).requires_grad_() for array in (x, w, b, dz))
    y = torch.baddbmm(bias[:, None], X, W)
    y.backward(Z.detach())

    def lanes(tensor: object) -> np.ndarray:
        return np.moveaxis(tensor.detach().numpy(), 0, -1)  # type: ignore[attr-defined]

    check_definition("grouped_dense", [x, w, b], {"y": lanes(y)}, tolerance=16)
    check_definition("grouped_dense_backward_input", [dz, w], {"dx": lanes(X.grad)}, tolerance=16)
    check_definition("grouped_dense_backward_weight", [x, dz], {"dw": lanes(W.grad), "db": lanes(bias.grad)}, tolerance=16)


def test_what_is_refused() -> None:
    x, w, b = arrays(4, (9, 3, 5), (3, 4, 5), (4, 5), dtype="float32")
    assert ops.grouped_dense(x, w, b).shape == ops.grouped_dense(x[..., 0], w, b).shape == (9, 4, 5)
    for given in ((x[:, :2], w, b), (x[..., :2], w, b), (x, w[0], b), (x[0, 0], w, b)):
        with pytest.raises(InputError, match=r"expected x \(B, I\) or \(B, I, G\)"):
            ops.grouped_dense(*given)
    with pytest.raises(InputError, match=r"expected b of shape \(4, 5\)"):
        ops.grouped_dense(x, w, b[:3])
    with pytest.raises(InputTypeError, match="one dtype"):
        ops.grouped_dense(x, w.astype("float64"), b)
