"""Tiles of products that are read where they lie: the products behind a convolution, compiled once for all its kernels.

As in `tiles`, a tile of C stays in vector registers while k runs, and every element is one chain of fused multiply-adds. Here k
runs in two loops: `count` steps, after which A lies further on, `outer` times more. So the rows of A may be pixels of an image,
the inner loop the pixels of a row of taps, and the outer one its rows: nothing is copied.

Lanes are columns of C, the outputs of a convolution. The last few, which would leave most of a vector idle, are made by tiles
whose lanes are rows of C, where these lie behind each other in A: the pixels of one channel, or taps and their channels.
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
    I32,
    I64,
    MASK_IS_FREE,
    MOST_ROWS,
    STEADY,
    STRIP,
    Vectors,
    caller,
    load_words,
    new_function,
    row_address,
    row_bases,
    row_offsets,
    transpose_caller,
)

WIDEST = 4
"""Vectors of the widest tile: windows rarely have more outputs."""
TRANSPOSE = WIDEST * MOST_ROWS
"""The place behind those of all tiles."""
FOUR = 4
"""Columns are made by rows in fours: so many elements of a row of C are read and written at once."""
MOST_SIDE_VECTORS = 3
"""Vectors of rows that are made at once."""
SIDES = TRANSPOSE + 1
"""The place of the first tile whose lanes are rows."""
SIDE_PAYS, LEAST_LONG = 0.75, 48
"""The part of its multiplications that such a tile may need, and from how many k on: turning what it makes takes as long as 50
or so of them."""

TILE = ("a", "a_row", "a_k", "b", "b_k", "c", "c_row", "count", "used", "accumulate", "bias", "outer", "a_next")
"""What a tile is told: address and strides in bytes of A, B and C, the number of k, the used lanes of the last vector, whether
to continue from what C holds, the address of the bias or 0; and how many more times `count` k are taken, A being `a_next` bytes
further each time than they take it."""

SIDE_TILE = ("a", "last", "a_k", "b", "b_k", "c", "c_row", "count", "used", "accumulate", "bias", "outer", "a_next")
"""What a tile is told whose lanes are rows: `last`, the row that its last vector begins at, which may lie in the one before;
the used columns; all else as TILE."""


def _side_shapes(lane: int) -> list[tuple[int, int]]:
    """Columns and vectors of the tiles whose lanes are rows: those that fit into the registers."""
    columns = range(FOUR, min(2 * FOUR, lane // 2) + 1, FOUR)
    vectors = range(1, MOST_SIDE_VECTORS + 1)
    return [(few, each) for few in columns for each in vectors if (few + 1) * each < registers()]


def _side_place(columns: int, vectors: int) -> int:
    return SIDES + (columns // FOUR - 1) * MOST_SIDE_VECTORS + vectors - 1


def _widest_for(rows: int) -> int:
    """Vectors of the widest tile with so many rows: all of it, a row of B and an element of A must fit into the registers."""
    return min(WIDEST, (registers() - 1) // (rows + 1)) if rows > 1 else WIDEST


Sums = dict[tuple[int, int], ir.Value]
"""The vectors of a tile by their row and column: vectors of columns, or of rows where these are the lanes."""


def _sum_up(
    of: Vectors,
    word: dict[str, ir.Value],
    tile: list[tuple[int, int]],
    pointers: list[ir.Value],
    strides: list[ir.Value],
    hidden: bool,
    held: Callable[[], Sums],
    step: Callable[[list[ir.Value], list[ir.Value], ir.Value, Sums], Sums],
    bias: Callable[[ir.Value], Sums],
) -> Sums:
    """The sums of a tile over all k, begun with 0 or with what `held()` reads, and the bias; built at the end of a function.

    `step(pointers, strides, b, sums)` takes the sums one k further: `pointers` are those into A, `b` is that into B, and
    `strides` are what else stays in registers. `hidden`: the compiler does not see that these are what they were.
    """
    builder, function = of.builder, of.builder.function
    load, start, loop, after, further, done, add, store = (
        function.append_basic_block(label) for label in ["load", "start", "loop", "after", "further", "done", "add", "store"]
    )
    entry, b = builder.block, builder.inttoptr(word["b"], BYTES)
    builder.cbranch(builder.icmp_signed("!=", word["accumulate"], I64(0)), load, start)

    builder.position_at_end(load)
    before = held()
    builder.branch(start)

    builder.position_at_end(start)
    first = {place: builder.phi(of.vector) for place in tile}
    for place in tile:
        first[place].add_incoming(of.zero, entry)
        first[place].add_incoming(before[place], load)
    builder.cbranch(builder.icmp_signed(">", word["count"], I64(0)), loop, done)

    builder.position_at_end(loop)
    left, outer, b_at = builder.phi(I64), builder.phi(I64), builder.phi(BYTES)
    a_at, stride_at = [builder.phi(BYTES) for _ in pointers], [builder.phi(I64) for _ in strides]
    sums = {place: builder.phi(of.vector) for place in tile}
    here, stride_here = ([of.opaque(x) for x in a_at], [of.opaque(x) for x in stride_at]) if hidden else (a_at, stride_at)
    new = step(here, stride_here, b_at, sums)
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
        *zip(a_at, pointers, a_next, a_further, strict=True), *zip(stride_at, strides, stride_here, stride_here, strict=True),
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
    biases = bias(builder.inttoptr(word["bias"], BYTES))
    biased = {place: builder.fadd(total[place], biases[place]) for place in tile}
    builder.branch(store)

    builder.position_at_end(store)
    results = {place: builder.phi(of.vector) for place in tile}
    for place in tile:
        results[place].add_incoming(total[place], done)
        results[place].add_incoming(biased[place], add)
    return results


def _define_tile(module: ir.Module, float_type: Any, rows: int, vectors: int, masked: bool) -> ir.Function:
    """The function of one tile shape: C[rows, vectors] (+)= A[rows, (outer + 1) count] @ B (+ bias)."""
    name = f"window_tile_{float_type}_{rows}_{vectors}_{'masked' if masked else 'full'}"
    function, builder, argument = new_function(module, name, ("words",))
    word = load_words(builder, argument["words"], TILE)
    of = Vectors(float_type, builder)
    width = of.lanes * of.size
    a, c = (builder.inttoptr(word[label], BYTES) for label in "ac")
    masks = [None] * (vectors - 1) + [of.mask(word["used"]) if masked else None]
    tile = [(i, j) for i in range(rows) for j in range(vectors)]
    c_rows = [of.at(c, builder.mul(word["c_row"], I64(i))) for i in range(rows)]
    bases, strides = row_bases(builder, of, a, word["a_row"], rows)

    def held() -> Sums:
        return {(i, j): of.load(of.at(c_rows[i], j * width), masks[j]) for i, j in tile}

    def step(bases: list[ir.Value], strides: list[ir.Value], b: ir.Value, sums: Sums) -> Sums:
        b_vectors = [of.load(of.at(b, j * width), masks[j]) for j in range(vectors)]
        new = {}
        for i in range(rows):
            splat = of.broadcast(row_address(builder, of, bases, strides, i))
            new |= {(i, j): of.fma(splat, b_vectors[j], sums[i, j]) for j in range(vectors)}
        return new

    def bias(at: ir.Value) -> Sums:
        biases = [of.load(of.at(at, j * width), masks[j]) for j in range(vectors)]
        return {(i, j): biases[j] for i, j in tile}

    total = _sum_up(of, word, tile, bases, strides, rows * vectors >= STEADY, held, step, bias)
    for i, j in tile:
        of.store(total[i, j], of.at(c_rows[i], j * width), masks[j])
    builder.ret_void()
    return function


def _define_switch(module: ir.Module, float_type: Any) -> ir.Function:
    """tile(place, full, ...): continue to the function of a tile shape; `full` where no lane is masked out."""
    function, builder, word = new_function(module, f"window_tile_{float_type}", ("place", "full", "words"))
    leave = function.append_basic_block("leave")
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
                builder.call(_define_tile(module, float_type, rows, vectors, masked), [word["words"]], tail=True)
                builder.branch(leave)
    builder.position_at_end(leave)
    builder.ret_void()
    return function


def _transpose_fours(of: Vectors, four: list[ir.Value]) -> list[ir.Value]:
    """Four vectors, of which the elements at each four lanes are transposed: what was a vector is then an element of each."""
    n = of.lanes

    def interleave(low: ir.Value, high: ir.Value, order: tuple[int, int, int, int]) -> ir.Value:
        indices = [base + x % FOUR + (n if x >= FOUR else 0) for base in range(0, n, FOUR) for x in order]
        return of.builder.shuffle_vector(low, high, ir.Constant(ir.VectorType(I32, n), indices))

    low, high = (0, 4, 1, 5), (2, 6, 3, 7)
    pairs = [interleave(four[i], four[i + 1], order) for order in (low, high) for i in (0, 2)]
    near, far = (0, 1, 4, 5), (2, 3, 6, 7)
    return [interleave(pairs[i], pairs[i + 1], order) for i in (0, 2) for order in (near, far)]


def _define_side_tile(module: ir.Module, float_type: Any, columns: int, vectors: int) -> ir.Function:
    """The function of a tile whose lanes are rows: C[lanes vectors, columns] (+)= A[.., (outer + 1) count] @ B (+ bias)."""
    function, builder, argument = new_function(module, f"side_tile_{float_type}_{columns}_{vectors}", ("words",))
    word = load_words(builder, argument["words"], SIDE_TILE)
    of = Vectors(float_type, builder)
    a, c = (builder.inttoptr(word[label], BYTES) for label in "ac")
    fours = ir.VectorType(of.element, FOUR)
    mask = builder.icmp_signed(
        "<", ir.Constant(ir.VectorType(I64, FOUR), list(range(columns - FOUR, columns))), _splat(builder, word["used"])
    )
    starts = [I64(0)]
    for j in range(1, vectors):
        begin = I64(j * of.lanes)
        starts.append(builder.select(builder.icmp_signed("<", begin, word["last"]), begin, word["last"]))
    a_starts = [of.at(a, builder.mul(start, I64(of.size))) for start in starts]
    offsets = row_offsets(builder, columns, word["used"], I64(of.size))
    tile = [(i, j) for i in range(columns) for j in range(vectors)]

    def at(j: int, row: int, column: int) -> ir.Value:
        """Where four columns of a row of a vector are in C."""
        place = builder.add(starts[j], I64(row))
        address = of.at(of.at(c, builder.mul(place, word["c_row"])), column * of.size)
        return builder.bitcast(address, fours.as_pointer())

    def is_last(column: int) -> bool:
        return column + FOUR == columns

    def read(pointer: ir.Value, masked: bool) -> ir.Value:
        if not masked:
            return builder.load(pointer, align=of.size)
        function = of.intrinsic(f"llvm.masked.load.v{FOUR}f{8 * of.size}.p0", fours, pointer.type, I32, mask.type, fours)
        return builder.call(function, [pointer, I32(of.size), mask, ir.Constant(fours, [0.0] * FOUR)])

    def write(value: ir.Value, pointer: ir.Value, masked: bool) -> None:
        if not masked:
            builder.store(value, pointer, align=of.size)
            return
        function = of.intrinsic(
            f"llvm.masked.store.v{FOUR}f{8 * of.size}.p0", ir.VoidType(), fours, pointer.type, I32, mask.type
        )
        builder.call(function, [value, pointer, I32(of.size), mask])

    def held() -> Sums:
        found = {}
        for j in range(vectors):
            for column in range(0, columns, FOUR):
                four = []
                for q in range(FOUR):
                    pieces = [read(at(j, row, column), is_last(column)) for row in range(q, of.lanes, FOUR)]
                    while len(pieces) > 1:
                        size = pieces[0].type.count
                        both = ir.Constant(ir.VectorType(I32, 2 * size), list(range(2 * size)))
                        pieces = [builder.shuffle_vector(*pieces[k : k + 2], both) for k in range(0, len(pieces), 2)]
                    four.append(pieces[0])
                found |= {(column + i, j): value for i, value in enumerate(_transpose_fours(of, four))}
        return found

    def step(pointers: list[ir.Value], strides: list[ir.Value], b: ir.Value, sums: Sums) -> Sums:
        a_vectors = [of.load(pointer) for pointer in pointers]
        new = {}
        for i in range(columns):
            splat = of.broadcast(of.at(b, offsets[i]))
            new |= {(i, j): of.fma(a_vectors[j], splat, sums[i, j]) for j in range(vectors)}
        return new

    def bias(at: ir.Value) -> Sums:
        biases = [of.broadcast(of.at(at, offset)) for offset in offsets]
        return {(i, j): biases[i] for i, j in tile}

    total = _sum_up(of, word, tile, a_starts, [], False, held, step, bias)
    whole, partly, leave = (function.append_basic_block(label) for label in ("whole", "partly", "leave"))
    builder.cbranch(builder.icmp_signed("==", word["used"], I64(columns)), whole, partly)
    for block, masked in ((whole, False), (partly, True)):
        builder.position_at_end(block)
        for j in range(vectors):
            for column in range(0, columns, FOUR):
                four = _transpose_fours(of, [total[column + i, j] for i in range(FOUR)])
                for row in range(of.lanes):
                    value, base = four[row % FOUR], row // FOUR * FOUR
                    piece = ir.Constant(ir.VectorType(I32, FOUR), list(range(base, base + FOUR)))
                    piece = builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), piece)
                    write(piece, at(j, row, column), masked and is_last(column))
        builder.branch(leave)
    builder.position_at_end(leave)
    builder.ret_void()
    return function


def _splat(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """A vector of four times the same."""
    kind = ir.VectorType(value.type, FOUR)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(I32, FOUR), [0] * FOUR))


def _define_side_switch(module: ir.Module, float_type: Any) -> ir.Function:
    """side(place, ...): continue to the function of a tile whose lanes are rows."""
    function, builder, word = new_function(module, f"side_tile_{float_type}", ("place", "words"))
    leave = function.append_basic_block("leave")
    switch = builder.switch(word["place"], leave)
    for columns, vectors in _side_shapes(lanes(float_type)):
        block = function.append_basic_block(f"side_{columns}_{vectors}")
        switch.add_case(I64(_side_place(columns, vectors)), block)
        builder.position_at_end(block)
        builder.call(_define_side_tile(module, float_type, columns, vectors), [word["words"]], tail=True)
        builder.branch(leave)
    builder.position_at_end(leave)
    builder.ret_void()
    return function


TILES = types.void(types.int64, types.int64, types.int64)
"""tiles(place, full, address of the words TILE or SIDE_TILE): the tile of a place; of the place TRANSPOSE, a strip of `tiles`
transposed."""


@functools.cache
def tiles(float_type: Any) -> int:
    """The address of the compiled tiles for `float_type`; see TILES."""
    return int(_compile_tiles(float_type).address)


@functools.cache
def _compile_tiles(float_type: Any) -> Any:
    tile = caller("window_tile", _define_switch, float_type)
    side = caller("side_tile", _define_side_switch, float_type)
    transpose = transpose_caller(float_type)
    behind, words_of_strip = TRANSPOSE, len(STRIP)

    def body(place: int, full: int, words: int) -> None:
        if place < behind:
            tile((place, full, words))
        elif place > behind:
            side((place, words))
        else:
            w = carray(int64_pointer(words), words_of_strip)
            transpose((w[0], w[1], w[2], w[3], w[4], w[5]))

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
    most_few = max((columns for columns, _ in _side_shapes(lane)), default=0)
    four, most_side, sides, pays, least_long = FOUR, MOST_SIDE_VECTORS, SIDES, SIDE_PAYS, LEAST_LONG

    @helper
    def product(
        tile: Any, a: Any, a_row: Any, a_k: Any, count: Any, outer: Any, a_next: Any, b: Any, b_k: Any, c: Any, c_row: Any,
        rows: Any, columns: Any, accumulate: Any, bias: Any,
    ) -> None:  # fmt: skip
        few = columns % lane
        if a_row == size and 0 < few <= most_few and rows >= lane and count * (outer + 1) >= least_long:
            fours = (few + four - 1) // four
            vectors = (rows + lane - 1) // lane
            if vectors * fours * four <= pays * rows:
                columns -= few
                at, blocks, i = columns * size, (vectors + most_side - 1) // most_side, 0
                for g in range(blocks):
                    some = vectors // blocks + (g < vectors % blocks)
                    words = (
                        a + i * size, rows - lane - i, a_k, b + at, b_k, c + i * c_row + at, c_row, count, few, accumulate,
                        bias + at if bias != 0 else 0, outer, a_next,
                    )  # fmt: skip
                    call_tile(tile, sides + (fours - 1) * most_side + some - 1, True, words)
                    i += some * lane
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
