"""Losses and what is made of them: each row is read once, for the loss and its gradient together where both are wanted."""

from __future__ import annotations

from collections.abc import Iterable

from fastnn_kernels.cuda.families.rows import row_lanes
from fastnn_kernels.cuda.lowering import THREADS, WARPS, Request, Work, ceil, lowering, reading

_ALONE = 32 * 1024
"""Rows that one block sums: about as long as a second node takes."""

_PART = 8 * 1024
"""Rows that a block sums where there are more."""

_SUMS = WARPS * 8
"""Bytes of shared memory that sums by a block need."""

_FORMS = {"": "loss", "_backward": "loss_backward", "_with_gradient": "loss_with_gradient"}


@lowering(
    *(f"{loss}{form}" for loss in ("softmax_cross_entropy", "sigmoid_cross_entropy", "squared_error") for form in _FORMS),
    family="losses",
)
def losses(call: Request) -> Iterable[Work]:
    rows, columns = call.matrix("z")
    lanes = row_lanes(call, rows, columns, arrays=2)
    form = next(form for form in reversed(_FORMS) if call.name.endswith(form))
    yield call.body(
        _FORMS[form], *(call[name] for name in call.operands), rows, columns, *map(float, call.attributes.values()),
        blocks=lanes.blocks, shared=lanes.shared, template=(lanes.type, call.name.removesuffix(form)),
    )  # fmt: skip


@lowering("weighted_mean", family="losses")
def weighted_mean(call: Request) -> Iterable[Work]:
    rows, mean = call.size("losses"), call["mean"]
    if rows <= _ALONE:
        yield call.body("weighted_mean", call["losses"], call["weights"], mean, rows, blocks=1, shared=_SUMS)
    else:
        parts = ceil(rows, _PART)
        sums = call.temporary(2 * parts)
        yield call.body("weighted_sums", call["losses"], call["weights"], sums, rows, _PART, parts, blocks=parts, shared=_SUMS)
        yield call.body("quotient_of_sums", reading(sums), mean, parts, blocks=1, shared=_SUMS)


@lowering("weighted_mean_backward", family="losses")
def weighted_mean_backward(call: Request) -> Iterable[Work]:
    rows = call.size("weights")
    sums, parts = call["weights"], rows
    if rows > _ALONE:
        parts = ceil(rows, _PART)
        written = call.temporary(parts)
        yield call.body("sums_of_parts", call["weights"], written, rows, _PART, parts, blocks=parts, shared=_SUMS)
        sums = reading(written)
    yield call.body(
        "weighted_mean_backward", call["dmean"], call["weights"], sums, call["dlosses"], rows, parts,
        blocks=ceil(rows, 8 * THREADS), shared=_SUMS,
    )  # fmt: skip


@lowering("is_correct", family="losses")
def is_correct(call: Request) -> Iterable[Work]:
    rows, columns = call.matrix("z")
    lanes = row_lanes(call, rows, columns, arrays=2)
    by_column = call.attributes["multilabel"] or columns == 1
    yield call.body(
        "is_correct_by_column" if by_column else "is_correct",
        *(call[name] for name in call.operands), rows, columns, *([float(call.attributes["threshold"])] if by_column else []),
        blocks=lanes.blocks, shared=lanes.shared, template=(lanes.type,),
    )  # fmt: skip
