"""Losses of one value an example, their gradients, weighted means, and how many examples are right.

Each loss has three kernels made by one factory from the same helpers: the loss, its gradient, and both. So computing both at
once gives the bits of computing one after the other.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import carray, types  # type: ignore[attr-defined]

from fastnn_kernels.contract import LEAF_ROWS, Operand
from fastnn_kernels.cpu.compiling import helper, kernel
from fastnn_kernels.cpu.families.reductions import (
    LANES,
    intrinsic,
    lanes,
    leaf_dot,
    leaf_sum,
    load,
    load_some,
    row_squared_distance,
    row_sum,
    span,
    store,
    store_some,
)
from fastnn_kernels.cpu.families.rows import (
    exponentials,
    is_argmax,
    padded_size,
    row_argmax,
    scale_row,
    scale_rows,
    sum_rows,
    tile_rows,
    tile_scratch,
    tile_sizes,
)
from fastnn_kernels.cpu.intrinsics import POINTERS, float64_from_bits
from fastnn_kernels.cpu.leaves import count_levels
from fastnn_kernels.cpu.mathematics import exp, log, log1p


def _variants(name: str) -> tuple[tuple[str, bool, bool, int], ...]:
    """Name of each kernel of a loss, whether it writes losses and gradients, and how many operands it has."""
    return (name, True, False, 3), (f"{name}_backward", False, True, 4), (f"{name}_with_gradient", True, True, 5)


# Softmax cross entropy.


@intrinsic
def _product_or_zero(typingctx: Any, t: Any, v: Any) -> Any:
    """t * v, but 0 where t is 0 and v infinite: what is impossible and was not asked for costs nothing."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        zero, infinity = (ir.Constant(args[0].type, [value] * LANES) for value in (0.0, math.inf))
        impossible = builder.and_(builder.fcmp_ordered("==", args[0], zero), builder.fcmp_ordered("==", args[1], infinity))
        return builder.select(impossible, zero, builder.fmul(*args))

    return t(t, v), codegen


def _softmax_cross_entropy(with_losses: bool, with_gradient: bool, operands: int) -> Any:
    dlosses_word, losses_word, dz_word = (2 if with_gradient else 0), (operands - 1 - with_gradient), operands - 1

    def factory(F: Any, t_type: Any) -> Any:
        pointer, target_pointer, size = POINTERS[F], POINTERS[t_type], F.bitwidth // 8
        compute, logarithm, classes = exponentials(F), log(F), t_type == types.int64

        def body(op: Any, part: int, parts: int, worker: int) -> None:
            z, t = pointer(op[0]), target_pointer(op[1])
            dlosses, losses, dz = pointer(op[dlosses_word]), pointer(op[losses_word]), pointer(op[dz_word])
            scratch = op[operands] + worker * op[operands + 1]
            rows, columns, tile = op[operands + 2], op[operands + 3], op[operands + 4]
            values = pointer(scratch)
            greatest, sums = pointer(scratch + op[operands + 5] * size), pointer(scratch + op[operands + 6] * size)
            low, high = span(rows, 1, part, parts)
            while low < high:
                count = min(tile, high - low)
                compute(z, low, count, columns, values, greatest, sums)
                if with_gradient:
                    for r in range(count):
                        row, start, inverse = (low + r) * columns, r * columns, F(1) / sums[r]
                        slope = dlosses[low + r]
                        if classes:
                            label = t[low + r]
                            inside = 0 <= label < columns
                            scale_row(values, start, inverse * (slope if inside else F(0)), columns, dz, row)
                            if inside:
                                dz[row + label] = (values[start + label] * inverse - F(1)) * slope
                        else:
                            _soft_gradient(values, start, inverse * row_sum(t, row, columns), slope, columns, t, dz, row)
                if with_losses:
                    logarithms = carray(sums, count)
                    for r in range(count):
                        logarithms[r] = logarithm(logarithms[r])
                    for r in range(count):
                        row, total = (low + r) * columns, sums[r]
                        if classes:
                            label = t[low + r]
                            inside = 0 <= label < columns
                            if inside:
                                losses[low + r] = total - (z[row + label] - greatest[r])
                            else:
                                losses[low + r] = total if total != total else F(0)  # NaN in, NaN out
                        else:
                            _soft_terms(z, t, row, greatest[r], total, columns, values, r * columns)
                    if not classes:
                        sum_rows(values, count, columns, losses, low)
                low += count

        return body

    return factory


