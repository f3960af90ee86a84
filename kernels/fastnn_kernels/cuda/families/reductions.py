"""Sums, means and maxima along axes, and their converse."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from fastnn_kernels.contract import Operand
from fastnn_kernels.cuda import strided
from fastnn_kernels.cuda.lowering import THREADS, WARPS, Request, Work, ceil, lowering, reading
from fastnn_kernels.shapes import broadcast_axes, grouped_axes, power_of_two

WARP = THREADS // WARPS

TILES = 1024
"""Blocks that a reduction is cut into where it is long enough: more than any GPU has multiprocessors, and the same on each, so
that so are the results."""

SHORTEST, LONGEST = 16, 256
"""Entries that one thread reduces in a piece: fewer are not worth a piece, and more would make the sum inaccurate."""


@dataclass(frozen=True)
class Split:
    """How the body `reduce` walks through (outer, length, inner)."""

    lanes: int
    columns: int
    pieces: int
    piece: int
    tiles: int


def split(outer: int, length: int, inner: int) -> Split:
    """Columns up to a warp first, so that reading is coalesced; then lanes, as long as each has four entries to read and, if
    `outer` fills the GPU anyway, no more than a warp; the rest of a block goes to more columns or more of `outer`."""
    columns = min(power_of_two(inner), WARP)
    most = WARP if outer * ceil(inner, columns) >= TILES * WARPS else THREADS
    lanes = min(power_of_two(ceil(length, 4)), most // columns)
    columns = min(power_of_two(inner), THREADS // lanes)
    tiles = ceil(outer, THREADS // (lanes * columns)) * ceil(inner, columns)
    wanted = min(ceil(TILES, tiles), ceil(length, SHORTEST * lanes)) if tiles else 1
    piece = ceil(length, max(1, wanted, ceil(length, LONGEST * lanes)))
    pieces = ceil(length, piece) if piece else 1
    return Split(lanes, columns, pieces, piece, tiles * pieces)


@lowering("sum", "mean", "max", family="reductions")
def reduction(call: Request) -> Iterable[Work]:
    """One segment of reduced axes after another, the innermost first; a long one in pieces, which are then reduced likewise."""
    axis, outputs = call.attributes["axis"], call.size("y")
    count = math.prod(call.shape("x")[i] for i in axis)
    groups = [(reduced, size) for reduced, size, _ in grouped_axes(call.shape("x"), axis)]
    if not count or not outputs or not any(reduced for reduced, _ in groups):
        groups = [(True, count), (False, outputs)]
    x, shared = call["x"], THREADS * (8 if call.F == "double" else 4)
    while any(reduced for reduced, _ in groups):
        at = max(i for i, (reduced, _) in enumerate(groups) if reduced)
        outer, length, inner = (
            math.prod(size for _, size in part) for part in (groups[:at], groups[at : at + 1], groups[at + 1 :])
        )
        way = split(outer, length, inner)
        groups[at] = (way.pieces > 1, way.pieces)
        last = not any(reduced for reduced, _ in groups)
        y = call["y"] if last else call.temporary(outer * way.pieces * inner)
        divisor = float(count) if last and call.name == "mean" else 1.0
        yield call.body(
            "reduce", x, y, outer, length, inner, way.pieces, way.piece, way.lanes, way.columns, divisor,
            blocks=way.tiles, shared=shared, template=("max_reduction" if call.name == "max" else "sum_reduction",),
        )  # fmt: skip
        x = reading(y)


@lowering("expand", family="reductions")
def expand(call: Request) -> Iterable[Work]:
    axis, y = call.attributes["axis"], call.operands["y"]
    kept = tuple(1 if i in axis else size for i, size in enumerate(y.shape))
    divisor = float(math.prod(y.shape[i] for i in axis)) if call.attributes["mean"] else 1.0
    axes = strided.numbers(broadcast_axes(y, Operand(kept, call.operands["x"].dtype)))
    blocks = strided.blocks(y.size, y.dtype.itemsize)
    yield call.body("expand", call["x"], call["y"], y.size, divisor, *axes, blocks=blocks)
