"""Batch normalization over the rows of (B, O), with an activation behind it.

Statistics are taken over leaves of rows in the arrays' own type, shifted by the mean of a leaf's first rows, and the leaves are
put together in float64 (Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
variances") in the tree of `leaves`. So x is read once for them, and neither a large mean nor many rows cost precision.
Columns are independent of each other: parts and strips cut there, and no bit depends on where.

The activations are those of the elementwise kernels, applied to a few rows while they are in the first-level cache; in the
backward pass their derivatives are put into dx, from where both of its passes read them. So fused calls have the bits of
single ones.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from numba import carray, types  # type: ignore[attr-defined]

from fastnn_kernels.contract import LEAF_ROWS, Operand
from fastnn_kernels.cpu.compiling import helper, kernel
from fastnn_kernels.cpu.families.reductions import LANES, lanes, load, load_some, span, store, store_some
from fastnn_kernels.cpu.intrinsics import POINTERS, float64_from_bits, float64_pointer
from fastnn_kernels.cpu.leaves import add_columns, count_levels, levels_below
from fastnn_kernels.cpu.mathematics import activation as forward_function
from fastnn_kernels.cpu.mathematics import activation_backward as backward_function

ROWS = 8
"""Rows taken together while a column group's sums are in registers: enough streams for the prefetcher, no more. The mean of so
many is the shift of a leaf."""
TILE = 1024
"""Elements that the activation is applied to at a time, where rows lie one behind the other."""
STRIP = 512
"""Columns taken at a time: a block of them fits the second-level cache."""


def _strip(columns: int) -> int:
    """Columns of a strip, in whole groups of lanes."""
    return min(max(-(-columns // LANES), 1) * LANES, STRIP)


@helper
def _at(p: Any, index: int, count: int) -> Any:
    """The next group of lanes, or the `count` elements that are left."""
    return load(p, index) if count >= LANES else load_some(p, index, count, 0.0)


@helper
def _put(p: Any, index: int, count: int, value: Any) -> None:
    if count >= LANES:
        store(p, index, value)
    else:
        store_some(p, index, count, value)


@helper
def _moments(x: Any, start: int, stride: int, rows: int, columns: int, shift: Any, sums: Any, squares: Any) -> None:
    """sums = sum of x - shift over the rows, squares = sum of its squares, for each column."""
    for j in range(0, columns, LANES):
        store(sums, j, lanes(sums, 0.0))
        store(squares, j, lanes(squares, 0.0))
    for low in range(0, rows, ROWS):
        high = min(low + ROWS, rows)
        for j in range(0, columns, LANES):
            count = columns - j
            middle, total, square = load(shift, j), load(sums, j), load(squares, j)
            if count >= LANES:
                for i in range(low, high):
                    deviation = load(x, start + i * stride + j) - middle
                    total = total + deviation
                    square = square + deviation * deviation
            else:
                for i in range(low, high):
                    deviation = load_some(x, start + i * stride + j, count, 0.0) - middle
                    total = total + deviation
                    square = square + deviation * deviation
            store(sums, j, total)
            store(squares, j, square)


def _scratch(x: Operand, gamma: Operand, *operands: Operand, **attributes: float) -> int:
    """Five rows of a strip, which is all that the three kernels need at most: three F and two float64; and two float64 for each
    level of the tree.
    """
    return _strip(gamma.size) * (3 * x.dtype.itemsize + (2 + 2 * count_levels(x.shape[0])) * 8)


@helper
def _shift(x: Any, start: int, stride: int, rows: int, columns: int, shift: Any) -> None:
    """The mean of so many rows of each column."""
    share = lanes(shift, 1.0 / rows)
    for j in range(0, columns, LANES):
        total = lanes(shift, 0.0)
        for i in range(rows):
            total = total + _at(x, start + i * stride + j, columns - j)
        store(shift, j, total * share)


@helper
def _join_moments(stack: int, pitch: int, leaf: int, rows: int, last: bool, center: Any, deviation: Any, columns: int) -> None:
    """The means and the sums of squared deviations of a leaf of `rows` rows, put together with those that it goes with.

    A level of `stack` holds the two one behind the other, of `pitch` columns each.
    """
    centers, deviations = float64_pointer(stack), float64_pointer(stack + 8 * pitch)
    pitch *= 2
    levels, level, count = levels_below(leaf, last), 0, rows
    while levels >> level:
        if (levels >> level) & 1:
            before = LEAF_ROWS << level
            share, pair = count / (before + count), before * (count / (before + count))
            for j in range(columns):
                middle = centers[level * pitch + j]
                delta = center[j] - middle
                center[j] = middle + delta * share
                deviation[j] = (deviations[level * pitch + j] + deviation[j]) + delta * (delta * pair)
            count += before
        level += 1
    if not last:
        for j in range(columns):
            centers[level * pitch + j] = center[j]
            deviations[level * pitch + j] = deviation[j]


@kernel(
    "batch_norm",
    sizes=lambda x, gamma, *operands, momentum, epsilon, activation, alpha=0.0: (
        x.shape[0], gamma.size, _strip(gamma.size), float(momentum), float(epsilon), float(alpha)
    ),
    static=("activation",),
    scratch=_scratch,
)  # fmt: skip
def _batch_norm(F: Any, activation: str | None) -> Any:
    pointer, size = POINTERS[F], F.bitwidth // 8
    normalize = _normalize_and_activate(F, activation)

    def body(op: Any, part: int, parts: int, worker: int) -> None:
        x, gamma, beta, running_mean, running_variance = (
            pointer(op[0]), pointer(op[1]), pointer(op[2]), pointer(op[3]), pointer(op[4])
        )  # fmt: skip
        mean, inverse_deviation = pointer(op[6]), pointer(op[7])
        count, width, strip = op[10], op[11], op[12]
        momentum, epsilon, alpha = float64_from_bits(op[13]), float64_from_bits(op[14]), F(float64_from_bits(op[15]))
        scratch = op[8] + worker * op[9]
        center, deviation = float64_pointer(scratch), float64_pointer(scratch + 8 * strip)  # mean, squared deviations
        shift = pointer(scratch + 16 * strip)
        sums, squares = pointer(scratch + (16 + size) * strip), pointer(scratch + (16 + 2 * size) * strip)
        stack = scratch + (16 + 3 * size) * strip
        first, last = span(width, LANES, part, parts)
        for left in range(first, last, strip):
            columns = min(last - left, strip)
            for j in range(strip):
                center[j] = 0.0
                deviation[j] = 0.0
            for low in range(0, count, LEAF_ROWS):
                rows = min(count - low, LEAF_ROWS)
                _shift(x, low * width + left, width, min(rows, ROWS), columns, shift)
                _moments(x, low * width + left, width, rows, columns, shift, sums, squares)
                for j in range(columns):
                    total = types.float64(sums[j])
                    center[j] = types.float64(shift[j]) + total / rows
                    deviation[j] = max(types.float64(squares[j]) - total * (total / rows), 0.0)
                _join_moments(stack, strip, low // LEAF_ROWS, rows, low + rows == count, center, deviation, columns)
            for j in range(columns):
                variance = deviation[j] / max(count, 1)
                inverse = 1.0 / math.sqrt(variance + epsilon)
                mean[left + j] = F(center[j])
                inverse_deviation[left + j] = F(inverse)
                sums[j] = gamma[left + j] * F(inverse)
                if count > 0:
                    unbiased = deviation[j] / max(count - 1, 1)
                    running_mean[left + j] = F(momentum * types.float64(running_mean[left + j]) + (1.0 - momentum) * center[j])
                    running_variance[left + j] = F(
                        momentum * types.float64(running_variance[left + j]) + (1.0 - momentum) * unbiased
                    )
            normalize(x, op[5], left, width, 0, count, columns, mean, sums, beta, alpha)

    return body


@helper
def _normalize(
    x: Any, y: Any, left: int, width: int, low: int, high: int, columns: int, mean: Any, scale: Any, beta: Any
) -> None:
    """y = (x - mean) * scale + beta for `columns` columns from `left` on, rows low .. high-1; scale is the strip's own."""
    for i in range(low, high):
        start = i * width + left
        j = 0
        while columns - j >= LANES:
            value = (load(x, start + j) - load(mean, left + j)) * load(scale, j) + load(beta, left + j)
            store(y, start + j, value)
            j += LANES
        if columns > j:
            rest = columns - j
            deviation = load_some(x, start + j, rest, 0.0) - load_some(mean, left + j, rest, 0.0)
            value = deviation * load(scale, j) + load_some(beta, left + j, rest, 0.0)
            store_some(y, start + j, rest, value)


