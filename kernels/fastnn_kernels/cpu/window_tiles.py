"""Tiles of products that are read where they lie: the products behind a convolution, compiled once for all its kernels.

As in `tiles`, a tile of C stays in vector registers while k runs, and every element is one chain of fused multiply-adds. Here k
runs in two loops: `count` steps, after which A lies further on, `outer` times more. So the rows of A may be pixels of an image,
the inner loop the pixels of a row of taps, and the outer one its rows: nothing is copied.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import carray, types  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic

from fastnn_kernels.cpu.compiling import compile_function, helper
from fastnn_kernels.cpu.intrinsics import int64_pointer
from fastnn_kernels.cpu.processor import lanes, registers
from fastnn_kernels.cpu.tiles import (
    BYTES,
    I64,
    MASK_IS_FREE,
    MOST_ROWS,
    STEADY,
    Vectors,
    caller,
    new_function,
    row_address,
    row_bases,
    transpose_caller,
)

WIDEST = 4
"""Vectors of the widest tile: windows rarely have more outputs."""
TRANSPOSE = WIDEST * MOST_ROWS
"""The place behind those of all tiles."""

TILE = ("a", "a_row", "a_k", "b", "b_k", "c", "c_row", "count", "used", "accumulate", "bias", "outer", "a_next")
"""What a tile is told: address and strides in bytes of A, B and C, the number of k, the used lanes of the last vector, whether
to continue from what C holds, the address of the bias or 0; and how many more times `count` k are taken, A being `a_next` bytes
further each time than they take it."""


def _widest_for(rows: int) -> int:
    """Vectors of the widest tile with so many rows: all of it, a row of B and an element of A must fit into the registers."""
    return min(WIDEST, (registers() - 1) // (rows + 1)) if rows > 1 else WIDEST


def _define_tile(module: ir.Module, float_type: Any, rows: int, vectors: int, masked: bool) -> ir.Function:
    """The function of one tile shape: C[rows, vectors] (+)= A[rows, (outer + 1) count] @ B (+ bias)."""
    name = f"window_tile_{float_type}_{rows}_{vectors}_{'masked' if masked else 'full'}"
    function, builder, word = new_function(module, name, TILE)
    of = Vectors(float_type, builder)
    width = of.lanes * of.size
    a, b, c = (builder.inttoptr(word[label], BYTES) for label in "abc")
    masks = [None] * (vectors - 1) + [of.mask(word["used"]) if masked else None]
    load, start, loop, after, further, done, add, store = (
        function.append_basic_block(label) for label in ["load", "start", "loop", "after", "further", "done", "add", "store"]
    )
    tile = [(i, j) for i in range(rows) for j in range(vectors)]
    c_rows = [of.at(c, builder.mul(word["c_row"], I64(i))) for i in range(rows)]
    steady = rows * vectors >= STEADY
    bases, strides = row_bases(builder, of, a, word["a_row"], rows)
    entry = builder.block
    builder.cbranch(builder.icmp_signed("!=", word["accumulate"], I64(0)), load, start)

    builder.position_at_end(load)
    held = {(i, j): of.load(of.at(c_rows[i], j * width), masks[j]) for i, j in tile}
    builder.branch(start)

    builder.position_at_end(start)
    first = {place: builder.phi(of.vector) for place in tile}
    for place in tile:
        first[place].add_incoming(of.zero, entry)
        first[place].add_incoming(held[place], load)
    builder.cbranch(builder.icmp_signed(">", word["count"], I64(0)), loop, done)

    builder.position_at_end(loop)
    left, outer, b_at = builder.phi(I64), builder.phi(I64), builder.phi(BYTES)
    a_at, stride_at = [builder.phi(BYTES) for _ in bases], [builder.phi(I64) for _ in strides]
    sums = {place: builder.phi(of.vector) for place in tile}
    here, stride_here = ([of.opaque(x) for x in a_at], [of.opaque(x) for x in stride_at]) if steady else (a_at, stride_at)
    b_vectors = [of.load(of.at(b_at, j * width), masks[j]) for j in range(vectors)]
    new = {}
    for i in range(rows):
        splat = of.broadcast(row_address(builder, of, here, stride_here, i))
        new |= {(i, j): of.fma(splat, b_vectors[j], sums[i, j]) for j in range(vectors)}
    left_next, b_next = builder.sub(left, I64(1)), of.at(b_at, word["b_k"])
    a_next = [of.at(pointer, word["a_k"]) for pointer in here]
    builder.cbranch(builder.icmp_signed(">", left_next, I64(0)), loop, after)

    builder.position_at_end(after)
    builder.cbranch(builder.icmp_signed(">", outer, I64(0)), further, done)

    builder.position_at_end(further)
    a_further = [of.at(pointer, word["a_next"]) for pointer in a_next]
    outer_next = builder.sub(outer, I64(1))
    builder.branch(loop)
    for phi, begin, following, again in [
        (left, word["count"], left_next, word["count"]), (outer, word["outer"], outer, outer_next), (b_at, b, b_next, b_next),
        *zip(a_at, bases, a_next, a_further, strict=True), *zip(stride_at, strides, stride_here, stride_here, strict=True),
        *((sums[p], first[p], new[p], new[p]) for p in tile),
    ]:  # fmt: skip
        phi.add_incoming(begin, start)
        phi.add_incoming(following, loop)
        phi.add_incoming(again, further)

    builder.position_at_end(done)
    total = {place: builder.phi(of.vector) for place in tile}
    for place in tile:
        total[place].add_incoming(first[place], start)
        total[place].add_incoming(new[place], after)
    builder.cbranch(builder.icmp_signed("!=", word["bias"], I64(0)), add, store)

    builder.position_at_end(add)
    bias_at = builder.inttoptr(word["bias"], BYTES)
    bias = [of.load(of.at(bias_at, j * width), masks[j]) for j in range(vectors)]
    biased = {(i, j): builder.fadd(total[i, j], bias[j]) for i, j in tile}
    builder.branch(store)

    builder.position_at_end(store)
    for i, j in tile:
        result = builder.phi(of.vector)
        result.add_incoming(total[i, j], done)
        result.add_incoming(biased[i, j], add)
        total[i, j] = result
    for i, j in tile:
        of.store(total[i, j], of.at(c_rows[i], j * width), masks[j])
    builder.ret_void()
    return function


def _define_switch(module: ir.Module, float_type: Any) -> ir.Function:
    """tile(place, full, ...): continue to the function of a tile shape; `full` where no lane is masked out."""
    function, builder, word = new_function(module, f"window_tile_{float_type}", ("place", "full", *TILE))
    leave = function.append_basic_block("leave")
    words = [word[label] for label in TILE]
    index = word["place"]
    if not MASK_IS_FREE:
        index = builder.add(builder.shl(index, I64(1)), builder.zext(builder.icmp_signed("==", word["full"], I64(0)), I64))
    switch = builder.switch(index, leave)
    for rows in range(1, MOST_ROWS + 1):
        for vectors in range(1, _widest_for(rows) + 1):
            for masked in (True,) if MASK_IS_FREE else (False, True):
                place = (rows - 1) * WIDEST + vectors - 1
                block = function.append_basic_block(f"place_{place}")
                switch.add_case(I64(place if MASK_IS_FREE else 2 * place + masked), block)
                builder.position_at_end(block)
                builder.call(_define_tile(module, float_type, rows, vectors, masked), words, tail=True)
                builder.branch(leave)
    builder.position_at_end(leave)
    builder.ret_void()
    return function


TILES = types.void(types.int64, types.int64, types.int64)
"""tiles(place, full, address of the words TILE): the tile of a place; of the place TRANSPOSE, a strip of `tiles` transposed."""


@functools.cache
def tiles(float_type: Any) -> int:
    """The address of the compiled tiles for `float_type`; see TILES."""
    return int(_compile_tiles(float_type).address)


@functools.cache
def _compile_tiles(float_type: Any) -> Any:
    tile = caller("window_tile", _define_switch, float_type)
    transpose = transpose_caller(float_type)
    behind, words_of_tile = TRANSPOSE, len(TILE)

    def body(place: int, full: int, words: int) -> None:
        w = carray(int64_pointer(words), words_of_tile)
        if place == behind:
            transpose((w[0], w[1], w[2], w[3], w[4], w[5]))
        else:
            tile((place, full, w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8], w[9], w[10], w[11], w[12]))

    return compile_function(body, TILES, f"tiles-{float_type}")


def _call_tile(typingctx: Any, address: Any, place: Any, full: Any, words: Any) -> Any:
    """Call the compiled tiles at `address` with a tuple of words."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values = cgutils.unpack_tuple(builder, args[3], len(words))  # type: ignore[no-untyped-call]
        room = cgutils.alloca_once(builder, ir.ArrayType(I64, len(words)))  # type: ignore[no-untyped-call]
        for index, (value, kind) in enumerate(zip(values, words.types, strict=True)):
            builder.store(context.cast(builder, value, kind, types.int64), builder.gep(room, [I64(0), I64(index)]))
        function = ir.FunctionType(ir.VoidType(), [I64] * 3).as_pointer()
        is_full = context.cast(builder, args[2], full, types.int64)
        builder.call(builder.inttoptr(args[0], function), [args[1], is_full, builder.ptrtoint(room, I64)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, full, words), codegen


call_tile: Any = intrinsic(_call_tile)


def tiled_product(float_type: Any) -> Callable[..., None]:
    """A helper that cuts C (rows, columns) (+)= A @ B (+ bias) into tiles and calls those compiled at `tile`."""
    size, lane = float_type.bitwidth // 8, lanes(float_type)
    most_rows, most_vectors = MOST_ROWS, WIDEST
    widest_for = tuple(_widest_for(rows) for rows in range(1, MOST_ROWS + 1))

    @helper
    def product(
        tile: Any, a: Any, a_row: Any, a_k: Any, count: Any, outer: Any, a_next: Any, b: Any, b_k: Any, c: Any, c_row: Any,
        rows: Any, columns: Any, accumulate: Any, bias: Any,
    ) -> None:  # fmt: skip
        row_blocks = (rows + most_rows - 1) // most_rows
        if row_blocks == 0 or columns == 0:
            return
        low, higher = rows // row_blocks, rows % row_blocks
        widest = widest_for[low + (higher > 0) - 1]
        all_vectors = (columns + lane - 1) // lane
        column_blocks = (all_vectors + widest - 1) // widest
        narrow, wider = all_vectors // column_blocks, all_vectors % column_blocks
        i = 0
        for g in range(row_blocks):
            height = low + (g < higher)
            j = 0
            for h in range(column_blocks):
                vectors = narrow + (h < wider)
                used = min(lane, columns - j - (vectors - 1) * lane)
                words = (
                    a + i * a_row, a_row, a_k, b + j * size, b_k, c + i * c_row + j * size, c_row, count, used, accumulate,
                    bias + j * size if bias != 0 else 0, outer, a_next,
                )  # fmt: skip
                call_tile(tile, (height - 1) * most_vectors + vectors - 1, used == lane, words)
                j += vectors * lane
            i += height

    return product
