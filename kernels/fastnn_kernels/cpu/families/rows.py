"""Kernels along the last axis of (B, C): softmax and its kin, argmax, one-hot vectors.

Rows are taken in tiles that stay in the first-level cache: the maxima of the rows, then one long loop of exponentials over
the whole tile, which wastes nothing on narrow rows, then the sums of the rows.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import carray, types  # type: ignore[attr-defined]

from fastnn_kernels.contract import Operand
from fastnn_kernels.cpu.compiling import helper, kernel
from fastnn_kernels.cpu.families.reductions import (
    LANES,
    intrinsic,
    lanes,
    load,
    load_some,
    row_dot,
    row_greatest,
    row_greatest_or_nan,
    row_sum,
    span,
    spread_scalar,
    store,
    store_some,
)
from fastnn_kernels.cpu.intrinsics import POINTERS, int64_pointer
from fastnn_kernels.cpu.mathematics import exp, log

TILE = 1024
"""Elements of a tile, if a row has no more."""


def tile_rows(columns: int) -> int:
    """Rows of a tile; of narrow rows a multiple of LANES, so that a tile is whole groups of lanes."""
    rows = max(TILE // max(columns, 1), 1)
    return rows // LANES * LANES if rows > LANES else rows


def matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of an array seen along its last axis."""
    return math.prod(shape[:-1]), shape[-1]


