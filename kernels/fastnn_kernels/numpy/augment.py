"""Definition of the kernels that change images at random: what is drawn for each of them, and the changed images.

Only + - * / and floor are used, each rounded on its own, so that every kernel set finds the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastnn_kernels.contract import AFFINE, TRANSFORMS, control_points
from fastnn_kernels.numpy.philox import UNIFORM_BITS, WORD, philox

__all__ = ["draw_transforms", "transform_images"]

Array = np.ndarray

DRAWS = 12
"""Words of an example before those of its displacements: one for each of TRANSFORMS, up to an integer of blocks."""

# (pi/2)**k / k! with the signs of the Taylor series, for k = 1, 3, ... 15 and k = 0, 2, ... 16: the sine and the cosine of
# quarters of a turn. Up to half of one, where they are used, the first term left out is below 6e-17.
SINE = (
    1.5707963267948966, -0.6459640975062463, 0.07969262624616705, -0.004681754135318688, 0.00016044118478735983,
    -3.598843235212085e-06, 5.692172921967927e-08, -6.688035109811468e-10,
)  # fmt: skip
COSINE = (
    1.0, -1.2337005501361697, 0.25366950790104803, -0.02086348076335296, 0.0009192602748394266,
    -2.5202042373060607e-05, 4.710874778818172e-07, -6.386603083791852e-09, 6.565963114979473e-11,
)  # fmt: skip


def polynomial(coefficients: Sequence[float], x: Array) -> Array:
    """By Horner's rule; coefficients from the lowest power on."""
    total = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total


def sine_and_cosine(turns: Array) -> tuple[Array, Array]:
    """Of angles from -1/2 to 1/2 turn, float64: the Taylor series around the nearest quarter of a turn."""
    quarter = np.floor(4.0 * turns + 0.5)
    rest = 4.0 * turns - quarter
    s = rest * polynomial(SINE, rest * rest)
    c = polynomial(COSINE, rest * rest)
    beside, behind = np.abs(quarter) == 1.0, np.abs(quarter) == 2.0
    sine = np.where(beside, quarter * c, np.where(behind, -s, s))
    cosine = np.where(beside, -quarter * s, np.where(behind, -c, c))
    return sine, cosine


def block_count(columns: int) -> int:
    """Philox blocks of an example whose row of transforms has so many columns."""
    return (DRAWS + columns - AFFINE + 3) // 4


def draw_transforms(
    step: Array,
    transforms: Array,
    *,
    key: tuple[int, int],
    size: tuple[int, int],
    ranges: Sequence[tuple[float, float]],
    pivot: float,
    amplitude: float,
) -> None:
    """Word w of example b is word w % 4 of Philox of the counter (n low, n high, step low, step high), n = b * blocks + w // 4.

    Number k of TRANSFORMS is low + (high - low) u, u the uniform of word k, and all up to the affine map is computed in float64
    and rounded once. Displacement e is amplitude (2 u - 1), u the uniform of word DRAWS + e. With z, k, s the zoom, the tangent
    of the shear and the shift, R the rotation, F the flips and S = [[1, 0], [k, 1]], a point p of the image, as (row, column)
    from its middle, is moved to z R S F p + s; the row holds the inverse of that map.
    """
    examples, columns = transforms.shape
    blocks = block_count(columns)
    n = np.arange(examples * blocks, dtype=np.uint64)
    count = int(step[()])
    drawn = np.stack(philox((n & np.uint64(WORD), n >> np.uint64(32), count & WORD, count >> 32 & WORD), key), axis=-1)
    uniforms = (drawn.reshape(examples, 4 * blocks) >> np.uint64(32 - UNIFORM_BITS)) * 2.0**-UNIFORM_BITS

    values = (low + (high - low) * uniforms[:, index] for index, (low, high) in enumerate(ranges))
    named = dict(zip(TRANSFORMS, values, strict=True))
    sine, cosine = sine_and_cosine(named["rotation"])
    opposite, adjacent = sine_and_cosine(named["shear"])
    shear, zoom = opposite / adjacent, named["zoom"]
    flip_rows = np.where(named["flip_rows"] < 0, -1.0, 1.0)
    flip_columns = np.where(named["flip_columns"] < 0, -1.0, 1.0)
    m00, m01 = flip_rows * (cosine / zoom), flip_rows * (sine / zoom)
    m10, m11 = flip_columns * ((-sine - shear * cosine) / zoom), flip_columns * ((cosine - shear * sine) / zoom)
    row, column = (size[0] - 1) * 0.5, (size[1] - 1) * 0.5
    from_row, from_column = row + named["shift_rows"], column + named["shift_columns"]
    m02 = row - (m00 * from_row + m01 * from_column)
    m12 = column - (m10 * from_row + m11 * from_column)
    gain = named["contrast"]
    offset = (pivot - gain * pivot) + named["brightness"]
    transforms[:, :AFFINE] = np.stack((m00, m01, m02, m10, m11, m12, gain, offset), axis=-1)

    between = (2.0 * uniforms[:, DRAWS : DRAWS + columns - AFFINE] - 1.0).astype(transforms.dtype)  # exact
    transforms[:, AFFINE:] = transforms.dtype.type(amplitude) * between


