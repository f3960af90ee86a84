"""Linear layers of several small models side by side: a lane a model, so that layers of a few units fill the registers.

Every element is the chain of fused multiply-adds in the order of k that `gemm` computes, or the tree of chains of leaves: each
model has the bits it has alone.
"""

from __future__ import annotations

import math
from typing import Any

from fastnn_kernels.contract import LEAF_ROWS, Operand
from fastnn_kernels.cpu.compiling import helper, kernel
from fastnn_kernels.cpu.families.reductions import LANES, fma_lanes, lanes, load, load_some, span, store, store_some
from fastnn_kernels.cpu.intrinsics import POINTERS
from fastnn_kernels.cpu.leaves import count_levels, levels_below


@helper
def _some(x: Any, index: int, count: int) -> Any:
    return load(x, index) if count == LANES else load_some(x, index, count, 0.0)


@helper
def _all(x: Any, index: int, count: int) -> Any:
    return load(x, index)


@helper
def _one(x: Any, index: int, count: int) -> Any:
    return lanes(x, x[index])


@helper
def _put(y: Any, index: int, count: int, value: Any) -> None:
    if count == LANES:
        store(y, index, value)
    else:
        store_some(y, index, count, value)


PITCH = 4 * LANES
"""Numbers of a level of the sums of leaves that wait for others: those of the four elements computed at a time."""


@helper
def _add_lanes(stack: Any, start: int, leaf: int, last: bool, value: Any) -> Any:
    """`value` of this leaf added to the sums that it goes with; it stays in `stack` until the leaf that it waits for."""
    levels, level = levels_below(leaf, last), 0
    while levels >> level:
        if (levels >> level) & 1:
            value = load(stack, level * PITCH + start) + value
        level += 1
    if not last:
        store(stack, level * PITCH + start, value)
    return value


@helper
def _following(m: int, n: int, columns: int) -> Any:
    """The next element, row by row: a division would cost more than a short product."""
    return (m, n + 1) if n + 1 < columns else (m + 1, 0)


