"""Kernels along the last axis: which lanes hold a row.

A group of lanes holds a row in registers, so that it is read once: one thread up to 4 columns, 8 lanes up to 64, a warp up to
1,024, a block up to 8,192; half of these where a lane keeps elements of two rows at once, and half where they are float64.
Longer rows are read as often as they are needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fastnn_kernels.cuda.lowering import THREADS, WARPS, Request, Work, ceil, lowering

_SHARED = 16 * WARPS
"""Bytes in which the warps of a block meet: ROW_SHARED of rows.cuh."""


@dataclass(frozen=True)
class RowLanes:
    """Which lanes hold a row: `type` is the template argument of a body, the others what the body is run with."""

    type: str
    blocks: int
    shared: int


def row_lanes(call: Request, rows: int, columns: int, arrays: int = 1) -> RowLanes:
    """The lanes for rows of so many columns, of one or two arrays."""
    words = 2 if call.F == "double" else 1
    registers = 32 // (words * arrays)
    for lanes, most in ((1, 4), (8, 8), (32, registers), (THREADS, registers)):
        kept = 1 << (ceil(columns, lanes) - 1).bit_length() if columns > lanes else 1
        if kept <= most:
            break
    else:
        kept = 0
    pack = 4 // words
    if columns % pack or kept < pack:
        pack = 1
    return RowLanes(f"RowLanes<{lanes}, {kept}, {pack}>", ceil(rows, THREADS // lanes), _SHARED if lanes == THREADS else 0)


@lowering("softmax", "softmax_backward", "log_softmax", "log_softmax_backward", "argmax", "one_hot", family="rows")
def rows(call: Request) -> Iterable[Work]:
    count, columns = call.matrix("x" if "x" in call.operands else "y")
    lanes = row_lanes(call, count, columns, len(call.operands) - 1)
    yield call.body(
        call.name, *(call[name] for name in call.operands), count, columns,
        blocks=lanes.blocks, shared=lanes.shared, template=(lanes.type,),
    )  # fmt: skip
