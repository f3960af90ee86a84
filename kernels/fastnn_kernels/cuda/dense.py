"""Matrix products and dense layers: by bodies of our own where they are small, else by cuBLASLt.

Which it is follows from shape and precision alone, by the rule that `CHOICE_VERSION` names; a device without cuBLASLt runs
our own bodies at every size. So do empty products, and those with an axis that cuBLASLt does not count (2^31 and more).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from fastnn_kernels.cuda.lowering import THREADS, Body, Pointer, Product, Request, Work, ceil, lowering, reading, spread

CHOICE_VERSION = 1
"""Of everything below that decides who computes a product, in which tiles and splits: other numbers, other last bits."""

OWN_UP_TO = {"float32": 2**25, "tf32": 2**23, "float64": 2**23, "bfloat16": 2**22}
"""rows * columns * inner up to which a product is our own, by the precision of its multiplications. Estimated from the model
below, taking 3 us for cuBLASLt's smallest; the sooner tensor cores can take over, the smaller."""

EPILOGUES = {None: "bias", "relu": "relu_bias"}
"""Activations that cuBLASLt adds to `dense`; all others are one more pass over its result."""


@dataclass(frozen=True)
class Tile:
    """A way of cutting a product, see dense.cu: tiles of `rows` x `columns`, `depth` of the inner axis staged at a time."""

    rows: int
    columns: int
    depth: int
    shared: int

    @property
    def template(self) -> tuple[str, str, str]:
        return str(self.rows), str(self.columns), str(self.depth)


