"""CPU kernels that change images at random; `fastnn_kernels.numpy.augment` is their definition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import carray, types  # type: ignore[attr-defined]

from fastnn_kernels.contract import AFFINE, TRANSFORMS, Operand, control_points
from fastnn_kernels.cpu.compiling import helper, kernel
from fastnn_kernels.cpu.data import DROPPED_BITS, share
from fastnn_kernels.cpu.intrinsics import POINTERS, float64_from_bits, int64_pointer
from fastnn_kernels.cpu.philox import WORD, philox
from fastnn_kernels.numpy.augment import COSINE, DRAWS, SINE, block_count
from fastnn_kernels.numpy.philox import UNIFORM_BITS

I64 = types.int64
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
def drawn(op: Any, index: Any, word: Any) -> Any:
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

    def body(op: Any, part: Any, parts: Any) -> None:
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
            sine, cosine = sine_and_cosine(drawn(op, 0, a0))
            zoom = drawn(op, 1, a1)
            from_row, from_column = row + drawn(op, 2, a2), column + drawn(op, 3, a3)
            opposite, adjacent = sine_and_cosine(drawn(op, 4, b0))
            shear = opposite / adjacent
            flip_rows = -1.0 if drawn(op, 5, b1) < 0 else 1.0
            flip_columns = -1.0 if drawn(op, 6, b2) < 0 else 1.0
            gain = drawn(op, 7, b3)
            m00, m01 = flip_rows * (cosine / zoom), flip_rows * (sine / zoom)
            m10 = flip_columns * ((-sine - shear * cosine) / zoom)
            m11 = flip_columns * ((cosine - shear * sine) / zoom)
            out[0], out[1], out[2] = m00, m01, row - (m00 * from_row + m01 * from_column)
            out[3], out[4], out[5] = m10, m11, column - (m10 * from_row + m11 * from_column)
            out[6], out[7] = gain, (pivot - gain * pivot) + drawn(op, 8, c0)
            for block in range(DRAWS // 4, blocks):
                words = philox((n + block) & I64(WORD), (n + block) >> 32, low, high, k0, k1)
                e = AFFINE + 4 * block - DRAWS
                for k in range(min(4, columns - e)):
                    out[e + k] = amplitude * (double * F(words[k] >> DROPPED_BITS) - one)

    return body


def _transform_sizes(
    x: Operand, transforms: Operand, y: Operand, *, spacing: int, fill: float, edge: bool
) -> tuple[int | float, ...]:
    _, height, width, _ = x.shape
    grid = (control_points(height, spacing), control_points(width, spacing)) if spacing else (0, 0)
    return *x.shape, transforms.shape[1], spacing, *grid, float(fill), int(edge)


def _transform_scratch(x: Operand, transforms: Operand, y: Operand, *, spacing: int, fill: float, edge: bool) -> int:
    """A framed image; a row of places, of coordinates, of the weights of splines, and of control points."""
    _, height, width, channels = x.shape
    points = 2 * control_points(width, spacing) if spacing else 0
    elements = (height + 3) * (width + 3) * channels + 6 * width + points
    return -(-(8 * width + elements * x.dtype.itemsize) // 64) * 64


@kernel("transform_images", sizes=_transform_sizes, scratch=_transform_scratch)
def transform_images(F: Any) -> Any:
    pointer = POINTERS[F]
    size_of = F.bitwidth // 8
    sixth = F(1 / 6)
    one, three, four, six = F(1), F(3), F(4), F(6)

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

    def body(op: Any, part: Any, parts: Any) -> None:
        scratch = op[3] + part * op[4]
        examples, height, width, channels, columns = op[5], op[6], op[7], op[8], op[9]
        spacing, points, edge = op[10], op[12], op[14]
        fill = F(float64_from_bits(op[13]))
        first, beyond = F(0 if edge else -1), F(1 if edge else 0)
        last_row, last_column = F(height) - beyond, F(width) - beyond
        begin, end = share(examples, 1, part, parts)
        pixels, pitch = height * width * channels, (width + 3) * channels
        places = carray(int64_pointer(scratch), width)
        at = scratch + 8 * width
        along_rows = carray(pointer(at), width)
        along_columns = carray(pointer(at + width * size_of), width)
        weights = carray(pointer(at + 2 * width * size_of), (4, width))
        at += 6 * width * size_of
        line = carray(pointer(at), 2 * points)
        at += 2 * points * size_of
        frame = carray(pointer(at), (height + 3) * pitch)
        if spacing and begin < end:
            for c in range(width):
                w0, w1, w2, w3 = spline_weights(F(c % spacing) / F(spacing))
                weights[0, c], weights[1, c], weights[2, c], weights[3, c] = w0, w1, w2, w3
        if begin < end:
            for k in range((height + 3) * pitch):
                frame[k] = fill
        for example in range(begin, end):
            x = carray(pointer(op[0] + example * pixels * size_of), (height, width * channels))
            y = carray(pointer(op[2] + example * pixels * size_of), (height, width, channels))
            transform = carray(pointer(op[1] + example * columns * size_of), columns)
            m00, m01, m02, m10, m11, m12 = (
                transform[0], transform[1], transform[2], transform[3], transform[4], transform[5],
            )  # fmt: skip
            gain, offset = transform[6], transform[7]
            for r in range(height):
                start = (r + 1) * pitch + channels
                for k in range(width * channels):
                    frame[start + k] = x[r, k]
            for r in range(height):
                row_0, row_1 = m00 * F(r), m10 * F(r)
                for c in range(width):
                    along_rows[c] = (row_0 + m01 * F(c)) + m02
                    along_columns[c] = (row_1 + m11 * F(c)) + m12
                if spacing:
                    w0, w1, w2, w3 = spline_weights(F(r % spacing) / F(spacing))
                    grid = carray(pointer(op[1] + (example * columns + AFFINE) * size_of), columns - AFFINE)
                    p = r // spacing * 2 * points
                    for q in range(2 * points):
                        line[q] = (
                            (w0 * grid[p + q] + w1 * grid[p + 2 * points + q]) + w2 * grid[p + 4 * points + q]
                        ) + w3 * grid[p + 6 * points + q]
                    for cell in range(points - 3):
                        q = 2 * cell
                        for c in range(cell * spacing, min((cell + 1) * spacing, width)):
                            w0, w1, w2, w3 = weights[0, c], weights[1, c], weights[2, c], weights[3, c]
                            along_rows[c] += ((w0 * line[q] + w1 * line[q + 2]) + w2 * line[q + 4]) + w3 * line[q + 6]
                            along_columns[c] += ((w0 * line[q + 1] + w1 * line[q + 3]) + w2 * line[q + 5]) + w3 * line[q + 7]
                for c in range(width):
                    u = clip(along_rows[c], first, last_row)
                    v = clip(along_columns[c], first, last_column)
                    i, j = math.floor(u), math.floor(v)
                    along_rows[c] = u - F(i)
                    along_columns[c] = v - F(j)
                    places[c] = (i + 1) * pitch + (j + 1) * channels
                for channel in range(channels):
                    for c in range(width):
                        k = places[c] + channel
                        down, right = along_rows[c], along_columns[c]
                        above = frame[k] + right * (frame[k + channels] - frame[k])
                        k += pitch
                        below = frame[k] + right * (frame[k + channels] - frame[k])
                        y[r, c, channel] = (above + down * (below - above)) * gain + offset

    return body
