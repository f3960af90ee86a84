"""Tiles of a matrix product: LLVM functions, written here for each shape, that keep a tile of C in vector registers.

While k runs, `rows` broadcast elements of A meet `vectors` vectors of B. One function is generated for every tile shape
(`_define_tile`); for each number of rows there is one, so that any M is cut into nearly equal row blocks. Only the last vector
of a tile may be partly used; it is written through a mask. Beside them: copies of matrices to panels, also transposed, and
tiles of few rows times a transposed B. `gemm` is the nest around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastnn_kernels.cpu.intrinsics import emit_prefetch
from fastnn_kernels.cpu.processor import lanes, level, registers

I64 = ir.IntType(64)
I32 = ir.IntType(32)
BYTES = ir.IntType(8).as_pointer()

MOST_ROWS = {"avx512": 14, "avx2": 6, "generic": 4}[level()]
"""Rows of the tallest tile."""
WIDEST = 8
"""Vectors of the widest tile: few rows take wide tiles, which read B in longer runs."""
DOT_ROWS = min(5, MOST_ROWS)
"""Up to so many rows, a transposed B is not worth a panel."""
MASK_IS_FREE = level() == "avx512"
"""Whether the last vector of every tile may go through a mask; elsewhere full tiles have functions of their own."""


def widest_for(rows: int) -> int:
    """Vectors of the widest tile with so many rows: a power of two.

    All of the tile, one row of B and one element of A must fit into the registers; a lone row takes B from memory.
    """
    vectors = WIDEST
    while rows > 1 and vectors * (rows + 1) + 1 > registers():
        vectors //= 2
    return vectors


def _slot(rows: int, vectors: int) -> int:
    """Where the function of a tile shape stands in the switch of `tile`."""
    return (rows - 1) * 4 + vectors.bit_length() - 1


class Vectors:
    """Vector instructions for one float type, written into one block of LLVM code."""

    def __init__(self, float_type: Any, builder: ir.IRBuilder) -> None:
        self.builder = builder
        self.lanes = lanes(float_type)
        self.element = ir.FloatType() if float_type == types.float32 else ir.DoubleType()
        self.size = 4 if float_type == types.float32 else 8
        self.vector = ir.VectorType(self.element, self.lanes)
        self.suffix = f"v{self.lanes}f{8 * self.size}"
        self.zero = ir.Constant(self.vector, [ir.Constant(self.element, 0.0)] * self.lanes)

    def intrinsic(self, name: str, result: ir.Type, *arguments: ir.Type) -> ir.Function:
        kind = ir.FunctionType(result, arguments)
        return cgutils.get_or_insert_function(self.builder.module, kind, name)  # type: ignore[no-untyped-call]

    def at(self, pointer: ir.Value, offset: ir.Value | int) -> ir.Value:
        """The byte pointer `offset` bytes on."""
        if isinstance(offset, int):
            if offset == 0:
                return pointer
            offset = I64(offset)
        return self.builder.gep(pointer, [offset])

    def mask(self, used: ir.Value) -> ir.Value:
        """The mask of the first `used` lanes."""
        count = self.builder.trunc(used, I32)
        counts = self.builder.insert_element(ir.Constant(ir.VectorType(I32, self.lanes), ir.Undefined), count, I32(0))
        zeros = ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        counts = self.builder.shuffle_vector(counts, ir.Constant(counts.type, ir.Undefined), zeros)
        return self.builder.icmp_signed("<", ir.Constant(counts.type, list(range(self.lanes))), counts)

    def load(self, pointer: ir.Value, mask: ir.Value | None = None) -> ir.Value:
        where = self.builder.bitcast(pointer, self.vector.as_pointer())
        if mask is None:
            return self.builder.load(where, align=self.size)
        masked = self.intrinsic(f"llvm.masked.load.{self.suffix}.p0", self.vector, where.type, I32, mask.type, self.vector)
        return self.builder.call(masked, [where, I32(self.size), mask, self.zero])

    def store(self, value: ir.Value, pointer: ir.Value, mask: ir.Value | None = None) -> None:
        where = self.builder.bitcast(pointer, self.vector.as_pointer())
        if mask is None:
            self.builder.store(value, where, align=self.size)
            return
        masked = self.intrinsic(f"llvm.masked.store.{self.suffix}.p0", ir.VoidType(), self.vector, where.type, I32, mask.type)
        self.builder.call(masked, [value, where, I32(self.size), mask])

    def load_bytes(self, pointer: ir.Value, mask: ir.Value | None) -> ir.Value:
        """A byte a lane, as 32-bit integers."""
        kind = ir.VectorType(ir.IntType(8), self.lanes)
        where = self.builder.bitcast(pointer, kind.as_pointer())
        if mask is None:
            loaded = self.builder.load(where, align=1)
        else:
            masked = self.intrinsic(f"llvm.masked.load.v{self.lanes}i8.p0", kind, where.type, I32, mask.type, kind)
            loaded = self.builder.call(masked, [where, I32(1), mask, ir.Constant(kind, [0] * self.lanes)])
        return self.builder.zext(loaded, ir.VectorType(I32, self.lanes))

    def store_bytes(self, value: ir.Value, pointer: ir.Value, mask: ir.Value | None) -> None:
        """The lowest byte of each 32-bit integer."""
        kind = ir.VectorType(ir.IntType(8), self.lanes)
        where = self.builder.bitcast(pointer, kind.as_pointer())
        value = self.builder.trunc(value, kind)
        if mask is None:
            self.builder.store(value, where, align=1)
            return
        masked = self.intrinsic(f"llvm.masked.store.v{self.lanes}i8.p0", ir.VoidType(), kind, where.type, I32, mask.type)
        self.builder.call(masked, [value, where, I32(1), mask])

    def broadcast(self, pointer: ir.Value) -> ir.Value:
        scalar = self.builder.load(self.builder.bitcast(pointer, self.element.as_pointer()), align=self.size)
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, I32(0))
        return self.builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes))

    def opaque(self, value: ir.Value) -> ir.Value:
        """The same value, of which the compiler does not know that, so that it computes nothing from it beforehand."""
        kind = ir.FunctionType(value.type, [value.type])
        return self.builder.asm(kind, "", "=r,0", [value], side_effect=False)

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        function = self.intrinsic(f"llvm.fma.{self.suffix}", self.vector, self.vector, self.vector, self.vector)
        return self.builder.call(function, [a, b, c])

    def load_transposed(self, pointers: list[ir.Value], mask: ir.Value | None = None) -> list[ir.Value]:
        """Load a square block, a row from each pointer, and transpose it: swap ever larger pieces of pairs of rows."""
        half = self.lanes // 2
        if mask is None:
            # The largest pieces are swapped by loading halves of rows: loads are cheaper than shuffles.
            joined = ir.Constant(ir.VectorType(I32, self.lanes), list(range(self.lanes)))
            part = ir.VectorType(self.element, half).as_pointer()
            rows: list[ir.Value] = [None] * self.lanes
            for i in range(half):
                for offset, to in ((0, i), (half * self.size, i + half)):
                    pair = [self.builder.bitcast(self.at(pointers[row], offset), part) for row in (i, i + half)]
                    low, high = (self.builder.load(pointer, align=self.size) for pointer in pair)
                    rows[to] = self.builder.shuffle_vector(low, high, joined)
            distances = [1 << n for n in range(half.bit_length() - 1)]
        else:
            rows = [self.load(pointer, mask) for pointer in pointers]
            distances = [1 << n for n in range(half.bit_length())]
        for distance in distances:
            low = [x if not x & distance else self.lanes + x - distance for x in range(self.lanes)]
            high = [x + distance if not x & distance else self.lanes + x for x in range(self.lanes)]
            indices = [ir.Constant(ir.VectorType(I32, self.lanes), order) for order in (low, high)]
            for i in range(self.lanes):
                if not i & distance:
                    a, b = rows[i], rows[i + distance]
                    rows[i] = self.builder.shuffle_vector(a, b, indices[0])
                    rows[i + distance] = self.builder.shuffle_vector(a, b, indices[1])
        return rows


def new_function(
    module: ir.Module, name: str, arguments: Sequence[str]
) -> tuple[ir.Function, ir.IRBuilder, dict[str, ir.Value]]:
    """A function of 64-bit words, private to the module, and a builder at its beginning."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * len(arguments)), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    function.attributes.add("nounwind")
    for argument, label in zip(function.args, arguments, strict=True):
        argument.name = label
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    return function, builder, dict(zip(arguments, function.args, strict=True))