def padded_size(count: int) -> int:
    return -(-count // LANES) * LANES


def tile_scratch(x: Operand, *operands: Operand) -> int:
    """Bytes of the exponentials of a tile, and of two numbers a row."""
    columns = x.shape[-1]
    rows = tile_rows(columns)
    return (padded_size(rows * columns) + 2 * padded_size(rows)) * x.dtype.itemsize


def tile_sizes(x: Operand, *operands: Operand) -> tuple[int, ...]:
    """Rows, columns, rows of a tile, and the elements of scratch memory before a tile's maxima and before its sums."""
    rows, columns = matrix(x.shape)
    tile = tile_rows(columns)
    return rows, columns, tile, padded_size(tile * columns), padded_size(tile * columns) + padded_size(tile)


@helper
def sum_rows(values: Any, rows: int, columns: int, sums: Any, first: int) -> None:
    """sums[first + r] = sum of row r of values."""
    if columns == 1:  # a sum begins with 0: it has no -0
        zero = lanes(values, 0.0)
        r = 0
        while rows - r >= LANES:
            store(sums, first + r, zero + load(values, r))
            r += LANES
        if rows > r:
            store_some(sums, first + r, rows - r, zero + load_some(values, r, rows - r, 0.0))
        return
    for r in range(rows):
        sums[first + r] = row_sum(values, r * columns, columns)


def exponentials(F: Any) -> Any:
    """The helper that computes exp(x - greatest) of a tile, the greatest of each row, and the sums of the exponentials."""
    exponential = exp(F)

    @helper
    def compute(x: Any, first: int, rows: int, columns: int, values: Any, greatest: Any, sums: Any) -> None:
        for r in range(rows):
            row, start = (first + r) * columns, r * columns
            most = row_greatest(x, row, columns)
            greatest[r] = most
            center = lanes(x, most)
            j = 0
            while columns - j >= LANES:
                store(values, start + j, load(x, row + j) - center)
                j += LANES
            if columns > j:
                store_some(values, start + j, columns - j, load_some(x, row + j, columns - j, 0.0) - center)
        count = (rows * columns + LANES - 1) // LANES * LANES  # without a remainder, which would be computed one by one
        flat = carray(values, count)
        for i in range(count):
            flat[i] = exponential(flat[i])
        sum_rows(values, rows, columns, sums, 0)

    return compute


@helper
def scale_row(values: Any, start: int, factor: Any, columns: int, y: Any, row: int) -> None:
    """y = values * factor."""
    multiplier = lanes(values, factor)
    j = 0
    while columns - j >= LANES:
        store(y, row + j, load(values, start + j) * multiplier)
        j += LANES
    if columns > j:
        store_some(y, row + j, columns - j, load_some(values, start + j, columns - j, 0.0) * multiplier)


@helper
def scale_rows(values: Any, factors: Any, first: int, rows: int, columns: int, y: Any) -> None:
    """y[first + r] = values[r] * factors[first + r], row by row."""
    if columns == 1:
        r = 0
        while rows - r >= LANES:
            store(y, first + r, load(values, r) * load(factors, first + r))
            r += LANES
        if rows > r:
            rest = rows - r
            store_some(y, first + r, rest, load_some(values, r, rest, 0.0) * load_some(factors, first + r, rest, 0.0))
        return
    for r in range(rows):
        scale_row(values, r * columns, factors[first + r], columns, y, (first + r) * columns)


@kernel("softmax", sizes=tile_sizes, scratch=tile_scratch)
def _softmax(F: Any) -> Any:
    pointer, size, compute = POINTERS[F], F.bitwidth // 8, exponentials(F)

    def body(op: Any, part: int, parts: int, worker: int) -> None:
        x, y = pointer(op[0]), pointer(op[1])
        scratch = op[2] + worker * op[3]
        rows, columns, tile = op[4], op[5], op[6]
        values, greatest, sums = pointer(scratch), pointer(scratch + op[7] * size), pointer(scratch + op[8] * size)
        low, high = span(rows, 1, part, parts)
        while low < high:
            count = min(tile, high - low)
            compute(x, low, count, columns, values, greatest, sums)
            for r in range(count):
                scale_row(values, r * columns, F(1) / sums[r], columns, y, (low + r) * columns)
            low += count

    return body


@kernel("log_softmax", sizes=tile_sizes, scratch=tile_scratch)
def _log_softmax(F: Any) -> Any:
    pointer, size, compute, logarithm = POINTERS[F], F.bitwidth // 8, exponentials(F), log(F)

    def body(op: Any, part: int, parts: int, worker: int) -> None:
        x, y = pointer(op[0]), pointer(op[1])
        scratch = op[2] + worker * op[3]
        rows, columns, tile = op[4], op[5], op[6]
        values, greatest, sums = pointer(scratch), pointer(scratch + op[7] * size), pointer(scratch + op[8] * size)
        low, high = span(rows, 1, part, parts)
        while low < high:
            count = min(tile, high - low)
            compute(x, low, count, columns, values, greatest, sums)
            logarithms = carray(sums, count)
            for r in range(count):
                logarithms[r] = logarithm(logarithms[r])
            for r in range(count):
                row = (low + r) * columns
                center, total = lanes(x, greatest[r]), lanes(x, sums[r])
                j = 0
                while columns - j >= LANES:
                    store(y, row + j, load(x, row + j) - center - total)
                    j += LANES
                if columns > j:
                    rest = columns - j
                    store_some(y, row + j, rest, load_some(x, row + j, rest, 0.0) - center - total)
            low += count

    return body


@kernel("softmax_backward", sizes=lambda dy, y, dx: matrix(y.shape))
def _softmax_backward(F: Any) -> Any:
    pointer = POINTERS[F]

    def body(op: Any, part: int, parts: int, worker: int) -> None:
        dy, y, dx = pointer(op[0]), pointer(op[1]), pointer(op[2])
        rows, columns = op[3], op[4]
        low, high = span(rows, 1, part, parts)
        for r in range(low, high):
            row = r * columns
            mean = lanes(y, row_dot(dy, y, row, columns))
            j = 0
            while columns - j >= LANES:
                store(dx, row + j, load(y, row + j) * (load(dy, row + j) - mean))
                j += LANES
            if columns > j:
                rest = columns - j
                value = load_some(y, row + j, rest, 0.0) * (load_some(dy, row + j, rest, 0.0) - mean)
                store_some(dx, row + j, rest, value)

    return body


@kernel("log_softmax_backward", sizes=tile_sizes, scratch=tile_scratch)
def _log_softmax_backward(F: Any) -> Any:
    pointer, size, exponential = POINTERS[F], F.bitwidth // 8, exp(F)

    def body(op: Any, part: int, parts: int, worker: int) -> None:
        dy, dx = pointer(op[0]), pointer(op[2])
        values = pointer(op[3] + worker * op[4])
        rows, columns, tile = op[5], op[6], op[7]
        low, high = span(rows, 1, part, parts)
        while low < high:
            count = min(tile, high - low)
            length = count * columns
            source, target = carray(pointer(op[1] + low * columns * size), length), carray(values, length)
            for i in range(length):
                target[i] = exponential(source[i])
            for r in range(count):
                row, start = (low + r) * columns, r * columns
                total = lanes(dy, row_sum(dy, row, columns))
                j = 0
                while columns - j >= LANES:
                    store(dx, row + j, load(dy, row + j) - load(values, start + j) * total)
                    j += LANES
                if columns > j:
                    rest = columns - j
                    value = load_some(dy, row + j, rest, 0.0) - load_some(values, start + j, rest, 0.0) * total
                    store_some(dx, row + j, rest, value)
            low += count

    return body


@intrinsic
def first_match(typingctx: Any, group: Any, scalar: Any) -> Any:
    """The first lane that equals `scalar` or is NaN; LANES if there is none."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value, spread, bits = args[0], spread_scalar(builder, args[1]), ir.IntType(LANES)
        matches = builder.or_(builder.fcmp_ordered("==", value, spread), builder.fcmp_unordered("uno", value, value))
        return builder.zext(builder.cttz(builder.bitcast(matches, bits), ir.IntType(1)(0)), ir.IntType(64))

    return types.int64(group, scalar), codegen


@helper
def row_argmax(x: Any, start: int, columns: int) -> Any:
    """Position of the first of the greatest among `columns` elements from `start` on; NaN is the greatest; 0 of nothing."""
    most = row_greatest_or_nan(x, start, columns)
    j = 0
    while columns - j >= LANES:
        lane = first_match(load(x, start + j), most)
        if lane < LANES:
            return j + lane
        j += LANES
    if columns > j:
        return j + first_match(load_some(x, start + j, columns - j, -math.inf), most)
    return 0


@intrinsic
def _unbeaten(typingctx: Any, group: Any, scalar: Any, position: Any) -> Any:
    """Whether `scalar`, in the lane `position`, is the first of the greatest lanes; NaN is the greatest."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value, spread, bits = args[0], spread_scalar(builder, args[1]), ir.IntType(LANES)
        nan = builder.fcmp_unordered("uno", value, value)
        before = builder.bitcast(builder.or_(nan, builder.fcmp_ordered(">=", value, spread)), bits)
        behind = builder.bitcast(builder.or_(nan, builder.fcmp_ordered(">", value, spread)), bits)
        behind = builder.select(builder.fcmp_unordered("uno", args[1], args[1]), bits(0), behind)
        bit = builder.shl(bits(1), builder.trunc(args[2], bits))
        below = builder.sub(bit, bits(1))
        above = builder.not_(builder.or_(bit, below))
        beaten = builder.or_(builder.and_(before, below), builder.and_(behind, above))
        return builder.icmp_unsigned("==", beaten, bits(0))

    return types.boolean(group, scalar, types.int64), codegen


@helper
def is_argmax(x: Any, start: int, columns: int, position: int) -> Any:
    """Whether `position` is that of `row_argmax`, which is not computed where the row is one group of lanes."""
    if columns > LANES or not 0 <= position < columns:
        return row_argmax(x, start, columns) == position
    return _unbeaten(load_some(x, start, columns, -math.inf), x[start + position], position)


@kernel("argmax", sizes=lambda x, indices: matrix(x.shape))
def _argmax(F: Any) -> Any:
    pointer = POINTERS[F]

    def body(op: Any, part: int, parts: int, worker: int) -> None:
        x, indices = pointer(op[0]), int64_pointer(op[1])
        rows, columns = op[2], op[3]
        low, high = span(rows, 1, part, parts)
        for r in range(low, high):
            indices[r] = row_argmax(x, r * columns, columns)

    return body


@kernel("one_hot", sizes=lambda labels, y: matrix(y.shape))
def _one_hot(F: Any) -> Any:
    pointer, size = POINTERS[F], F.bitwidth // 8

    def body(op: Any, part: int, parts: int, worker: int) -> None:
        labels = int64_pointer(op[0])
        rows, columns = op[2], op[3]
        low, high = span(rows, 1, part, parts)
        y = carray(pointer(op[1] + low * columns * size), (high - low) * columns)
        for i in range(y.size):
            y[i] = F(0)
        for r in range(high - low):
            label = labels[low + r]
            if 0 <= label < columns:
                y[r * columns + label] = F(1)

    return body
