"""CPU kernels of the optimizers: one pass over the arena; the formulas are in `fastnn_kernels.numpy.updates`.

They are computed with the same operations in the same order, so that both agree bit for bit in the same dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from numba import carray  # type: ignore[attr-defined]

from fastnn_kernels.contract import SCALARS, SUM_BLOCK, UPDATES, Operand, with_average
from fastnn_kernels.cpu.compiling import helper, kernel
from fastnn_kernels.cpu.families.data import share
from fastnn_kernels.cpu.intrinsics import POINTERS, float64_from_bits, int64_pointer

NUMBERS = 6
"""Numbers of an optimizer that reach its formula at most; fewer are padded with zeros."""

COLUMNS = len(SCALARS)
RATE, CORRECTION_1, CORRECTION_2, GRADIENT_FACTOR = range(NUMBERS, NUMBERS + COLUMNS)
"""Where the scalars of the step lie in the tuple `n` of a formula, behind those numbers."""


def update(name: str) -> Callable[[Callable[..., None]], Any]:
    """Declare the update kernel `name` of the contract, and the one that averages the parameters as well.

    The formula gets arrays w, a, b (parameters and states; those it has not are not to be touched), the position i in
    them, the old parameter (decayed already), the gradient g (clipped, with penalties) and the tuple n.
    """

    row = UPDATES[name]
    assert len(row.slots) <= 2, "the body has room for two"

    def sizes(*operands: Operand, clip_value: float, clip_norm: float, **attributes: Any) -> tuple[int | float, ...]:
        rest = (1.0 - attributes.pop("ema"),) if "ema" in attributes else ()
        numbers = row.numbers(**attributes)
        words = (float(clip_value) or math.inf, float(clip_norm), *numbers, *(0.0,) * (NUMBERS - len(numbers)), *rest)
        return operands[0].size, operands[5].shape[0], *words

    def declare(formula: Callable[..., None]) -> Callable[..., None]:
        apply = helper(formula)
        kernel(name, sizes=sizes)(lambda F: _update_body(F, len(row.slots), apply, False))
        kernel(with_average(name), sizes=sizes)(lambda F: _update_body(F, len(row.slots), apply, True))
        return formula

    return declare


def _update_body(F: Any, states: int, formula: Any, averages: bool) -> Any:
    pointer = POINTERS[F]
    size_of = F.bitwidth // 8
    first_state = 7 if states >= 1 else 6
    second_state = 8 if states >= 2 else 6
    after = 7 + states + averages

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        size, segments = op[after], op[after + 1]
        clip = F(float64_from_bits(op[after + 2]))
        clip_norm = F(float64_from_bits(op[after + 3]))
        factor = F(1)
        if clip_norm > F(0):
            factor = clip_norm / carray(pointer(op[1]), 1)[0]
            if factor > F(1):
                factor = F(1)
        scalars = carray(pointer(op[2] + COLUMNS * size_of * carray(int64_pointer(op[3]), 1)[0]), COLUMNS)
        numbers = (
            F(float64_from_bits(op[after + 4])),
            F(float64_from_bits(op[after + 5])),
            F(float64_from_bits(op[after + 6])),
            F(float64_from_bits(op[after + 7])),
            F(float64_from_bits(op[after + 8])),
            F(float64_from_bits(op[after + 9])),
        )
        starts = carray(int64_pointer(op[4]), segments + 1)
        penalties = carray(pointer(op[5]), (segments, 4))
        begin, end = share(size, 16, part, parts)
        k = 0
        while k < segments and begin < end:
            l2, l1, rate = penalties[k, 0], penalties[k, 1], scalars[0] * penalties[k, 3]
            decay = rate * penalties[k, 2]
            penalized = l2 != F(0) or l1 != F(0) or penalties[k, 2] != F(0)
            frozen = penalties[k, 3] == F(0)
            n = (*numbers, rate, scalars[1], scalars[2], scalars[3])
            k += 1
            # Neighbors with equal penalties are one segment here: a model has many short ones.
            while k < segments and (
                penalties[k, 0] == penalties[k - 1, 0]
                and penalties[k, 1] == penalties[k - 1, 1]
                and penalties[k, 2] == penalties[k - 1, 2]
                and penalties[k, 3] == penalties[k - 1, 3]
            ):
                k += 1
            count = min(starts[k], end) - begin
            if count <= 0:
                continue
            offset = begin * size_of
            begin += count
            if frozen:
                if averages:
                    average, w = carray(pointer(op[after - 1] + offset), count), carray(pointer(op[6] + offset), count)
                    for i in range(count):
                        average[i] = w[i]
                continue
            gradient = carray(pointer(op[0] + offset), count)
            w = carray(pointer(op[6] + offset), count)
            a = carray(pointer(op[first_state] + offset), count)
            b = carray(pointer(op[second_state] + offset), count)
            if averages:  # the average is the last state, and 1 - ema the last word
                average = carray(pointer(op[after - 1] + offset), count)
                rest = F(float64_from_bits(op[after + 4 + NUMBERS]))
            # Without clipping the bounds are infinite and the factor is 1, which changes no bit.
            if penalized:
                for i in range(count):
                    g = gradient[i]
                    g = -clip if g < -clip else g
                    g = (clip if g > clip else g) * factor
                    old = w[i]
                    sign = F(1) if old > F(0) else (F(-1) if old < F(0) else F(0))
                    formula(w, a, b, i, old - decay * old, g + (l2 * old + l1 * sign), n)
                    if averages:
                        average[i] += rest * (w[i] - average[i])
            else:
                for i in range(count):
                    g = gradient[i]
                    g = -clip if g < -clip else g
                    g = (clip if g > clip else g) * factor
                    formula(w, a, b, i, w[i], g, n)
                    if averages:
                        average[i] += rest * (w[i] - average[i])

    return body


@update("sgd")
def sgd(w: Any, a: Any, b: Any, i: Any, old: Any, g: Any, n: Any) -> None:
    w[i] = old - n[RATE] * g


@update("momentum")
def momentum(w: Any, v: Any, b: Any, i: Any, old: Any, g: Any, n: Any) -> None:
    velocity = n[0] * v[i] + g
    v[i] = velocity
    w[i] = old - n[RATE] * velocity


@update("nesterov")
def nesterov(w: Any, v: Any, b: Any, i: Any, old: Any, g: Any, n: Any) -> None:
    velocity = n[0] * v[i] + g
    v[i] = velocity
    w[i] = old - n[RATE] * (g + n[0] * velocity)


@update("averaged_momentum")
def averaged_momentum(w: Any, v: Any, b: Any, i: Any, old: Any, g: Any, n: Any) -> None:
    velocity = n[0] * v[i] + n[1] * g
    v[i] = velocity
    w[i] = old - n[RATE] * velocity


@update("rmsprop")
def rmsprop(w: Any, s: Any, b: Any, i: Any, old: Any, g: Any, n: Any) -> None:
    square = n[0] * s[i] + n[1] * (g * g)
    s[i] = square
    w[i] = old - (n[RATE] * g) / (math.sqrt(square + n[2]) + n[3])


@update("adagrad")
def adagrad(w: Any, s: Any, b: Any, i: Any, old: Any, g: Any, n: Any) -> None:
    square = s[i] + g * g
    s[i] = square
    w[i] = old - (n[RATE] * g) / (math.sqrt(square) + n[0])


@update("adam")
def adam(w: Any, m: Any, s: Any, i: Any, old: Any, g: Any, n: Any) -> None:
    mean = n[0] * m[i] + n[1] * g
    square = n[2] * s[i] + n[3] * (g * g)
    m[i] = mean
    s[i] = square
    w[i] = old - (n[RATE] * (mean * n[CORRECTION_1])) / (math.sqrt(square * n[CORRECTION_2] + n[4]) + n[5])


@update("nadam")
def nadam(w: Any, m: Any, s: Any, i: Any, old: Any, g: Any, n: Any) -> None:
    mean = n[0] * m[i] + n[1] * g
    square = n[2] * s[i] + n[3] * (g * g)
    m[i] = mean
    s[i] = square
    ahead = n[GRADIENT_FACTOR] * g + mean * n[CORRECTION_1]
    w[i] = old - (n[RATE] * ahead) / (math.sqrt(square * n[CORRECTION_2] + n[4]) + n[5])


@update("lion")
def lion(w: Any, m: Any, b: Any, i: Any, old: Any, g: Any, n: Any) -> None:
    mean = m[i]
    ahead = n[0] * mean + n[1] * g
    m[i] = n[2] * mean + n[3] * g
    one = w.dtype.type(1)
    w[i] = old - n[RATE] * (one if ahead > 0 else (-one if ahead < 0 else ahead))  # NaN stays, so that divergence is seen


@helper
def halving_sum(x: Any, size: Any) -> Any:
    """Sum of `size` numbers, a power of two: the upper half is added to the lower one until one number is left.

    The order of additions is set by the size alone, whatever the width of vectors; zeros at the end change nothing.
    """
    while size > 1:
        size //= 2
        lower, upper = x[:size], x[size : 2 * size]
        for j in range(size):
            lower[j] += upper[j]
    return x[0]


@helper
def pad(x: Any, size: Any) -> Any:
    """Fill x with zeros from `size` to the next power of two, and return that."""
    power = 1
    while power < size:
        power *= 2
    for j in range(size, power):
        x[j] = 0
    return power


EIGHTH = SUM_BLOCK // 8


@kernel(
    "block_sum_squares",
    sizes=lambda x, partial, clip_value, scale: (x.size, float(clip_value) or math.inf, float(scale)),
    scratch=lambda x, partial, clip_value, scale: SUM_BLOCK * x.dtype.itemsize,
)
def block_sum_squares(F: Any) -> Any:
    pointer = POINTERS[F]
    size_of = F.bitwidth // 8

    @helper
    def square_clipped(x: Any, clip: Any, scale: Any) -> Any:
        x = -clip if x < -clip else x
        x = clip if x > clip else x
        return (scale * x) * (scale * x)

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        size, clip, scale = op[4], F(float64_from_bits(op[5])), F(float64_from_bits(op[6]))
        blocks = (size + SUM_BLOCK - 1) // SUM_BLOCK
        partial = carray(pointer(op[1]), blocks)
        sums = carray(pointer(op[2] + worker * op[3]), SUM_BLOCK)
        begin, end = share(blocks, 1, part, parts)
        for block in range(begin, end):
            start = op[0] + block * SUM_BLOCK * size_of
            count = min(SUM_BLOCK, size - block * SUM_BLOCK)
            if count < SUM_BLOCK:
                x = carray(pointer(start), count)
                for j in range(count):
                    sums[j] = square_clipped(x[j], clip, scale)
                partial[block] = halving_sum(sums, pad(sums, count))
                continue
            # The first three halvings at once, from eight eighths of the block.
            step = EIGHTH * size_of
            x0, x1 = carray(pointer(start), EIGHTH), carray(pointer(start + step), EIGHTH)
            x2, x3 = carray(pointer(start + 2 * step), EIGHTH), carray(pointer(start + 3 * step), EIGHTH)
            x4, x5 = carray(pointer(start + 4 * step), EIGHTH), carray(pointer(start + 5 * step), EIGHTH)
            x6, x7 = carray(pointer(start + 6 * step), EIGHTH), carray(pointer(start + 7 * step), EIGHTH)
            for j in range(EIGHTH):
                even = (square_clipped(x0[j], clip, scale) + square_clipped(x4[j], clip, scale)) + (
                    square_clipped(x2[j], clip, scale) + square_clipped(x6[j], clip, scale)
                )
                odd = (square_clipped(x1[j], clip, scale) + square_clipped(x5[j], clip, scale)) + (
                    square_clipped(x3[j], clip, scale) + square_clipped(x7[j], clip, scale)
                )
                sums[j] = even + odd
            partial[block] = halving_sum(sums, EIGHTH)

    return body


@kernel(
    "block_penalty",
    sizes=lambda parameters, starts, penalties, partial: (parameters.size, penalties.shape[0]),
    scratch=lambda parameters, starts, penalties, partial: SUM_BLOCK * parameters.dtype.itemsize,
)
def block_penalty(F: Any) -> Any:
    pointer = POINTERS[F]
    size_of = F.bitwidth // 8

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        size, segments = op[6], op[7]
        starts = carray(int64_pointer(op[1]), segments + 1)
        penalties = carray(pointer(op[2]), (segments, 4))
        blocks = (size + SUM_BLOCK - 1) // SUM_BLOCK
        partial = carray(pointer(op[3]), blocks)
        terms_address = op[4] + worker * op[5]
        terms = carray(pointer(terms_address), SUM_BLOCK)
        begin, end = share(blocks, 1, part, parts)
        for block in range(begin, end):
            start = block * SUM_BLOCK
            stop = min(start + SUM_BLOCK, size)
            for k in range(segments):
                low, high = max(starts[k], start), min(starts[k + 1], stop)
                if low < high:
                    half_l2, l1 = penalties[k, 0] * F(0.5), penalties[k, 1]
                    w = carray(pointer(op[0] + low * size_of), high - low)
                    term = carray(pointer(terms_address + (low - start) * size_of), high - low)
                    for j in range(high - low):
                        term[j] = half_l2 * (w[j] * w[j]) + l1 * abs(w[j])
            partial[block] = halving_sum(terms, pad(terms, stop - start))

    return body