def load_words(builder: ir.IRBuilder, address: ir.Value, labels: Sequence[str]) -> dict[str, ir.Value]:
    """The 64-bit words at an address, by their labels."""
    words = builder.inttoptr(address, I64.as_pointer())
    return {label: builder.load(builder.gep(words, [I64(index)]), align=8) for index, label in enumerate(labels)}


TILE = (
    "a", "a_row", "a_k", "b", "b_k", "c", "c_row", "count", "used", "accumulate", "bias", "partners", "partner_count",
    "second", "park", "edge", "edge_copy", "ahead", "ahead_k",
)  # fmt: skip
"""What a tile is told: address and strides in bytes of A, B and C, the number of k, the used lanes of the last vector, whether
to continue from what C holds, the address of the bias or 0, a table of the arrays of C's shape that are added at the end (the
address of each, and the bytes of its rows), and how many k a second leaf has: then the sums of the first are left at `park`,
row behind row, and begin anew. Where B reaches the address `edge`, it goes on at `edge_copy`. With every k a cache line at
`ahead` is fetched, `ahead_k` bytes further each time.
"""


SPAN = 7
"""Rows of A that are reached from one pointer: x86 addresses are a base and 1, 2, 4 or 8 times a register."""
STEADY = 14 if level() == "avx512" else 12
"""Vectors of the sums of a tile from which on the processor has no time to lose with a k: then vectors of B are read whole, as
a mask takes one of the units that multiply, addresses are those that `SPAN` says, and cache lines are fetched ahead."""
FAR, B_AHEAD = 2048, 320
"""A B whose rows start at least so many bytes apart is fetched so many sums of vectors ahead: they take as long as a line of
the third-level cache needs to come, and the processor sees no stream in such rows."""


