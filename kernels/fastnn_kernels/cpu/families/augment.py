"""CPU kernels that change images at random; `fastnn_kernels.numpy.augment` is their definition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import carray, types  # type: ignore[attr-defined]

from fastnn_kernels.contract import AFFINE, TRANSFORMS, Operand, control_points
from fastnn_kernels.cpu.compiling import helper, kernel
from fastnn_kernels.cpu.families.data import DROPPED_BITS, share
from fastnn_kernels.cpu.intrinsics import POINTERS, float64_from_bits, int64_pointer
from fastnn_kernels.cpu.philox import WORD, philox, word_pointer
from fastnn_kernels.numpy.augment import COSINE, DRAWS, SINE, block_count
from fastnn_kernels.numpy.philox import UNIFORM_BITS

I64, I32, U32 = types.int64, types.int32, types.uint32
UNIT = 2.0**-UNIFORM_BITS
RANGES = 12
"""Place of the first range among the words of `draw_transforms`."""


@helper
def polynomial(coefficients: Any, x: Any) -> Any:
    total = coefficients[-1]
    for k in range(1, len(coefficients)):
        total = total * x + coefficients[-1 - k]
    return total


@helper
def sine_and_cosine(turns: Any) -> Any:
    quarter = np.floor(4.0 * turns + 0.5)
    rest = 4.0 * turns - quarter
    s = rest * polynomial(SINE, rest * rest)
    c = polynomial(COSINE, rest * rest)
    if abs(quarter) == 1.0:
        return quarter * c, -quarter * s
    return (-s, -c) if abs(quarter) == 2.0 else (s, c)


@helper
def draw(op: Any, index: Any, word: Any) -> Any:
    """The number of TRANSFORMS with this index."""
    low, width = float64_from_bits(op[RANGES + 2 * index]), float64_from_bits(op[RANGES + 2 * index + 1])
    return low + width * ((word >> DROPPED_BITS) * UNIT)


def _draw_sizes(
    step: Operand,
    transforms: Operand,
    *,
    key: tuple[int, int],
    size: tuple[int, int],
    ranges: Sequence[tuple[float, float]],
    pivot: float,
    amplitude: float,
) -> tuple[int | float, ...]:
    examples, columns = transforms.shape
    row, column = ((length - 1) * 0.5 for length in size)
    assert len(ranges) == len(TRANSFORMS)
    bounds = [number for low, high in ranges for number in (float(low), float(high - low))]
    return examples, columns, block_count(columns), *key, row, column, float(pivot), float(amplitude), 0, *bounds


@kernel("draw_transforms", sizes=_draw_sizes)
def draw_transforms(F: Any) -> Any:
    pointer = POINTERS[F]
    size_of = F.bitwidth // 8
    double, one = F(2.0 * UNIT), F(1)

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        examples, columns, blocks, k0, k1 = op[2], op[3], op[4], op[5], op[6]
        row, column = float64_from_bits(op[7]), float64_from_bits(op[8])
        pivot, amplitude = float64_from_bits(op[9]), F(float64_from_bits(op[10]))
        step = carray(int64_pointer(op[0]), 1)[0]
        low, high = step & I64(WORD), (step >> 32) & I64(WORD)
        begin, end = share(examples, 1, part, parts)
        for example in range(begin, end):
            n = example * blocks
            out = carray(pointer(op[1] + example * columns * size_of), columns)
            a0, a1, a2, a3 = philox(n & I64(WORD), n >> 32, low, high, k0, k1)
            b0, b1, b2, b3 = philox((n + 1) & I64(WORD), (n + 1) >> 32, low, high, k0, k1)
            c0, _, _, _ = philox((n + 2) & I64(WORD), (n + 2) >> 32, low, high, k0, k1)
            sine, cosine = sine_and_cosine(draw(op, 0, a0))
            zoom = draw(op, 1, a1)
            from_row, from_column = row + draw(op, 2, a2), column + draw(op, 3, a3)
            opposite, adjacent = sine_and_cosine(draw(op, 4, b0))
            shear = opposite / adjacent
            flip_rows = -1.0 if draw(op, 5, b1) < 0 else 1.0
            flip_columns = -1.0 if draw(op, 6, b2) < 0 else 1.0
            gain = draw(op, 7, b3)
            m00, m01 = flip_rows * (cosine / zoom), flip_rows * (sine / zoom)
            m10 = flip_columns * ((-sine - shear * cosine) / zoom)
            m11 = flip_columns * ((cosine - shear * sine) / zoom)
            out[0], out[1], out[2] = m00, m01, row - (m00 * from_row + m01 * from_column)
            out[3], out[4], out[5] = m10, m11, column - (m10 * from_row + m11 * from_column)
            out[6], out[7] = gain, (pivot - gain * pivot) + draw(op, 8, c0)
            for block in range(DRAWS // 4, blocks):
                words = philox((n + block) & I64(WORD), (n + block) >> 32, low, high, k0, k1)
                e = AFFINE + 4 * block - DRAWS
                for k in range(min(4, columns - e)):
                    out[e + k] = amplitude * (double * F(words[k] >> DROPPED_BITS) - one)

    return body


LANES = 16
"""Rows of pixels are filled up to a multiple of it, so that loops over them have no rest."""

BAND = 1024
"""Pixels that are handled at once where rows are shorter: what is kept of them stays in the nearest cache."""


def _padded_width(width: int) -> int:
    return -(-width // LANES) * LANES


def _band(height: int, width: int) -> int:
    """Rows that are handled at once."""
    return max(1, min(height, BAND // max(1, _padded_width(width))))


def _transform_sizes(
    x: Operand, transforms: Operand, y: Operand, *, spacing: int, fill: float, edge: bool
) -> tuple[int | float, ...]:
    _, height, width, _ = x.shape
    grid = (control_points(height, spacing), control_points(width, spacing)) if spacing else (0, 0)
    return *x.shape, _padded_width(width), _band(height, width), transforms.shape[1], spacing, *grid, float(fill), int(edge)


def _transform_scratch(x: Operand, transforms: Operand, y: Operand, *, spacing: int, fill: float, edge: bool) -> int:
    """Of a band, in the order of the kernel: places in the frame, five arrays; splines along rows; a framed image."""
    _, height, width, channels = x.shape
    band, padded = _band(height, width), _padded_width(width)
    elements = 5 * band * padded + (height + 3) * (width + 3) * channels
    if spacing:
        elements += 2 * control_points(height, spacing) * padded
    return -(-(4 * band * padded + elements * x.dtype.itemsize) // 64) * 64


@kernel("transform_images", sizes=_transform_sizes, scratch=_transform_scratch)
def transform_images(F: Any) -> Any:
    pointer = POINTERS[F]
    size_of = F.bitwidth // 8
    sixth = F(1 / 6)
    zero, one, three, four, six = F(0), F(1), F(3), F(4), F(6)

    @helper
    def spline_weights(t: Any) -> Any:
        s = one - t
        tt, ss = t * t, s * s
        return (
            ss * s * sixth,
            (four - (six - three * t) * tt) * sixth,
            (four - (six - three * s) * ss) * sixth,
            tt * t * sixth,
        )

    @helper
    def clip(x: Any, low: Any, high: Any) -> Any:
        x = low if x < low else x
        return high if x > high else x

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        examples, height, width, channels, padded, band = op[5], op[6], op[7], op[8], op[9], op[10]
        columns, spacing, grid_rows, grid_columns, edge = op[11], op[12], op[13], op[14], op[16]
        fill = F(float64_from_bits(op[15]))
        first, beyond = F(0 if edge else -1), F(1 if edge else 0)
        last_row, last_column = F(height) - beyond, F(width) - beyond
        pitch, most = (width + 3) * channels, band * padded
        begin, end = share(examples, 1, part, parts)
        if begin == end:
            return
        scratch = op[3] + worker * op[4]
        places = carray(word_pointer(scratch), most)
        scratch += 4 * most
        kept = carray(pointer(scratch), (5, most))
        row_of, column_of, down, right, values = kept[0], kept[1], kept[2], kept[3], kept[4]
        scratch += 5 * most * size_of
        bent = carray(pointer(scratch), (grid_rows, 2, padded))
        scratch += 2 * grid_rows * padded * size_of
        frame = carray(pointer(scratch), (height + 3) * pitch)
        for n in range(most):
            row_of[n], column_of[n] = F(n // padded), F(n % padded)
        for k in range((height + 3) * pitch):
            frame[k] = fill
        for p in range(grid_rows):
            for c in range(padded):
                bent[p, 0, c] = bent[p, 1, c] = zero
        for example in range(begin, end):
            for r in range(height):
                row = carray(pointer(op[0] + (example * height + r) * width * channels * size_of), width * channels)
                start = (r + 1) * pitch + channels
                for k in range(width * channels):
                    frame[start + k] = row[k]
            at = op[1] + example * columns * size_of
            transform = carray(pointer(at), AFFINE)
            m00, m01, m02 = transform[0], transform[1], transform[2]
            m10, m11, m12 = transform[3], transform[4], transform[5]
            gain, offset = transform[6], transform[7]
            if spacing:
                points = carray(pointer(at + AFFINE * size_of), (grid_rows, grid_columns, 2))
                for c in range(width):
                    q = c // spacing
                    w0, w1, w2, w3 = spline_weights(F(c % spacing) / F(spacing))
                    for p in range(grid_rows):
                        for axis in range(2):
                            bent[p, axis, c] = (
                                (w0 * points[p, q, axis] + w1 * points[p, q + 1, axis]) + w2 * points[p, q + 2, axis]
                            ) + w3 * points[p, q + 3, axis]
            for above in range(0, height, band):
                rows = min(band, height - above)
                for n in range(rows * padded):
                    r, c = row_of[n] + F(above), column_of[n]
                    down[n] = (m00 * r + m01 * c) + m02
                    right[n] = (m10 * r + m11 * c) + m12
                if spacing:
                    for k in range(rows):
                        p = (above + k) // spacing
                        w0, w1, w2, w3 = spline_weights(F((above + k) % spacing) / F(spacing))
                        by_row, by_column = bent[p:, 0], bent[p:, 1]
                        for c in range(padded):
                            down[k * padded + c] += ((w0 * by_row[0, c] + w1 * by_row[1, c]) + w2 * by_row[2, c]) + w3 * by_row[
                                3, c
                            ]
                        for c in range(padded):
                            right[k * padded + c] += (
                                (w0 * by_column[0, c] + w1 * by_column[1, c]) + w2 * by_column[2, c]
                            ) + w3 * by_column[3, c]
                for n in range(rows * padded):
                    u, v = clip(down[n], first, last_row), clip(right[n], first, last_column)
                    upper, left = np.floor(u), np.floor(v)
                    down[n], right[n] = u - upper, v - left
                    places[n] = I32(upper + one) * I32(pitch) + I32(left + one) * I32(channels)
                for channel in range(channels):
                    near = scratch + channel * size_of
                    far = near + pitch * size_of
                    upper_left = carray(pointer(near), (height + 3) * pitch)
                    upper_right = carray(pointer(near + channels * size_of), (height + 3) * pitch)
                    lower_left = carray(pointer(far), (height + 3) * pitch)
                    lower_right = carray(pointer(far + channels * size_of), (height + 3) * pitch)
                    for n in range(rows * padded):
                        k = U32(places[n])
                        top = upper_left[k] + right[n] * (upper_right[k] - upper_left[k])
                        bottom = lower_left[k] + right[n] * (lower_right[k] - lower_left[k])
                        values[n] = (top + down[n] * (bottom - top)) * gain + offset
                    for k in range(rows):
                        start = ((example * height + above + k) * width * channels + channel) * size_of
                        y = carray(pointer(op[2] + start), width * channels)
                        for c in range(width):
                            y[c * channels] = values[k * padded + c]

    return body
