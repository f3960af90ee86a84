"""Matrix products and dense layers."""

from __future__ import annotations

import numpy as np

from fastnn.arrays import to_device
from fastnn.errors import InputError
from fastnn.ops.activations import activate, check_activation
from fastnn.ops.algebra import add, sum
from fastnn.ops.dispatch import Array, apply
from fastnn.program.differentiate import backward
from fastnn.program.shapes import describe
from fastnn.program.trace import Call, Symbol, check_matrix, check_same, constant, floats, product
from fastnn_kernels.contract import ACTIVATIONS_FROM_OUTPUT

__all__ = ["dense", "grouped_dense", "matmul"]


def matmul(a: Array, b: Array, *, transpose_a: bool = False, transpose_b: bool = False) -> Array:
    """c (M, N) = op(a) @ op(b) with op the transpose where asked for; a, b two-dimensional.

    Raises InputError where the inner dimensions differ, InputTypeError for other dtypes than float32 and float64.
    """
    output = product(a, b, transpose_a, transpose_b)
    return apply("matmul", (a, b), [output], {"transpose_a": transpose_a, "transpose_b": transpose_b})


@backward("matmul")
def _matmul_backward(call: Call, dc: Symbol) -> tuple[Symbol, Symbol]:
    a, b = call.inputs
    ta, tb = call.attributes["transpose_a"], call.attributes["transpose_b"]
    da = matmul(b, dc, transpose_a=tb, transpose_b=True) if ta else matmul(dc, b, transpose_b=not tb)
    db = matmul(dc, a, transpose_a=True, transpose_b=ta) if tb else matmul(a, dc, transpose_a=not ta)
    return da, db


def dense(x: Array, w: Array, b: Array | None = None, activation: str | None = None, alpha: float | None = None) -> Array:
    """y (B, O) = activation(x (B, I) @ w (I, O) + b (O,)).

    `activation` is one of `ops.ACTIVATIONS`, or None for none; `alpha` goes to leaky_relu and elu.
    Source: Nielsen, Neural Networks and Deep Learning, chapter 2, equation 25, transposed to rows.
    """
    dtype = floats("dense", x, w) if b is None else floats("dense", x, w, b)
    check_matrix("dense", "x (B, I)", x)
    check_matrix("dense", "w (I, O)", w)
    check_same("dense", w.shape[0], x.shape[1], f"columns of x {describe(tuple(x.shape))} for w {describe(tuple(w.shape))}")
    if b is not None and tuple(b.shape) != (w.shape[1],):
        raise InputError(f"dense: expected b of shape ({w.shape[1]},), got {describe(tuple(b.shape))}")
    if activation is not None:
        alpha = check_activation(activation, alpha)
    if b is None or isinstance(x, Symbol):
        z = matmul(x, w)
        z = z if b is None else add(z, b)
        return z if activation is None else activate(z, activation, alpha)
    fused = activation if activation in ACTIVATIONS_FROM_OUTPUT else None
    attributes = {"activation": fused, "alpha": float(alpha or 0.0)}
    y = apply("dense", (x, w, b), [((x.shape[0], w.shape[1]), dtype)], attributes)
    return y if activation is None or fused else activate(y, activation, alpha)


def grouped_dense(x: Array, w: Array, b: Array | None = None) -> Array:
    """The linear layers of G models side by side: y (B, O, G), y[:, :, g] = x[:, :, g] @ w[:, :, g] + b[:, g].

    x (B, I, G), or (B, I) where all models read the same; w (I, O, G), b (O, G) or none. Raises InputError for other shapes,
    InputTypeError for other dtypes than float32 and float64.
    """
    dtype = floats("grouped_dense", x, w) if b is None else floats("grouped_dense", x, w, b)
    shapes = [describe(tuple(array.shape)) for array in (x, w)]
    if len(w.shape) != 3 or w.shape[2] < 1 or tuple(x.shape[1:]) not in ((w.shape[0],), (w.shape[0], w.shape[2])):
        raise InputError(f"grouped_dense: expected x (B, I) or (B, I, G) and w (I, O, G), G >= 1, got {' and '.join(shapes)}")
    if b is None:
        outputs = tuple(w.shape[1:])
        b = constant(w, 0.0, outputs) if isinstance(w, Symbol) else to_device(np.zeros(outputs, dtype), w)
    if tuple(b.shape) != tuple(w.shape[1:]):
        raise InputError(f"grouped_dense: expected b of shape {describe(tuple(w.shape[1:]))}, got {describe(tuple(b.shape))}")
    return apply("grouped_dense", (x, w, b), [((x.shape[0], *w.shape[1:]), dtype)])


@backward("grouped_dense")
def _grouped_dense_backward(call: Call, dy: Symbol) -> tuple[Symbol, Symbol, Symbol]:
    x, w, b = call.inputs
    dx = apply("grouped_dense_backward_input", (dy, w), [((dy.shape[0], w.shape[0], w.shape[2]), x.dtype)])
    dw, db = apply("grouped_dense_backward_weight", (x, dy), [(w.shape, w.dtype), (b.shape, b.dtype)])
    return dx if x.ndim == 3 else sum(dx, 2), dw, db