@helper
def _soft_gradient(values: Any, start: int, factor: Any, slope: Any, columns: int, t: Any, dz: Any, row: int) -> None:
    """dz = (values * factor - t) * slope."""
    multiplier, outer = lanes(values, factor), lanes(values, slope)
    j = 0
    while columns - j >= LANES:
        store(dz, row + j, (load(values, start + j) * multiplier - load(t, row + j)) * outer)
        j += LANES
    if columns > j:
        rest = columns - j
        value = load_some(values, start + j, rest, 0.0) * multiplier - load_some(t, row + j, rest, 0.0)
        store_some(dz, row + j, rest, value * outer)


@helper
def _soft_terms(z: Any, t: Any, row: int, greatest: Any, logarithm: Any, columns: int, terms: Any, start: int) -> None:
    """terms = -t log p = t (logarithm - (z - greatest)), with the logarithm of the sum of the row's exponentials."""
    center, total = lanes(z, greatest), lanes(z, logarithm)
    j = 0
    while columns - j >= LANES:
        store(terms, start + j, _product_or_zero(load(t, row + j), total - (load(z, row + j) - center)))
        j += LANES
    if columns > j:
        rest = columns - j
        minus_log_p = total - (load_some(z, row + j, rest, 0.0) - center)
        store_some(terms, start + j, rest, _product_or_zero(load_some(t, row + j, rest, 0.0), minus_log_p))


for _name, _with_losses, _with_gradient, _operands in _variants("softmax_cross_entropy"):
    kernel(_name, sizes=tile_sizes, scratch=tile_scratch, dtypes=("t",))(
        _softmax_cross_entropy(_with_losses, _with_gradient, _operands)
    )


# Sigmoid cross entropy.


def _sigmoid_scratch(z: Operand, *operands: Operand) -> int:
    """Bytes of the loss terms and of the differences of a tile."""
    columns = z.shape[1]
    return 2 * padded_size(tile_rows(columns) * columns) * z.dtype.itemsize


def _sigmoid_sizes(z: Operand, *operands: Operand) -> tuple[int, ...]:
    return z.shape[0], z.shape[1], tile_rows(z.shape[1])