def _tile(rows: int, columns: int, itemsize: int) -> Tile:
    piece, groups = 16 // itemsize, 4096 // (rows * columns)
    depth = piece * max(groups, 1024 // (rows + columns))
    staged, sums = (rows + columns) * (depth + piece), 20 * (THREADS + 8)
    return Tile(rows, columns, depth, max(staged, sums) * itemsize)


TILES = {itemsize: tuple(_tile(*shape, itemsize) for shape in ((4, 8), (16, 16), (32, 32), (64, 64))) for itemsize in (4, 8)}
"""By the size of an element that is computed in."""

MULTIPROCESSORS = 132
"""Of the GPU that the model is of, an H200. Fixed, so that our bodies add up in the same order on every GPU."""

START, SECOND_BODY = 1000, 2500
"""Cycles from the start of a block to its first product, and for a node that adds the parts of a split up."""

LEAST_SPLIT = 512
"""No split of the inner axis is shorter."""


def tiles(tile: Tile, rows: int, columns: int) -> int:
    """How many tiles a result has; one row of them at least, whose blocks add the rows of b up."""
    return ceil(max(rows, 1), tile.rows) * ceil(columns, tile.columns)


def cycles(tile: Tile, splits: int, rows: int, columns: int, inner: int) -> float:
    """What a product may take: blocks come in waves of one a multiprocessor. A block reads its operands from the L2 cache at
    64 bytes a cycle, and from shared memory, at 128 bytes a cycle, 8 elements for every 16 products (float32)."""
    waves = ceil(tiles(tile, rows, columns) * splits, MULTIPROCESSORS)
    step = tile.rows * tile.columns / 64 + (tile.rows + tile.columns) / 16
    adding = SECOND_BODY + splits * rows * columns / (16 * MULTIPROCESSORS) if splits > 1 else 0
    return waves * (START + step * inner / splits) + adding


@dataclass(frozen=True)
class Cut:
    """How our bodies compute a product: `splits` of the inner axis, all but the last of them `length` long."""

    tile: Tile
    splits: int
    length: int
    blocks: int


def divided(tile: Tile, splits: int, rows: int, columns: int, inner: int) -> Cut:
    """A product in these tiles, with at most so many splits: none is empty, and all start at a multiple of the tile's depth."""
    length = max(ceil(ceil(inner, splits), tile.depth), 1) * tile.depth
    splits = max(ceil(inner, length), 1)
    return Cut(tile, splits, length, tiles(tile, rows, columns) * splits)


def cut(rows: int, columns: int, inner: int, itemsize: int) -> Cut:
    """What the model prefers; where it sees no difference, the smaller tile and fewer splits. Only a result with fewer tiles
    than there are multiprocessors is split."""
    ways = [
        (tile, 1 << exponent)
        for tile in TILES[itemsize]
        for exponent in range(10)
        if not exponent or (inner >> exponent >= LEAST_SPLIT and tiles(tile, rows, columns) < MULTIPROCESSORS)
    ]
    tile, splits = min(ways, key=lambda way: cycles(way[0], way[1], rows, columns, inner))
    return divided(tile, splits, rows, columns, inner)


@dataclass(frozen=True)
class Sizes:
    """c (rows, columns) = op(a) (rows, inner) @ op(b) (inner, columns), for operands `a`, `b` and `c` of a call."""

    a: str
    b: str
    c: str
    rows: int
    columns: int
    inner: int
    transpose_a: bool = False
    transpose_b: bool = False

    @property
    def numbers(self) -> tuple[int, int, int]:
        return self.rows, self.columns, self.inner


def is_own(call: Request, of: Sizes) -> bool:
    """Whether a product is left to our own bodies."""
    same_type = call[of.a].type == call[of.b].type
    if not call.device.products or not same_type or min(of.numbers) == 0 or max(of.numbers) >= 2**31:
        return True
    return math.prod(of.numbers) <= OWN_UP_TO[precision(call)]


def precision(call: Request) -> str:
    """A key of OWN_UP_TO."""
    if call.F == "double":
        return "float64"
    return "bfloat16" if any(o.dtype.name == "bfloat16" for o in call.operands.values()) else call.device.precision


def product(call: Request, of: Sizes, epilogue: str = "none", bias: Pointer | None = None) -> Product:
    """The product by cuBLASLt."""
    compute = "float32" if precision(call) == "bfloat16" else precision(call)
    return Product(
        reading(call[of.a]), reading(call[of.b]), call[of.c], *of.numbers, of.transpose_a, of.transpose_b,
        compute, epilogue, bias,
    )  # fmt: skip


def parts(call: Request, of: Sizes, way: Cut, *sums: Pointer) -> tuple[Body, Pointer]:
    """A body that computes every split of a product, and where it leaves them; with `sums`, those of the rows of b as well."""
    scratch = call.temporary(way.splits * of.rows * of.columns)
    flags = () if sums else (_flag(of.transpose_a), _flag(of.transpose_b))
    body = call.body(
        "product_and_sum_parts" if sums else "product_parts",
        call[of.a], call[of.b], scratch, *sums, *of.numbers, way.splits, way.length,
        blocks=way.blocks, shared=way.tile.shared, template=(*way.tile.template, *flags),
    )  # fmt: skip
    return body, reading(scratch)


def _cut(call: Request, of: Sizes) -> Cut:
    return cut(*of.numbers, 8 if call.F == "double" else 4)


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _function(call: Request) -> tuple[str, float]:
    """The activation of a call as a template argument, and its alpha."""
    return f"{call.attributes.get('activation') or 'none'}_function", float(call.attributes.get("alpha", 0.0))


@lowering("matmul", family="dense")
def matmul(call: Request) -> Iterable[Work]:
    transpose_a, transpose_b = (bool(call.attributes.get(f"transpose_{operand}", False)) for operand in "ab")
    inner = call.shape("a")[0 if transpose_a else 1]
    of = Sizes("a", "b", "c", *call.matrix("c"), inner, transpose_a, transpose_b)
    if not is_own(call, of):
        yield product(call, of)
        return
    way = _cut(call, of)
    if way.splits == 1:
        yield call.body(
            "matmul", call["a"], call["b"], call["c"], *of.numbers, blocks=way.blocks, shared=way.tile.shared,
            template=(*way.tile.template, _flag(transpose_a), _flag(transpose_b)),
        )  # fmt: skip
        return
    body, scratch = parts(call, of, way)
    yield body
    size = call.size("c")
    yield call.body("add_product", scratch, call["c"], way.splits, size, blocks=spread(size, call.device, 1))


@lowering("dense", family="dense")
def dense(call: Request) -> Iterable[Work]:
    of = Sizes("x", "w", "y", *call.matrix("y"), call.shape("w")[0])
    function, alpha = _function(call)
    splits = 1
    if not is_own(call, of):
        epilogue = EPILOGUES.get(call.attributes.get("activation"))
        if epilogue and call["b"].type == call["y"].type:
            yield product(call, of, epilogue, reading(call["b"]))
            return
        yield product(call, of)
        sums = reading(call["y"])
    else:
        way = _cut(call, of)
        if way.splits == 1:
            yield call.body(
                "dense", call["x"], call["w"], call["b"], call["y"], *of.numbers, alpha,
                blocks=way.blocks, shared=way.tile.shared, template=(*way.tile.template, function),
            )  # fmt: skip
            return
        body, sums = parts(call, of, way)
        yield body
        splits = way.splits
    yield call.body(
        "add_dense", sums, call["b"], call["y"], splits, of.rows, of.columns, alpha,
        blocks=spread(call.size("y"), call.device, 1), template=(function,),
    )  # fmt: skip


@lowering("dense_backward_input", family="dense")
def dense_backward_input(call: Request) -> Iterable[Work]:
    of = Sizes("dz", "w", "dx", *call.matrix("dx"), call.shape("w")[1], transpose_b=True)
    function, alpha = _function(call)
    splits = 1
    if not is_own(call, of):
        yield product(call, of)
        if function == "none_function":
            return
        sums = reading(call["dx"])
    else:
        way = _cut(call, of)
        if way.splits == 1:
            yield call.body(
                "dense_backward_input", call["dz"], call["w"], call["y"], call["dx"], *of.numbers, alpha,
                blocks=way.blocks, shared=way.tile.shared, template=(*way.tile.template, function),
            )  # fmt: skip
            return
        body, sums = parts(call, of, way)
        yield body
        splits = way.splits
    size = call.size("dx")
    yield call.body(
        "add_backward_input", sums, call["y"], call["dx"], splits, size, alpha,
        blocks=spread(size, call.device, 1), template=(function,),
    )  # fmt: skip


@lowering("dense_backward_weight", family="dense")
def dense_backward_weight(call: Request) -> Iterable[Work]:
    of = Sizes("x", "dz", "dw", *call.matrix("dw"), call.shape("x")[0], transpose_a=True)
    if not is_own(call, of):
        yield product(call, of, "bgradb", call["db"])
        return
    way = _cut(call, of)
    if way.splits == 1:
        yield call.body(
            "dense_backward_weight", call["x"], call["dz"], call["dw"], call["db"], *of.numbers,
            blocks=way.blocks, shared=way.tile.shared, template=way.tile.template,
        )  # fmt: skip
        return
    sums = call.temporary(way.splits * of.columns)
    body, scratch = parts(call, of, way, sums)
    yield body
    size = call.size("dw")
    yield call.body(
        "add_backward_weight", scratch, reading(sums), call["dw"], call["db"], way.splits, size, of.columns,
        blocks=spread(size, call.device, 1),
    )  # fmt: skip