def row_bases(
    builder: ir.IRBuilder, of: Vectors, a: ir.Value, row: ir.Value, rows: int
) -> tuple[list[ir.Value], list[ir.Value]]:
    """Pointers to every SPAN-th row of A, and the multiples of its stride, `row` bytes, that the rows between them need."""
    bases = [of.at(a, builder.mul(row, I64(i))) for i in range(0, rows, SPAN)]
    most = min(rows, SPAN)
    return bases, [row, builder.mul(row, I64(3)), builder.mul(row, I64(5))][: 1 + (most > 3) + (most > 5)]


def row_address(builder: ir.IRBuilder, of: Vectors, bases: list[ir.Value], strides: list[ir.Value], row: int) -> ir.Value:
    """The address of a row by those of `row_bases`."""
    base, times = bases[row // SPAN], row % SPAN
    if times == 0:
        return base
    shift = (times & -times).bit_length() - 1
    stride = strides[(times >> shift) // 2]
    return of.at(base, builder.shl(stride, I64(shift)) if shift else stride)


def _define_tile(module: ir.Module, float_type: Any, rows: int, vectors: int, masked: bool) -> ir.Function:
    """The function of one tile shape: C[rows, vectors] (+)= A[rows, count] @ B[count, vectors] (+ bias)."""
    name = f"tile_{float_type}_{rows}_{vectors}_{'masked' if masked else 'full'}"
    function, builder, argument = new_function(module, name, ("words",))
    of = Vectors(float_type, builder)
    width = of.lanes * of.size
    word = load_words(builder, argument["words"], TILE)
    a, b, c, park, edge, edge_copy, ahead_start = (
        builder.inttoptr(word[label], BYTES) for label in ("a", "b", "c", "park", "edge", "edge_copy", "ahead")
    )
    steady = rows * vectors >= STEADY
    is_far = builder.icmp_signed(">=", word["b_k"], I64(FAR))
    b_ahead = builder.mul(word["b_k"], I64(-(-B_AHEAD // (rows * vectors))))
    mask = of.mask(word["used"]) if masked else None
    masks = [None] * (vectors - 1) + [mask]
    labels = ["load", "start", "loop", "rest", "after", "park", "done", "leave"]
    blocks = {label: function.append_basic_block(label) for label in (labels + ["fetch"] * steady)}
    c_rows = [of.at(c, builder.mul(word["c_row"], I64(i))) for i in range(rows)]
    bases, strides = row_bases(builder, of, a, word["a_row"], rows)
    entry = builder.block
    builder.cbranch(builder.icmp_signed("!=", word["accumulate"], I64(0)), blocks["load"], blocks["start"])

    builder.position_at_end(blocks["load"])
    held = [[of.load(of.at(c_rows[i], j * width), masks[j]) for j in range(vectors)] for i in range(rows)]
    builder.branch(blocks["start"])

    builder.position_at_end(blocks["start"])
    first = [[builder.phi(of.vector) for _ in range(vectors)] for _ in range(rows)]
    for i in range(rows):
        for j in range(vectors):
            first[i][j].add_incoming(of.zero, entry)
            first[i][j].add_incoming(held[i][j], blocks["load"])
    builder.cbranch(builder.icmp_signed(">", word["count"], I64(0)), blocks["loop"], blocks["done"])

    builder.position_at_end(blocks["loop"])
    left, second, b_at, ahead = (builder.phi(kind) for kind in (I64, I64, BYTES, BYTES))
    a_at, stride_at = [builder.phi(BYTES) for _ in bases], [builder.phi(I64) for _ in strides]
    sums = [[builder.phi(of.vector) for _ in range(vectors)] for _ in range(rows)]
    new: list[list[ir.Value]] = [[] for _ in range(rows)]
    here, stride_here = ([of.opaque(x) for x in a_at], [of.opaque(x) for x in stride_at]) if steady else (a_at, stride_at)
    b_vectors = [of.load(of.at(b_at, j * width), None if steady else masks[j]) for j in range(vectors)]
    if steady:
        emit_prefetch(builder, ahead, 2)
        builder.cbranch(is_far, blocks["fetch"], blocks["rest"])
        builder.position_at_end(blocks["fetch"])
        for j in range(vectors):
            emit_prefetch(builder, of.at(of.at(b_at, b_ahead), j * width))
        builder.branch(blocks["rest"])
    else:
        builder.branch(blocks["rest"])
    builder.position_at_end(blocks["rest"])
    for i in range(rows):
        splat = of.broadcast(row_address(builder, of, here, stride_here, i))
        new[i] = [of.fma(splat, b_vectors[j], sums[i][j]) for j in range(vectors)]
    left_next = builder.sub(left, I64(1))
    b_next = of.at(b_at, word["b_k"])
    ahead_next = ahead
    if steady:
        b_next = builder.select(builder.icmp_unsigned("==", b_next, edge), edge_copy, b_next)
        ahead_next = of.at(ahead, word["ahead_k"])
    a_next = [of.at(pointer, word["a_k"]) for pointer in here]
    builder.cbranch(builder.icmp_signed(">", left_next, I64(0)), blocks["loop"], blocks["after"])
    for phi, start, following, anew in [
        (left, word["count"], left_next, second), (second, word["second"], second, I64(0)), (b_at, b, b_next, b_next),
        (ahead, ahead_start, ahead_next, ahead_next),
        *zip(a_at, bases, a_next, a_next, strict=True), *zip(stride_at, strides, stride_here, stride_here, strict=True),
        *((sums[i][j], first[i][j], new[i][j], of.zero) for i in range(rows) for j in range(vectors)),
    ]:  # fmt: skip
        phi.add_incoming(start, blocks["start"])
        phi.add_incoming(following, blocks["rest"])
        phi.add_incoming(anew, blocks["park"])

    builder.position_at_end(blocks["after"])
    builder.cbranch(builder.icmp_signed(">", second, I64(0)), blocks["park"], blocks["done"])

    builder.position_at_end(blocks["park"])
    for i in range(rows):
        for j in range(vectors):
            of.store(new[i][j], of.at(park, (i * vectors + j) * width))
    builder.branch(blocks["loop"])

    builder.position_at_end(blocks["done"])
    total = [[builder.phi(of.vector) for _ in range(vectors)] for _ in range(rows)]
    for i in range(rows):
        for j in range(vectors):
            total[i][j].add_incoming(first[i][j], blocks["start"])
            total[i][j].add_incoming(new[i][j], blocks["after"])
    if steady and masked:  # some processors take long to store through a mask
        whole, partly = (function.append_basic_block(label) for label in ("whole", "partly"))
        builder.cbranch(builder.icmp_signed("==", word["used"], I64(of.lanes)), whole, partly)
        builder.position_at_end(whole)
        _finish_tile(builder, of, word, c_rows, total, [None] * vectors, blocks["leave"])
        builder.position_at_end(partly)
    _finish_tile(builder, of, word, c_rows, total, masks, blocks["leave"])
    builder.position_at_end(blocks["leave"])
    builder.ret_void()
    return function


def _finish_tile(
    builder: ir.IRBuilder, of: Vectors, word: dict[str, ir.Value], c_rows: list[ir.Value], total: list[list[ir.Value]],
    masks: list[ir.Value | None], leave: ir.Block,
) -> None:  # fmt: skip
    """Add the bias or the partners to the sums of a tile, store them in C, and go on at `leave`."""
    function, width, rows, vectors = builder.function, of.lanes * of.size, len(total), len(masks)
    add, bare, join, store = (function.append_basic_block(label) for label in ("add", "bare", "join", "store"))
    builder.cbranch(builder.icmp_signed("!=", word["bias"], I64(0)), add, bare)

    builder.position_at_end(add)
    bias_at = builder.inttoptr(word["bias"], BYTES)
    bias = [of.load(of.at(bias_at, j * width), masks[j]) for j in range(vectors)]
    biased = [[builder.fadd(total[i][j], bias[j]) for j in range(vectors)] for i in range(rows)]
    builder.branch(store)

    builder.position_at_end(bare)
    partners = builder.inttoptr(word["partners"], BYTES)
    builder.cbranch(builder.icmp_signed(">", word["partner_count"], I64(0)), join, store)

    builder.position_at_end(join)
    waiting, entry_at = builder.phi(I64), builder.phi(BYTES)
    joined = [[builder.phi(of.vector) for _ in range(vectors)] for _ in range(rows)]
    address, row = (
        builder.load(builder.bitcast(of.at(entry_at, offset), I64.as_pointer()), align=8) for offset in (0, 8)
    )  # fmt: skip
    partner = builder.inttoptr(address, BYTES)
    partner_rows = [of.at(partner, builder.mul(row, I64(i))) for i in range(rows)]
    sums_of_both = [
        [builder.fadd(of.load(of.at(partner_rows[i], j * width), masks[j]), joined[i][j]) for j in range(vectors)]
        for i in range(rows)
    ]
    waiting_next, entry_next = builder.sub(waiting, I64(1)), of.at(entry_at, 16)
    builder.cbranch(builder.icmp_signed(">", waiting_next, I64(0)), join, store)
    for phi, start, following in [
        (waiting, word["partner_count"], waiting_next), (entry_at, partners, entry_next),
        *((joined[i][j], total[i][j], sums_of_both[i][j]) for i in range(rows) for j in range(vectors)),
    ]:  # fmt: skip
        phi.add_incoming(start, bare)
        phi.add_incoming(following, join)

    builder.position_at_end(store)
    result = [[builder.phi(of.vector) for _ in range(vectors)] for _ in range(rows)]
    for i in range(rows):
        for j in range(vectors):
            result[i][j].add_incoming(total[i][j], bare)
            result[i][j].add_incoming(biased[i][j], add)
            result[i][j].add_incoming(sums_of_both[i][j], join)
    for i in range(rows):
        for j in range(vectors):
            of.store(result[i][j], of.at(c_rows[i], j * width), masks[j])
    builder.branch(leave)


STRIP = ("source", "source_step", "panel", "panel_step", "count", "used")
"""What a copy to a panel is told: where one vector's width of the matrix lies, where to, how many k, how many lanes count."""


def _define_copy(module: ir.Module, float_type: Any) -> ir.Function:
    """panel[k, :used] = source[k, :used] for `count` k; the lanes behind are 0."""
    function, builder, word = new_function(module, f"copy_{float_type}", STRIP)
    of = Vectors(float_type, builder)
    mask = of.mask(word["used"])
    source, panel = builder.inttoptr(word["source"], BYTES), builder.inttoptr(word["panel"], BYTES)
    entry, loop, leave = builder.block, function.append_basic_block("loop"), function.append_basic_block("leave")
    builder.cbranch(builder.icmp_signed(">", word["count"], I64(0)), loop, leave)
    builder.position_at_end(loop)
    left, source_at, panel_at = builder.phi(I64), builder.phi(BYTES), builder.phi(BYTES)
    emit_prefetch(builder, of.at(source_at, builder.mul(word["source_step"], I64(COPY_AHEAD))))
    of.store(of.load(source_at, mask), panel_at)
    next_left = builder.sub(left, I64(1))
    next_source, next_panel = of.at(source_at, word["source_step"]), of.at(panel_at, word["panel_step"])
    builder.cbranch(builder.icmp_signed(">", next_left, I64(0)), loop, leave)
    for phi, start, following in (
        (left, word["count"], next_left), (source_at, source, next_source), (panel_at, panel, next_panel),
    ):  # fmt: skip
        phi.add_incoming(start, entry)
        phi.add_incoming(following, loop)
    builder.position_at_end(leave)
    builder.ret_void()
    return function


COPY_AHEAD = 16
"""Rows ahead of a copy that one is fetched."""
AHEAD = 256
"""Bytes ahead of a transpose that its rows are fetched: so many streams at once are more than the processor follows."""


def row_offsets(builder: ir.IRBuilder, rows: int, used: ir.Value, step: ir.Value) -> list[ir.Value]:
    """Offsets of `rows` rows, of which those behind the `used` first are the last one again: what is there may be read."""
    last = builder.sub(used, I64(1))
    indices = (builder.select(builder.icmp_signed("<", I64(i), last), I64(i), last) for i in range(rows))
    return [builder.mul(index, step) for index in indices]


def _define_transpose(module: ir.Module, float_type: Any) -> ir.Function:
    """panel[k, i] = source[i, k] for `count` k, rounded up to whole vectors, and i < used; lanes behind repeat the last row."""
    function, builder, word = new_function(module, f"transpose_{float_type}", STRIP)
    of = Vectors(float_type, builder)
    width = of.lanes * of.size
    source, panel = builder.inttoptr(word["source"], BYTES), builder.inttoptr(word["panel"], BYTES)
    offsets = row_offsets(builder, of.lanes, word["used"], word["source_step"])
    entry = builder.block
    check, whole, rest, tail, leave = (function.append_basic_block(x) for x in ("check", "whole", "rest", "tail", "leave"))

    def block(mask: ir.Value | None) -> None:
        rows = of.load_transposed([of.at(source_at, offset) for offset in offsets], mask)
        if mask is None:
            for offset in offsets:
                emit_prefetch(builder, of.at(of.at(source_at, offset), AHEAD))
        to = panel_at
        for row in rows:
            of.store(row, to)
            to = of.at(to, word["panel_step"])

    builder.branch(check)
    builder.position_at_end(check)
    left, source_at, panel_at = builder.phi(I64), builder.phi(BYTES), builder.phi(BYTES)
    builder.cbranch(builder.icmp_signed(">=", left, I64(of.lanes)), whole, rest)
    builder.position_at_end(whole)
    block(None)
    next_left = builder.sub(left, I64(of.lanes))
    next_source = of.at(source_at, width)
    next_panel = of.at(panel_at, builder.mul(word["panel_step"], I64(of.lanes)))
    builder.branch(check)
    for phi, start, following in (
        (left, word["count"], next_left), (source_at, source, next_source), (panel_at, panel, next_panel),
    ):  # fmt: skip
        phi.add_incoming(start, entry)
        phi.add_incoming(following, whole)
    builder.position_at_end(rest)
    builder.cbranch(builder.icmp_signed(">", left, I64(0)), tail, leave)
    builder.position_at_end(tail)
    block(of.mask(left))
    builder.branch(leave)
    builder.position_at_end(leave)
    builder.ret_void()
    return function


DOT = ("a", "a_row", "b", "b_column", "c", "c_row", "count", "used")
"""What a dot tile is told: as TILE, with k running along the rows of A and of B transposed; `count` in whole vectors."""


def _define_dot(module: ir.Module, float_type: Any, rows: int) -> ir.Function:
    """C[rows, :used] = A[rows, count] @ B[:used, count].T for few rows: B is transposed in registers and never stored."""
    function, builder, word = new_function(module, f"dot_{float_type}_{rows}", DOT)
    of = Vectors(float_type, builder)
    width = of.lanes * of.size
    a, b, c = (builder.inttoptr(word[label], BYTES) for label in "abc")
    offsets = row_offsets(builder, of.lanes, word["used"], word["b_column"])
    mask = of.mask(word["used"])
    entry, loop, leave = builder.block, function.append_basic_block("loop"), function.append_basic_block("leave")
    builder.branch(loop)
    builder.position_at_end(loop)
    left, a_at, b_at = builder.phi(I64), builder.phi(BYTES), builder.phi(BYTES)
    sums = [builder.phi(of.vector) for _ in range(rows)]
    pointers = [of.at(b_at, offset) for offset in offsets]
    columns = of.load_transposed(pointers)
    for pointer in pointers:
        emit_prefetch(builder, of.at(pointer, AHEAD))
    new: list[ir.Value] = list(sums)
    for k, column in enumerate(columns):
        for i in range(rows):
            element = of.at(of.at(a_at, builder.mul(word["a_row"], I64(i))), k * of.size)
            new[i] = of.fma(of.broadcast(element), column, new[i])
    next_left = builder.sub(left, I64(of.lanes))
    next_a, next_b = of.at(a_at, width), of.at(b_at, width)
    builder.cbranch(builder.icmp_signed(">", next_left, I64(0)), loop, leave)
    for phi, start, following in (
        (left, word["count"], next_left), (a_at, a, next_a), (b_at, b, next_b),
        *((old, of.zero, now) for old, now in zip(sums, new, strict=True)),
    ):  # fmt: skip
        phi.add_incoming(start, entry)
        phi.add_incoming(following, loop)
    builder.position_at_end(leave)
    for i in range(rows):
        of.store(new[i], of.at(c, builder.mul(word["c_row"], I64(i))), mask)
    builder.ret_void()
    return function


def _define_dots(module: ir.Module, float_type: Any) -> ir.Function:
    """dot(rows, ...): continue to the dot tile with so many rows."""
    function, builder, word = new_function(module, f"dot_{float_type}", ("rows", *DOT))
    leave = function.append_basic_block("leave")
    switch = builder.switch(word["rows"], leave)
    for rows in range(1, DOT_ROWS + 1):
        block = function.append_basic_block(f"rows_{rows}")
        switch.add_case(I64(rows), block)
        builder.position_at_end(block)
        builder.call(_define_dot(module, float_type, rows), [word[label] for label in DOT], tail=True)
        builder.branch(leave)
    builder.position_at_end(leave)
    builder.ret_void()
    return function


def _define_switch(module: ir.Module, float_type: Any) -> ir.Function:
    """tile(slot, full, ...): continue to the function of the tile shape in `slot`; `full` where no lane is masked out."""
    function, builder, word = new_function(module, f"tile_{float_type}", ("slot", "full", "words"))
    leave = function.append_basic_block("leave")
    words = [word["words"]]
    kinds = (True,) if MASK_IS_FREE else (False, True)
    index = word["slot"]
    if not MASK_IS_FREE:
        partly = builder.zext(builder.icmp_signed("==", word["full"], I64(0)), I64)
        index = builder.add(builder.shl(index, I64(1)), partly)
    switch = builder.switch(index, leave)
    for rows in range(1, MOST_ROWS + 1):
        vectors = 1
        while vectors <= widest_for(rows):
            for masked in kinds:
                slot = _slot(rows, vectors)
                block = function.append_basic_block(f"slot_{slot}")
                switch.add_case(I64(slot if MASK_IS_FREE else 2 * slot + masked), block)
                builder.position_at_end(block)
                builder.call(_define_tile(module, float_type, rows, vectors, masked), words, tail=True)
                builder.branch(leave)
            vectors *= 2
    builder.position_at_end(leave)
    builder.ret_void()
    return function


def caller(name: str, define: Any, float_type: Any) -> Any:
    """An intrinsic that calls the function `name` with a tuple of 64-bit words; `define` makes it once in a module."""

    def call(typingctx: Any, words: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            values = cgutils.unpack_tuple(builder, args[0], len(words))  # type: ignore[no-untyped-call]
            values = [context.cast(builder, x, kind, types.int64) for x, kind in zip(values, words.types, strict=True)]
            function = builder.module.globals.get(f"{name}_{float_type}") or define(builder.module, float_type)
            builder.call(function, values)
            return context.get_dummy_value()

        return types.void(words), codegen

    return intrinsic(call)


def tile_caller(float_type: Any) -> Any:
    """An intrinsic that calls the tile in a slot, `full` or not, with a tuple of 64-bit words."""

    def call(typingctx: Any, slot: Any, full: Any, words: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            room = cgutils.alloca_once(builder, ir.ArrayType(I64, len(words)))  # type: ignore[no-untyped-call]
            for index, (value, kind) in enumerate(
                zip(cgutils.unpack_tuple(builder, args[2], len(words)), words.types, strict=True)  # type: ignore[no-untyped-call]
            ):
                builder.store(context.cast(builder, value, kind, types.int64), builder.gep(room, [I64(0), I64(index)]))
            function = builder.module.globals.get(f"tile_{float_type}") or _define_switch(builder.module, float_type)
            full = context.cast(builder, args[1], signature.args[1], types.int64)
            builder.call(function, [args[0], full, builder.ptrtoint(room, I64)])
            return context.get_dummy_value()

        return types.void(types.int64, full, words), codegen

    return intrinsic(call)


def copy_caller(float_type: Any) -> Any:
    """An intrinsic that copies a vector's width of a matrix to a panel; its words are STRIP."""
    return caller("copy", _define_copy, float_type)


def transpose_caller(float_type: Any) -> Any:
    """The same, transposing: k runs along the rows of the matrix."""
    return caller("transpose", _define_transpose, float_type)


def dot_caller(float_type: Any) -> Any:
    """An intrinsic that multiplies up to DOT_ROWS rows by a transposed B; its words are the number of rows and DOT."""
    return caller("dot", _define_dots, float_type)