def _products(load_a: Any, load_b: Any) -> Any:
    """The helper that computes c[m, n, lanes] = sum over k of a[m, k] * b[k, n, lanes] (+ bias[n, lanes]).

    Of the elements (m, n), counted row by row, those from `low` to `high`; four at a time, which do not wait for each other.
    Steps are in elements, from one element to the next `groups` in c and bias; all arrays begin at the first lane.
    """

    @helper
    def compute(
        a: Any, a_m: int, a_k: int, b: Any, b_k: int, b_n: int, c: Any, bias: Any, biased: bool, low: int, high: int,
        columns: int, inner: int, leaf: int, stack: Any, groups: int, count: int,
    ) -> None:  # fmt: skip
        e = low
        m0, n0 = (e // columns, e % columns) if e < high else (0, 0)
        while high - e >= 4:
            m1, n1 = _following(m0, n0, columns)
            m2, n2 = _following(m1, n1, columns)
            m3, n3 = _following(m2, n2, columns)
            first = 0
            while True:
                last = min(first + leaf, inner)
                s0 = s1 = s2 = s3 = lanes(c, 0.0)
                for k in range(first, last):
                    i, j = k * a_k, k * b_k
                    s0 = fma_lanes(load_a(a, m0 * a_m + i, count), load_b(b, n0 * b_n + j, count), s0)
                    s1 = fma_lanes(load_a(a, m1 * a_m + i, count), load_b(b, n1 * b_n + j, count), s1)
                    s2 = fma_lanes(load_a(a, m2 * a_m + i, count), load_b(b, n2 * b_n + j, count), s2)
                    s3 = fma_lanes(load_a(a, m3 * a_m + i, count), load_b(b, n3 * b_n + j, count), s3)
                if inner > leaf:
                    index, is_last = first // leaf, last == inner
                    s0 = _add_lanes(stack, 0, index, is_last, s0)
                    s1 = _add_lanes(stack, LANES, index, is_last, s1)
                    s2 = _add_lanes(stack, 2 * LANES, index, is_last, s2)
                    s3 = _add_lanes(stack, 3 * LANES, index, is_last, s3)
                first = last
                if first == inner:
                    break
            if biased:
                s0 = s0 + load_b(bias, n0 * groups, count)
                s1 = s1 + load_b(bias, n1 * groups, count)
                s2 = s2 + load_b(bias, n2 * groups, count)
                s3 = s3 + load_b(bias, n3 * groups, count)
            _put(c, e * groups, count, s0)
            _put(c, (e + 1) * groups, count, s1)
            _put(c, (e + 2) * groups, count, s2)
            _put(c, (e + 3) * groups, count, s3)
            e += 4
            m0, n0 = _following(m3, n3, columns)
        while e < high:
            first = 0
            while True:
                last = min(first + leaf, inner)
                s = lanes(c, 0.0)
                for k in range(first, last):
                    s = fma_lanes(load_a(a, m0 * a_m + k * a_k, count), load_b(b, n0 * b_n + k * b_k, count), s)
                if inner > leaf:
                    s = _add_lanes(stack, 0, first // leaf, last == inner, s)
                first = last
                if first == inner:
                    break
            if biased:
                s = s + load_b(bias, n0 * groups, count)
            _put(c, e * groups, count, s)
            e += 1
            m0, n0 = _following(m0, n0, columns)

    return compute


_shared_whole, _shared_some = _products(_one, _all), _products(_one, _some)
_own_whole, _own_some = _products(_all, _all), _products(_some, _some)


def _product(F: Any) -> Any:
    """The helper that computes the share of a part in c (M, N, G), of which the first axis of `a` may be without models."""
    pointer, size = POINTERS[F], F.bitwidth // 8

    @helper
    def compute(
        a: int, a_m: int, a_k: int, shared: int, b: int, b_k: int, b_n: int, c: int, bias: int,
        rows: int, columns: int, inner: int, leaf: int, stack: int, groups: int, part: int, parts: int,
    ) -> None:  # fmt: skip
        low, high = span(rows * columns, 4, part, parts)
        for first in range(0, groups, LANES):
            count = min(LANES, groups - first)
            start = first * size
            operands = (
                pointer(a + (0 if shared else start)), a_m, a_k, pointer(b + start), b_k, b_n, pointer(c + start),
                pointer(bias + start), bias != 0, low, high, columns, inner, leaf, pointer(stack), groups, count,
            )  # fmt: skip
            if shared and count == LANES:
                _shared_whole(*operands)
            elif shared:
                _shared_some(*operands)
            elif count == LANES:
                _own_whole(*operands)
            else:
                _own_some(*operands)

    return compute


def _sizes(x: Operand, w: Operand, z: Operand) -> list[int]:
    """Rows, inputs, outputs, models, whether all read the same inputs, and the steps of an input and of a row of inputs."""
    (rows, outputs, groups), inputs = z.shape, w.shape[0]
    step = math.prod(x.shape[2:])
    return [rows, inputs, outputs, groups, len(x.shape) == 2, step, inputs * step]


@kernel("grouped_dense", sizes=lambda x, w, b, y: _sizes(x, w, y))
def grouped_dense(F: Any) -> Any:
    product = _product(F)

    def body(op: Any, part: int, parts: int, worker: int) -> None:
        rows, inputs, outputs, groups, shared, step, row = op[4], op[5], op[6], op[7], op[8], op[9], op[10]
        product(
            op[0], row, step, shared, op[1], outputs * groups, groups, op[3], op[2], rows, outputs, inputs, inputs, 0, groups,
            part, parts,
        )  # fmt: skip

    return body


@kernel("grouped_dense_backward_input", sizes=lambda dz, w, dx: _sizes(dx, w, dz))
def grouped_dense_backward_input(F: Any) -> Any:
    product = _product(F)

    def body(op: Any, part: int, parts: int, worker: int) -> None:
        rows, inputs, outputs, groups = op[3], op[4], op[5], op[6]
        product(
            op[0], outputs * groups, groups, 0, op[1], groups, outputs * groups, op[2], 0, rows, inputs, outputs, outputs, 0,
            groups, part, parts,
        )  # fmt: skip

    return body


@kernel(
    "grouped_dense_backward_weight",
    sizes=lambda x, dz, dw, db: _sizes(x, dw, dz),
    scratch=lambda x, dz, dw, db: count_levels(x.shape[0]) * PITCH * x.dtype.itemsize,
)
def grouped_dense_backward_weight(F: Any) -> Any:
    product, pointer = _product(F), POINTERS[F]

    def body(op: Any, part: int, parts: int, worker: int) -> None:
        stack = op[4] + worker * op[5]
        rows, inputs, outputs, groups, shared, step, row = op[6], op[7], op[8], op[9], op[10], op[11], op[12]
        product(
            op[0], step, row, shared, op[1], outputs * groups, groups, op[2], 0, inputs, outputs, rows, LEAF_ROWS, stack,
            groups, part, parts,
        )  # fmt: skip
        dz, db, levels = pointer(op[1]), pointer(op[3]), pointer(stack)
        low, high = span(outputs * groups, LANES, part, parts)
        for first in range(low, high, LANES):
            count = min(LANES, high - first)
            total = lanes(db, 0.0)
            for start in range(0, rows, LEAF_ROWS):
                stop = min(start + LEAF_ROWS, rows)
                total = lanes(db, 0.0)
                for k in range(start, stop):
                    total = total + _some(dz, k * outputs * groups + first, count)
                total = _add_lanes(levels, 0, start // LEAF_ROWS, stop == rows, total)
            _put(db, first, count, total)

    return body
