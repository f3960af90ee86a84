"""How the result of a product is cut into tiles, and what that may take: for every family whose bodies rest on `tiles.cuh`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastnn_kernels.cuda.lowering import THREADS, ceil


@dataclass(frozen=True)
class Tile:
    """How a product is cut, see tiles.cuh: tiles of `rows` x `columns`, `depth` of the inner axis staged at a time."""

    rows: int
    columns: int
    depth: int
    shared: int

    @property
    def template(self) -> tuple[str, str, str]:
        return str(self.rows), str(self.columns), str(self.depth)


def _tile(rows: int, columns: int, itemsize: int) -> Tile:
    """As deep as gives every thread something of both operands to load, and every group a piece of the inner axis."""
    piece, groups = 16 // itemsize, 4096 // (rows * columns)
    depth = piece * max(groups, THREADS // min(rows, columns), 1 << (1024 // (rows + columns)).bit_length() - 1)
    staged, sums = (rows + columns) * (depth + piece), 20 * (THREADS + 8)
    return Tile(rows, columns, depth, max(staged, sums) * itemsize)


def tiles_of(*shapes: tuple[int, int]) -> dict[int, tuple[Tile, ...]]:
    """Tiles of these shapes, by the size of an element that is computed in."""
    return {itemsize: tuple(_tile(*shape, itemsize) for shape in shapes) for itemsize in (4, 8)}


TILES = tiles_of((4, 8), (16, 16), (32, 32), (64, 64))
"""Of matrix products."""

MULTIPROCESSORS = 132
"""Of the GPU that the model is of, an H200. Fixed, so that our bodies add up in the same order on every GPU."""

START, SECOND_BODY = 1000, 2500
"""Cycles from the start of a block to its first product, and for a node that adds the parts of a split up."""

LEAST_SPLIT = 512
"""No split of the inner axis is shorter."""


def tiles(tile: Tile, rows: int, columns: int) -> int:
    """How many tiles a result has; one row of them at least, whose blocks add the rows of b up."""
    return ceil(max(rows, 1), tile.rows) * ceil(columns, tile.columns)


def cycles(tile: Tile, splits: int, rows: int, columns: int, inner: int, copies: int = 1) -> float:
    """What `copies` products of these sizes side by side may take: blocks come in waves of one a multiprocessor. A block reads
    its operands from the L2 cache at 64 bytes a cycle, and from shared memory, at 128 bytes a cycle, 8 elements for every 16
    products (float32)."""
    waves = ceil(tiles(tile, rows, columns) * splits * copies, MULTIPROCESSORS)
    step = tile.rows * tile.columns / 64 + (tile.rows + tile.columns) / 16
    adding = SECOND_BODY + splits * copies * rows * columns / (16 * MULTIPROCESSORS) if splits > 1 else 0
    return waves * (START + step * inner / splits) + adding


@dataclass(frozen=True)
class Cut:
    """How our bodies compute a product: `splits` of the inner axis, all but the last of them `length` long."""

    tile: Tile
    splits: int
    length: int
    blocks: int

    @property
    def note(self) -> str:
        """The cut in words."""
        return f"own {self.tile.rows}x{self.tile.columns}" + (f" in {self.splits} parts" if self.splits > 1 else "")


def divide(tile: Tile, splits: int, rows: int, columns: int, inner: int) -> Cut:
    """A product in these tiles, with at most so many splits: none is empty, and all start at a multiple of the tile's depth."""
    length = max(ceil(ceil(inner, splits), tile.depth), 1) * tile.depth
    splits = max(ceil(inner, length), 1)
    return Cut(tile, splits, length, tiles(tile, rows, columns) * splits)


def cut(rows: int, columns: int, inner: int, itemsize: int) -> Cut:
    """What the model prefers for a matrix product; where it sees no difference, the smaller tile and fewer splits."""
    return best_cut(TILES[itemsize], rows, columns, inner)


def best_cut(among: Sequence[Tile], rows: int, columns: int, inner: int, copies: int = 1) -> Cut:
    """The best of these tiles. Only a result with fewer tiles than there are multiprocessors is split."""
    cuts = [
        (tile, 1 << exponent)
        for tile in among
        for exponent in range(10)
        if not exponent or (inner >> exponent >= LEAST_SPLIT and tiles(tile, rows, columns) * copies < MULTIPROCESSORS)
    ]
    tile, splits = min(cuts, key=lambda cut: cycles(cut[0], cut[1], rows, columns, inner, copies))
    return divide(tile, splits, rows, columns, inner)
