"""Batch normalization and layer normalization."""

from __future__ import annotations

from collections.abc import Sequence

from fastnn.errors import InputError
from fastnn.ops.algebra import add, divide, multiply, sqrt, subtract, sum
from fastnn.ops.dispatch import Array, apply
from fastnn.program.differentiate import backward
from fastnn.program.shapes import describe
from fastnn.program.trace import Call, Symbol, check_matrix, floats
from fastnn_kernels.contract import NO_ACTIVATION

__all__ = ["batch_norm", "layer_norm"]


def batch_norm(
    x: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_variance: Array,
    *,
    training: bool,
    momentum: float = 0.9,
    epsilon: float = 1e-5,
) -> Array:
    """y (B, O) = gamma (x - mean) / sqrt(variance + epsilon) + beta, all statistics (O,).

    Training: mean and biased variance of the mini-batch; `running_mean` and `running_variance` are updated **in place**,
    running = momentum running + (1 - momentum) batch, with the unbiased variance (B - 1).
    Inference: the running ones. Source: Ioffe & Szegedy 2015, algorithms 1 and 2.
    """
    dtype = floats("batch_norm", x, gamma, beta, running_mean, running_variance)
    check_matrix("batch_norm", "x (B, O)", x)
    _check_columns(
        "batch_norm", x, gamma=gamma, beta=beta, running_mean=running_mean, running_variance=running_variance
    )  # fmt: skip
    if not 0.0 <= momentum <= 1.0 or not epsilon > 0.0:
        raise InputError(f"batch_norm: expected 0 <= momentum <= 1 and epsilon > 0, got {momentum} and {epsilon}")
    shape, columns = tuple(x.shape), (x.shape[1],)
    if not training:
        reads = (x, gamma, beta, running_mean, running_variance)
        return apply("batch_norm_inference", reads, [(shape, dtype)], {"epsilon": epsilon, **NO_ACTIVATION})
    if x.shape[0] == 1:
        raise InputError("batch_norm: one row has no variance to normalize by in training; use at least two rows")
    y, _, _ = apply(
        "batch_norm", (x, gamma, beta, running_mean, running_variance),
        [(shape, dtype), (columns, dtype), (columns, dtype)], {"momentum": momentum, "epsilon": epsilon, **NO_ACTIVATION},
    )  # fmt: skip
    return y


def layer_norm(x: Array, gamma: Array, beta: Array, *, epsilon: float = 1e-5) -> Array:
    """y (B, O) = gamma (x - mean) / sqrt(variance + epsilon) + beta, gamma and beta (O,).

    Mean and biased variance are those of each row, in training and at inference. Raises InputError for other shapes and for
    epsilon <= 0. Source: Ba, Kiros & Hinton 2016, section 3.

        ops.layer_norm(x, np.ones(3), np.zeros(3))
    """
    dtype = floats("layer_norm", x, gamma, beta)
    check_matrix("layer_norm", "x (B, O)", x)
    _check_columns("layer_norm", x, gamma=gamma, beta=beta)
    if not epsilon > 0.0:
        raise InputError(f"layer_norm: expected epsilon > 0, got {epsilon}")
    shape, rows = tuple(x.shape), (x.shape[0],)
    y, _, _ = apply(
        "layer_norm", (x, gamma, beta), [(shape, dtype), (rows, dtype), (rows, dtype)], {"epsilon": epsilon, **NO_ACTIVATION}
    )
    return y


def _check_columns(operation: str, x: Array, **values: Array) -> None:
    """Raise InputError where one of `values` does not have a number for each column of x."""
    for name, value in values.items():
        if tuple(value.shape) != (x.shape[1],):
            raise InputError(f"{operation}: expected {name} of shape ({x.shape[1]},), got {describe(tuple(value.shape))}")


@backward("batch_norm", "layer_norm")
def _norm_backward(call: Call, dy: Symbol, *statistics: None) -> Sequence[Symbol]:
    x, gamma, beta = call.inputs
    _, mean_, inverse_deviation = call.outputs
    outputs = [(x.shape, x.dtype), (gamma.shape, x.dtype), (gamma.shape, x.dtype)]
    reads = (dy, x, gamma, beta, mean_, inverse_deviation)
    gradients: Sequence[Symbol] = apply(f"{call.kernel}_backward", reads, outputs, NO_ACTIVATION)
    return gradients


@backward("batch_norm_inference")
def _batch_norm_inference_backward(call: Call, dy: Symbol) -> Sequence[Symbol | None]:
    x, gamma, _, running_mean, running_variance = call.inputs
    scale = divide(1.0, sqrt(add(running_variance, call.attributes["epsilon"])))
    normal = multiply(subtract(x, running_mean), scale)
    return multiply(dy, multiply(gamma, scale)), sum(multiply(dy, normal), 0), sum(dy, 0), None, None
