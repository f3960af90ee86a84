"""Layer normalization: lanes that hold a row, as in `rows`, and sums down the columns in parts, as in `batch_norm`."""

from __future__ import annotations

from collections.abc import Iterable

from fastnn_kernels.cuda.families.batch_norm import SUMS, WIDE, activation_behind, cut_rows
from fastnn_kernels.cuda.families.rows import row_lanes
from fastnn_kernels.cuda.lowering import Request, Work, ceil, lowering, reading


@lowering("layer_norm", family="layer_norm")
def layer_norm(call: Request) -> Iterable[Work]:
    rows, columns = call.shape("x")
    lanes = row_lanes(call, rows, columns, arrays=2)
    activation, alpha = activation_behind(call)
    yield call.body(
        "layer_norm", *(call[name] for name in call.operands), rows, columns, float(call.attributes["epsilon"]), alpha,
        blocks=lanes.blocks, shared=lanes.shared, template=(activation, lanes.type),
    )  # fmt: skip


@lowering("layer_norm_backward", family="layer_norm")
def layer_norm_backward(call: Request) -> Iterable[Work]:
    """dx and the sums of the parts in one body; the sums of one part are those of all rows."""
    rows, columns = call.shape("x")
    lanes = row_lanes(call, rows, columns, arrays=2)
    activation, alpha = activation_behind(call)
    inputs = [call[name] for name in ("dy", "x", "gamma", "beta", "mean", "inverse_deviation")]
    length, _ = cut_rows(rows, columns)
    tiles, parts = ceil(columns, WIDE), ceil(rows, length)
    sums = [call["dgamma"], call["dbeta"]]
    if parts != 1:
        sums = [call.temporary(parts * columns, "double") for _ in sums]
    yield call.body(
        "layer_norm_backward", *inputs, call["dx"], *sums, rows, columns, length, lanes.blocks, alpha,
        blocks=lanes.blocks + tiles * parts, shared=max(lanes.shared, SUMS), template=(activation, lanes.type, str(WIDE)),
    )  # fmt: skip
    if parts != 1:
        yield call.body(
            "layer_norm_sums", *map(reading, sums), call["dgamma"], call["dbeta"], rows, columns, length,
            blocks=tiles, shared=SUMS, template=(str(WIDE),),
        )  # fmt: skip
