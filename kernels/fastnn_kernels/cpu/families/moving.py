"""CPU kernels that move elements of any dtype: but for `scatter_add` they copy bits and never look at a value."""

from __future__ import annotations

import math
from typing import Any

from numba import carray  # type: ignore[attr-defined]

from fastnn_kernels.contract import Operand
from fastnn_kernels.cpu.compiling import helper, kernel
from fastnn_kernels.cpu.families.data import share
from fastnn_kernels.cpu.intrinsics import POINTERS, int64_pointer
from fastnn_kernels.shapes import transposed_axes

TILE = 32
"""Rows of y moved together where reading and writing cannot both be consecutive: 32 float32 of x are two cache lines."""


@helper
def copy(y: Any, x: Any, count: Any) -> None:
    for j in range(count):
        y[j] = x[j]


@helper
def eight(y: Any, x: Any, stride: Any) -> None:
    """Eight entries, all read before the first is written: twice as fast as a loop, which is made to gather."""
    x0, x1, x2, x3 = x[0], x[stride], x[2 * stride], x[3 * stride]
    x4, x5, x6, x7 = x[4 * stride], x[5 * stride], x[6 * stride], x[7 * stride]
    y[0], y[1], y[2], y[3] = x0, x1, x2, x3
    y[4], y[5], y[6], y[7] = x4, x5, x6, x7


