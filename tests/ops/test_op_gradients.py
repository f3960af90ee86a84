"""Every operation of the vocabulary: eager equals recorded, and its gradient equals two-sided differences, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest

from fastnn import engines, ops
from fastnn.program.differentiate import RULES, gradients
from fastnn.program.passes.fuse import fuse
from fastnn.program.shapes import B
from fastnn.program.trace import Symbol, Trace
from fastnn_kernels.contract import ACTIVATIONS_FROM_INPUT, ACTIVATIONS_FROM_OUTPUT, BINARY, KERNELS, UPDATES

ROWS = 5


def away(*shape: int, least: float = 0.2) -> np.ndarray:
    """Random values that keep away from 0, where kinks are."""
    rng = np.random.default_rng(sum(shape) + 7)
    values = rng.uniform(least, 1.5, shape)
    return values * rng.choice([-1.0, 1.0], shape)


def positive(*shape: int) -> np.ndarray:
    return np.abs(away(*shape)) + 0.1


def apart(*shape: int) -> np.ndarray:
    """Values of which no two are near each other: the largest of a window stays the largest."""
    values = np.random.default_rng(9).permutation(math.prod(shape)).reshape(shape)
    return values / 50.0 - 1.5


def before_number(name: str) -> Callable[[Any], Any]:
    return lambda x: getattr(ops, name)(x, 2.5)


def after_number(name: str) -> Callable[[Any], Any]:
    return lambda x: getattr(ops, name)(2.5, x)


LABELS = np.array([0, 2, 1, 2, 0])
CONDITION = np.random.default_rng(3).random((ROWS, 3)) < 0.5

LAID = [
    {"padding": padding, "strides": strides, "dilation": dilation, "groups": groups}
    for padding, strides, dilation, groups in product(("valid", "same", ((1, 0), (0, 1))), (1, (2, 3)), (1, (1, 2)), (1, 2))
]


def convolution(options: dict[str, Any], activation: str | None) -> Callable[..., Any]:
    return lambda x, w, *b: ops.conv2d(x, w, *b, activation=activation, **options)


def pooling(name: str, size: Any, **options: Any) -> Callable[..., Any]:
    return lambda x: getattr(ops, name)(x, size, **options)


# name -> (function of the arrays, the arrays that are differentiated, other arrays)
CASES: dict[str, tuple[Callable[..., Any], list[np.ndarray], list[np.ndarray]]] = {
    "matmul": (lambda a, b: ops.matmul(a, b), [away(ROWS, 3), away(3, 4)], []),
    "matmul, a transposed": (lambda a, b: ops.matmul(a, b, transpose_a=True), [away(ROWS, 3), away(ROWS, 4)], []),
    "matmul, b transposed": (lambda a, b: ops.matmul(a, b, transpose_b=True), [away(ROWS, 3), away(4, 3)], []),
    "matmul, both transposed": (
        lambda a, b: ops.matmul(a, b, transpose_a=True, transpose_b=True), [away(3, 2), away(4, 3)], [],
    ),
    "dense": (lambda x, w, b: ops.dense(x, w, b, "tanh"), [away(ROWS, 3), away(3, 4), away(4)], []),
    "dense without bias": (lambda x, w: ops.dense(x, w, None, "gelu"), [away(ROWS, 3), away(3, 4)], []),
    "grouped_dense": (ops.grouped_dense, [away(ROWS, 3, 2), away(3, 4, 2), away(4, 2)], []),
    "grouped_dense of shared inputs": (ops.grouped_dense, [away(ROWS, 3), away(3, 4, 2), away(4, 2)], []),
    **{
        f"conv2d, {options}": (
            convolution(options, "tanh" if index % 3 else None),
            [away(ROWS, 4, 4, 2), away(3, 2, 2 // options["groups"], 4), *([away(4)] if index % 2 else [])], [],
        )
        for index, options in enumerate(LAID)
    },
    "conv2d, the derivative is of the inputs": (convolution({}, "gelu"), [away(ROWS, 3, 4, 2), away(2, 2, 2, 3), away(3)], []),
    "max_pool2d": (pooling("max_pool2d", 2), [apart(ROWS, 4, 4, 2)], []),
    "mean_pool2d": (pooling("mean_pool2d", 2), [away(ROWS, 4, 4, 2)], []),
    "l2_pool2d": (pooling("l2_pool2d", 2), [away(ROWS, 4, 4, 2)], []),
    **{
        f"{name}, with overlap, padding {padding}": (
            pooling(name, (3, 2), strides=(1, 2), padding=padding), [apart(ROWS, 4, 5, 2)], [],
        )
        for name in ("max_pool2d", "mean_pool2d", "l2_pool2d")
        for padding in ("same", ((1, 0), (0, 1)))
    },
    "softmax": (ops.softmax, [away(ROWS, 4)], []),
    "log_softmax": (ops.log_softmax, [away(ROWS, 4)], []),
    "batch_norm": (
        lambda x, g, b, m, v: ops.batch_norm(x, g, b, m, v, training=True), [away(ROWS, 3), away(3), away(3)],
        [np.zeros(3), np.ones(3)],
    ),
    "batch_norm, inference": (
        lambda x, g, b, m, v: ops.batch_norm(x, g, b, m, v, training=False), [away(ROWS, 3), away(3), away(3)],
        [away(3), positive(3)],
    ),
    "layer_norm": (ops.layer_norm, [away(ROWS, 3), away(3), away(3)], []),
    "dropout": (lambda x, step: ops.dropout(x, 0.4, (11, 12), step), [away(ROWS, 7)], [np.array(3)]),
    "dropout of channels": (
        lambda x, step: ops.dropout(x, 0.4, (11, 12), step, channels=True), [away(ROWS, 3, 2, 7)], [np.array(3)],
    ),
    "dropout with a mask": (
        lambda x, mask: ops.dropout(x, 0.4, mask=mask), [away(ROWS, 7)], [np.random.default_rng(3).random((ROWS, 7)) < 0.6],
    ),
    "softmax_cross_entropy": (ops.softmax_cross_entropy, [away(ROWS, 3)], [LABELS]),
    "softmax_cross_entropy, shares": (
        ops.softmax_cross_entropy, [away(ROWS, 3)], [positive(ROWS, 3) / positive(ROWS, 3).sum(1, keepdims=True)],
    ),
    "sigmoid_cross_entropy": (ops.sigmoid_cross_entropy, [away(ROWS, 3)], [CONDITION.astype(float)]),
    "squared_error": (ops.squared_error, [away(ROWS, 3)], [away(ROWS, 3) + 3]),
    "weighted_mean": (ops.weighted_mean, [away(ROWS)], [positive(ROWS)]),
    "where": (lambda a, b, c: ops.where(c, a, b), [away(ROWS, 3), away(3)], [CONDITION]),
    "negative": (ops.negative, [away(ROWS, 3)], []),
    "identity": (ops.identity, [away(ROWS, 3)], []),
    "exp": (ops.exp, [away(ROWS, 3)], []),
    "log": (ops.log, [positive(ROWS, 3)], []),
    "sqrt": (ops.sqrt, [positive(ROWS, 3)], []),
    "abs": (ops.abs, [away(ROWS, 3)], []),
    "sum": (lambda x: ops.sum(x, 1), [away(ROWS, 3)], []),
    "sum, rows": (lambda x: ops.sum(x, 0), [away(ROWS, 3)], []),
    "sum, all": (ops.sum, [away(ROWS, 3)], []),
    "sum, outer axes": (lambda x: ops.sum(x, (0, 2)), [away(ROWS, 3, 2)], []),
    "mean": (lambda x: ops.mean(x, -1), [away(ROWS, 3)], []),
    "mean, all": (ops.mean, [away(ROWS, 3)], []),
    "max": (lambda x: ops.max(x, 1), [away(ROWS, 4)], []),
    "expand": (lambda x: ops.expand(x, (ROWS, 3, 2), (0, 2)), [away(3)], []),
    "expand, mean": (lambda x: ops.expand(x, (3, 2), 1, mean=True), [away(3)], []),
    "transpose": (lambda x: ops.transpose(x, (1, 0)), [away(4, 3)], []),
    "transpose, three axes": (lambda x: ops.transpose(x, (2, 0, 1)), [away(4, 3, 2)], []),
    "reshape": (lambda x: ops.reshape(x, (x.shape[0], -1)), [away(ROWS, 3, 2)], []),
    "concatenate": (lambda a, b: ops.concatenate([a, b, a], axis=1), [away(ROWS, 3), away(ROWS, 2)], []),
    "concatenate, rows": (lambda a, b: ops.concatenate([a, b], axis=0), [away(ROWS, 3), away(ROWS, 3)], []),
    "slice": (lambda x: ops.slice(x, 1, 3), [away(ROWS, 4)], []),
    "gather": (ops.gather, [away(4, 3)], [np.array([0, 2, 2, 3, 0])]),
    **{
        name: (getattr(ops, name), [away(ROWS, 7)], [])
        for name in (*ACTIVATIONS_FROM_OUTPUT, *ACTIVATIONS_FROM_INPUT)
    },
    **{name: (getattr(ops, name), [positive(ROWS, 3), positive(ROWS, 3) + 0.3], []) for name in BINARY},
    **{f"{name}, broadcast": (getattr(ops, name), [positive(ROWS, 3), positive(3) + 0.3], []) for name in BINARY},
    **{f"{name}, column": (getattr(ops, name), [positive(ROWS, 1), positive(ROWS, 3) + 0.3], []) for name in BINARY},
    **{f"{name}, number": (before_number(name), [positive(ROWS, 3)], []) for name in BINARY},
    **{f"number {name}": (after_number(name), [positive(ROWS, 3)], []) for name in BINARY},
}  # fmt: skip


def shape_of(array: np.ndarray) -> tuple[Any, ...]:
    """Axes of ROWS entries in front stand for the rows of the program."""
    return (B, *array.shape[1:]) if array.ndim and array.shape[0] == ROWS else array.shape


def recorded(
    function: Callable[..., Any], wanted: list[np.ndarray], others: list[np.ndarray], engine: str, fused: bool
) -> tuple[engines.Instance, Callable[[np.ndarray], float]]:
    """An instance that computes sum(coefficients * function) and its gradients; and that sum as a function."""
    trace = Trace("float64")
    symbols = [trace.input(f"a{i}", shape_of(a), a.dtype) for i, a in enumerate(wanted)]
    rest = [trace.input(f"o{i}", shape_of(a) if a.ndim else (), a.dtype) for i, a in enumerate(others)]
    out: Symbol = function(*symbols, *rest)
    coefficients = trace.input("coefficients", out.shape)
    total = ops.sum(ops.multiply(out, coefficients)) if out.shape else ops.multiply(out, coefficients)
    found = gradients(total, symbols)
    outputs = {"value": ops.identity(out)} | {f"d{i}": ops.identity(g) for i, g in enumerate(found)}
    program = trace.program(outputs)
    instance = engines.instantiate(fuse(program) if fused else program, ROWS, engine, 1)
    instance.bind(**{f"a{i}": a.copy() for i, a in enumerate(wanted)}, **{f"o{i}": a.copy() for i, a in enumerate(others)})
    shape = instance.program.outputs["value"].operand(ROWS).shape
    weights = np.asarray(np.random.default_rng(5).standard_normal(shape))
    instance.bind(coefficients=weights)

    def value(_: np.ndarray) -> float:
        instance.play()
        return float((instance.output("value") * weights).sum())

    return instance, value


@pytest.mark.parametrize("engine", ["numpy", "cpu"])
@pytest.mark.parametrize("name", CASES)
def test_gradient(name: str, engine: str) -> None:
    function, wanted, others = CASES[name]
    instance, value = recorded(function, wanted, others, engine, fused=False)
    instance.play()
    analytic = [instance.output(f"d{i}").copy() for i in range(len(wanted))]
    for i in range(len(wanted)):
        bound = instance.bound[f"a{i}"]
        numeric = np.zeros_like(bound)
        for index in np.ndindex(bound.shape):
            before = bound[index]
            sides = []
            for step in (-2e-4, -1e-4, 1e-4, 2e-4):
                bound[index] = before + step
                sides.append(value(bound))
            bound[index] = before
            numeric[index] = (8 * (sides[2] - sides[1]) - (sides[3] - sides[0])) / 12e-4
        error = np.linalg.norm(analytic[i] - numeric)
        assert error <= 1e-7 * (np.linalg.norm(analytic[i]) + np.linalg.norm(numeric)) + 1e-10 * np.sqrt(bound.size)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_eager_equals_recorded_equals_fused(name: str, dtype: str) -> None:
    """The bits of an operation on arrays are those of the program, fused or not."""
    function, wanted, others = CASES[name]
    cast = [a.astype(dtype) for a in wanted]
    rest = [a.astype(dtype) if a.dtype.kind == "f" else a for a in others]
    eager = function(*[a.copy() for a in cast], *[a.copy() if a.ndim else int(a) for a in rest])
    for fused in (False, True):
        trace = Trace(dtype)
        symbols = [trace.input(f"a{i}", shape_of(a), a.dtype) for i, a in enumerate(cast)]
        symbols += [trace.input(f"o{i}", shape_of(a) if a.ndim else (), a.dtype) for i, a in enumerate(rest)]
        program = trace.program({"value": ops.identity(function(*symbols))})
        instance = engines.instantiate(fuse(program) if fused else program, ROWS, "cpu", 1)
        instance.bind(
            **{f"a{i}": a.copy() for i, a in enumerate(cast)}, **{f"o{i}": a.copy() for i, a in enumerate(rest)}
        )  # fmt: skip
        instance.play()
        played = instance.output("value")
        assert played.dtype == eager.dtype == np.dtype(dtype)
        assert played.shape == eager.shape
        assert played.tobytes() == eager.tobytes()


def test_every_kernel_of_the_vocabulary_has_a_backward_rule() -> None:
    no_gradient = {
        "log_value", "advance", "count_nonfinite", "block_penalty", "block_sum_squares", "scatter_add",
        *UPDATES, "dense", "dense_backward_input",
        "dense_backward_weight", "grouped_dense_backward_input", "grouped_dense_backward_weight", "dense_with_mask",
        "dense_backward_input_with_mask", "batch_norm_dropout", "conv2d_backward_input", "conv2d_backward_weight", "add_leaves",
        "conv2d_max_pool", "conv2d_max_pool_backward_input", "conv2d_max_pool_backward_weight",
    }  # fmt: skip
    inner = {name for name in KERNELS if name.endswith(("_backward", "_with_gradient")) or name.startswith("chain_")}
    assert set(KERNELS) - no_gradient - inner == set(RULES) - {"reshape"}


def test_equal_largest_share_the_gradient() -> None:
    instance, _ = recorded(lambda x: ops.max(x, 1), [np.array([[1.0, 1.0, 0.0]])], [], "numpy", fused=False)
    instance.play()
    gradient = instance.output("d0")
    assert gradient[0, 0] == gradient[0, 1] != 0.0
    assert gradient[0, 2] == 0.0
