"""Sums over the rows of a mini-batch, in an order that depends on the number of rows alone.

Rows are taken in leaves of LEAF_ROWS, the last of which may have fewer. The sum of n leaves is that of the first 2^k, the
largest power of two below n, plus that of the others, and so on for both: leaves 0 and 1 are added, leaves 2 and 3, then these
two sums. So an aligned run of 2^k leaves has a sum of its own, and threads or machines that compute such runs get the bits of
one that computes everything. Up to LEAF_ROWS rows it is the plain sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from fastnn_kernels.contract import LEAF_ROWS

Array = np.ndarray[Any, np.dtype[Any]]
Sum = TypeVar("Sum")


def cut_leaves(rows: int, leaf: int = LEAF_ROWS) -> list[slice]:
    """The leaves of so many rows; one, without rows, of none."""
    return [slice(start, min(start + leaf, rows)) for start in range(0, max(rows, 1), leaf)]


def combine(leaves: Sequence[Sum], add: Callable[[Sum, Sum], Sum]) -> Sum:
    """The sums of all `leaves`, put together by `add`."""
    if len(leaves) == 1:
        return leaves[0]
    first = 1 << (len(leaves) - 1).bit_length() - 1
    return add(combine(leaves[:first], add), combine(leaves[first:], add))


def sum_leaves(rows: int, term: Callable[[slice], Any]) -> Any:
    """The sums `term` of each leaf, added."""
    return combine([term(leaf) for leaf in cut_leaves(rows)], np.add)


def sum_rows(x: Array, axis: tuple[int, ...] = (0,)) -> Any:
    """Sum of x along `axis`, ascending, in leaves along the first of them."""
    before = (slice(None),) * axis[0]
    return sum_leaves(x.shape[axis[0]], lambda rows: np.sum(x[*before, rows], axis=axis))