def _transpose_sizes(x: Operand, y: Operand, *, axes: tuple[int, ...]) -> tuple[int, ...]:
    """Rows and columns of the inner transpose or copy, then four outer axes."""
    if y.size == 0:
        return (0,) * 19
    merged = transposed_axes(x.shape, tuple(axis % len(x.shape) for axis in axes))
    y_strides = [math.prod(extent for extent, _ in merged[k + 1 :]) for k in range(len(merged))]
    full = [(extent, y_stride, x_stride) for (extent, x_stride), y_stride in zip(merged, y_strides, strict=True)]
    columns, _, columns_in_x = full.pop() if full else (1, 1, 1)
    # What is consecutive in x is either the columns, or the axis to make the rows of.
    chosen = next((k for k, (_, _, stride) in enumerate(full) if stride == 1), len(full) - 1)
    rows, rows_in_y, rows_in_x = full.pop(chosen) if full else (1, 0, 0)
    outer = [(1, 0, 0)] * (4 - len(full)) + full
    strips = -(-rows // TILE)
    units = strips * math.prod(extent for extent, _, _ in outer)
    words = [word for axis in reversed(outer) for word in axis]
    return (units, strips, rows, rows_in_y, rows_in_x, columns, columns_in_x, *words)


@kernel("transpose", sizes=_transpose_sizes, dtypes=("x",))
def transpose(F: Any, x_type: Any) -> Any:
    pointer = POINTERS[x_type]
    size_of = x_type.bitwidth // 8

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        units, strips, rows, rows_in_y, rows_in_x, columns, columns_in_x = op[2], op[3], op[4], op[5], op[6], op[7], op[8]
        begin, end = share(units, 1, part, parts)
        for unit in range(begin, end):
            outer = unit // strips
            first = (unit - outer * strips) * TILE
            count = min(TILE, rows - first)
            y_start = first * rows_in_y
            x_start = first * rows_in_x
            for axis in range(4):
                rest = outer // op[9 + 3 * axis]
                index = outer - rest * op[9 + 3 * axis]
                y_start += index * op[10 + 3 * axis]
                x_start += index * op[11 + 3 * axis]
                outer = rest
            if columns_in_x == 1:
                for i in range(count):
                    x = carray(pointer(op[0] + (x_start + i * rows_in_x) * size_of), columns)
                    y = carray(pointer(op[1] + (y_start + i * rows_in_y) * size_of), columns)
                    copy(y, x, columns)
                continue
            # The entries of x that lie one behind the other belong to different rows of y: rows_in_x is 1.
            extent = 7 * columns_in_x + count
            whole = columns - columns % 8
            for column in range(0, whole, 8):
                x = carray(pointer(op[0] + (x_start + column * columns_in_x) * size_of), extent)
                y = carray(pointer(op[1] + (y_start + column) * size_of), (count - 1) * rows_in_y + 8)
                for i in range(count):
                    eight(y[i * rows_in_y :], x[i:], columns_in_x)
            for i in range(count):
                x = carray(pointer(op[0] + (x_start + i + whole * columns_in_x) * size_of), extent)
                y = carray(pointer(op[1] + (y_start + i * rows_in_y + whole) * size_of), columns - whole)
                for j in range(columns - whole):
                    y[j] = x[j * columns_in_x]

    return body


def _concatenate_sizes(a: Operand, b: Operand, c: Operand, *, axis: int) -> tuple[int, ...]:
    axis %= len(c.shape)
    return c.size, math.prod(a.shape[axis:]), math.prod(b.shape[axis:])


@kernel("concatenate", sizes=_concatenate_sizes, dtypes=("a",))
def concatenate(F: Any, a_type: Any) -> Any:
    pointer = POINTERS[a_type]
    size_of = a_type.bitwidth // 8

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        size, a_width, b_width = op[3], op[4], op[5]
        width = a_width + b_width
        begin, end = share(size, 64, part, parts)
        if begin == end:
            return
        row = begin // width
        column = begin - row * width
        while begin < end:
            if column < a_width:
                count = min(a_width - column, end - begin)
                source = op[0] + (row * a_width + column) * size_of
            else:
                count = min(width - column, end - begin)
                source = op[1] + (row * b_width + column - a_width) * size_of
            copy(carray(pointer(op[2] + begin * size_of), count), carray(pointer(source), count), count)
            begin += count
            column += count
            if column == width:
                row += 1
                column = 0

    return body


def _slice_sizes(x: Operand, y: Operand, *, axis: int, start: int) -> tuple[int, ...]:
    axis %= len(x.shape)
    return y.size, math.prod(y.shape[axis:]), math.prod(x.shape[axis:]), start * math.prod(x.shape[axis + 1 :])


@kernel("slice", sizes=_slice_sizes, dtypes=("x",))
def slice_(F: Any, x_type: Any) -> Any:
    pointer = POINTERS[x_type]
    size_of = x_type.bitwidth // 8

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        size, width, x_width, offset = op[2], op[3], op[4], op[5]
        begin, end = share(size, 64, part, parts)
        if begin == end:
            return
        row = begin // width
        column = begin - row * width
        while begin < end:
            count = min(width - column, end - begin)
            source = op[0] + (row * x_width + offset + column) * size_of
            copy(carray(pointer(op[1] + begin * size_of), count), carray(pointer(source), count), count)
            begin += count
            row += 1
            column = 0

    return body


def _row_sizes(x: Operand, indices: Operand, y: Operand) -> tuple[int, ...]:
    return y.size, math.prod(x.shape[1:])


@kernel("gather", sizes=_row_sizes, dtypes=("x",))
def gather(F: Any, x_type: Any) -> Any:
    pointer = POINTERS[x_type]
    size_of = x_type.bitwidth // 8

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        size, width = op[3], op[4]
        begin, end = share(size, 64, part, parts)
        if begin == end:
            return
        indices = carray(int64_pointer(op[1]), size // width)
        if width == 1:
            x, y = pointer(op[0]), pointer(op[2])
            for i in range(begin, end):
                y[i] = x[indices[i]]
            return
        row = begin // width
        column = begin - row * width
        while begin < end:
            count = min(width - column, end - begin)
            source = op[0] + (indices[row] * width + column) * size_of
            copy(carray(pointer(op[2] + begin * size_of), count), carray(pointer(source), count), count)
            begin += count
            row += 1
            column = 0

    return body


def _scatter_sizes(indices: Operand, dy: Operand, dx: Operand) -> tuple[int, ...]:
    return indices.size, dx.shape[0], math.prod(dx.shape[1:])


@kernel("scatter_add", sizes=_scatter_sizes, dtypes=("dy",))
def scatter_add(F: Any, dy_type: Any) -> Any:
    """Parts share the columns, since any two rows of dy may go to the same row of dx."""
    pointer = POINTERS[dy_type]
    size_of = dy_type.bitwidth // 8

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        count, rows, width = op[3], op[4], op[5]
        indices = carray(int64_pointer(op[0]), count)
        begin, end = share(width, 16, part, parts)
        if begin == end:
            return
        columns = end - begin
        for row in range(rows):
            dx = carray(pointer(op[2] + (row * width + begin) * size_of), columns)
            for j in range(columns):
                dx[j] = dy_type(0)
        for i in range(count):
            dy = carray(pointer(op[1] + (i * width + begin) * size_of), columns)
            dx = carray(pointer(op[2] + (indices[i] * width + begin) * size_of), columns)
            for j in range(columns):
                dx[j] += dy[j]

    return body