def transform_images(x: Array, transforms: Array, y: Array, *, spacing: int, fill: float, edge: bool) -> None:
    """Bilinear sampling; the image lies in a frame of `fill`, one pixel wide before it and two behind."""
    examples, height, width, channels = x.shape
    if not x.size:
        return
    row, column = np.arange(height, dtype=x.dtype)[:, None], np.arange(width, dtype=x.dtype)
    m00, m01, m02, m10, m11, m12, gain, offset = transforms[:, :AFFINE].T[:, :, None, None]
    along_rows = (m00 * row + m01 * column) + m02
    along_columns = (m10 * row + m11 * column) + m12
    if spacing:
        displacements = splines(transforms[:, AFFINE:], height, width, spacing)
        along_rows, along_columns = along_rows + displacements[..., 0], along_columns + displacements[..., 1]
    first, beyond = (0, 1) if edge else (-1, 0)
    along_rows = np.clip(along_rows, first, height - beyond)
    along_columns = np.clip(along_columns, first, width - beyond)
    upper, left = np.floor(along_rows), np.floor(along_columns)
    down, right = (along_rows - upper)[..., None], (along_columns - left)[..., None]

    framed = np.full((examples, height + 3, width + 3, channels), fill, x.dtype)
    framed[:, 1:-2, 1:-2] = x
    example, i, j = np.arange(examples)[:, None, None], upper.astype(np.int64) + 1, left.astype(np.int64) + 1

    def between(left_pixel: Array, right_pixel: Array, share: Array) -> Array:
        y: Array = left_pixel + share * (right_pixel - left_pixel)
        return y

    above = between(framed[example, i, j], framed[example, i, j + 1], right)
    below = between(framed[example, i + 1, j], framed[example, i + 1, j + 1], right)
    y[...] = between(above, below, down) * gain[..., None] + offset[..., None]


def splines(points: Array, height: int, width: int, spacing: int) -> Array:
    """Uniform cubic B-splines (B, height, width, 2) of control points, first along each row of them, then down the columns.

    Source: de Boor, A Practical Guide to Splines, chapter X.
    """
    grid = points.reshape(len(points), control_points(height, spacing), control_points(width, spacing), 2)

    def interpolate(axis: int, values: Array, length: int) -> Array:
        places = np.arange(length)
        cell, inside = places // spacing, places % spacing
        terms = []
        for tap, weight in enumerate(spline_weights(inside.astype(values.dtype) / values.dtype.type(spacing))):
            weight = weight.reshape((-1,) + (1,) * (values.ndim - axis - 1))
            terms.append(weight * np.take(values, cell + tap, axis=axis))
        total: Array = ((terms[0] + terms[1]) + terms[2]) + terms[3]
        return total

    return interpolate(1, interpolate(2, grid, width), height)


def spline_weights(t: Array) -> tuple[Array, Array, Array, Array]:
    """Of the four control points around a place that lies `t` behind the second of them, 0 <= t < 1."""
    sixth = t.dtype.type(1 / 6)
    s = 1 - t
    tt, ss = t * t, s * s
    return (
        ss * s * sixth,
        (4 - (6 - 3 * t) * tt) * sixth,
        (4 - (6 - 3 * s) * ss) * sixth,
        tt * t * sixth,
    )
