"""CPU kernels for data: dropout, mini-batches, the shuffle, and the bookkeeping of a program."""

from __future__ import annotations

import math
from typing import Any

from numba import carray, types  # type: ignore[attr-defined]

from fastnn_kernels.contract import SUM_BLOCK, Operand
from fastnn_kernels.cpu.compiling import helper, kernel
from fastnn_kernels.cpu.intrinsics import POINTERS, float64_from_bits, float64_pointer, int64_pointer, prefetch
from fastnn_kernels.cpu.philox import WORD, philox, word_pointer
from fastnn_kernels.numpy.philox import UNIFORM_BITS, shuffle_bits

F64 = types.float64
I64 = types.int64
DROPPED_BITS = 32 - UNIFORM_BITS


@helper
def share(size: Any, grain: Any, part: Any, parts: Any) -> Any:
    """Begin and end of one part's share of `size` elements, cut at multiples of `grain`."""
    grains = (size + grain - 1) // grain
    return min(grains * part // parts * grain, size), min(grains * (part + 1) // parts * grain, size)


PREFETCHED = 2048
"""Bytes ahead of a gather that rows are asked for: which ones come next, no processor can see. Of long rows, the next one."""


@helper
def prefetch_row(source: Any, order: Any, row: Any, size: Any) -> None:
    """Ask for the row of `size` bytes that is about PREFETCHED bytes behind this one in the order."""
    row += 1 + PREFETCHED // size
    if row < order.size:
        begin = source + order[row] * size
        for offset in range(0, size, 64):
            prefetch(begin + offset)


def _dropout_sizes(x: Operand, step: Operand, y: Operand, *, rate: float, key: tuple[int, int]) -> tuple[int | float, ...]:
    scale = 1.0 / (1.0 - rate) if rate < 1 else 0.0
    return x.size, math.ceil(rate * 2**UNIFORM_BITS), scale, *key


@kernel("dropout", sizes=_dropout_sizes)
def dropout(F: Any) -> Any:
    pointer = POINTERS[F]
    size_of = F.bitwidth // 8

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        size, least, scale, k0, k1 = op[3], op[4], F(float64_from_bits(op[5])), op[6], op[7]
        step = carray(int64_pointer(op[1]), 1)[0]
        low, high = step & I64(WORD), (step >> 32) & I64(WORD)
        begin, end = share(size, 64, part, parts)
        count = end - begin
        x = carray(pointer(op[0] + begin * size_of), count)
        y = carray(pointer(op[2] + begin * size_of), count)
        first = begin // 4
        zero = F(0)
        for block in range(count // 4):
            n = first + block
            w0, w1, w2, w3 = philox(n & I64(WORD), n >> 32, low, high, k0, k1)
            e = 4 * block
            y[e] = x[e] * scale if (w0 >> DROPPED_BITS) >= least else zero
            y[e + 1] = x[e + 1] * scale if (w1 >> DROPPED_BITS) >= least else zero
            y[e + 2] = x[e + 2] * scale if (w2 >> DROPPED_BITS) >= least else zero
            y[e + 3] = x[e + 3] * scale if (w3 >> DROPPED_BITS) >= least else zero
        if count % 4:
            n = first + count // 4
            last = philox(n & I64(WORD), n >> 32, low, high, k0, k1)
            e = count // 4 * 4
            for j in range(count % 4):
                y[e + j] = x[e + j] * scale if (last[j] >> DROPPED_BITS) >= least else zero

    return body


def _gather_sizes(source: Operand, order: Operand, position: Operand, y: Operand, *, scale: float) -> tuple[int | float, ...]:
    rows = y.shape[0]
    return rows, y.size // rows if rows else 0, float(scale)


@kernel("gather_rows", sizes=_gather_sizes, dtypes=("source", "y"))
def gather_rows(F: Any, source_type: Any, y_type: Any) -> Any:
    source_pointer, y_pointer = POINTERS[source_type], POINTERS[y_type]
    source_size, y_size = source_type.bitwidth // 8, y_type.bitwidth // 8

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        rows, width, scale = op[4], op[5], y_type(float64_from_bits(op[6]))
        position = carray(int64_pointer(op[2]), 1)[0]
        order = carray(int64_pointer(op[1] + 8 * position), rows)
        begin, end = share(rows * width, 64, part, parts)
        if begin == end:
            return
        if width == 1:
            examples, targets = source_pointer(op[0]), y_pointer(op[3])
            for i in range(begin, end):
                targets[i] = y_type(examples[order[i]]) * scale
            return
        row = begin // width
        column = begin - row * width
        while begin < end:
            count = min(width - column, end - begin)
            prefetch_row(op[0], order, row, width * source_size)
            source = carray(source_pointer(op[0] + (order[row] * width + column) * source_size), count)
            y = carray(y_pointer(op[3] + begin * y_size), count)
            for j in range(count):
                y[j] = y_type(source[j]) * scale
            begin += count
            row += 1
            column = 0

    return body


SINGLE_LEAST, SINGLE_MOST = 1e-30, 1e30
"""Factors between which float32 holds them, and what they are of, in full."""


def _gather_standardized_sizes(
    source: Operand, order: Operand, position: Operand, offset: Operand, factor: Operand, y: Operand, *, scale: float
) -> tuple[int | float, ...]:
    return _gather_sizes(source, order, position, y, scale=scale)


def _gather_standardized_scratch(
    source: Operand, order: Operand, position: Operand, offset: Operand, factor: Operand, y: Operand, *, scale: float
) -> int:
    return 3 * y.dtype.itemsize * offset.size


@kernel("gather_standardized", sizes=_gather_standardized_sizes, scratch=_gather_standardized_scratch, dtypes=("source", "y"))
def gather_standardized(F: Any, source_type: Any, y_type: Any) -> Any:
    """In float64; float32 rows that stay so, unscaled, with the offset as a sum of two float32 numbers, in half the time."""
    source_pointer, y_pointer = POINTERS[source_type], POINTERS[y_type]
    source_size, y_size = source_type.bitwidth // 8, y_type.bitwidth // 8
    single = source_type == y_type == types.float32

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        rows, width, scale = op[8], op[9], float64_from_bits(op[10])
        position = carray(int64_pointer(op[2]), 1)[0]
        order = carray(int64_pointer(op[1] + 8 * position), rows)
        begin, end = share(rows * width, 64, part, parts)
        if begin == end:
            return
        in_parts = single and scale == 1.0
        scratch = op[6] + worker * op[7]
        if in_parts:
            offsets, factors = carray(float64_pointer(op[3]), width), carray(float64_pointer(op[4]), width)
            highs, lows = carray(y_pointer(scratch), width), carray(y_pointer(scratch + y_size * width), width)
            rounded = carray(y_pointer(scratch + 2 * y_size * width), width)
            for j in range(width):
                highs[j] = y_type(offsets[j])
                lows[j] = y_type(offsets[j] - F64(highs[j]))
                rounded[j] = y_type(factors[j])
                in_parts = in_parts and SINGLE_LEAST < factors[j] < SINGLE_MOST
        row = begin // width
        column = begin - row * width
        while begin < end:
            count = min(width - column, end - begin)
            prefetch_row(op[0], order, row, width * source_size)
            source = carray(source_pointer(op[0] + (order[row] * width + column) * source_size), count)
            y = carray(y_pointer(op[5] + begin * y_size), count)
            if in_parts:
                high = carray(y_pointer(scratch + y_size * column), count)
                low = carray(y_pointer(scratch + y_size * (width + column)), count)
                near = carray(y_pointer(scratch + y_size * (2 * width + column)), count)
                for j in range(count):
                    y[j] = ((y_type(source[j]) - high[j]) - low[j]) * near[j]
            else:
                offset = carray(float64_pointer(op[3] + 8 * column), count)
                factor = carray(float64_pointer(op[4] + 8 * column), count)
                for j in range(count):
                    y[j] = y_type((F64(source[j]) * scale - offset[j]) * factor[j])
            begin += count
            row += 1
            column = 0

    return body


WALKERS = 1024
"""Positions that walk together. Where a walk ends cannot be predicted, and a wrong guess costs a whole walk's latency: so all
take one step, and those that have not arrived are listed without a branch and take another."""


def _shuffle_sizes(epoch: Operand, order: Operand, *, key: tuple[int, int]) -> tuple[int, ...]:
    return order.size, *shuffle_bits(order.size), *key


def _shuffle_scratch(epoch: Operand, order: Operand, *, key: tuple[int, int]) -> int:
    left, right = shuffle_bits(order.size)
    return 16 * ((1 << left) + (1 << right)) + 8 * WALKERS


@helper
def feistel(place: Any, to_right: Any, to_left: Any, width: Any, mask: Any) -> Any:
    """Eight rounds; the tables hold four masks for each value of a half."""
    left, right = place >> width, place & mask
    right ^= to_right[4 * left]
    left ^= to_left[4 * right]
    right ^= to_right[4 * left + 1]
    left ^= to_left[4 * right + 1]
    right ^= to_right[4 * left + 2]
    left ^= to_left[4 * right + 2]
    right ^= to_right[4 * left + 3]
    left ^= to_left[4 * right + 3]
    return (left << width) | right


@helper
def round_table(table: Any, entries: Any, side: Any, mask: Any, low: Any, high: Any, k0: Any, k1: Any) -> None:
    for value in range(entries):
        w0, w1, w2, w3 = philox(I64(value), I64(side), low, high, k0, k1)
        table[4 * value] = w0 & mask
        table[4 * value + 1] = w1 & mask
        table[4 * value + 2] = w2 & mask
        table[4 * value + 3] = w3 & mask


@kernel("shuffle", sizes=_shuffle_sizes, scratch=_shuffle_scratch)
def shuffle(F: Any) -> Any:
    """The round functions depend on half a position only: each part tabulates them, about 2 sqrt(n) Philox calls."""

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        n, left, right, k0, k1 = op[4], op[5], op[6], op[7], op[8]
        epoch = carray(int64_pointer(op[0]), 1)[0]
        low, high = epoch & I64(WORD), (epoch >> 32) & I64(WORD)
        lefts, rights = I64(1) << left, I64(1) << right
        mask = rights - 1
        scratch = op[2] + worker * op[3]
        to_right = carray(word_pointer(scratch), 4 * lefts)
        to_left = carray(word_pointer(scratch + 16 * lefts), 4 * rights)
        walkers = carray(int64_pointer(scratch + 16 * (lefts + rights)), WALKERS)
        begin, end = share(n, 64, part, parts)
        if begin == end:
            return
        round_table(to_right, lefts, 0, mask, low, high, k0, k1)
        round_table(to_left, rights, 1, lefts - 1, low, high, k0, k1)
        while begin < end:
            count = min(WALKERS, end - begin)
            order = carray(int64_pointer(op[1] + 8 * begin), count)
            walking = 0
            for i in range(count):
                place = feistel(begin + i, to_right, to_left, right, mask)
                order[i] = place
                walkers[walking] = i
                walking += place >= n
            while walking:
                arrived = walking
                walking = 0
                for j in range(arrived):
                    i = walkers[j]
                    place = feistel(order[i], to_right, to_left, right, mask)
                    order[i] = place
                    walkers[walking] = i
                    walking += place >= n
            begin += count

    return body


def _log_value_sizes(value: Operand, index: Operand, log: Operand, *, column: int) -> tuple[int, ...]:
    return log.shape[1], column, value.size


@kernel("log_value", sizes=_log_value_sizes)
def log_value(F: Any) -> Any:
    pointer = POINTERS[F]
    size_of = F.bitwidth // 8

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        if part == 0:
            entry = carray(int64_pointer(op[1]), 1)[0] * op[3] + op[4]
            row, values = carray(pointer(op[2] + entry * size_of), op[5]), carray(pointer(op[0]), op[5])
            for k in range(op[5]):
                row[k] = values[k]

    return body


@kernel("advance", sizes=lambda control, rows: (rows,))
def advance(F: Any) -> Any:
    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        if part == 0:
            control = carray(int64_pointer(op[0]), 3)
            control[0] += 1
            control[1] += op[1]
            control[2] += 1

    return body


def _fill_sizes(y: Operand, *, value: float) -> tuple[int | float, ...]:
    return y.size, float(value) if y.dtype.kind == "f" else int(value)


@kernel("fill", sizes=_fill_sizes, dtypes=("y",))
def fill(F: Any, y_type: Any) -> Any:
    pointer = POINTERS[y_type]
    size_of = y_type.bitwidth // 8
    floating = isinstance(y_type, types.Float)

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        value = y_type(float64_from_bits(op[2])) if floating else y_type(op[2])
        begin, end = share(op[1], 64, part, parts)
        y = carray(pointer(op[0] + begin * size_of), end - begin)
        for i in range(end - begin):
            y[i] = value

    return body


@kernel("count_nonfinite", sizes=lambda x, counts: (x.size,))
def count_nonfinite(F: Any) -> Any:
    pointer = POINTERS[F]
    size_of = F.bitwidth // 8
    lane = types.int32 if F.bitwidth == 32 else I64  # as wide as an element: a vector of x has a vector of counts

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        size = op[2]
        blocks = (size + SUM_BLOCK - 1) // SUM_BLOCK
        counts = carray(int64_pointer(op[1]), blocks)
        begin, end = share(blocks, 1, part, parts)
        for block in range(begin, end):
            start = block * SUM_BLOCK
            n = min(SUM_BLOCK, size - start)
            x = carray(pointer(op[0] + start * size_of), n)
            nonfinite = lane(0)
            for i in range(n):
                nonfinite = lane(nonfinite + lane(x[i] - x[i] != F(0)))  # 0 for finite numbers, NaN for all others
            counts[block] = nonfinite

    return body