def _sigmoid_cross_entropy(with_losses: bool, with_gradient: bool, operands: int) -> Any:
    dlosses_word, losses_word, dz_word = (2 if with_gradient else 0), (operands - 1 - with_gradient), operands - 1

    def factory(F: Any) -> Any:
        pointer, size = POINTERS[F], F.bitwidth // 8
        exponential, logarithm = exp(F), log1p(F)

        def body(op: Any, part: int, parts: int, worker: int) -> None:
            dlosses, losses, dz = pointer(op[dlosses_word]), pointer(op[losses_word]), pointer(op[dz_word])
            scratch = op[operands] + worker * op[operands + 1]
            values, slopes = pointer(scratch), pointer(scratch + op[operands + 1] // 2)
            rows, columns, tile = op[operands + 2], op[operands + 3], op[operands + 4]
            low, high = span(rows, 1, part, parts)
            while low < high:
                count = min(tile, high - low)
                offset, length = low * columns * size, count * columns
                z, t = carray(pointer(op[0] + offset), length), carray(pointer(op[1] + offset), length)
                terms, differences = carray(values, length), carray(slopes, length)
                for i in range(length):
                    output, target = z[i], t[i]
                    small = exponential(-abs(output))
                    if with_losses:
                        terms[i] = max(output, F(0)) - output * target + logarithm(small)
                    if with_gradient:
                        differences[i] = (F(1) if output >= F(0) else small) / (F(1) + small) - target
                if with_losses:
                    sum_rows(values, count, columns, losses, low)
                if with_gradient:
                    scale_rows(slopes, dlosses, low, count, columns, dz)
                low += count

        return body

    return factory


for _name, _with_losses, _with_gradient, _operands in _variants("sigmoid_cross_entropy"):
    kernel(_name, sizes=_sigmoid_sizes, scratch=_sigmoid_scratch)(
        _sigmoid_cross_entropy(_with_losses, _with_gradient, _operands)
    )


# Squared error.


def _squared_error(with_losses: bool, with_gradient: bool, operands: int) -> Any:
    dlosses_word, losses_word, dz_word = (2 if with_gradient else 0), (operands - 1 - with_gradient), operands - 1

    def factory(F: Any) -> Any:
        pointer = POINTERS[F]

        def body(op: Any, part: int, parts: int, worker: int) -> None:
            z, t = pointer(op[0]), pointer(op[1])
            dlosses, losses, dz = pointer(op[dlosses_word]), pointer(op[losses_word]), pointer(op[dz_word])
            rows, columns, scale = op[operands], op[operands + 1], F(float64_from_bits(op[operands + 2]))
            low, high = span(rows, 1, part, parts)
            if columns == 1:
                for r in range(low, high):
                    error = z[r] - t[r]
                    if with_losses:
                        losses[r] = scale * (error * error)
                    if with_gradient:
                        dz[r] = error * (F(2) * scale * dlosses[r])
                return
            for r in range(low, high):
                row = r * columns
                if with_losses:
                    losses[r] = scale * row_squared_distance(z, t, row, columns)
                if with_gradient:
                    factor = lanes(z, F(2) * scale * dlosses[r])
                    j = 0
                    while columns - j >= LANES:
                        store(dz, row + j, (load(z, row + j) - load(t, row + j)) * factor)
                        j += LANES
                    if columns > j:
                        rest = columns - j
                        difference = load_some(z, row + j, rest, 0.0) - load_some(t, row + j, rest, 0.0)
                        store_some(dz, row + j, rest, difference * factor)

        return body

    return factory


def _squared_sizes(z: Operand, *operands: Operand, scale: float) -> tuple[int | float, ...]:
    return z.shape[0], z.shape[1], float(scale)


for _name, _with_losses, _with_gradient, _operands in _variants("squared_error"):
    kernel(_name, sizes=_squared_sizes)(_squared_error(_with_losses, _with_gradient, _operands))


# Weighted means.


def _levels(*operands: Operand) -> int:
    """Bytes of the sums that wait for others."""
    return count_levels(operands[1].size) * operands[1].dtype.itemsize


@kernel("weighted_mean", sizes=lambda losses, weights, mean: (losses.size,), scratch=_levels)
def _weighted_mean(F: Any) -> Any:
    pointer = POINTERS[F]

    def body(op: Any, part: int, parts: int, worker: int) -> None:
        if part == 0:
            losses, weights, mean, count = pointer(op[0]), pointer(op[1]), pointer(op[2]), op[5]
            stack = pointer(op[3] + worker * op[4])
            total = leaf_sum(weights, 0, count, LEAF_ROWS, stack)
            mean[0] = F(0) if total == F(0) else leaf_dot(losses, weights, 0, count, LEAF_ROWS, stack) / total

    return body


@kernel("weighted_mean_backward", sizes=lambda dmean, weights, dlosses: (weights.size,), scratch=_levels)
def _weighted_mean_backward(F: Any) -> Any:
    pointer, size = POINTERS[F], F.bitwidth // 8

    def body(op: Any, part: int, parts: int, worker: int) -> None:
        weights_at, count = pointer(op[1]), op[5]
        stack = pointer(op[3] + worker * op[4])
        total = leaf_sum(weights_at, 0, count, LEAF_ROWS, stack)  # by every part for itself: cheaper than meeting for it
        factor = F(0) if total == F(0) else pointer(op[0])[0] / total
        low, high = span(count, LANES, part, parts)
        weights = carray(pointer(op[1] + low * size), high - low)
        dlosses = carray(pointer(op[2] + low * size), high - low)
        if total == F(0):
            for i in range(high - low):
                dlosses[i] = F(0)
        else:
            for i in range(high - low):
                dlosses[i] = factor * weights[i]

    return body


# Accuracy.


@kernel(
    "is_correct",
    sizes=lambda z, t, correct, threshold, multilabel: (z.shape[0], z.shape[1], float(threshold), bool(multilabel)),
    dtypes=("t",),
)
def _is_correct(F: Any, t_type: Any) -> Any:
    pointer, target_pointer = POINTERS[F], POINTERS[t_type]
    classes, half = t_type == types.int64, 0 if t_type == types.int64 else t_type(0.5)  # of integers, > 0 is > 0.5

    def body(op: Any, part: int, parts: int, worker: int) -> None:
        z, t, correct = pointer(op[0]), target_pointer(op[1]), pointer(op[2])
        rows, columns, threshold, multilabel = op[3], op[4], F(float64_from_bits(op[5])), op[6] != 0
        low, high = span(rows, 1, part, parts)
        if columns == 1:  # a loop of its own: it vectorizes
            for r in range(low, high):
                correct[r] = F(1) if (z[r] > threshold) == (t[r] > half) else F(0)
        elif multilabel:
            for r in range(low, high):
                agreeing = 0
                for j in range(r * columns, (r + 1) * columns):
                    agreeing += (z[j] > threshold) == (t[j] > half)
                correct[r] = F(agreeing) / F(columns)
        else:
            for r in range(low, high):
                wanted = t[r] if classes else row_argmax(t, r * columns, columns)
                correct[r] = F(1) if is_argmax(z, r * columns, columns, wanted) else F(0)

    return body
