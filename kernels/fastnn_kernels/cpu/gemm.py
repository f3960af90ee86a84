"""The matrix product behind every dense kernel: C (M, N) = epilogue(A (M, K) @ B (K, N)).

The law: every element is `acc = 0; for k in 0 .. K-1: acc = fma(a[i, k], b[k, j], acc)`, rounded in the dtype at every
step, in this order; then the bias is added and the activation applied. So bits depend on nothing else: not on tiles, on
packing, on threads or on the width of the vectors. Blocks over K load C and continue.

Where K are the rows of a mini-batch, there is a chain for each leaf of them, and the sums of leaves are added in a tree (see
`leaves`), tile by tile: the sum of an odd leaf finds its first partner while it is in registers. Sums that wait lie in
scratch memory: those of a block of leaves in a tile of their own, those of several blocks in an array as large as a block of C.

A tile of C stays in vector registers while k runs (`tiles`). Around it lies the usual nest: blocks of columns, blocks of K,
groups of row blocks, tiles. Blocks of B are copied to panels of a tile's width where rows are reused often enough, and always
where B is transposed (blocks of vectors are transposed in registers); groups of A are copied to panels of a tile's rows where
it is transposed, or where the stride of its rows would fight over the same cache sets. Where B is not copied, its last rows
are, because whole vectors of it are read. Panels live in the scratch memory of the part. Beside its work, a tile fetches what
the next row block, or the next group of panels, reads of A.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastnn_kernels.contract import Operand
from fastnn_kernels.cpu.compiling import TYPES, compile_function, helper
from fastnn_kernels.cpu.intrinsics import POINTERS, int64_pointer
from fastnn_kernels.cpu.leaves import levels_below
from fastnn_kernels.cpu.processor import lanes, level, registers
from fastnn_kernels.cpu.tiles import (
    DOT_ROWS,
    FAR,
    I64,
    MOST_ROWS,
    STEADY,
    WIDEST,
    copy_caller,
    dot_caller,
    tile_caller,
    transpose_caller,
    widest_for,
)  # fmt: skip


def _call_epilogue(typingctx: Any, address: Any, tile: Any, at: Any, row: Any, rows: Any, columns: Any, alpha: Any) -> Any:
    """Call the epilogue at `address`; see EPILOGUE."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = ir.FunctionType(ir.VoidType(), [I64] * 5 + [ir.DoubleType()]).as_pointer()
        builder.call(builder.inttoptr(args[0], function), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6, types.float64), codegen


call_epilogue: Any = intrinsic(_call_epilogue)

EPILOGUE = types.void(*[types.int64] * 5, types.float64)
"""epilogue(address in C, address in the array that the derivative is taken at, bytes of a row of either, rows, columns,
alpha): what is done in place to a finished block of C."""

CORE_ARGUMENTS = (
    "a", "a_row", "a_k", "b", "b_k", "b_column", "c", "m", "n", "k", "leaf", "scratch", "bias", "epilogue", "at", "part",
    "parts",
)  # fmt: skip
CORE = types.void(*[types.int64] * len(CORE_ARGUMENTS), types.float64)
"""The compiled product. Strides are in bytes; one of those of B is that of an element. C is C-contiguous. `bias`, `epilogue`
and `at` may be 0; `scratch` is that of the part. The last argument is alpha.

`leaf`: how many k there are in a leaf; at least `k` for one chain. With more leaves there is no bias."""

