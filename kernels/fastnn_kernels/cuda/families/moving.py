"""Kernels that move elements of any dtype."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from fastnn_kernels.cuda import strided
from fastnn_kernels.cuda.lowering import THREADS, WARPS, Pointer, Request, Work, ceil, lowering
from fastnn_kernels.shapes import power_of_two, transposed_axes

WORDS = {1: "u8", 2: "u16", 4: "u32", 8: "u64"}
"""Bytes of an element -> type that it is moved as."""

TILE = 32
"""Rows and columns of what `transpose` moves at a time."""

FEWEST = 16
"""Rows and columns of which a matrix must have as many each for tiles to be worth it."""

MATCHES = 4 * WARPS + 2 * 4 * 4 * THREADS
"""Bytes of `struct Matches`."""


def _bits(call: Request, name: str) -> Pointer:
    """The operand as unsigned integers of the same width."""
    return dataclasses.replace(call[name], type=WORDS[call.operands[name].dtype.itemsize])


def _blocks(call: Request, name: str) -> int:
    operand = call.operands[name]
    return strided.blocks(operand.size, operand.dtype.itemsize)


@lowering("transpose", family="moving")
def transpose(call: Request) -> Iterable[Work]:
    x, y = _bits(call, "x"), _bits(call, "y")
    shape, size = call.shape("x"), call.size("y")
    merged = transposed_axes(shape, tuple(axis % len(shape) for axis in call.attributes["axes"])) if size else []
    steps = [math.prod(length for length, _ in merged[k + 1 :]) for k in range(len(merged))]
    axes = [(length, y_step, x_step) for (length, x_step), y_step in zip(merged, steps, strict=True)]
    # The axes along which y and x lie one behind the other: they are the same, or a matrix is transposed.
    (columns, _, x_step), *outer = axes[::-1] or [(1, 1, 1)]
    rows, y_step, _ = next((axis for axis in outer if axis[2] == 1), (1, 1, 1))
    if min(rows, columns) < FEWEST:
        inner_first = [(length, step) for length, step in reversed(merged)] or [(1, 1)]
        yield call.body("permute", x, y, size, *strided.numbers(inner_first), blocks=_blocks(call, "y"))
        return
    outer = [axis for axis in outer if axis[2] != 1] or [(1, 0, 0)]
    matrices = size // (rows * columns)
    yield call.body(
        "transpose", x, y, matrices, rows, columns, x_step, y_step, *strided.numbers(outer),
        blocks=matrices * ceil(rows, TILE) * ceil(columns, TILE),
        shared=TILE * (TILE + 1) * call.operands["x"].dtype.itemsize,
    )  # fmt: skip


@lowering("concatenate", family="moving")
def concatenate(call: Request) -> Iterable[Work]:
    a, b = call.shape("a"), call.shape("b")
    axis = call.attributes["axis"] % len(a)
    sizes = math.prod(a[:axis]), math.prod(a[axis:]), math.prod(b[axis:])
    yield call.body("concatenate", *(_bits(call, name) for name in "abc"), *sizes, blocks=_blocks(call, "c"))


@lowering("slice", family="moving")
def slice_(call: Request) -> Iterable[Work]:
    x, y = call.shape("x"), call.shape("y")
    axis = call.attributes["axis"] % len(x)
    offset = call.attributes["start"] * math.prod(x[axis + 1 :])
    sizes = math.prod(y[:axis]), math.prod(y[axis:]), math.prod(x[axis:]), offset
    yield call.body("slice", _bits(call, "x"), _bits(call, "y"), *sizes, blocks=_blocks(call, "y"))


@lowering("gather", family="moving")
def gather(call: Request) -> Iterable[Work]:
    count, width = call.size("indices"), math.prod(call.shape("x")[1:])
    operands = _bits(call, "x"), call["indices"], _bits(call, "y")
    yield call.body("gather", *operands, count, width, blocks=_blocks(call, "y"))


@lowering("scatter_add", family="moving")
def scatter_add(call: Request) -> Iterable[Work]:
    """About four tiles a multiprocessor, each of at least as many elements as a block has threads."""
    count, rows, width = call.size("indices"), call.shape("dx")[0], math.prod(call.shape("dx")[1:])
    columns = min(power_of_two(width), THREADS)
    across = ceil(width, columns)
    height = max(THREADS // columns, ceil(rows, ceil(4 * call.device.multiprocessors, max(1, across))))
    tiles = ceil(rows, height) * across
    sizes = count, rows, width, height, columns, across, tiles
    operands = call["indices"], call["dy"], call["dx"]
    yield call.body("scatter_add", *operands, *sizes, blocks=tiles, shared=MATCHES)
