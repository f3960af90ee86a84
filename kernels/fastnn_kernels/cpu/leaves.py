"""Sums over the rows of a mini-batch: leaves of `contract.LEAF_ROWS` rows, added in the tree of a binary counter.

Leaf n is added to the sums of the levels below its own, which are those of the lowest bits of n that are set, and becomes the
sum of the next level; the last leaf is added to all that are left, from the lowest level up. So leaves 0 and 1, 2 and 3 are
added to each other, then these sums, and so on: an aligned run of 2^k leaves is a sum of its own, wherever it is computed.
`numpy.leaves` is the definition. Up to a leaf of rows, nothing is added.
"""

from __future__ import annotations

from typing import Any

from fastnn_kernels.contract import LEAF_ROWS
from fastnn_kernels.cpu.compiling import helper

NUMBERS = 64
"""Levels of a stack of numbers: more than any count of rows needs."""


def count_levels(rows: int) -> int:
    """How many sums wait at most while those of so many rows are added."""
    return (-(-rows // LEAF_ROWS) - 1).bit_length() if rows > LEAF_ROWS else 0


@helper
def levels_below(leaf: int, last: bool) -> int:
    """The levels whose sums this leaf is added to, a bit each, from the lowest up."""
    return leaf if last else leaf & ~(leaf + 1)


@helper
def add_number(stack: Any, leaf: int, last: bool, value: Any) -> Any:
    """`value` of this leaf added to the sums that it goes with; it stays in `stack` until the leaf that it waits for."""
    levels, level = levels_below(leaf, last), 0
    while levels >> level:
        if (levels >> level) & 1:
            value = stack[level] + value
        level += 1
    if not last:
        stack[level] = value
    return value


@helper
def add_columns(stack: Any, pitch: int, leaf: int, last: bool, values: Any, start: int, columns: int) -> None:
    """The same for each of the `columns` sums from `start` of `values` on; a level of `stack` has `pitch` of them."""
    levels, level = levels_below(leaf, last), 0
    while levels >> level:
        if (levels >> level) & 1:
            for j in range(columns):
                values[start + j] = stack[level * pitch + j] + values[start + j]
        level += 1
    if not last:
        for j in range(columns):
            stack[level * pitch + j] = values[start + j]
