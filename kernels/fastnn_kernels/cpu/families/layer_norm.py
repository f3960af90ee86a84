"""Layer normalization of the rows of (B, O), with an activation behind it.

Rows are taken in tiles that stay in the first-level cache: the sums of all of a tile, then the sums of their deviations and
squares, then y. So the processor has several rows under way while the lanes of each are added up. The sums are those of the
arrays' own type, in lanes over blocks of BLOCK elements; what deviations from a rounded mean sum to corrects mean and variance
in float64.

In the backward pass a part has rows, of which it computes dx, and columns, of which it adds up dgamma and dbeta over all rows,
in the arrays' own type over leaves of rows and from there on in float64, in the tree of `leaves`. Both go over the same few
rows at a time.
Sums along a row and down a column are in a fixed order, and no bit depends on the parts.

The activations are those of the elementwise kernels, as in `batch_norm`: fused calls have the bits of single ones.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from numba import carray, types  # type: ignore[attr-defined]

from fastnn_kernels.contract import LEAF_ROWS
from fastnn_kernels.cpu.compiling import helper, kernel
from fastnn_kernels.cpu.families.reductions import (
    BLOCK,
    LANES,
    add_lanes,
    fma_lanes,
    lanes,
    load,
    load_some,
    span,
    store,
    store_some,
)
from fastnn_kernels.cpu.intrinsics import POINTERS, float64_from_bits, float64_pointer
from fastnn_kernels.cpu.leaves import add_columns, count_levels
from fastnn_kernels.cpu.mathematics import FUSED, multiply_then_add
from fastnn_kernels.cpu.mathematics import activation as forward_function
from fastnn_kernels.cpu.mathematics import activation_backward as backward_function

_multiply_add: Any = fma_lanes if FUSED else multiply_then_add
"""a * b + c of three groups of lanes, with one rounding where the processor can."""

TILE = 2048
"""Elements of a tile, if a row has no more."""
ROWS = 16
"""Rows taken together in the backward pass. Of 8, the wait for the sums of the rows takes over 10 % where rows are short; of
32, less stays in the first-level cache between the two times that they are read (measured with AVX-512).
"""
STRIP = 1024
"""Columns whose sums over all rows a part takes at a time: their scratch memory fits the second-level cache."""


@helper
def _row_total(x: Any, start: int, count: int) -> Any:
    """Sum of `count` elements from `start` on."""
    total = lanes(x, 0.0)
    for low in range(0, count, BLOCK):
        high = min(low + BLOCK, count)
        first, second, third, fourth = lanes(x, 0.0), lanes(x, 0.0), lanes(x, 0.0), lanes(x, 0.0)
        j = low
        while high - j >= 4 * LANES:  # four chains of additions at once, else each waits for the one before
            first = first + load(x, start + j)
            second = second + load(x, start + j + LANES)
            third = third + load(x, start + j + 2 * LANES)
            fourth = fourth + load(x, start + j + 3 * LANES)
            j += 4 * LANES
        while high - j >= LANES:
            first = first + load(x, start + j)
            j += LANES
        if high > j:
            second = second + load_some(x, start + j, high - j, 0.0)
        total = total + ((first + second) + (third + fourth))
    return add_lanes(total)


@helper
def _row_moments(x: Any, start: int, count: int, middle: Any) -> Any:
    """Sum of x - middle and of its squares over `count` elements from `start` on."""
    center = lanes(x, middle)
    total, square = lanes(x, 0.0), lanes(x, 0.0)
    for low in range(0, count, BLOCK):
        high = min(low + BLOCK, count)
        first, second, squares, others = lanes(x, 0.0), lanes(x, 0.0), lanes(x, 0.0), lanes(x, 0.0)
        j = low
        while high - j >= 2 * LANES:
            one, two = load(x, start + j) - center, load(x, start + j + LANES) - center
            first = first + one
            second = second + two
            squares = _multiply_add(one, one, squares)
            others = _multiply_add(two, two, others)
            j += 2 * LANES
        if high - j >= LANES:
            one = load(x, start + j) - center
            first = first + one
            squares = _multiply_add(one, one, squares)
            j += LANES
        if high > j:
            two = load_some(x, start + j, high - j, middle) - center
            second = second + two
            others = _multiply_add(two, two, others)
        total = total + (first + second)
        square = square + (squares + others)
    return add_lanes(total), add_lanes(square)


@helper
def _normalize(
    x: Any, y: Any, place: int, row: int, width: int, left: int, columns: int, mean: Any, inverse: Any, gamma: Any, beta: Any
) -> None:
    """y = (x - mean) * inverse * gamma + beta for `columns` columns of a row from `left` on; they go to `place` of y."""
    center, factor, start = lanes(x, mean[row]), lanes(x, inverse[row]), row * width + left
    j = 0
    while columns - j >= LANES:
        normal = (load(x, start + j) - center) * factor
        store(y, place + j, _multiply_add(normal, load(gamma, left + j), load(beta, left + j)))
        j += LANES
    if columns > j:
        rest = columns - j
        normal = (load_some(x, start + j, rest, 0.0) - center) * factor
        scale, shift = load_some(gamma, left + j, rest, 0.0), load_some(beta, left + j, rest, 0.0)
        store_some(y, place + j, rest, _multiply_add(normal, scale, shift))


def _tile(columns: int) -> int:
    """Rows of a tile."""
    return max(TILE // max(columns, 1), 1)


@kernel(
    "layer_norm",
    sizes=lambda x, *operands, epsilon, activation, alpha=0.0: (
        *x.shape, _tile(x.shape[1]), float(epsilon), float(alpha)
    ),
    static=("activation",),
    scratch=lambda x, *operands, **attributes: 3 * _tile(x.shape[1]) * x.dtype.itemsize,
)  # fmt: skip
def _layer_norm(F: Any, activation: str | None) -> Any:
    pointer, size = POINTERS[F], F.bitwidth // 8
    function, plain = forward_function(F, activation or "identity"), activation is None

    def body(op: Any, part: int, parts: int, worker: int) -> None:
        x, gamma, beta, y = pointer(op[0]), pointer(op[1]), pointer(op[2]), pointer(op[3])
        mean, inverse_deviation = pointer(op[4]), pointer(op[5])
        scratch = op[6] + worker * op[7]
        count, width, tile = op[8], op[9], op[10]
        epsilon, alpha = float64_from_bits(op[11]), F(float64_from_bits(op[12]))
        middles, sums, squares = pointer(scratch), pointer(scratch + tile * size), pointer(scratch + 2 * tile * size)
        each = 1.0 / max(width, 1)
        first, last = span(count, 1, part, parts)
        for low in range(first, last, tile):
            rows = min(last - low, tile)
            for r in range(rows):
                middles[r] = F(types.float64(_row_total(x, (low + r) * width, width)) * each)
            for r in range(rows):
                sums[r], squares[r] = _row_moments(x, (low + r) * width, width, middles[r])
            for r in range(rows):
                total = types.float64(sums[r])
                variance = max(types.float64(squares[r]) - total * (total * each), 0.0) * each
                mean[low + r] = F(types.float64(middles[r]) + total * each)
                inverse_deviation[low + r] = F(1.0 / math.sqrt(variance + epsilon))
            for r in range(low, low + rows):
                _normalize(x, y, r * width, r, width, 0, width, mean, inverse_deviation, gamma, beta)
            if not plain:
                values = carray(pointer(op[3] + low * width * size), rows * width)
                for j in range(values.size):
                    values[j] = function(values[j], alpha)

    return body


@helper
def _products(
    dz: Any, start: int, stride: int, x: Any, low: int, high: int, width: int, left: int, columns: int, mean: Any,
    inverse: Any, sums: Any, products: Any,
) -> None:  # fmt: skip
    """sums += sum of dz over the rows low .. high-1, products += sum of dz * (x - mean) * inverse, for each column.

    The rows of dz begin at `start`, one every `stride` elements; `sums` and `products` are those of the columns from `left` on.
    """
    for j in range(0, columns, LANES):
        rest = columns - j
        total, product = load(sums, j), load(products, j)
        if rest >= LANES:
            for i in range(low, high):
                slope = load(dz, start + (i - low) * stride + j)
                normal = (load(x, i * width + left + j) - lanes(x, mean[i])) * lanes(x, inverse[i])
                total = total + slope
                product = _multiply_add(slope, normal, product)
        else:
            for i in range(low, high):
                slope = load_some(dz, start + (i - low) * stride + j, rest, 0.0)
                normal = (load_some(x, i * width + left + j, rest, 0.0) - lanes(x, mean[i])) * lanes(x, inverse[i])
                total = total + slope
                product = _multiply_add(slope, normal, product)
        store(sums, j, total)
        store(products, j, product)


@helper
def _row_products(dz: Any, x: Any, gamma: Any, start: int, count: int, middle: Any) -> Any:
    """Sum of dz * gamma and of dz * gamma * (x - middle) over a row that begins at `start`."""
    center = lanes(x, middle)
    total, product = lanes(x, 0.0), lanes(x, 0.0)
    for low in range(0, count, BLOCK):
        high = min(low + BLOCK, count)
        first, second, products, others = lanes(x, 0.0), lanes(x, 0.0), lanes(x, 0.0), lanes(x, 0.0)
        j = low
        while high - j >= 2 * LANES:
            one = load(dz, start + j) * load(gamma, j)
            two = load(dz, start + j + LANES) * load(gamma, j + LANES)
            first = first + one
            second = second + two
            products = _multiply_add(one, load(x, start + j) - center, products)
            others = _multiply_add(two, load(x, start + j + LANES) - center, others)
            j += 2 * LANES
        if high - j >= LANES:
            one = load(dz, start + j) * load(gamma, j)
            first = first + one
            products = _multiply_add(one, load(x, start + j) - center, products)
            j += LANES
        if high > j:
            rest = high - j
            two = load_some(dz, start + j, rest, 0.0) * load_some(gamma, j, rest, 0.0)
            second = second + two
            others = _multiply_add(two, load_some(x, start + j, rest, 0.0) - center, others)
        total = total + (first + second)
        product = product + (products + others)
    return add_lanes(total), add_lanes(product)


@helper
def _finish(
    dz: Any, x: Any, gamma: Any, dx: Any, low: int, high: int, width: int, left: int, right: int, mean: Any, inverse: Any,
    levels: Any, tilts: Any,
) -> None:  # fmt: skip
    """dx = inverse * (dz * gamma + level + normalized x * tilt) for the columns left .. right-1 of the rows low .. high-1.

    dz * gamma is rounded, as it is in the level, so that what is equal to its mean becomes 0.
    """
    for i in range(low, high):
        center, factor = lanes(x, mean[i]), lanes(x, inverse[i])
        level, tilt = lanes(x, levels[i - low]), lanes(x, tilts[i - low])
        start, j = i * width, left
        while right - j >= LANES:
            normal = (load(x, start + j) - center) * factor
            slope = load(dz, start + j) * load(gamma, j) + level
            store(dx, start + j, _multiply_add(normal, tilt, slope) * factor)
            j += LANES
        if right > j:
            rest = right - j
            normal = (load_some(x, start + j, rest, 0.0) - center) * factor
            slope = load_some(dz, start + j, rest, 0.0) * load_some(gamma, j, rest, 0.0) + level
            store_some(dx, start + j, rest, _multiply_add(normal, tilt, slope) * factor)


@helper
def _finish_with_products(
    dz: Any, x: Any, gamma: Any, dx: Any, low: int, high: int, width: int, left: int, columns: int, mean: Any, inverse: Any,
    levels: Any, tilts: Any, sums: Any, products: Any,
) -> None:  # fmt: skip
    """`_products` and `_finish` of `columns` columns from `left` on, which are read once for both."""
    for j in range(0, columns, LANES):
        rest = columns - j
        total, product = load(sums, j), load(products, j)
        if rest >= LANES:
            scale = load(gamma, left + j)
            for i in range(low, high):
                place = i * width + left + j
                slope = load(dz, place)
                factor = lanes(x, inverse[i])
                normal = (load(x, place) - lanes(x, mean[i])) * factor
                total = total + slope
                product = _multiply_add(slope, normal, product)
                slope = slope * scale + lanes(x, levels[i - low])
                store(dx, place, _multiply_add(normal, lanes(x, tilts[i - low]), slope) * factor)
        else:
            scale = load_some(gamma, left + j, rest, 0.0)
            for i in range(low, high):
                place = i * width + left + j
                slope = load_some(dz, place, rest, 0.0)
                factor = lanes(x, inverse[i])
                normal = (load_some(x, place, rest, 0.0) - lanes(x, mean[i])) * factor
                total = total + slope
                product = _multiply_add(slope, normal, product)
                slope = slope * scale + lanes(x, levels[i - low])
                store_some(dx, place, rest, _multiply_add(normal, lanes(x, tilts[i - low]), slope) * factor)
        store(sums, j, total)
        store(products, j, product)


@functools.cache
def _slopes(F: Any, activation: str | None) -> Any:
    """Helper: dz = dy times the derivative of the activation at its output, in `columns` columns from `left` on of the rows
    low .. high-1; they go to `place` of dz, one row behind the other. dy and dz are given by addresses.
    """
    pointer, size = POINTERS[F], F.bitwidth // 8
    function, derivative = forward_function(F, activation or "identity"), backward_function(F, activation or "identity")

    @helper
    def slopes(
        dy: Any, x: Any, dz: Any, place: int, low: int, high: int, width: int, left: int, columns: int, mean: Any,
        inverse: Any, gamma: Any, beta: Any, alpha: Any,
    ) -> None:  # fmt: skip
        for i in range(low, high):
            row = place + (i - low) * columns
            _normalize(x, pointer(dz), row, i, width, left, columns, mean, inverse, gamma, beta)
        runs, length = (1, (high - low) * columns) if columns == width else (high - low, columns)
        for run in range(runs):
            gradient = carray(pointer(dy + ((low + run) * width + left) * size), length)
            slope = carray(pointer(dz + (place + run * length) * size), length)
            for j in range(length):
                slope[j] = derivative(gradient[j], function(slope[j], alpha), alpha)

    return slopes


def _strip(columns: int) -> int:
    """Columns of a strip, in whole groups of lanes."""
    return min(max(-(-columns // LANES), 1) * LANES, STRIP)


@kernel(
    "layer_norm_backward",
    sizes=lambda dy, x, *operands, activation, alpha=0.0: (*x.shape, _strip(x.shape[1]), float(alpha)),
    static=("activation",),
    scratch=lambda dy, x, *operands, **attributes: (
        _strip(x.shape[1]) * ((2 + ROWS) * x.dtype.itemsize + (2 + 2 * count_levels(x.shape[0])) * 8)
        + 2 * ROWS * x.dtype.itemsize
    ),
)
def _layer_norm_backward(F: Any, activation: str | None) -> Any:
    pointer, size = POINTERS[F], F.bitwidth // 8
    slopes, plain = _slopes(F, activation), activation is None

    def body(op: Any, part: int, parts: int, worker: int) -> None:
        dy, x, gamma, beta, mean, inverse_deviation = (
            pointer(op[0]), pointer(op[1]), pointer(op[2]), pointer(op[3]), pointer(op[4]), pointer(op[5])
        )  # fmt: skip
        dx, dgamma, dbeta = pointer(op[6]), pointer(op[7]), pointer(op[8])
        scratch = op[9] + worker * op[10]
        count, width, strip, alpha = op[11], op[12], op[13], F(float64_from_bits(op[14]))
        total, product = float64_pointer(scratch), float64_pointer(scratch + 8 * strip)
        sums, products = pointer(scratch + 16 * strip), pointer(scratch + (16 + size) * strip)
        levels, tilts = pointer(scratch + (16 + 2 * size) * strip), pointer(scratch + (16 + 2 * size) * strip + ROWS * size)
        beside = scratch + (16 + 2 * size) * strip + 2 * ROWS * size  # dz of rows that belong to another part
        stack = beside + ROWS * strip * size
        totals_of_leaves, products_of_leaves = float64_pointer(stack), float64_pointer(stack + 8 * strip)
        each = 1.0 / max(width, 1)
        first_row, end = span(count, 1, part, parts)
        first, last = span(width, LANES, part, parts)
        left = first
        while True:  # once at least: a part may have rows and no columns
            columns = max(min(last - left, strip), 0)
            for j in range(strip):
                total[j] = 0.0
                product[j] = 0.0
                sums[j] = F(0)
                products[j] = F(0)
            low = 0
            while low < count:
                # the next rows: all of this part or all of others, and of one leaf
                high = min(low + ROWS, count, (low // LEAF_ROWS + 1) * LEAF_ROWS)
                if low < first_row:
                    high = min(high, first_row)
                elif low < end:
                    high = min(high, end)
                if left == first and first_row <= low < end:
                    if not plain:
                        slopes(
                            op[0], x, op[6], low * width, low, high, width, 0, width, mean, inverse_deviation, gamma, beta,
                            alpha,
                        )  # fmt: skip
                    dz = dy if plain else dx
                    for i in range(low, high):
                        level, tilt = _row_products(dz, x, gamma, i * width, width, mean[i])
                        levels[i - low] = F(-types.float64(level) * each)
                        tilts[i - low] = F(-types.float64(tilt) * inverse_deviation[i] * each)
                    _finish_with_products(
                        dz, x, gamma, dx, low, high, width, left, columns, mean, inverse_deviation, levels, tilts, sums,
                        products,
                    )  # fmt: skip
                    if columns < width:
                        for begin, stop in ((0, left), (left + columns, width)):
                            _finish(dz, x, gamma, dx, low, high, width, begin, stop, mean, inverse_deviation, levels, tilts)
                elif plain:
                    _products(
                        dy, low * width + left, width, x, low, high, width, left, columns, mean, inverse_deviation, sums,
                        products,
                    )  # fmt: skip
                else:
                    slopes(op[0], x, beside, 0, low, high, width, left, columns, mean, inverse_deviation, gamma, beta, alpha)
                    _products(
                        pointer(beside), 0, columns, x, low, high, width, left, columns, mean, inverse_deviation, sums, products
                    )
                low = high
                if low % LEAF_ROWS == 0 or low == count:
                    for j in range(columns):
                        total[j] = types.float64(sums[j])
                        product[j] = types.float64(products[j])
                        sums[j] = F(0)
                        products[j] = F(0)
                    leaf = (low - 1) // LEAF_ROWS
                    add_columns(totals_of_leaves, 2 * strip, leaf, low == count, total, 0, columns)
                    add_columns(products_of_leaves, 2 * strip, leaf, low == count, product, 0, columns)
            for j in range(columns):
                dbeta[left + j] = F(total[j])
                dgamma[left + j] = F(product[j])
            left += strip
            if left >= last:
                break

    return body