@functools.cache
def _normalize_and_activate(F: Any, activation: str | None) -> Any:
    """`_normalize` with y = activation((x - mean) * scale + beta, alpha); y is given by its address."""
    pointer, size = POINTERS[F], F.bitwidth // 8
    function, plain = forward_function(F, activation or "identity"), activation is None

    @helper
    def normalize(
        x: Any, y: Any, left: int, width: int, first: int, last: int, columns: int, mean: Any, scale: Any, beta: Any, alpha: Any
    ) -> None:
        if plain:
            _normalize(x, pointer(y), left, width, first, last, columns, mean, scale, beta)
        else:
            some = max(TILE // columns, 1) if columns == width else 1
            for low in range(first, last, some):
                high = min(low + some, last)
                _normalize(x, pointer(y), left, width, low, high, columns, mean, scale, beta)
                values = carray(pointer(y + (low * width + left) * size), (high - low) * columns)
                for j in range(values.size):
                    values[j] = function(values[j], alpha)

    return normalize


@kernel(
    "batch_norm_inference",
    sizes=lambda x, gamma, *operands, epsilon, activation, alpha=0.0: (
        x.shape[0],
        gamma.size,
        _strip(gamma.size),
        float(epsilon),
        float(alpha),
    ),
    static=("activation",),
    scratch=lambda x, gamma, *operands, **attributes: _strip(gamma.size) * x.dtype.itemsize,
)
def _batch_norm_inference(F: Any, activation: str | None) -> Any:
    pointer = POINTERS[F]
    normalize = _normalize_and_activate(F, activation)

    def body(op: Any, part: int, parts: int, worker: int) -> None:
        x, gamma, beta, running_mean, running_variance = (
            pointer(op[0]), pointer(op[1]), pointer(op[2]), pointer(op[3]), pointer(op[4])
        )  # fmt: skip
        scratch = op[6] + worker * op[7]
        count, width, strip, epsilon, alpha = op[8], op[9], op[10], float64_from_bits(op[11]), F(float64_from_bits(op[12]))
        scale = pointer(scratch)
        low, high = span(count, 1, part, parts)
        if high > low:
            for left in range(0, width, strip):
                columns = min(width - left, strip)
                for j in range(columns):
                    inverse = 1.0 / math.sqrt(types.float64(running_variance[left + j]) + epsilon)
                    scale[j] = F(types.float64(gamma[left + j]) * inverse)
                normalize(x, op[5], left, width, low, high, columns, running_mean, scale, beta, alpha)

    return body


@helper
def _products(
    dz: Any, x: Any, start: int, stride: int, rows: int, columns: int, mean: Any, left: int, sums: Any, products: Any
) -> None:
    """sums = sum of dz over the rows, products = sum of dz * (x - mean), for each column."""
    for j in range(0, columns, LANES):
        store(sums, j, lanes(sums, 0.0))
        store(products, j, lanes(products, 0.0))
    for low in range(0, rows, ROWS):
        high = min(low + ROWS, rows)
        for j in range(0, columns, LANES):
            count = columns - j
            total, product = load(sums, j), load(products, j)
            if count >= LANES:
                middle = load(mean, left + j)
                for i in range(low, high):
                    slope = load(dz, start + i * stride + j)
                    total = total + slope
                    product = product + slope * (load(x, start + i * stride + j) - middle)
            else:
                middle = load_some(mean, left + j, count, 0.0)
                for i in range(low, high):
                    slope = load_some(dz, start + i * stride + j, count, 0.0)
                    total = total + slope
                    product = product + slope * (load_some(x, start + i * stride + j, count, 0.0) - middle)
            store(sums, j, total)
            store(products, j, product)


@functools.cache
def _slopes(F: Any, activation: str | None) -> Any:
    """Helper: dx = dy times the derivative of the activation at its output, rows first .. last-1; both given by addresses."""
    pointer, size = POINTERS[F], F.bitwidth // 8
    function, derivative = forward_function(F, activation or "identity"), backward_function(F, activation or "identity")

    @helper
    def slopes(
        dy: Any, x: Any, dx: Any, left: int, width: int, first: int, last: int, columns: int, mean: Any, scale: Any, beta: Any,
        alpha: Any,
    ) -> None:  # fmt: skip
        some = max(TILE // columns, 1) if columns == width else 1
        for low in range(first, last, some):
            high = min(low + some, last)
            _normalize(x, pointer(dx), left, width, low, high, columns, mean, scale, beta)
            start, count = (low * width + left) * size, (high - low) * columns
            gradient, slope = carray(pointer(dy + start), count), carray(pointer(dx + start), count)
            for j in range(count):
                slope[j] = derivative(gradient[j], function(slope[j], alpha), alpha)

    return slopes


@kernel(
    "batch_norm_backward",
    sizes=lambda dy, x, gamma, *operands, activation, alpha=0.0: (x.shape[0], gamma.size, _strip(gamma.size), float(alpha)),
    static=("activation",),
    scratch=lambda dy, x, gamma, *operands, **attributes: _scratch(x, gamma),
)
def _batch_norm_backward(F: Any, activation: str | None) -> Any:
    pointer, size = POINTERS[F], F.bitwidth // 8
    slopes, plain = _slopes(F, activation), activation is None

    def body(op: Any, part: int, parts: int, worker: int) -> None:
        dy, x, gamma, beta, mean, inverse_deviation = (
            pointer(op[0]), pointer(op[1]), pointer(op[2]), pointer(op[3]), pointer(op[4]), pointer(op[5])
        )  # fmt: skip
        dx, dgamma, dbeta = pointer(op[6]), pointer(op[7]), pointer(op[8])
        scratch = op[9] + worker * op[10]
        count, width, strip, alpha = op[11], op[12], op[13], F(float64_from_bits(op[14]))
        dz = dy if plain else dx  # dy behind the activation
        total, product = float64_pointer(scratch), float64_pointer(scratch + 8 * strip)
        sums, products = pointer(scratch + 16 * strip), pointer(scratch + (16 + size) * strip)
        scale = pointer(scratch + (16 + 2 * size) * strip)
        stack = scratch + (16 + 3 * size) * strip
        totals_of_leaves, products_of_leaves = float64_pointer(stack), float64_pointer(stack + 8 * strip)
        first, last = span(width, LANES, part, parts)
        for left in range(first, last, strip):
            columns = min(last - left, strip)
            for j in range(columns):
                total[j] = 0.0
                product[j] = 0.0
                scale[j] = gamma[left + j] * inverse_deviation[left + j]
            for low in range(0, count, LEAF_ROWS):
                rows = min(count - low, LEAF_ROWS)
                if not plain:
                    slopes(op[0], x, op[6], left, width, low, low + rows, columns, mean, scale, beta, alpha)
                _products(dz, x, low * width + left, width, rows, columns, mean, left, sums, products)
                for j in range(columns):
                    total[j] = types.float64(sums[j])
                    product[j] = types.float64(products[j])
                leaf, is_last = low // LEAF_ROWS, low + rows == count
                add_columns(totals_of_leaves, 2 * strip, leaf, is_last, total, 0, columns)
                add_columns(products_of_leaves, 2 * strip, leaf, is_last, product, 0, columns)
            # dx = scale * (dz - sums - (x - mean) * products), with the two means over the batch
            for j in range(columns):
                inverse = types.float64(inverse_deviation[left + j])
                dbeta[left + j] = F(total[j])
                dgamma[left + j] = F(product[j] * inverse)
                sums[j] = F(total[j] / max(count, 1))
                products[j] = F(product[j] * inverse * inverse / max(count, 1))
            for i in range(count):
                start = i * width + left
                for j in range(0, columns, LANES):
                    rest = columns - j
                    if rest >= LANES:
                        deviation = load(x, start + j) - load(mean, left + j)
                        slope = load(dz, start + j) - load(sums, j) - deviation * load(products, j)
                        store(dx, start + j, slope * load(scale, j))
                    else:
                        deviation = load_some(x, start + j, rest, 0.0) - load_some(mean, left + j, rest, 0.0)
                        slope = load_some(dz, start + j, rest, 0.0) - load(sums, j) - deviation * load(products, j)
                        store_some(dx, start + j, rest, slope * load(scale, j))

    return body
