"""Which pixels of images lie in the windows of pooling and of convolutions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

Pair = tuple[int, int]
Index = tuple[slice, slice, slice]


def taps(
    image: tuple[int, ...], windows: tuple[int, ...], size: Pair, strides: Pair, padding: Pair, dilation: Pair = (1, 1)
) -> Iterator[tuple[Index, Index]]:
    """For each pixel of a window, row by row: the windows in which it lies in the image, and where; two indices of arrays."""
    for tap in np.ndindex(*size):
        offsets = (place * step - before for place, step, before in zip(tap, dilation, padding, strict=True))
        pairs = [_along(*axis) for axis in zip(offsets, image[1:3], windows[1:3], strides, strict=True)]
        (rows, image_rows), (columns, image_columns) = pairs
        yield (slice(None), rows, columns), (slice(None), image_rows, image_columns)


def _along(offset: int, length: int, count: int, stride: int) -> tuple[slice, slice]:
    """The windows along an axis of which the pixel `offset` behind their place lies in the image, and these pixels."""
    first = max(0, -(offset // stride))
    number = max(0, min(count - 1, (length - 1 - offset) // stride) - first + 1)
    start = first * stride + offset
    return slice(first, first + number), slice(start, start + (number - 1) * stride + 1, stride) if number else slice(0, 0)
