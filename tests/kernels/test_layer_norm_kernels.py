"""Layer normalization: every shape, an outside oracle, constant rows, accuracy far from zero and along long rows, and with an
activation behind it in one pass.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_on_host import host
from laws import EPSILON, FLOATS, by_turns, check_definition, check_kernel

import fastnn_kernels.cpu as cpu_set
import fastnn_kernels.numpy as numpy_set
from fastnn_kernels.contract import ACTIVATIONS_FROM_OUTPUT, ALPHA_ACTIVATIONS, Operand
from fastnn_kernels.cuda.lowering import Device, lower

SHAPES = [
    (0, 0), (0, 7), (7, 0), (1, 1), (1, 33), (33, 1), (31, 2), (31, 33), (33, 31), (7, 127), (127, 7), (64, 16), (65, 3),
]  # fmt: skip
WIDE = [(65, 257), (1031, 5), (4201, 3), (3, 1025), (7, 2050), (5, 4099), (2, 9001)]
"""Rows that end within a block of rows, or are spread over blocks; rows of a warp, of a block, of nobody, of several strips."""
FUSED = [(0, 5), (5, 0), (1, 1), (2, 1), (31, 33), (33, 31), (129, 17), (64, 512), (7, 2052), (4100, 7)]

PLAIN: dict[str, Any] = {"activation": None}
EPSILON_OF_LAYER = 1e-5


def behind(activation):
    return {"activation": activation, "alpha": 0.3 if activation in ALPHA_ACTIVATIONS else 0.0}


def operands(shape, dtype, rng):
    x = 2 * rng.normal(size=shape) + 3
    return [a.astype(dtype) for a in (x, *rng.normal(size=(2, shape[1])))]


def backward_operands(arrays, dtype, rng, kinks=False):
    """dy x gamma beta mean inverse_deviation; with `kinks`, dy is 0 where the derivative of an activation is in doubt."""
    x, gamma, beta = (a.astype(np.float64) for a in arrays)
    count = max(x.shape[1], 1)
    mean = x.sum(axis=1) / count
    inverse = 1 / np.sqrt(((x.T - mean) ** 2).sum(axis=0) / count + EPSILON_OF_LAYER)
    mean, inverse = mean.astype(dtype), inverse.astype(dtype)
    dy = rng.normal(size=x.shape)
    if kinks:
        dy *= np.abs(((x.T - mean) * inverse).T * gamma + beta) > 1e-3
    return [dy.astype(dtype), *arrays, mean, inverse]


def outputs(shape, dtype):
    """Of the forward pass, and of the backward pass."""
    column, row = (shape[:1], dtype), (shape[1:], dtype)
    return [(shape, dtype), column, column], [(shape, dtype), row, row]


def cancels(shape):
    """Of two columns, both are one deviation away and dx is 0 but for epsilon; of one it is 0."""
    return shape[1] <= 2


@pytest.mark.parametrize(("shape", "dtype"), by_turns(SHAPES + WIDE, FLOATS))
def test_every_shape(shape, dtype, rng):
    arrays = operands(shape, dtype, rng)
    forward, backward = outputs(shape, dtype)
    check_kernel("layer_norm", arrays, forward, tolerance=100, epsilon=EPSILON_OF_LAYER, **PLAIN)
    given = backward_operands(arrays, dtype, rng)
    check_kernel("layer_norm_backward", given, backward, tolerance=100 + shape[0], cancels=cancels(shape), **PLAIN)


@pytest.mark.parametrize(("shape", "activation", "dtype"), by_turns(FUSED, ACTIVATIONS_FROM_OUTPUT, FLOATS))
def test_activation_behind(shape, activation, dtype, rng):
    arrays = operands(shape, dtype, rng)
    forward, backward = outputs(shape, dtype)
    attributes = behind(activation)
    check_kernel("layer_norm", arrays, forward, tolerance=200, epsilon=EPSILON_OF_LAYER, **attributes)
    given = backward_operands(arrays, dtype, rng, kinks=True)
    check_kernel("layer_norm_backward", given, backward, tolerance=200 + shape[0], cancels=cancels(shape), **attributes)


@pytest.mark.parametrize(
    ("shape", "activation", "dtype"),
    by_turns([(1, 3), (33, 31), (70, 520), (40, 2050), (700, 4), (3, 9001)], ACTIVATIONS_FROM_OUTPUT, FLOATS),
)
@pytest.mark.parametrize("run", [cpu_set.run, host.run], ids=["CPU", "CUDA"])
def test_one_call_has_the_bits_of_several(shape, run, activation, dtype, rng):
    arrays = operands(shape, dtype, rng)
    dy, alpha = rng.normal(size=shape).astype(dtype), {"alpha": 0.3} if activation in ALPHA_ACTIVATIONS else {}

    def made():
        return [[np.full(s, np.nan, d) for s, d in each] for each in outputs(shape, dtype)]

    (y, mean, inverse), single = made()
    run("layer_norm", [*arrays, y, mean, inverse], {"epsilon": EPSILON_OF_LAYER, **behind(None)})
    h, dz = np.empty_like(y), np.empty_like(y)
    run(activation, [y, h], alpha)
    run(f"{activation}_backward", [dy, h, dz], alpha)
    run("layer_norm_backward", [dz, *arrays, mean, inverse, *single], behind(None))
    forward, fused = made()
    run("layer_norm", [*arrays, *forward], {"epsilon": EPSILON_OF_LAYER, **behind(activation)})
    run("layer_norm_backward", [dy, *arrays, mean, inverse, *fused], behind(activation))
    assert [a.tobytes() for a in forward] == [a.tobytes() for a in (h, mean, inverse)]
    assert [a.tobytes() for a in fused] == [a.tobytes() for a in single]
    assert not any(np.isnan(a).any() for a in (*forward, *fused))


@pytest.mark.parametrize("blocks", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("shape", [(0, 5), (33, 31), (700, 40), (3, 9001)])
def test_any_number_of_blocks_gives_the_same_bits_on_cuda(shape, blocks, rng):
    given = backward_operands(operands(shape, "float32", rng), "float32", rng)
    found = []
    for several in (None, blocks):
        written = [np.full(s, np.nan, d) for s, d in outputs(shape, "float32")[1]]
        host.run("layer_norm_backward", [*given, *written], behind("relu"), blocks=several)
        found.append([a.tobytes() for a in written])
        assert not any(np.isnan(a).any() for a in written)
    assert found[0] == found[1]


def test_any_number_of_parts_gives_the_same_bits_on_the_cpu(rng):
    """More parts than rows, than groups of columns, and parts that begin anywhere in a block of rows."""
    for shape in ((3, 40), (70, 5), (150, 1100)):
        arrays = operands(shape, "float32", rng)
        given = backward_operands(arrays, "float32", rng)
        for activation in (None, "relu"):
            found = set()
            for parts in (1, 2, 5, 7, 16):
                forward, backward = ([np.full(s, np.nan, d) for s, d in each] for each in outputs(shape, "float32"))
                attributes = behind(activation)
                cpu_set.run("layer_norm", [*arrays, *forward], {"epsilon": EPSILON_OF_LAYER, **attributes}, parts)
                cpu_set.run("layer_norm_backward", [*given, *backward], attributes, parts)
                found.add(b"".join(a.tobytes() for a in (*forward, *backward)))
                assert not any(np.isnan(a).any() for a in (*forward, *backward))
            assert len(found) == 1, (shape, activation)


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS_FROM_OUTPUT])
@pytest.mark.parametrize("shape", [(1, 7), (7, 5), (31, 33), (2, 127)])
def test_definition_is_what_torch_computes(shape, activation, rng):
    torch = pytest.importorskip("torch")
    x, gamma, beta = arrays = operands(shape, np.float64, rng)
    dy = rng.normal(size=shape)
    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    attributes = behind(activation)
    alpha = attributes["alpha"]
    functions = {
        None: lambda z: z, "relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh,
        "leaky_relu": lambda z: torch.nn.functional.leaky_relu(z, alpha), "elu": lambda z: torch.nn.functional.elu(z, alpha),
    }  # fmt: skip
    z = torch.nn.functional.layer_norm(leaves[0], shape[1:], *leaves[1:], eps=EPSILON_OF_LAYER)
    y = functions[activation](z)
    y.backward(torch.tensor(dy))
    mean, inverse = x.mean(axis=1), 1 / np.sqrt(x.var(axis=1) + EPSILON_OF_LAYER)
    expected = {"y": y.detach().numpy(), "mean": mean, "inverse_deviation": inverse}
    check_definition("layer_norm", arrays, expected, 1000, epsilon=EPSILON_OF_LAYER, **attributes)
    gradients = {"dx": leaves[0].grad.numpy(), "dgamma": leaves[1].grad.numpy(), "dbeta": leaves[2].grad.numpy()}
    check_definition("layer_norm_backward", [dy, x, gamma, beta, mean, inverse], gradients, 1000, **attributes)


@pytest.mark.parametrize("order", ["shuffled", "sorted", "one far away"])
@pytest.mark.parametrize("columns", [50, 5000, 20011])
def test_statistics_far_from_zero_are_accurate(order, columns, rng):
    """The mean of float32 is rounded, by a sixteenth at 1e6; the variance is that of what x says exactly."""
    x = (1e6 + 8 * rng.normal(size=(9, columns))).astype(np.float32)
    if order == "sorted":
        x.sort(axis=1)
    elif order == "one far away":
        x[:, 0] = 0
    ones = np.ones(columns, np.float32)
    exact = x.astype(np.float64)
    center, deviation = exact.mean(axis=1), exact.std(axis=1)
    for run in (cpu_set.run, host.run):
        y, mean, inverse = (np.full(s, np.nan, d) for s, d in outputs(x.shape, "float32")[0])
        run("layer_norm", [x, ones, 0 * ones, y, mean, inverse], {"epsilon": 1e-12, **behind(None)})
        np.testing.assert_allclose(mean, center, rtol=2.0**-23)
        np.testing.assert_allclose(inverse, 1 / deviation, rtol=16 * 2.0**-23)
        normal = ((exact.T - mean.astype(np.float64)) / deviation).T  # of the mean as it is rounded
        np.testing.assert_allclose(y, normal, rtol=32 * 2.0**-23)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("value", "columns"), [(0.0, 7), (3.0, 33), (0.1, 1), (-1e6, 127), (1 / 3, 1000)])
def test_a_constant_row_becomes_beta(value, columns, dtype, rng):
    """Exactly: its deviations are 0, or what the rounded mean is off by, which corrects it."""
    x = np.full((5, columns), value, dtype)
    gamma, beta = rng.normal(size=(2, columns)).astype(dtype)
    for run in (cpu_set.run, host.run, lambda name, arrays, attributes: getattr(numpy_set, name)(*arrays, **attributes)):
        y, mean, inverse = (np.full(s, np.nan, d) for s, d in outputs(x.shape, dtype)[0])
        run("layer_norm", [x, gamma, beta, y, mean, inverse], {"epsilon": EPSILON_OF_LAYER, **behind(None)})
        np.testing.assert_array_equal(mean, x[:, 0])
        np.testing.assert_array_equal(y, np.broadcast_to(beta, y.shape))
        np.testing.assert_allclose(inverse, 1 / np.sqrt(EPSILON_OF_LAYER), rtol=4 * EPSILON[dtype])


@pytest.mark.parametrize("dtype", FLOATS)
def test_one_column_has_no_gradient(dtype, rng):
    """It is its own mean: y is beta whatever x is."""
    given = backward_operands(operands((37, 1), dtype, rng), dtype, rng)
    dx, dgamma, dbeta = check_kernel("layer_norm_backward", given, outputs((37, 1), dtype)[1], tolerance=50, **PLAIN)
    assert (dx == 0).all()
    assert (dgamma == 0).all()
    np.testing.assert_allclose(dbeta, given[0].sum(axis=0, dtype=np.float64), rtol=50 * EPSILON[dtype])


def test_two_columns_have_the_gradient_of_torch(rng):
    """What is left of it where both are one deviation away: that of epsilon, which is large here."""
    torch = pytest.importorskip("torch")
    arrays = operands((37, 2), np.float64, rng)
    x, *leaves = (torch.tensor(a, requires_grad=True) for a in arrays)
    dy = rng.normal(size=(37, 2))
    torch.nn.functional.layer_norm(x, (2,), *leaves, eps=0.5).backward(torch.tensor(dy))
    inverse = 1 / np.sqrt(arrays[0].var(axis=1) + 0.5)
    given = [dy, *arrays, arrays[0].mean(axis=1), inverse]
    expected = {"dx": x.grad.numpy(), "dgamma": leaves[0].grad.numpy(), "dbeta": leaves[1].grad.numpy()}
    check_definition("layer_norm_backward", given, expected, 100, **PLAIN)


def test_sums_over_many_rows_are_accurate(rng):
    shape = (65536, 5)
    dy, x = (rng.uniform(size=shape).astype(np.float32) for _ in range(2))
    gamma, beta = np.ones(5, np.float32), np.zeros(5, np.float32)
    mean, inverse = np.zeros(len(x), np.float32), np.full(len(x), 2, np.float32)
    _, dgamma, dbeta = check_kernel(
        "layer_norm_backward", [dy, x, gamma, beta, mean, inverse], outputs(shape, "float32")[1],
        tolerance=16, parts=(1, 2), **PLAIN,
    )  # fmt: skip
    np.testing.assert_allclose(dbeta, dy.sum(axis=0, dtype=np.float64), rtol=2 * 2.0**-23)
    np.testing.assert_allclose(dgamma, 2 * (dy.astype(np.float64) * x).sum(axis=0), rtol=2 * 2.0**-23)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_nan_spoils_its_row_and_no_other(dtype, rng):
    for column in (0, 70):
        arrays = operands((3, 100), dtype, rng)
        arrays[0][1, column] = np.nan
        forward, backward = outputs((3, 100), dtype)
        written = check_kernel("layer_norm", arrays, forward, tolerance=100, epsilon=EPSILON_OF_LAYER, **PLAIN)
        given = [rng.normal(size=(3, 100)).astype(dtype), *arrays, *written[1:]]
        for parts in (1, 2, 3):  # of two NaN, compilers are free to pass on either: their bits may differ
            dx, dgamma, _ = check_kernel("layer_norm_backward", given, backward, tolerance=100, parts=(parts,), **PLAIN)
            assert np.isnan(dgamma).all()
            for array in (*written, dx):
                assert np.isnan(array[1]).all()
                assert not np.isnan(array[[0, 2]]).any()


def test_a_step_is_one_launch_on_a_gpu_up_to_512_rows():
    """dx and the sums over the rows lie side by side; only sums of several parts are added up behind them."""
    for rows, expected in ((0, 2), (1, 1), (512, 1), (513, 2)):
        shapes = [(rows, 40), (rows, 40), (40,), (40,), (rows,), (rows,), (rows, 40), (40,), (40,)]
        given = [Operand(shape, np.dtype("float32")) for shape in shapes]
        assert len(lower("layer_norm_backward", given, behind("relu"), Device(products=False)).works) == expected
