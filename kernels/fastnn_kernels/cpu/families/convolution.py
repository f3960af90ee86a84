"""CPU kernels for convolution of images; `fastnn_kernels.numpy.convolution` is their definition.

Every sum is made by the tiles of `window_tiles`, which read images where they lie: along the pixels of a row of outputs, and
inside of a sum along the channels of a row of taps, then from row to row of them. Nothing is copied but an image into a frame
of zeros where windows reach beyond it. Every element is one chain of fused multiply-adds in the order of the contract,
whichever way it is computed and however a call is cut into parts.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from numba import carray  # type: ignore[attr-defined]

from fastnn_kernels.contract import LEAF_IMAGES, Operand
from fastnn_kernels.cpu.compiling import TYPES, helper, kernel
from fastnn_kernels.cpu.families.data import share
from fastnn_kernels.cpu.families.dense import epilogue
from fastnn_kernels.cpu.families.pooling import inside
from fastnn_kernels.cpu.gemm import call_epilogue
from fastnn_kernels.cpu.intrinsics import POINTERS, float64_from_bits
from fastnn_kernels.cpu.leaves import levels_below
from fastnn_kernels.cpu.mathematics import multiply_add
from fastnn_kernels.cpu.processor import lanes
from fastnn_kernels.cpu.window_tiles import TRANSPOSE, call_tile, tiled_product, tiles
from fastnn_kernels.cpu.windows import largest, spread

Pair = tuple[int, int]
Pool = tuple[Pair, Pair, Pair]

LINE = 64
"""Bytes at multiples of which pieces of scratch memory begin."""

EACH_TAP, CHAIN, TAPS_TOGETHER = range(3)
"""Ways to the gradient of images: a product for each tap; one for all taps, over a frame of the outputs' gradient, in which
zeros are multiplied too; one for the taps of a row, whose gradients lie behind each other, for the same pixel of many rows."""

GOING_BACK = 1.15
"""How much longer products take that go back to memory for their sums after each pixel."""

BLOCK_BYTES, LEAST_ROWS = 2**15, 8
"""Rows of pixels that are made together are so many bytes, or so many rows."""


def _lines(elements: int, itemsize: int) -> int:
    """Bytes for so many elements, in whole lines."""
    return -(-elements * itemsize // LINE) * LINE


def _geometry(
    image: Operand, windows: Operand, size: Pair, *, strides: Pair, padding: Pair, dilation: Pair, groups: int
) -> tuple[int, ...]:
    """B, H, W, C, OH, OW, O, KH, KW, strides, padding, dilation, groups, and the height and width of a frame: what all
    windows together reach over, or, where that lies in the image, 0 and the width of the image."""
    examples, height, width, channels = image.shape
    _, rows, columns, outputs = windows.shape
    tall, wide = (
        (count - 1) * stride + (taps - 1) * spread + 1
        for count, stride, taps, spread in zip((rows, columns), strides, size, dilation, strict=True)
    )
    frame = (0, width) if padding == (0, 0) and tall <= height and wide <= width else (tall, wide)
    return examples, height, width, channels, rows, columns, outputs, *size, *strides, *padding, *dilation, groups, *frame


@helper
def fill_frame(pointer: Any, frame: Any, tall: Any, wide: Any, channels: Any) -> None:
    whole = carray(pointer(frame), tall * wide * channels)
    for k in range(tall * wide * channels):
        whole[k] = 0


@helper
def copy_into_frame(
    pointer: Any, width_of: Any, image: Any, height: Any, width: Any, frame: Any, tall: Any, wide: Any, channels: Any, top: Any,
    left: Any,
) -> None:  # fmt: skip
    """The pixels of an image that lie in the frame; the zeros around them stay."""
    count = max(0, min(width, wide - left)) * channels
    for r in range(min(height, tall - top)):
        source = carray(pointer(image + r * width * channels * width_of), count)
        target = carray(pointer(frame + ((r + top) * wide + left) * channels * width_of), count)
        for k in range(count):
            target[k] = source[k]


def _depthwise(channels: int, outputs: int, groups: int) -> bool:
    """Whether every output is made of one channel, and every channel goes into one output."""
    return groups == channels == outputs > 1


def _pooling(windows: Operand, pool: Pool) -> tuple[int, ...]:
    """Rows and columns of windows, then their size, strides and padding."""
    return *windows.shape[1:3], *(number for pair in pool for number in pair)


def _outputs(operand: Operand, image: Pair | None) -> Operand:
    """The outputs of a convolution, where what is pooled of them is given."""
    return operand if image is None else Operand((operand.shape[0], *image, operand.shape[3]), operand.dtype)


def _conv_sizes(
    x: Operand, w: Operand, b: Operand, y: Operand, *places: Operand, activation: str | None, alpha: float = 0.0,
    image: Pair | None = None, pool: Pool | None = None, **how: Any,
) -> list[int | float]:  # fmt: skip
    z = _outputs(y, image)
    numbers = [*_geometry(x, z, (w.shape[0], w.shape[1]), **how), int(_depthwise(x.shape[3], z.shape[3], how["groups"]))]
    *_, tall, wide, _ = numbers
    pooled = [] if image is None or pool is None else [*_pooling(y, pool), _lines(tall * wide * x.shape[3], x.dtype.itemsize)]
    return [*numbers, float(alpha), *pooled]


def _conv_scratch(
    x: Operand, w: Operand, b: Operand, y: Operand, *places: Operand, activation: str | None, alpha: float = 0.0,
    image: Pair | None = None, pool: Pool | None = None, **how: Any,
) -> int:  # fmt: skip
    """A frame, then the rows of outputs that a row of windows is made of."""
    *_, tall, wide = _geometry(x, _outputs(y, image), (w.shape[0], w.shape[1]), **how)
    rows = 0 if image is None or pool is None else _lines(pool[0][0] * image[1] * y.shape[3], x.dtype.itemsize)
    return _lines(tall * wide * x.shape[3], x.dtype.itemsize) + rows + LINE


def _forward(F: Any, pooled: bool) -> Any:
    """The body of conv2d, or of conv2d_max_pool."""
    pointer = POINTERS[F]
    size = F.bitwidth // 8
    product = tiled_product(F)
    find = largest(F)
    zero = F(0)
    first_word = 5 if pooled else 4

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        x, w, b, y = op[0], op[1], op[2], op[3]
        words = carray(op, 64)[first_word:]
        own, tile, finish = words[1], words[2], words[3]
        examples, height, width, channels, rows, columns, outputs = (
            words[4], words[5], words[6], words[7], words[8], words[9], words[10]
        )  # fmt: skip
        tap_rows, tap_columns, down, right, top, left, apart, beside, groups = (
            words[11], words[12], words[13], words[14], words[15], words[16], words[17], words[18], words[19]
        )  # fmt: skip
        tall, wide, depthwise, alpha = words[20], words[21], words[22], float64_from_bits(words[23])
        inputs, made = channels // groups, outputs // groups
        frame = words[0] + worker * own
        pixel, line, kernel_row = channels * size, wide * channels * size, outputs * size
        if pooled:
            window_rows, window_columns, window_tall, window_wide = words[24], words[25], words[26], words[27]
            window_down, window_right, window_top, window_left = words[28], words[29], words[30], words[31]
            band = frame + words[32]
        else:
            window_rows, window_columns, window_tall, window_wide = rows, 0, 1, 0
            window_down, window_right, window_top, window_left = 1, 0, 0, 0
            band = 0
        begin, end = share(examples * window_rows, 1, part, parts)
        if begin < end and tall:
            fill_frame(pointer, frame, tall, wide, channels)
        framed = -1
        for unit in range(begin, end):
            image = unit // window_rows
            source = x + image * height * width * pixel
            if tall:
                if image != framed:
                    copy_into_frame(pointer, size, source, height, width, frame, tall, wide, channels, top, left)
                framed, source = image, frame
            start = unit % window_rows * window_down - window_top
            first, last = inside(start, window_tall, rows)
            for r in range(start + first, start + last):
                target = band + (r - start - first) * columns * kernel_row if pooled else y + unit * columns * kernel_row
                above = source + r * down * line
                if depthwise:
                    bias = carray(pointer(b), channels)
                    for column in range(columns):
                        out = carray(pointer(target + column * kernel_row), channels)
                        for c in range(channels):
                            out[c] = zero
                        for i in range(tap_rows):
                            for j in range(tap_columns):
                                at = carray(pointer(above + i * apart * line + (column * right + j * beside) * pixel), channels)
                                tap = carray(pointer(w + (i * tap_columns + j) * kernel_row), channels)
                                for c in range(channels):
                                    out[c] = multiply_add(at[c], tap[c], out[c])
                        for c in range(channels):
                            out[c] += bias[c]
                else:
                    # One chain where the channels of a row of taps lie behind each other, else one a row of taps.
                    together = groups == 1 and beside == 1
                    count = tap_columns * channels if together else inputs
                    repeats = tap_rows - 1 if together else tap_columns - 1
                    skip = (apart * line if together else beside * pixel) - count * size
                    for group in range(groups):
                        aside = group * made * size
                        for i in range(1 if together else tap_rows):
                            is_last = together or i == tap_rows - 1
                            product(
                                tile, above + i * apart * line + group * inputs * size, right * pixel, size, count, repeats,
                                skip, w + i * tap_columns * inputs * kernel_row + aside, kernel_row, target + aside, kernel_row,
                                columns, made, i > 0, b + aside if is_last else 0,
                            )  # fmt: skip
                if finish != 0:
                    call_epilogue(finish, target, target, kernel_row, columns, outputs, alpha)
            for column in range(window_columns):
                corner = column * window_right - window_left
                near, far = inside(corner, window_wide, columns)
                window = (unit * window_columns + column) * outputs
                find((
                    y + window * size, op[4] + window, band + (corner + near) * kernel_row, last - first, far - near,
                    columns * kernel_row, kernel_row, first * window_wide + near, window_wide, outputs,
                ))  # fmt: skip

    return body


def _forward_addresses(F: Any, *, activation: str | None, **how: Any) -> list[int]:
    return [tiles(F), epilogue(F, activation)]


@kernel("conv2d", sizes=_conv_sizes, scratch=_conv_scratch, addresses=_forward_addresses)
def conv2d(F: Any) -> Any:
    return _forward(F, False)


@kernel("conv2d_max_pool", sizes=_conv_sizes, scratch=_conv_scratch, addresses=_forward_addresses)
def conv2d_max_pool(F: Any) -> Any:
    return _forward(F, True)


@helper
def unpool(
    put: Any, size: Any, slopes: Any, places: Any, image: Any, target: Any, pitch: Any, rows: Any, columns: Any, outputs: Any,
    windows: Any,
) -> None:  # fmt: skip
    """The gradient of the outputs (rows, columns, outputs) of an image: what its windows have, where their largest pixels are.

    `windows`: rows and columns of them, their size, strides and padding. What is in no window stays as it is.
    """
    count = outputs * size
    for row in range(windows[0]):
        start = row * windows[4] - windows[6]
        first, last = inside(start, windows[2], rows)
        for column in range(windows[1]):
            corner = column * windows[5] - windows[7]
            near, far = inside(corner, windows[3], columns)
            window = ((image * windows[0] + row) * windows[1] + column) * outputs
            put((
                slopes + window * size, places + window, target + (start + first) * pitch + (corner + near) * count,
                last - first, far - near, pitch, count, first * windows[3] + near, windows[3], outputs,
            ))  # fmt: skip


class _InputPlan(NamedTuple):
    """How the gradient of images is made."""

    way: int
    """One of those above."""
    tall: int
    """Rows of the frame of dz, or of the block of pixels."""
    wide: int
    """Pixels of a row of it."""
    nbytes: int
    """Of that memory."""


def _input_plan(
    dz: Operand, w: Operand, dx: Operand, *, strides: Pair, padding: Pair, dilation: Pair, groups: int
) -> _InputPlan:
    tap_rows, tap_columns, _, outputs = w.shape
    _, height, width, channels = dx.shape
    size, (_, rows, columns, _) = dz.dtype.itemsize, dz.shape
    # The frame of a chain begins in front of dz by the taps less the padding, and holds all of dz.
    fits = padding[0] < tap_rows and padding[1] < tap_columns and rows <= height + padding[0] and columns <= width + padding[1]
    if groups == 1 and strides == dilation == (1, 1) and fits:
        zeros = height * width / max(1, rows * columns)
        if zeros * _lanes_of_each(channels, dz) <= GOING_BACK * _lanes_of_each(tap_columns * channels, dz):
            tall, wide = height + tap_rows - 1, width + tap_columns - 1
            return _InputPlan(CHAIN, tall, wide, _lines(tall * wide * outputs, size))
    wide = max((columns - 1) * strides[1] + (tap_columns - 1) * dilation[1] + 1, width + padding[1])
    if groups == 1 and dilation[1] == 1:
        together = min(height, max(LEAST_ROWS, BLOCK_BYTES // (wide * channels * size)))
        return _InputPlan(TAPS_TOGETHER, together, wide, _lines(together * wide * channels, size))
    return _InputPlan(EACH_TAP, 1, wide, _lines(wide * channels, size))


def _lanes_of_each(columns: int, operand: Operand) -> float:
    """How many lanes of vectors a product has for each of so many columns."""
    lane = lanes(TYPES[operand.dtype.name])
    return -(-columns // lane) * lane / max(1, columns)


def _input_sizes(dy: Operand, *others: Operand, image: Pair | None = None, pool: Pool | None = None, **how: Any) -> list[int]:
    *_, w, dx = others
    dz = _outputs(dy, image)
    way, tall, wide, nbytes = _input_plan(dz, w, dx, **how)
    turned = _turned_bytes(w)
    numbers = [*_geometry(dx, dz, (w.shape[0], w.shape[1]), **how)[:16], tall, wide]
    numbers += [int(_depthwise(dx.shape[3], dz.shape[3], how["groups"])), way, nbytes, nbytes + turned]
    return numbers if image is None or pool is None else [*numbers, *_pooling(dy, pool)]


def _turned_bytes(w: Operand) -> int:
    """For w transposed, of which up to a vector of rows is written further than it goes."""
    lane = LINE // w.dtype.itemsize
    return _lines(math.prod(w.shape) + lane * (w.shape[1] * w.shape[2] + lane), w.dtype.itemsize)


def _input_scratch(dy: Operand, *others: Operand, image: Pair | None = None, pool: Pool | None = None, **how: Any) -> int:
    """A row, a block or a frame, the taps of w transposed, and, where it is needed, the gradient of the outputs of an image."""
    *_, w, dx = others
    dz = _outputs(dy, image)
    slopes = 0 if image is None else _lines(math.prod(dz.shape[1:]), dz.dtype.itemsize)
    return _input_plan(dz, w, dx, **how).nbytes + _turned_bytes(w) + slopes + LINE


def _backward_input(F: Any, pooled: bool) -> Any:
    """The body of conv2d_backward_input, or of conv2d_max_pool_backward_input."""
    pointer = POINTERS[F]
    size, lane = F.bitwidth // 8, lanes(F)
    product = tiled_product(F)
    put = spread(F)
    zero = F(0)
    transposing, chain, taps_together = TRANSPOSE, CHAIN, TAPS_TOGETHER
    first_word = 4 if pooled else 3

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        given, w, dx = op[0], op[first_word - 2], op[first_word - 1]
        words = carray(op, 64)[first_word:]
        own, tile = words[1], words[2]
        examples, height, width, channels, rows, columns, outputs = (
            words[3], words[4], words[5], words[6], words[7], words[8], words[9]
        )  # fmt: skip
        tap_rows, tap_columns, down, right, top, left, apart, beside, groups = (
            words[10], words[11], words[12], words[13], words[14], words[15], words[16], words[17], words[18]
        )  # fmt: skip
        tall, wide, depthwise, way = words[19], words[20], words[21], words[22]
        chained, together = way == chain, way == taps_together
        inputs, made, taps = channels // groups, outputs // groups, tap_rows * tap_columns
        row_memory = words[0] + worker * own
        turned, unpooled, windows = row_memory + words[23], row_memory + words[24], words[25:]
        pixel, kernel_row, slope_row = channels * size, outputs * size, columns * outputs * size
        begin, end = share(examples * height, 1, part, parts)
        if begin == end:
            return
        if not depthwise:
            # The taps transposed, (O, C / groups) each; the last one first where those of a pixel are one chain, and those of a
            # row beside each other, (O, KW C), where these are one product. A transpose writes rows in whole vectors of them,
            # over what comes behind.
            turned_row = (tap_columns if together else 1) * inputs * size
            for place in range(taps):
                tap = taps - 1 - place if chained else place
                if together:
                    there = turned + (place // tap_columns * outputs * tap_columns + place % tap_columns) * inputs * size
                else:
                    there = turned + place * outputs * inputs * size
                for c in range(0, inputs, lane):
                    source, target = w + (tap * inputs + c) * kernel_row, there + c * size
                    if c + lane <= inputs:
                        call_tile(tile, transposing, True, (source, kernel_row, target, turned_row, outputs, lane))
                        continue
                    at = carray(pointer(source), (inputs - c, outputs))
                    for o in range(outputs):
                        out = carray(pointer(target + o * turned_row), inputs - c)
                        for k in range(inputs - c):
                            out[k] = at[k, o]
        above, before = tap_rows - 1 - top, tap_columns - 1 - left
        if chained:
            fill_frame(pointer, row_memory, tall, wide, outputs)
        elif pooled:
            fill_frame(pointer, unpooled, rows, columns, outputs)
        framed, line = -1, begin
        while line < end:
            image, r = line // height, line % height
            target = dx + line * width * pixel
            made_rows = min(tall, height - r, end - line) if together else 1
            line += made_rows
            slopes = unpooled if pooled else given + image * rows * slope_row
            if image != framed:
                framed = image
                if pooled:
                    there = row_memory + (above * wide + before) * kernel_row if chained else unpooled
                    pitch = wide * kernel_row if chained else slope_row
                    unpool(put, size, given, op[1], image, there, pitch, rows, columns, outputs, windows)
                elif chained:
                    copy_into_frame(
                        pointer, size, slopes, rows, columns, row_memory, tall, wide, outputs, above, before
                    )  # fmt: skip
            if chained:
                count = tap_columns * outputs
                product(
                    tile, row_memory + r * wide * kernel_row, kernel_row, size, count, tap_rows - 1,
                    wide * kernel_row - count * size, turned, pixel, target, pixel, width, channels, 0, 0,
                )  # fmt: skip
                continue
            whole = carray(pointer(row_memory), made_rows * wide * channels)
            for k in range(made_rows * wide * channels):
                whole[k] = zero
            if together:
                # Each pixel of all rows of dz that one row of taps takes to these rows.
                for back in range(tap_rows):
                    i = tap_rows - 1 - back
                    shift = i * apart - top
                    first = max(0, (r - shift + down - 1) // down)
                    count = min(rows, (r + made_rows - 1 - shift) // down + 1) - first
                    if count > 0:
                        into = row_memory + (first * down + shift - r) * wide * pixel
                        for column in range(columns):
                            product(
                                tile, slopes + first * slope_row + column * kernel_row, slope_row, size, outputs, 0, 0,
                                turned + i * outputs * turned_row, turned_row, into + column * right * pixel,
                                down * wide * pixel, count, tap_columns * channels, 1, 0,
                            )  # fmt: skip
                for k in range(made_rows):
                    kept = carray(pointer(row_memory + (k * wide + left) * pixel), width * channels)
                    out = carray(pointer(target + k * width * pixel), width * channels)
                    for n in range(width * channels):
                        out[n] = kept[n]
                continue
            place = r + top
            first = max(0, (place - (tap_rows - 1) * apart + down - 1) // down)
            for row in range(first, min(rows, place // down + 1)):
                away = place - row * down
                if away % apart != 0:
                    continue
                i = away // apart
                for back in range(tap_columns):
                    j = tap_columns - 1 - back
                    tap, into = i * tap_columns + j, row_memory + j * beside * pixel
                    if depthwise:
                        weights = carray(pointer(w + tap * kernel_row), channels)
                        for column in range(columns):
                            slope = carray(pointer(slopes + row * slope_row + column * kernel_row), channels)
                            out = carray(pointer(into + column * right * pixel), channels)
                            for c in range(channels):
                                out[c] = multiply_add(slope[c], weights[c], out[c])
                        continue
                    for group in range(groups):
                        product(
                            tile, slopes + row * slope_row + group * made * size, kernel_row, size, made, 0, 0,
                            turned + (tap * outputs + group * made) * inputs * size, inputs * size,
                            into + group * inputs * size, right * pixel, columns, inputs, 1, 0,
                        )  # fmt: skip
            kept, out = carray(pointer(row_memory + left * pixel), width * channels), carray(pointer(target), width * channels)
            for k in range(width * channels):
                out[k] = kept[k]

    return body


def _only_tiles(F: Any, **how: Any) -> list[int]:
    return [tiles(F)]


@kernel("conv2d_backward_input", sizes=_input_sizes, scratch=_input_scratch, addresses=_only_tiles)
def conv2d_backward_input(F: Any) -> Any:
    return _backward_input(F, False)


@kernel("conv2d_max_pool_backward_input", sizes=_input_sizes, scratch=_input_scratch, addresses=_only_tiles)
def conv2d_max_pool_backward_input(F: Any) -> Any:
    return _backward_input(F, True)


def _weight_sizes(
    x: Operand, dy: Operand, *others: Operand, size: Pair, image: Pair | None = None, pool: Pool | None = None, **how: Any
) -> list[int]:
    dz, leaves = _outputs(dy, image), others[-1]
    numbers = [*_geometry(x, dz, size, **how), int(_depthwise(x.shape[3], dz.shape[3], how["groups"])), *leaves.shape]
    *_, tall, wide, _, _, _ = numbers
    unpooled = LINE + _lines(tall * wide * x.shape[3], x.dtype.itemsize)
    return numbers if image is None or pool is None else [*numbers, unpooled, *_pooling(dy, pool)]


def _weight_scratch(
    x: Operand, dy: Operand, *others: Operand, size: Pair, image: Pair | None = None, pool: Pool | None = None, **how: Any
) -> int:
    """A one, a frame and, where that is needed, the gradient of the outputs of an image."""
    dz = _outputs(dy, image)
    *_, tall, wide = _geometry(x, dz, size, **how)
    slopes = 0 if image is None else _lines(math.prod(dz.shape[1:]), dz.dtype.itemsize)
    return LINE + _lines(tall * wide * x.shape[3], x.dtype.itemsize) + slopes


def _backward_weight(F: Any, pooled: bool) -> Any:
    """The body of conv2d_backward_weight, or of conv2d_max_pool_backward_weight."""
    pointer = POINTERS[F]
    size = F.bitwidth // 8
    product = tiled_product(F)
    put = spread(F)
    zero, one = F(0), F(1)
    leaf_images, aside = LEAF_IMAGES, LINE
    first_word = 4 if pooled else 3

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        x, given, leaves = op[0], op[1], op[first_word - 1]
        words = carray(op, 64)[first_word:]
        own, tile = words[1], words[2]
        examples, height, width, channels, rows, columns, outputs = (
            words[3], words[4], words[5], words[6], words[7], words[8], words[9]
        )  # fmt: skip
        tap_rows, tap_columns, down, right, top, left, apart, beside, groups = (
            words[10], words[11], words[12], words[13], words[14], words[15], words[16], words[17], words[18]
        )  # fmt: skip
        tall, wide, depthwise, leaf_count, numbers = words[19], words[20], words[21], words[22], words[23]
        inputs, made = channels // groups, outputs // groups
        ones = words[0] + worker * own
        frame, unpooled, windows = ones + aside, ones + words[24], words[25:]
        pixel, line, kernel_row = channels * size, wide * channels * size, outputs * size
        # A part is some rows of taps of some leaves.
        begin, end = share(leaf_count * tap_rows, 1, part, parts)
        if begin == end:
            return
        carray(pointer(ones), 1)[0] = one
        if tall:
            fill_frame(pointer, frame, tall, wide, channels)
        if pooled:
            fill_frame(pointer, unpooled, rows, columns, outputs)
        for leaf in range(begin // tap_rows, (end - 1) // tap_rows + 1):
            first_row, last_row = max(begin - leaf * tap_rows, 0), min(end - leaf * tap_rows, tap_rows)
            target = leaves + leaf * numbers * size
            for image in range(leaf * leaf_images, min((leaf + 1) * leaf_images, examples)):
                goes_on = image > leaf * leaf_images
                source = x + image * height * width * pixel
                if tall:
                    copy_into_frame(pointer, size, source, height, width, frame, tall, wide, channels, top, left)
                    source = frame
                slopes = given + image * rows * columns * kernel_row
                if pooled:
                    slopes = unpooled
                    unpool(put, size, given, op[2], image, slopes, columns * kernel_row, rows, columns, outputs, windows)
                for i in range(first_row, last_row):
                    above = source + i * apart * line
                    gradient = target + i * tap_columns * inputs * kernel_row
                    if depthwise:
                        for j in range(tap_columns):
                            sums = carray(pointer(gradient + j * kernel_row), channels)
                            if not goes_on:
                                for c in range(channels):
                                    sums[c] = zero
                            for r in range(rows):
                                for column in range(columns):
                                    at = carray(
                                        pointer(above + r * down * line + (column * right + j * beside) * pixel), channels
                                    )
                                    slope = carray(pointer(slopes + (r * columns + column) * kernel_row), channels)
                                    for c in range(channels):
                                        sums[c] = multiply_add(at[c], slope[c], sums[c])
                        continue
                    # Taps that lie behind each other are rows of one product, else those of each tap.
                    together = groups == 1 and beside == 1
                    for group in range(groups):
                        skip = group * made * size
                        for j in range(1 if together else tap_columns):
                            product(
                                tile, above + j * beside * pixel + group * inputs * size, size, right * pixel, columns,
                                rows - 1, down * line - columns * right * pixel, slopes + skip, kernel_row,
                                gradient + j * inputs * kernel_row + skip, kernel_row,
                                tap_columns * channels if together else inputs, made, goes_on, 0,
                            )  # fmt: skip
                if first_row == 0:
                    # A fused multiply-add by one is an addition.
                    product(
                        tile, ones, 0, 0, rows * columns, 0, 0, slopes, kernel_row,
                        target + tap_rows * tap_columns * inputs * kernel_row, kernel_row, 1, outputs, goes_on, 0,
                    )  # fmt: skip

    return body


@kernel("conv2d_backward_weight", sizes=_weight_sizes, scratch=_weight_scratch, addresses=_only_tiles)
def conv2d_backward_weight(F: Any) -> Any:
    return _backward_weight(F, False)


@kernel("conv2d_max_pool_backward_weight", sizes=_weight_sizes, scratch=_weight_scratch, addresses=_only_tiles)
def conv2d_max_pool_backward_weight(F: Any) -> Any:
    return _backward_weight(F, True)


WIDTH = 512
"""Columns of the leaves that are added at a time."""
LEVELS = 40
"""Levels of the tree of leaves: more than any number of images needs."""


@kernel(
    "add_leaves",
    sizes=lambda leaves, dw, db: [leaves.shape[0], dw.size, db.size],
    scratch=lambda leaves, dw, db: _lines((LEVELS + 1) * WIDTH, leaves.dtype.itemsize),
)
def add_leaves(F: Any) -> Any:
    pointer = POINTERS[F]
    size = F.bitwidth // 8
    wide = WIDTH
    zero = F(0)

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        leaves, scratch, count, weights, biases = op[0], op[3] + worker * op[4], op[5], op[6], op[7]
        begin, end = share(weights + biases, 16, part, parts)
        at = begin
        while at < end:
            # A chunk lies in dw or in db.
            in_weights = at < weights
            columns = min(wide, (min(end, weights) if in_weights else end) - at)
            target = op[1] + at * size if in_weights else op[2] + (at - weights) * size
            out = carray(pointer(target), columns)
            if count == 0:
                for j in range(columns):
                    out[j] = zero
            for leaf in range(count):
                row = carray(pointer(leaves + (leaf * (weights + biases) + at) * size), columns)
                last = leaf == count - 1
                for j in range(columns):
                    out[j] = row[j]
                levels, level = levels_below(leaf, last), 0
                while levels >> level:
                    if (levels >> level) & 1:
                        waits = carray(pointer(scratch + level * wide * size), columns)
                        for j in range(columns):
                            out[j] = waits[j] + out[j]
                    level += 1
                if not last:
                    waits = carray(pointer(scratch + level * wide * size), columns)
                    for j in range(columns):
                        waits[j] = out[j]
            at += columns

    return body
