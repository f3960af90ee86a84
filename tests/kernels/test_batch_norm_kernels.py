"""Batch normalization: every shape, an outside oracle, small batches, accuracy far from zero and over many rows, and with what
comes behind it in one pass: activations and dropout.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_on_host import host
from laws import EPSILON, FLOATS, by_turns, check_definition, check_kernel

import fastnn_kernels.cpu as cpu_set
from fastnn_kernels.contract import ACTIVATIONS_FROM_OUTPUT, ALPHA_ACTIVATIONS, KERNELS, Operand
from fastnn_kernels.cuda.lowering import Ahead, Device, lower

SHAPES = [(0, 5), (5, 0), (1, 7), (2, 1), (31, 33), (33, 31), (63, 127), (64, 16), (65, 3), (129, 17), (1000, 7), (7, 1030)]
WIDE = [(3, 2050), (9, 4100), (4200, 40)]
FUSED = [(0, 5), (5, 0), (2, 1), (31, 33), (33, 31), (129, 17), (64, 512), (7, 2052), (4200, 40), (4100, 7)]
"""Shapes for what comes behind: one block a tile and rows spread over blocks, columns with and without a factor of four."""

MOMENTS = {"momentum": 0.9, "epsilon": 1e-3}
PLAIN: dict[str, Any] = {"activation": None}
DROPPED = {"rate": 0.3, "key": (7, 2**32 - 5)}
STEP = np.array(2**33 + 5)


def behind(activation):
    return {"activation": activation, "alpha": 0.3 if activation in ALPHA_ACTIVATIONS else 0.0}


def operands(shape, dtype, rng):
    columns = shape[1]
    x = 2 * rng.normal(size=shape) + 3
    gamma, beta, running_mean = rng.normal(size=(3, columns))
    return [a.astype(dtype) for a in (x, gamma, beta, running_mean, rng.uniform(0.5, 2, columns))]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES + WIDE)
def test_every_shape(shape, dtype, rng):
    arrays = operands(shape, dtype, rng)
    x, gamma, beta = arrays[:3]
    matrix, row = (shape, dtype), (shape[1:], dtype)
    tolerance = 100 if shape[0] > 2 else 2000  # of two rows, the variance may be small
    *_, mean, inverse_deviation = check_kernel(
        "batch_norm", arrays, [matrix, row, row], tolerance=tolerance, **MOMENTS, **PLAIN
    )
    check_kernel("batch_norm_inference", arrays, [matrix], tolerance=10, epsilon=1e-3, **PLAIN)
    dy = rng.normal(size=shape).astype(dtype)
    check_kernel(
        "batch_norm_backward",
        [dy, x, gamma, beta, mean, inverse_deviation],
        [matrix, row, row],
        tolerance=tolerance + shape[0],
        **PLAIN,
        cancels=shape[0] == 2,  # of two rows, both are one deviation away and dx is 0 but for epsilon
    )


def away_from_kinks(arrays, mean, inverse_deviation):
    """1 where the derivative of an activation is beyond doubt in float32, else 0."""
    x, gamma, beta = (a.astype(np.float64) for a in arrays[:3])
    return np.abs(gamma * (x - mean) * inverse_deviation + beta) > 1e-3


def backward_operands(arrays, dtype, rng):
    """dy x gamma beta mean inverse_deviation, with dy 0 where a derivative is in doubt."""
    x = arrays[0].astype(np.float64)
    mean, inverse_deviation = (
        x.sum(axis=0) / max(len(x), 1),
        1 / np.sqrt((x.var(axis=0) if len(x) else 0 * x.sum(axis=0)) + 1e-3),
    )
    mean, inverse_deviation = mean.astype(dtype), inverse_deviation.astype(dtype)
    dy = rng.normal(size=x.shape) * away_from_kinks(arrays, mean, inverse_deviation)
    return [dy.astype(dtype), *arrays[:3], mean, inverse_deviation]


@pytest.mark.parametrize(("shape", "activation", "dtype"), by_turns(FUSED, ACTIVATIONS_FROM_OUTPUT, FLOATS))
def test_activation_behind(shape, activation, dtype, rng):
    arrays = operands(shape, dtype, rng)
    matrix, row = (shape, dtype), (shape[1:], dtype)
    attributes = behind(activation)
    check_kernel("batch_norm", arrays, [matrix, row, row], tolerance=200, **MOMENTS, **attributes)
    check_kernel("batch_norm_inference", arrays, [matrix], tolerance=30, epsilon=1e-3, **attributes)
    given = backward_operands(arrays, dtype, rng)
    check_kernel(
        "batch_norm_backward", given, [matrix, row, row], tolerance=200 + shape[0], cancels=shape[0] == 2, **attributes
    )


@pytest.mark.parametrize(("shape", "activation", "dtype"), by_turns(FUSED, [None, "relu", "elu"], FLOATS))
def test_dropout_behind(shape, activation, dtype, rng):
    arrays = operands(shape, dtype, rng)
    matrix, row = (shape, dtype), (shape[1:], dtype)
    attributes = {**behind(activation), **DROPPED}
    given = [*arrays[:3], STEP, *arrays[3:]]
    check_kernel("batch_norm_dropout", given, [matrix, row, row], tolerance=300, **MOMENTS, **attributes)
    given = [*backward_operands(arrays, dtype, rng), STEP]
    check_kernel(
        "batch_norm_dropout_backward", given, [matrix, row, row],
        tolerance=300 + 2 * shape[0], cancels=shape[0] == 2, **attributes,
    )  # fmt: skip


def outputs_of(shape, dtype):
    return [np.full(s, np.nan, dtype) for s in (shape, shape[1:], shape[1:])]


@pytest.mark.parametrize(
    ("shape", "activation", "dtype"),
    by_turns([(1, 3), (33, 31), (70, 520), (40, 1040), (4200, 4)], ACTIVATIONS_FROM_OUTPUT, FLOATS),
)
@pytest.mark.parametrize("run", [cpu_set.run, host.run], ids=["CPU", "CUDA"])
def test_one_call_has_the_bits_of_several(shape, run, activation, dtype, rng):
    x, gamma, beta, *running = operands(shape, dtype, rng)
    dy, alpha = rng.normal(size=shape).astype(dtype), {"alpha": 0.3} if activation in ALPHA_ACTIVATIONS else {}
    y, mean, inverse = outputs_of(shape, dtype)
    run("batch_norm", [x, gamma, beta, *(a.copy() for a in running), y, mean, inverse], {**MOMENTS, **behind(None)})
    h, dz = np.empty_like(y), np.empty_like(y)
    run(activation, [y, h], alpha)
    run(f"{activation}_backward", [dy, h, dz], alpha)
    single = outputs_of(shape, dtype)
    run("batch_norm_backward", [dz, x, gamma, beta, mean, inverse, *single], behind(None))
    fused_h, fused = outputs_of(shape, dtype), outputs_of(shape, dtype)
    run("batch_norm", [x, gamma, beta, *(a.copy() for a in running), *fused_h], {**MOMENTS, **behind(activation)})
    run("batch_norm_backward", [dy, x, gamma, beta, mean, inverse, *fused], behind(activation))
    assert fused_h[0].tobytes() == h.tobytes()
    assert [a.tobytes() for a in fused] == [a.tobytes() for a in single]
    assert not np.isnan(h).any()
    inference, fused_inference = np.empty_like(y), np.empty_like(y)
    run("batch_norm_inference", [x, gamma, beta, *running, inference], {"epsilon": 1e-3, **behind(None)})
    run(activation, [inference, h], alpha)
    run("batch_norm_inference", [x, gamma, beta, *running, fused_inference], {"epsilon": 1e-3, **behind(activation)})
    assert fused_inference.tobytes() == h.tobytes()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(1, 3), (33, 31), (70, 520), (300, 2056), (4200, 4), (4200, 7)])
def test_dropout_in_one_call_has_the_bits_of_several(shape, dtype, rng):
    x, gamma, beta, *running = operands(shape, dtype, rng)
    dy, relu = rng.normal(size=shape).astype(dtype), behind("relu")
    y, mean, inverse = outputs_of(shape, dtype)
    host.run("batch_norm", [x, gamma, beta, *(a.copy() for a in running), y, mean, inverse], {**MOMENTS, **relu})
    h, dz, single = np.empty_like(y), np.empty_like(y), outputs_of(shape, dtype)
    host.run("dropout", [y, STEP, h], DROPPED)
    host.run("dropout", [dy, STEP, dz], DROPPED)
    host.run("batch_norm_backward", [dz, x, gamma, beta, mean, inverse, *single], relu)
    fused_h, fused = outputs_of(shape, dtype), outputs_of(shape, dtype)
    given = [x, gamma, beta, STEP, *(a.copy() for a in running), *fused_h]
    host.run("batch_norm_dropout", given, {**MOMENTS, **relu, **DROPPED})
    host.run("batch_norm_dropout_backward", [dy, x, gamma, beta, mean, inverse, STEP, *fused], {**relu, **DROPPED})
    assert fused_h[0].tobytes() == h.tobytes()
    assert [a.tobytes() for a in fused] == [a.tobytes() for a in single]
    assert h.size < 100 or 0.1 < np.mean(dz == 0) < 0.5


@pytest.mark.parametrize("shape", [(9, 8), (4200, 8)])
@pytest.mark.parametrize("name", ["batch_norm_dropout", "batch_norm_dropout_backward"])
def test_dropout_behind_looks_ahead(name, shape):
    """The mask is that of the step which a program has come to since its control block was moved on."""
    kernel, attributes = KERNELS[name], {**MOMENTS, **behind("relu"), **DROPPED}
    matrices = {"x", "y", "dy", "dx"}
    shapes = [() if o == "step" else shape if o in matrices else shape[1:] for o in kernel.operands]
    operands = [Operand(s, np.dtype("float32" if s else "int64")) for s in shapes]
    bodies = lower(name, operands, {a: attributes[a] for a in kernel.attributes}, Device(products=False)).works
    ahead = [argument for body in bodies for argument in body.arguments if isinstance(argument, Ahead)]
    assert ahead
    assert set(ahead) == {Ahead(1, kernel.operands.index("step"))}


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS_FROM_OUTPUT])
@pytest.mark.parametrize("shape", [(2, 3), (40, 5), (200, 2)])
def test_definition_is_what_torch_computes(shape, activation, rng):
    torch = pytest.importorskip("torch")
    x, gamma, beta, running_mean, running_variance = arrays = operands(shape, np.float64, rng)
    dy = rng.normal(size=shape)
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, gamma, beta)]
    running = [torch.tensor(a) for a in (running_mean, running_variance)]
    attributes = behind(activation)
    alpha = attributes["alpha"]
    functions = {
        None: lambda z: z, "relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh,
        "leaky_relu": lambda z: torch.nn.functional.leaky_relu(z, alpha), "elu": lambda z: torch.nn.functional.elu(z, alpha),
    }  # fmt: skip
    z = torch.nn.functional.batch_norm(leaves[0], *running, *leaves[1:], training=True, momentum=0.1, eps=1e-3)
    y = functions[activation](z)
    y.backward(torch.tensor(dy))
    mean, inverse_deviation = x.mean(axis=0), 1 / np.sqrt(x.var(axis=0) + 1e-3)
    expected = {
        "running_mean": running[0].numpy(), "running_variance": running[1].numpy(), "y": y.detach().numpy(),
        "mean": mean, "inverse_deviation": inverse_deviation,
    }  # fmt: skip
    check_definition("batch_norm", arrays, expected, 1000, **MOMENTS, **attributes)
    gradients = {"dx": leaves[0].grad.numpy(), "dgamma": leaves[1].grad.numpy(), "dbeta": leaves[2].grad.numpy()}
    check_definition("batch_norm_backward", [dy, x, gamma, beta, mean, inverse_deviation], gradients, 1000, **attributes)
    running = [torch.tensor(a) for a in (running_mean, running_variance)]
    y = functions[activation](torch.nn.functional.batch_norm(leaves[0], *running, *leaves[1:], training=False, eps=1e-3))
    check_definition("batch_norm_inference", arrays, {"y": y.detach().numpy()}, 20, epsilon=1e-3, **attributes)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_batch_of_none_leaves_the_running_statistics_alone(dtype, rng):
    arrays = operands((0, 5), dtype, rng)
    running_mean, running_variance, _, mean, inverse_deviation = check_kernel(
        "batch_norm", arrays, [((0, 5), dtype), ((5,), dtype), ((5,), dtype)], tolerance=4, **MOMENTS, **PLAIN
    )
    np.testing.assert_array_equal(running_mean, arrays[3])
    np.testing.assert_array_equal(running_variance, arrays[4])
    assert (mean == 0).all()
    np.testing.assert_allclose(inverse_deviation, 1 / np.sqrt(1e-3), rtol=4 * EPSILON[dtype])


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_batch_of_one_counts_its_variance_as_zero(dtype, rng):
    arrays = operands((1, 5), dtype, rng)
    running_mean, running_variance, y, mean, _ = check_kernel(
        "batch_norm", arrays, [((1, 5), dtype), ((5,), dtype), ((5,), dtype)], tolerance=4, momentum=0.5, epsilon=1e-3, **PLAIN
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
        tolerance=20_000, momentum=0.9, epsilon=0.0, **PLAIN,
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
        "batch_norm_backward", [dy, x, gamma, mean, mean, inverse], [(shape, "float32"), like, like],
        tolerance=16, parts=(1, 2), **PLAIN,
    )  # fmt: skip
    np.testing.assert_allclose(dbeta, dy.sum(axis=0, dtype=np.float64), rtol=2 * 2.0**-23)
    np.testing.assert_allclose(dgamma, 2 * (dy.astype(np.float64) * x).sum(axis=0), rtol=2 * 2.0**-23)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_nan_spoils_its_column_and_no_other(dtype, rng):
    for row in (0, 70):
        arrays = operands((100, 3), dtype, rng)
        arrays[0][row, 1] = np.nan
        written = check_kernel(
            "batch_norm", arrays, [((100, 3), dtype), ((3,), dtype), ((3,), dtype)],
            tolerance=100, **MOMENTS, **PLAIN,
        )  # fmt: skip
        for array in written:
            assert np.isnan(array[..., 1]).all()
            assert not np.isnan(array[..., [0, 2]]).any()


@pytest.mark.parametrize("name", ["batch_norm", "batch_norm_backward", "batch_norm_dropout_backward"])
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
            attributes = {**MOMENTS, **PLAIN}
        else:
            arrays, attributes = [x[::-1].copy(), x, gamma, beta, running_mean, running_variance, y, *rows], behind("elu")
        if name == "batch_norm_dropout_backward":
            arrays[6:6] = [STEP]
            attributes |= DROPPED
        host.run(name, arrays, attributes, device=Device(products=False, shared_bytes=shared_bytes))
        bits.add(b"".join(array.tobytes() for array in arrays))
    assert len(bits) == 1
    assert not np.isnan(y).any()