BLOCK_K = {4: 800, 8: 400}
"""Most k of a block by the bytes of an element: the rows of A that a row of tiles reads stay in the first-level cache."""
PACKED_K = 256
"""The same where A is packed, which leaves more of the cache to B."""
PANEL = 16 * 1024
"""Bytes of a panel of B that is used once: half of a first-level cache."""
BLOCK_B = 500 * 1024
"""Most bytes of a block of B that several row blocks read: half of a small second-level cache."""
PACKED_B = 1000 * 1024 if level() == "avx512" else BLOCK_B
"""The same where A is transposed into panels, once for each block of B."""
SHORT = 24
"""Up to so many k, writing C costs as much as computing it: low and wide tiles write it in longer runs."""
CLASH_A = 4096
"""Rows that start a multiple of so many bytes apart fall into one set of the first-level cache: then A is packed. So is a
transposed A, whose elements for one tile are few in each row: that is only a copy."""
REUSED = 11
"""Row blocks from which on it is worth packing B; each of them reads all of it."""
REUSED_FAR, LONG = 6, 80 * 1024
"""The same where rows of B lie far apart, and a tile's columns of it are more bytes than stay in a first-level cache."""
PACKING_B = 30
"""To read B and pack it takes about as long as to multiply so many rows by it,"""
READING_A, PACKING_A = 1, 6
"""and to read A as long as to multiply it by so many halves of vectors; to pack it, where it is transposed, by so many."""
GROUP = 4
"""Row blocks whose panels of A are packed together, so that whole cache lines are read."""
STRETCH = 16
"""The k that are copied to all panels of a group, and to all vectors of a panel of B, before the next ones: so lines that these
share, and lines beside each other, are read while they are in a cache, where those of rows far apart fall into few sets."""
PARTNERS = 64 * 16
"""Bytes of the table of the sums that a tile is added to: an entry a level."""
EDGE = 2 * WIDEST
"""Vectors of the copy of the last rows of a B that is not packed, to which the reads of whole vectors could go beyond it."""
LEVELS = 2
"""Levels of the tree of leaves inside one block of K."""
TREE_BLOCKS = 64
"""Row blocks of a block of C whose sums of several blocks of K wait beside each other,"""
TREE_COLUMNS = 256
"""and its columns: what is used most of them stays in a second-level cache."""


