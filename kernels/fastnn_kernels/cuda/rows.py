"""Kernels along the last axis."""

from __future__ import annotations

from collections.abc import Iterable

from fastnn_kernels.cuda.lowering import WARPS, Request, Work, ceil, lowering


@lowering("softmax", family="rows")
def softmax(call: Request) -> Iterable[Work]:
    rows, columns = call.matrix("x")
    yield call.body("softmax", call["x"], call["y"], rows, columns, blocks=ceil(rows, WARPS))
