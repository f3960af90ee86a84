"""CPU kernels for pooling; `fastnn_kernels.numpy.pooling` is their definition.

Parts are rows: of windows forward, of pixels backward, where each pixel gathers from its windows in their order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray  # type: ignore[attr-defined]

from fastnn_kernels.contract import Operand
from fastnn_kernels.cpu.compiling import helper, kernel
from fastnn_kernels.cpu.families.data import share
from fastnn_kernels.cpu.intrinsics import POINTERS, uint8_pointer
from fastnn_kernels.cpu.windows import largest, spread

Pair = tuple[int, int]


def _sizes(images: Operand, windows: Operand, size: Pair, strides: Pair, padding: Pair) -> tuple[int, ...]:
    """Examples, H, W, C, OH, OW, then the attributes."""
    return *images.shape, *windows.shape[1:3], *size, *strides, *padding


@helper
def inside(start: Any, size: Any, length: Any) -> Any:
    """The pixels of a window that lie in the image, counted from the window's first one: from the first on, up to the last."""
    return max(0, -start), min(size, length - start)


@helper
def windows_of(pixel: Any, size: Any, stride: Any, count: Any) -> Any:
    """The windows that a pixel is in, counted with the padding: from the first on, up to the last."""
    return max(0, (pixel - size + stride) // stride), min(count, pixel // stride + 1)


@kernel("max_pool2d", sizes=lambda x, y, places, **how: _sizes(x, y, **how))
def max_pool2d(F: Any) -> Any:
    width_of = F.bitwidth // 8
    find = largest(F)

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        examples, height, width, channels, rows, columns = op[3], op[4], op[5], op[6], op[7], op[8]
        tall, wide, down, right, top, left = op[9], op[10], op[11], op[12], op[13], op[14]
        begin, end = share(examples * rows, 1, part, parts)
        for row in range(begin, end):
            image = row // rows * height
            start = row % rows * down - top
            first_row, last_row = inside(start, tall, height)
            for column in range(columns):
                corner = column * right - left
                first, last = inside(corner, wide, width)
                window = (row * columns + column) * channels
                pixel = op[0] + ((image + start + first_row) * width + corner + first) * channels * width_of
                find((
                    op[1] + window * width_of, op[2] + window, pixel, last_row - first_row, last - first,
                    width * channels * width_of, channels * width_of, first_row * wide + first, wide, channels,
                ))  # fmt: skip

    return body


@kernel("max_pool2d_backward", sizes=lambda dy, places, dx, **how: _sizes(dx, dy, **how))
def max_pool2d_backward(F: Any) -> Any:
    pointer = POINTERS[F]
    width_of = F.bitwidth // 8
    zero = F(0)
    put = spread(F)

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        examples, height, width, channels, rows, columns = op[3], op[4], op[5], op[6], op[7], op[8]
        tall, wide, down, right, top, left = op[9], op[10], op[11], op[12], op[13], op[14]
        begin, end = share(examples * height, 1, part, parts)
        for line in range(begin, end):
            image = line // height * rows
            pixel = line % height + top
            target = op[2] + line * width * channels * width_of
            whole = carray(pointer(target), width * channels)
            for k in range(width * channels):
                whole[k] = zero
            first_row, last_row = windows_of(pixel, tall, down, rows)
            for row in range(first_row, last_row):
                number = (pixel - row * down) * wide
                for column in range(columns):
                    corner = column * right - left
                    first, last = inside(corner, wide, width)
                    window = ((image + row) * columns + column) * channels
                    if down >= tall and right >= wide:  # a pixel is in one window at most
                        put((
                            op[0] + window * width_of, op[1] + window, target + (corner + first) * channels * width_of, 1,
                            last - first, 0, channels * width_of, number + first, 0, channels,
                        ))  # fmt: skip
                        continue
                    slope = carray(pointer(op[0] + window * width_of), channels)
                    place = carray(uint8_pointer(op[1] + window), channels)
                    for k in range(first, last):
                        dx = carray(pointer(target + (corner + k) * channels * width_of), channels)
                        here = np.uint8(number + k)
                        for c in range(channels):
                            dx[c] += slope[c] if place[c] == here else zero

    return body


def _summed(F: Any, square: bool) -> Any:
    """The body of y = the mean of the pixels of a window, or the root of the sum of their squares."""
    pointer = POINTERS[F]
    width_of = F.bitwidth // 8
    zero, element = F(0), F

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        examples, height, width, channels, rows, columns = op[2], op[3], op[4], op[5], op[6], op[7]
        tall, wide, down, right, top, left = op[8], op[9], op[10], op[11], op[12], op[13]
        begin, end = share(examples * rows, 1, part, parts)
        for row in range(begin, end):
            image = row // rows * height
            start = row % rows * down - top
            first_row, last_row = inside(start, tall, height)
            for column in range(columns):
                corner = column * right - left
                first, last = inside(corner, wide, width)
                y = carray(pointer(op[1] + (row * columns + column) * channels * width_of), channels)
                for c in range(channels):
                    y[c] = zero
                for r in range(first_row, last_row):
                    at = op[0] + ((image + start + r) * width + corner) * channels * width_of
                    for k in range(first, last):
                        pixel = carray(pointer(at + k * channels * width_of), channels)
                        for c in range(channels):
                            y[c] += pixel[c] * pixel[c] if square else pixel[c]
                pixels = element((last_row - first_row) * (last - first))
                for c in range(channels):
                    y[c] = np.sqrt(y[c]) if square else y[c] / pixels

    return body


@kernel("mean_pool2d", sizes=lambda x, y, **how: _sizes(x, y, **how))
def mean_pool2d(F: Any) -> Any:
    return _summed(F, False)


@kernel("l2_pool2d", sizes=lambda x, y, **how: _sizes(x, y, **how))
def l2_pool2d(F: Any) -> Any:
    return _summed(F, True)


def _gathered(F: Any, norm: bool) -> Any:
    """The body of dx = the sum of dy / pixels of a window, or x times that of dy / y, over the windows that a pixel is in."""
    pointer = POINTERS[F]
    width_of = F.bitwidth // 8
    zero, one, element = F(0), F(1), F
    first_word = 4 if norm else 2

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        words = carray(op, first_word + 12)[first_word:]
        examples, height, width, channels, rows, columns = words[0], words[1], words[2], words[3], words[4], words[5]
        tall, wide, down, right, top, left = words[6], words[7], words[8], words[9], words[10], words[11]
        begin, end = share(examples * height, 1, part, parts)
        for line in range(begin, end):
            image = line // height * rows
            pixel = line % height + top
            target = op[first_word - 1] + line * width * channels * width_of
            whole = carray(pointer(target), width * channels)
            for k in range(width * channels):
                whole[k] = zero
            first_row, last_row = windows_of(pixel, tall, down, rows)
            for row in range(first_row, last_row):
                upper, lower = inside(row * down - top, tall, height)
                for column in range(columns):
                    corner = column * right - left
                    first, last = inside(corner, wide, width)
                    pixels = element((lower - upper) * (last - first))
                    window = ((image + row) * columns + column) * channels * width_of
                    slope, y = carray(pointer(op[0] + window), channels), carray(pointer(op[first_word - 2] + window), channels)
                    for k in range(first, last):
                        dx = carray(pointer(target + (corner + k) * channels * width_of), channels)
                        for c in range(channels):
                            if norm:
                                dx[c] += zero if y[c] == zero else slope[c] / (y[c] if y[c] != zero else one)
                            else:
                                dx[c] += slope[c] / pixels
            if norm:
                x = carray(pointer(op[1] + line * width * channels * width_of), width * channels)
                for k in range(width * channels):
                    whole[k] *= x[k]

    return body


@kernel("mean_pool2d_backward", sizes=lambda dy, dx, **how: _sizes(dx, dy, **how))
def mean_pool2d_backward(F: Any) -> Any:
    return _gathered(F, False)


@kernel("l2_pool2d_backward", sizes=lambda dy, x, y, dx, **how: _sizes(dx, dy, **how))
def l2_pool2d_backward(F: Any) -> Any:
    return _gathered(F, True)
