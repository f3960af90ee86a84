"""Batch normalisation: every shape, an outside oracle, small batches, accuracy far from zero and over many rows."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_on_host import host
from laws import EPSILON, FLOATS, check_definition, check_kernel

from fastnn_kernels.cuda.lowering import Device

SHAPES = [(0, 5), (5, 0), (1, 7), (2, 1), (31, 33), (33, 31), (63, 127), (64, 16), (65, 3), (129, 17), (1000, 7), (7, 1030)]
WIDE = [(3, 2050), (9, 4100), (4200, 40)]


def operands(shape, dtype, rng):
    columns = shape[1]
    x = 2 * rng.normal(size=shape) + 3
    gamma, beta, running_mean = rng.normal(size=(3, columns))
    return [a.astype(dtype) for a in (x, gamma, beta, running_mean, rng.uniform(0.5, 2, columns))]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES + WIDE)
def test_every_shape(shape, dtype, rng):
    arrays = operands(shape, dtype, rng)
    x, gamma = arrays[:2]
    matrix, row = (shape, dtype), (shape[1:], dtype)
    tolerance = 100 if shape[0] > 2 else 2000  # of two rows, the variance may be small
    *_, mean, inverse_deviation = check_kernel(
        "batch_norm", arrays, [matrix, row, row], tolerance=tolerance, momentum=0.9, epsilon=1e-3
    )
    check_kernel("batch_norm_inference", arrays, [matrix], tolerance=10, epsilon=1e-3)
    dy = rng.normal(size=shape).astype(dtype)
    check_kernel(
        "batch_norm_backward",
        [dy, x, gamma, mean, inverse_deviation],
        [matrix, row, row],
        tolerance=tolerance + shape[0],
        cancels=shape[0] == 2,  # of two rows, both are one deviation away and dx is 0 but for epsilon
    )


@pytest.mark.parametrize("shape", [(2, 3), (40, 5), (200, 2)])
def test_definition_is_what_torch_computes(shape, rng):
    torch = pytest.importorskip("torch")
    x, gamma, beta, running_mean, running_variance = arrays = operands(shape, np.float64, rng)
    dy = rng.normal(size=shape)
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, gamma, beta)]
    running = [torch.tensor(a) for a in (running_mean, running_variance)]
    y = torch.nn.functional.batch_norm(leaves[0], *running, *leaves[1:], training=True, momentum=0.1, eps=1e-3)
    y.backward(torch.tensor(dy))
    mean, inverse_deviation = x.mean(axis=0), 1 / np.sqrt(x.var(axis=0) + 1e-3)
    expected = {
        "running_mean": running[0].numpy(), "running_variance": running[1].numpy(), "y": y.detach().numpy(),
        "mean": mean, "inverse_deviation": inverse_deviation,
    }  # fmt: skip
    check_definition("batch_norm", arrays, expected, 1000, momentum=0.9, epsilon=1e-3)
    gradients = {"dx": leaves[0].grad.numpy(), "dgamma": leaves[1].grad.numpy(), "dbeta": leaves[2].grad.numpy()}
    check_definition("batch_norm_backward", [dy, x, gamma, mean, inverse_deviation], gradients, 1000)
    running = [torch.tensor(a) for a in (running_mean, running_variance)]
    y = torch.nn.functional.batch_norm(leaves[0], *running, *leaves[1:], training=False, eps=1e-3)
    check_definition("batch_norm_inference", arrays, {"y": y.detach().numpy()}, 20, epsilon=1e-3)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_batch_of_none_leaves_the_running_statistics_alone(dtype, rng):
    arrays = operands((0, 5), dtype, rng)
    running_mean, running_variance, _, mean, inverse_deviation = check_kernel(
        "batch_norm", arrays, [((0, 5), dtype), ((5,), dtype), ((5,), dtype)], tolerance=4, momentum=0.9, epsilon=1e-3
    )
    np.testing.assert_array_equal(running_mean, arrays[3])
    np.testing.assert_array_equal(running_variance, arrays[4])
    assert (mean == 0).all()
    np.testing.assert_allclose(inverse_deviation, 1 / np.sqrt(1e-3), rtol=4 * EPSILON[dtype])


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_batch_of_one_counts_its_variance_as_zero(dtype, rng):
    arrays = operands((1, 5), dtype, rng)
    running_mean, running_variance, y, mean, _ = check_kernel(
        "batch_norm", arrays, [((1, 5), dtype), ((5,), dtype), ((5,), dtype)], tolerance=4, momentum=0.5, epsilon=1e-3
    )
    np.testing.assert_array_equal(mean, arrays[0][0])
    np.testing.assert_array_equal(y[0], arrays[2])
    np.testing.assert_allclose(running_mean, (arrays[3] + arrays[0][0]) / 2, rtol=4 * EPSILON[dtype])
    np.testing.assert_allclose(running_variance, arrays[4] / 2, rtol=4 * EPSILON[dtype])


@pytest.mark.parametrize("order", ["shuffled", "sorted", "one far away"])
@pytest.mark.parametrize("rows", [50, 5000])
def test_statistics_far_from_zero_are_accurate(order, rows, rng):
    x = (1e4 + rng.normal(size=(rows, 20))).astype(np.float32)
    if order == "sorted":
        x.sort(axis=0)
    elif order == "one far away":
        x[0] = 0
    ones = np.ones(20, np.float32)
    like = ((20,), "float32")
    *_, mean, inverse_deviation = check_kernel(
        "batch_norm", [x, ones, ones, ones, ones], [(x.shape, "float32"), like, like],
        tolerance=20_000, momentum=0.9, epsilon=0.0,
    )  # fmt: skip
    exact = x.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=2.0**-23)
    np.testing.assert_allclose(inverse_deviation, 1 / exact.std(axis=0), rtol=4 * 2.0**-23)


def test_sums_over_many_rows_are_accurate(rng):
    shape = (65536, 5)
    dy, x = (rng.uniform(size=shape).astype(np.float32) for _ in range(2))
    gamma, mean, inverse = np.ones(5, np.float32), np.zeros(5, np.float32), np.full(5, 2, np.float32)
    like = ((5,), "float32")
    _, dgamma, dbeta = check_kernel(
        "batch_norm_backward", [dy, x, gamma, mean, inverse], [(shape, "float32"), like, like], tolerance=16, parts=(1, 2)
    )
    np.testing.assert_allclose(dbeta, dy.sum(axis=0, dtype=np.float64), rtol=2 * 2.0**-23)
    np.testing.assert_allclose(dgamma, 2 * (dy.astype(np.float64) * x).sum(axis=0), rtol=2 * 2.0**-23)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_nan_spoils_its_column_and_no_other(dtype, rng):
    for row in (0, 70):
        arrays = operands((100, 3), dtype, rng)
        arrays[0][row, 1] = np.nan
        written = check_kernel(
            "batch_norm", arrays, [((100, 3), dtype), ((3,), dtype), ((3,), dtype)],
            tolerance=100, momentum=0.9, epsilon=1e-3,
        )  # fmt: skip
        for array in written:
            assert np.isnan(array[..., 1]).all()
            assert not np.isnan(array[..., [0, 2]]).any()


@pytest.mark.parametrize("name", ["batch_norm", "batch_norm_backward"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_cuda_gives_the_same_bits_with_little_shared_memory(name, dtype, rng):
    """Rows for which a GPU has no room are read again."""
    shape = (700, 9)
    x, gamma, beta, running_mean, running_variance = operands(shape, dtype, rng)
    bits = set()
    for shared_bytes in (227 * 1024, 16 * 1024):
        y, rows = np.full(shape, np.nan, dtype), [np.full(9, np.nan, dtype) for _ in range(2)]
        if name == "batch_norm":
            arrays = [x, gamma, beta, running_mean.copy(), running_variance.copy(), y, *rows]
            attributes = {"momentum": 0.9, "epsilon": 1e-3}
        else:
            arrays, attributes = [x[::-1].copy(), x, gamma, running_mean, running_variance, y, *rows], {}
        host.run(name, arrays, attributes, device=Device(products=False, shared_bytes=shared_bytes))
        bits.add(b"".join(array.tobytes() for array in arrays))
    assert len(bits) == 1
    assert not np.isnan(y).any()