def _core(float_type: Any) -> Any:
    """The body of the compiled product for one float type."""
    size = float_type.bitwidth // 8
    lane = lanes(float_type)
    vector = lane * size
    most_rows, most_vectors, register_count = MOST_ROWS, WIDEST, registers()
    pitch = -(-MOST_ROWS // lane) * vector  # bytes of one k in a panel of A
    most_k, most_b, most_panel = BLOCK_K[size], BLOCK_B, PANEL
    group, short, dot_rows = GROUP, SHORT, DOT_ROWS
    tree_levels, tree_blocks, tree_columns, tile_bytes = LEVELS, TREE_BLOCKS, TREE_COLUMNS, registers() * vector
    table_bytes = PARTNERS
    edge_bytes, steady = EDGE * vector, STEADY
    pointer = POINTERS[float_type]
    reused, reused_far, far_apart, long = REUSED, REUSED_FAR, FAR, LONG
    clash_a, most_stretch = CLASH_A, STRETCH
    reading_a, packing_a, packing_b = READING_A, PACKING_A, PACKING_B
    packed_k, packed_b = PACKED_K, PACKED_B
    lowest = max(rows for rows in range(1, MOST_ROWS + 1) if widest_for(rows) == WIDEST)
    low = max(rows for rows in range(1, MOST_ROWS + 1) if widest_for(rows) >= WIDEST // 2)
    tile, copy, transpose, dot = (make(float_type) for make in (tile_caller, copy_caller, transpose_caller, dot_caller))

    @helper
    def waiting(level: int, tiles: int, tile_row: int, blocks: int, block_bytes: int, offset: int, block_row: int) -> Any:
        """Where the sums of a level wait for their partners, and the stride of their rows."""
        if level < tree_levels:
            return tiles + level * tile_bytes, tile_row
        return blocks + (level - tree_levels) * block_bytes + offset, block_row

    def core(
        a: int, a_row: int, a_k: int, b: int, b_k: int, b_column: int, c: int, m: int, n: int, k: int, leaf: int,
        scratch: int, bias: int, epilogue: int, at: int, part: int, parts: int, alpha: float,
    ) -> None:  # fmt: skip
        # The part's share: a rectangle of rows and whole vectors of columns, pairs of them where there are many. Of the ways to
        # cut C into as many, the one that leaves the largest share the least work, with reading and packing A and B.
        is_transposed = b_column != size
        all_vectors = (n + lane - 1) // lane
        first_row, end_row, first_column, end_column = 0, m, 0, n
        if parts > 1:
            step = 2 if all_vectors >= 4 * parts else 1
            steps = (all_vectors + step - 1) // step
            along_a = packing_a if a_row == size else reading_a
            least, across = 0, 0
            for pieces in range(1, parts + 1):
                if parts % pieces == 0:
                    share_rows, share_vectors = (m * pieces + parts - 1) // parts, (steps + pieces - 1) // pieces * step
                    work = (share_rows + packing_b) * (2 * share_vectors + along_a)
                    if across == 0 or work < least:
                        least, across = work, pieces
            down, row, column = parts // across, part // across, part % across
            first_row, end_row = m * row // down, m * (row + 1) // down
            first_column = steps * column // across * step * lane
            end_column = min(n, steps * (column + 1) // across * step * lane)
        rows, columns = end_row - first_row, end_column - first_column
        if rows <= 0 or columns <= 0:
            return

        c_row = n * size

        # Few rows times a transposed B: dot products.
        if is_transposed and rows <= dot_rows and a_k == size and k >= lane and bias == 0 and leaf >= k:
            rest = k % lane
            for j in range(first_column, end_column, lane):
                used = min(lane, end_column - j)
                a_tile, b_tile, c_tile = a + first_row * a_row, b + j * b_column, c + first_row * c_row + j * size
                dot((rows, a_tile, a_row, b_tile, b_column, c_tile, c_row, k - rest, used))
                if rest:
                    transpose((b_tile + (k - rest) * size, b_column, scratch, vector, rest, used))
                    a_tile += (k - rest) * size
                    tail = (scratch, vector, c_tile, c_row, rest, used, 1, 0, 0, 0, 0, 0, 0, 0, a_tile, 0)
                    tile((rows - 1) * 4, used == lane, (a_tile, a_row, a_k, *tail))
            if epilogue != 0:
                offset = first_row * c_row + first_column * size
                call_epilogue(epilogue, c + offset, at + offset, c_row, rows, columns, alpha)
            return

        # Tiles and blocks.
        tall = most_rows
        if k <= short and columns >= 4 * lane:
            tall = low if columns < most_vectors * lane else lowest
        row_blocks = (rows + tall - 1) // tall
        tallest = (rows + row_blocks - 1) // row_blocks
        widest = most_vectors
        while tallest > 1 and widest * (tallest + 1) >= register_count:
            widest >>= 1
        far = b_k >= far_apart and k * widest * vector > long
        pack_b = is_transposed or (row_blocks >= (reused_far if far else reused) and k > 8)
        pack_a = columns >= 8 * lane and row_blocks > 1 and k > short and (a_row == size or a_row % clash_a == 0)
        block_k, block_n, blocks_m = k, columns, row_blocks
        if leaf < k:
            block_k = min(leaf << tree_levels, k)
        elif pack_b or pack_a or row_blocks > 1:
            longest = packed_k if pack_a else most_k
            block_k = (k + longest - 1) // longest
            if block_k > 0:
                block_k = (k + block_k - 1) // block_k
        unit = widest * lane
        most = packed_b if pack_a and leaf >= k else most_b
        if row_blocks > 1 and block_k * ((columns + lane - 1) // lane) * vector > most:
            block_n = max(1, most // (block_k * unit * size)) * unit
            blocks = (columns + block_n - 1) // block_n
            block_n = (columns + blocks * unit - 1) // (blocks * unit) * unit
        elif row_blocks == 1 and pack_b and leaf >= k:
            block_k = min(block_k, most_panel // (unit * size))
        partners, tiles = scratch, scratch + table_bytes
        blocks, block_row, block_bytes = tiles + tree_levels * tile_bytes, 0, 0
        table = int64_pointer(partners)
        if leaf < k:
            scratch = blocks
            if block_k < k:
                block_n = min(block_n, tree_columns)
                blocks_m = (row_blocks + tree_blocks - 1) // tree_blocks
                blocks_m = (row_blocks + blocks_m - 1) // blocks_m
                block_row = min(block_n, columns) * size
                block_bytes = min(blocks_m * tallest, rows) * block_row
                levels = ((k + leaf - 1) // leaf - 1) >> tree_levels
                while levels > 0:
                    scratch += block_bytes
                    levels >>= 1
                scratch = (scratch + 63) // 64 * 64
        edges, edge_rows, edge_first = scratch, 0, 0
        scratch += edge_bytes
        if not pack_b and end_column == n and n % lane and tallest * widest >= steady:
            edge_rows = min(k, (lane - n % lane + n - 1) // n)
            edge_first = max(0, n // lane - most_vectors + 1) * lane
            source, target = pointer(b + (k - edge_rows) * b_k + edge_first * size), pointer(edges)
            for i in range(edge_rows * n - edge_first):
                target[i] = source[i]
        group_blocks = group if pack_a else blocks_m
        a_panels = scratch
        a_panel = block_k * pitch
        b_panels = scratch + (group * a_panel + lane * pitch if pack_a else 0)

        for j0 in range(first_column, end_column, block_n):
            j1 = min(j0 + block_n, end_column)
            for s0 in range(0, row_blocks, blocks_m):
                s1, s_row = min(s0 + blocks_m, row_blocks), first_row + rows * s0 // row_blocks
                k0 = 0
                while True:
                    count = min(block_k, k - k0)
                    b_block = b + k0 * b_k + j0 * b_column
                    for g0 in range(s0, s1, group_blocks):
                        g1 = min(g0 + group_blocks, s1)
                        if pack_a:
                            stretch = most_stretch if a_row == size else count
                            for done in range(0, count, stretch):
                                some = min(stretch, count - done)
                                for g in range(g0, g1):
                                    i0 = first_row + rows * g // row_blocks
                                    i1 = first_row + rows * (g + 1) // row_blocks
                                    panel = a_panels + (g - g0) * a_panel + done * pitch
                                    source = a + i0 * a_row + (k0 + done) * a_k
                                    for i in range(0, i1 - i0, lane):
                                        used = min(lane, i1 - i0 - i)
                                        if a_row == size:
                                            copy((source + i * a_row, a_k, panel + i * size, pitch, some, used))
                                        else:
                                            transpose((source + i * a_row, a_row, panel + i * size, pitch, some, used))
                        for g in range(g0, g1):
                            i0 = first_row + rows * g // row_blocks
                            i1 = first_row + rows * (g + 1) // row_blocks
                            if pack_a:
                                a_tile, a_tile_row, a_tile_k = a_panels + (g - g0) * a_panel, size, pitch
                            else:
                                a_tile, a_tile_row, a_tile_k = a + i0 * a_row + k0 * a_k, a_row, a_k
                            c_block = c + i0 * c_row
                            last = k0 + count >= k
                            panel = b_panels
                            # What the next row block reads of A is fetched beside this one's work.
                            ahead, ahead_k, ahead_tile = a_tile, 0, 0
                            if not pack_a and a_k == size and 0 < k == count and g + 1 < s1:
                                rows_ahead = first_row + rows * (g + 2) // row_blocks - i1
                                ahead, ahead_tile = a + i1 * a_row, rows_ahead * a_row * unit // (j1 - j0 + unit - 1)
                                ahead_k = (ahead_tile + k - 1) // k
                            elif pack_a and a_row == size and g1 < s1:  # for the next panels: a line of each row
                                ahead = a + (first_row + rows * g1 // row_blocks) * size + k0 * a_k + (g - g0) * 64
                                ahead_k, ahead_tile = a_k, a_tile - ahead
                            j = j0
                            while j < j1:
                                vectors = (j1 - j + lane - 1) // lane
                                shape = 3
                                while (1 << shape) > widest or (1 << shape) > vectors:
                                    shape -= 1
                                width = 1 << shape
                                if pack_b:
                                    # Just before its first use. A panel that is used once is soon overwritten by the next.
                                    b_tile, b_tile_k = panel, width * vector
                                    if g == s0:
                                        stretch = max(count, 1) if is_transposed else most_stretch
                                        for done in range(0, count, stretch):
                                            some = min(stretch, count - done)
                                            for v in range(width):
                                                source = b_block + (j - j0 + v * lane) * b_column + done * b_k
                                                used = min(lane, j1 - j - v * lane)
                                                target = panel + v * vector + done * b_tile_k
                                                if is_transposed:
                                                    transpose((source, b_column, target, b_tile_k, some, used))
                                                else:
                                                    copy((source, b_k, target, b_tile_k, some, used))
                                    if row_blocks > 1:
                                        panel += count * b_tile_k
                                else:
                                    b_tile, b_tile_k = b_block + (j - j0) * size, b_k
                                used = min(lane, j1 - j - (width - 1) * lane)
                                slot = (i1 - i0 - 1) * 4 + shape
                                edge, edge_copy = 0, 0
                                if edge_rows > 0 and used < lane:
                                    edge = b + (k - edge_rows) * b_k + j * size
                                    edge_copy = edges + (j - edge_first) * size
                                if leaf >= k:
                                    if edge != 0 and b_tile >= edge:
                                        b_tile += edge_copy - edge
                                    tile(slot, used == lane, (
                                        a_tile, a_tile_row, a_tile_k, b_tile, b_tile_k, c_block + j * size, c_row, count, used,
                                        k0 > 0, bias + j * size if last and bias != 0 else 0, 0, 0, 0, 0,
                                        edge, edge_copy, ahead, ahead_k,
                                    ))  # fmt: skip
                                else:
                                    offset = (i0 - s_row) * block_row + (j - j0) * size
                                    done = 0
                                    while done < count:  # two leaves at a time, which are each other's partners
                                        some = min(leaf, count - done)
                                        more = min(leaf, count - done - some)
                                        index = (k0 + done) // leaf + (1 if more > 0 else 0)
                                        is_last = k0 + done + some + more >= k
                                        levels, level, partner_count = levels_below(index, is_last), 0, 0
                                        while levels >> level:
                                            if (levels >> level) & 1:
                                                table[2 * partner_count], table[2 * partner_count + 1] = waiting(
                                                    level, tiles, width * vector, blocks, block_bytes, offset, block_row
                                                )
                                                partner_count += 1
                                            level += 1
                                        target, target_row = c_block + j * size, c_row
                                        if not is_last:
                                            target, target_row = waiting(
                                                level, tiles, width * vector, blocks, block_bytes, offset, block_row
                                            )
                                        b_leaf = b_tile + done * b_tile_k
                                        if edge != 0 and b_leaf >= edge:
                                            b_leaf += edge_copy - edge
                                        tile(slot, used == lane, (
                                            a_tile + done * a_tile_k, a_tile_row, a_tile_k, b_leaf, b_tile_k,
                                            target, target_row, some, used, 0, 0, partners, partner_count, more, tiles,
                                            edge, edge_copy, ahead + done * ahead_k, ahead_k,
                                        ))  # fmt: skip
                                        done += some + more
                                j += width * lane
                                ahead += ahead_tile
                                if pack_a:
                                    ahead_k, ahead_tile = 0, 0
                            if last and epilogue != 0:
                                call_epilogue(
                                    epilogue, c_block + j0 * size, at + i0 * c_row + j0 * size, c_row, i1 - i0, j1 - j0, alpha
                                )
                    k0 += count
                    if k0 >= k:
                        break

    return core


@functools.cache
def core(float_type: Any) -> int:
    """The address of the compiled product for `float_type`; see CORE."""
    return int(_compile_core(float_type).address)


@functools.cache
def _compile_core(float_type: Any) -> Any:
    return compile_function(_core(float_type), CORE, f"gemm-{float_type}")


def _call_core(typingctx: Any, address: Any, words: Any, alpha: Any) -> Any:
    """Call the product at `address` with the words CORE_ARGUMENTS and alpha."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values = cgutils.unpack_tuple(builder, args[1], len(words))  # type: ignore[no-untyped-call]
        values = [context.cast(builder, x, kind, types.int64) for x, kind in zip(values, words.types, strict=True)]
        function = ir.FunctionType(ir.VoidType(), [I64] * len(CORE_ARGUMENTS) + [ir.DoubleType()]).as_pointer()
        builder.call(builder.inttoptr(args[0], function), [*values, args[2]])
        return context.get_dummy_value()

    return types.void(types.int64, words, types.float64), codegen


call_core: Any = intrinsic(_call_core)


def scratch_bytes(c: Operand, k: int, leaf: int | None = None) -> int:
    """Bytes of private memory that one part of a product C over `k` may use: at most 1.2 MB, and with leaves what waits."""
    float_type = TYPES[c.dtype.name]
    (m, n), size, lane = c.shape, c.dtype.itemsize, lanes(float_type)
    count = min(k, BLOCK_K[size])
    unit = WIDEST * lane
    # A block of B may be written a vector of k further than it goes, and so may a group of A.
    b_bytes = min(max(PACKED_B, count * unit * size), count * -(-n // unit) * unit * size) + lane * unit * size
    a_bytes = (GROUP * min(k, PACKED_K) + lane) * -(-MOST_ROWS // lane) * lane * size
    waiting = 0
    if leaf is not None and k > leaf:
        levels = (-(-k // leaf) - 1).bit_length()
        block = min(TREE_BLOCKS * MOST_ROWS, m) * min(TREE_COLUMNS, n) * size
        waiting = PARTNERS + LEVELS * registers() * lane * size + max(levels - LEVELS, 0) * block
    return -(-(a_bytes + b_bytes + waiting + EDGE * lane * size) // 64) * 64 + 64
