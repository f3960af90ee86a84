"""Matrix products and dense layers: thin kernels around the one compiled product of `gemm`.

Bias and activation are applied to each block of the result while it is in the first-level cache. The activations are those
of the elementwise kernels, so a fused layer has the bits of matmul, add and activation run one after another.
"""

from __future__ import annotations

import functools
from typing import Any

from numba import carray  # type: ignore[attr-defined]

from fastnn_kernels.contract import LEAF_ROWS, Operand
from fastnn_kernels.cpu.compiling import compile_function, kernel
from fastnn_kernels.cpu.gemm import EPILOGUE, call_core, core, scratch_bytes
from fastnn_kernels.cpu.intrinsics import POINTERS, float64_from_bits
from fastnn_kernels.cpu.mathematics import activation as forward_function
from fastnn_kernels.cpu.mathematics import activation_backward as backward_function

ONE = 64
"""Bytes of scratch memory before that of a product, for a number that it multiplies by."""


def _epilogue(float_type: Any, name: str, backward: bool) -> Any:
    """The body of an epilogue: c = f(c, alpha), or c = f'(c, at, alpha)."""
    pointer = POINTERS[float_type]
    size = float_type.bitwidth // 8
    function = backward_function(float_type, name) if backward else forward_function(float_type, name)

    def apply(tile: int, at: int, row: int, rows: int, columns: int, alpha: float) -> None:
        # Whole rows lie one behind the other: one long loop instead of many short ones.
        if row == columns * size:
            rows, columns = 1, rows * columns
        slope = float_type(alpha)
        for i in range(rows):
            c = carray(pointer(tile + i * row), columns)
            for j in range(columns):
                c[j] = function(c[j], slope)

    def apply_derivative(tile: int, at: int, row: int, rows: int, columns: int, alpha: float) -> None:
        if row == columns * size:
            rows, columns = 1, rows * columns
        slope = float_type(alpha)
        for i in range(rows):
            c = carray(pointer(tile + i * row), columns)
            y = carray(pointer(at + i * row), columns)
            for j in range(columns):
                c[j] = function(c[j], y[j], slope)

    return apply_derivative if backward else apply


@functools.cache
def _compile_epilogue(float_type: Any, name: str, backward: bool) -> Any:
    label = f"epilogue-{name}{'-backward' if backward else ''}-{float_type}"
    return compile_function(_epilogue(float_type, name, backward), EPILOGUE, label)


def epilogue(float_type: Any, name: str | None, backward: bool = False) -> int:
    """The address of the compiled epilogue for the activation `name`, or 0 for None."""
    return 0 if name is None else int(_compile_epilogue(float_type, name, backward).address)


def _matmul_sizes(a: Operand, b: Operand, c: Operand, *, transpose_a: bool, transpose_b: bool) -> list[int]:
    size = a.dtype.itemsize
    m, n = c.shape
    k = a.shape[0 if transpose_a else 1]
    a_strides = (size, m * size) if transpose_a else (k * size, size)
    b_strides = (size, k * size) if transpose_b else (n * size, size)
    return [m, n, k, *a_strides, *b_strides, LEAF_ROWS if transpose_a else max(k, 1)]


@kernel(
    "matmul",
    sizes=_matmul_sizes,
    scratch=lambda a, b, c, *, transpose_a, transpose_b: scratch_bytes(
        c, a.shape[0 if transpose_a else 1], LEAF_ROWS if transpose_a else None
    ),
    addresses=lambda F, **attributes: [core(F)],
)  # fmt: skip
def matmul(F: Any) -> Any:
    def body(op: Any, part: int, parts: int, worker: int) -> None:
        a, b, c, scratch, share, product = op[0], op[1], op[2], op[3], op[4], op[5]
        m, n, k, a_row, a_k, b_k, b_column, leaf = op[6], op[7], op[8], op[9], op[10], op[11], op[12], op[13]
        words = (a, a_row, a_k, b, b_k, b_column, c, m, n, k, leaf, scratch + worker * share, 0, 0, 0, part, parts)
        call_core(product, words, 0.0)

    return body


@kernel(
    "dense",
    sizes=lambda x, w, b, y, *, activation, alpha=0.0: [y.shape[0], w.shape[1], w.shape[0], float(alpha)],
    scratch=lambda x, w, b, y, *, activation, alpha=0.0: scratch_bytes(y, w.shape[0]),
    addresses=lambda F, *, activation, alpha=0.0: [core(F), epilogue(F, activation)],
)
def dense(F: Any) -> Any:
    size = F.bitwidth // 8

    def body(op: Any, part: int, parts: int, worker: int) -> None:
        x, w, b, y, scratch, share, product, finish = op[0], op[1], op[2], op[3], op[4], op[5], op[6], op[7]
        rows, outputs, inputs, alpha = op[8], op[9], op[10], float64_from_bits(op[11])
        strides = inputs * size, outputs * size
        words = (
            x, strides[0], size, w, strides[1], size, y, rows, outputs, inputs, inputs, scratch + worker * share, b, finish, 0,
            part, parts,
        )  # fmt: skip
        call_core(product, words, alpha)

    return body


@kernel(
    "dense_backward_input",
    sizes=lambda dz, w, y, dx, *, activation, alpha=0.0: [dx.shape[0], w.shape[0], w.shape[1], float(alpha)],
    scratch=lambda dz, w, y, dx, *, activation, alpha=0.0: scratch_bytes(dx, w.shape[1]),
    addresses=lambda F, *, activation, alpha=0.0: [core(F), epilogue(F, activation, backward=True)],
)
def dense_backward_input(F: Any) -> Any:
    size = F.bitwidth // 8

    def body(op: Any, part: int, parts: int, worker: int) -> None:
        dz, w, y, dx, scratch, share, product, finish = op[0], op[1], op[2], op[3], op[4], op[5], op[6], op[7]
        rows, inputs, outputs, alpha = op[8], op[9], op[10], float64_from_bits(op[11])
        row = outputs * size
        words = (
            dz, row, size, w, size, row, dx, rows, inputs, outputs, outputs, scratch + worker * share, 0, finish, y, part,
            parts,
        )  # fmt: skip
        call_core(product, words, alpha)

    return body


@kernel(
    "dense_backward_weight",
    sizes=lambda x, dz, dw, db: [x.shape[0], *dw.shape],
    scratch=lambda x, dz, dw, db: ONE + scratch_bytes(dw, x.shape[0], LEAF_ROWS),
    addresses=lambda F: [core(F)],
)
def dense_backward_weight(F: Any) -> Any:
    size = F.bitwidth // 8
    pointer = POINTERS[F]
    element = F

    def body(op: Any, part: int, parts: int, worker: int) -> None:
        x, dz, dw, db, scratch, share, product = op[0], op[1], op[2], op[3], op[4], op[5], op[6]
        rows, inputs, outputs = op[7], op[8], op[9]
        one = scratch + worker * share
        mine = one + ONE
        words = (
            x, size, inputs * size, dz, outputs * size, size, dw, inputs, outputs, rows, LEAF_ROWS, mine, 0, 0, 0, part, parts,
        )  # fmt: skip
        call_core(product, words, 0.0)
        # db = ones (1, B) @ dz: a fused multiply-add by one is an addition, so these are the bits of `sum`.
        carray(pointer(one), 1)[0] = element(1)
        words = (one, 0, 0, dz, outputs * size, size, db, 1, outputs, rows, LEAF_ROWS, mine, 0, 0, 0, part, parts)
        call_core(product, words, 0.0)

    return body
