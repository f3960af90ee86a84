"""Batch normalization: one body up to so many rows that a block reads a tile of columns in a few microseconds, else two.

How columns and rows are cut follows from the shape and the dtype alone; the memory of the GPU decides only how many rows are
kept in it and how many are read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fastnn_kernels.cuda.families.data import dropout_numbers
from fastnn_kernels.cuda.lowering import THREADS, WARPS, Ahead, Pointer, Request, Work, ceil, lowering, reading

SUMS = 2 * WARPS * 32 * 8
"""Bytes of shared memory for sums over a column: NORM_SHARED of columns.cuh."""

_ROWS = 8
"""Rows that a thread reads at a time: NORM_ROWS of columns.cuh."""

_TILES = ((128 * 32, 32, 1600), (128 * 16, 16, 3200), (0, 8, 4096))
"""(columns, width, rows): from so many columns on, tiles of this width fill a GPU; up to so many rows one block has a tile."""

WIDE = 32
"""Width of a tile where rows are spread over blocks as well."""

_CHUNK = 32 * 1024
"""Bytes that a block keeps of the rows whose moments it takes, where rows are spread over blocks."""


def _tile(rows: int, columns: int) -> int | None:
    """Width of the tiles that one block each has all rows of; None where rows are spread over blocks."""
    width, most = next((width, most) for least, width, most in _TILES if columns >= least)
    return width if rows <= most else None


def cut_rows(rows: int, columns: int) -> tuple[int, int]:
    """Rows of a part in the first stage (at most 64 parts, whose sums every block of the second reads) and in the second."""
    tiles = ceil(columns, WIDE)
    length = max(512, ceil(rows, 64), ceil(rows * tiles, 512))
    return ceil(length, 256) * 256, max(64, ceil(rows * tiles, 1024))


def _kept_rows(call: Request, rows: int, width: int, nbytes: int) -> int:
    """Rows that a thread can keep in shared memory, `nbytes` an element: a multiple of NORM_ROWS of columns.cuh."""
    batches = ceil(ceil(rows, THREADS // width), _ROWS)
    return _ROWS * min(batches, (call.device.shared_bytes - SUMS) // (_ROWS * THREADS * nbytes))


def activation_behind(call: Request) -> tuple[str, float]:
    """The function behind the norm, and its alpha."""
    return f"{call.attributes['activation'] or 'none'}_function", float(call.attributes.get("alpha", 0.0))


def _dropout(call: Request) -> Sequence[Pointer | Ahead | float]:
    """The last arguments of a body: what `norm_dropout` makes a Dropout of, nothing where there is none."""
    if "step" not in call.operands:
        return ()
    return call["step"], call.ahead("step"), *dropout_numbers(call.attributes["rate"], call.attributes["key"])


@lowering("batch_norm", "batch_norm_dropout", family="batch_norm")
def batch_norm(call: Request) -> Iterable[Work]:
    rows, columns = call.shape("x")
    momentum, epsilon = (float(call.attributes[name]) for name in ("momentum", "epsilon"))
    operands = [call[name] for name in call.operands if name != "step"]
    activation, alpha = activation_behind(call)
    numbers = (momentum, 1.0 - momentum, epsilon, alpha, *_dropout(call))
    size = 8 if call.F == "double" else 4
    width = _tile(rows, columns)
    if width:
        kept = _kept_rows(call, rows, width, size)
        yield call.body(
            "batch_norm", *operands, rows, columns, kept, *numbers, blocks=ceil(columns, width),
            shared=SUMS + kept * THREADS * size, template=(activation, str(width)),
        )  # fmt: skip
        return
    length, share = cut_rows(rows, columns)
    means, squares = _temporaries(call, rows, columns, length)
    tiles = ceil(columns, WIDE)
    yield call.body(
        "batch_norm_moments", call["x"], means, squares, rows, columns, length, _CHUNK // (THREADS * size),
        blocks=tiles * ceil(rows, length), shared=SUMS + _CHUNK, template=(str(WIDE),),
    )  # fmt: skip
    yield call.body(
        "batch_norm_apply", *operands, reading(means), reading(squares), rows, columns, length, share, *numbers,
        blocks=tiles * ceil(rows, share), shared=SUMS, template=(activation, str(WIDE)),
    )  # fmt: skip


@lowering("batch_norm_inference", family="batch_norm")
def batch_norm_inference(call: Request) -> Iterable[Work]:
    rows, columns = call.shape("x")
    activation, alpha = activation_behind(call)
    _, share = cut_rows(rows, columns)
    yield call.body(
        "batch_norm_inference", *(call[name] for name in call.operands), rows, columns, share,
        float(call.attributes["epsilon"]), alpha,
        blocks=ceil(columns, WIDE) * ceil(rows, share), template=(activation, str(WIDE)),
    )  # fmt: skip


@lowering("batch_norm_backward", "batch_norm_dropout_backward", family="batch_norm")
def batch_norm_backward(call: Request) -> Iterable[Work]:
    rows, columns = call.shape("x")
    inputs = [call[name] for name in ("dy", "x", "gamma", "beta", "mean", "inverse_deviation")]
    outputs = [call[name] for name in ("dx", "dgamma", "dbeta")]
    activation, alpha = activation_behind(call)
    numbers = (alpha, *_dropout(call))
    pair = 16 if call.F == "double" else 8
    width = _tile(rows, columns)
    if width:
        kept = _kept_rows(call, rows, width, pair)
        yield call.body(
            "batch_norm_backward", *inputs, *outputs, rows, columns, kept, *numbers,
            blocks=ceil(columns, width), shared=SUMS + kept * THREADS * pair, template=(activation, str(width)),
        )  # fmt: skip
        return
    length, share = cut_rows(rows, columns)
    sums, products = _temporaries(call, rows, columns, length)
    tiles = ceil(columns, WIDE)
    yield call.body(
        "batch_norm_backward_sums", *inputs, sums, products, rows, columns, length, *numbers,
        blocks=tiles * ceil(rows, length), shared=SUMS, template=(activation, str(WIDE)),
    )  # fmt: skip
    yield call.body(
        "batch_norm_backward_apply", *inputs, *outputs, reading(sums), reading(products), rows, columns, length, share,
        *numbers, blocks=tiles * ceil(rows, share), shared=SUMS, template=(activation, str(WIDE)),
    )  # fmt: skip


def _temporaries(call: Request, rows: int, columns: int, length: int) -> tuple[Pointer, Pointer]:
    """Two float64 arrays (parts, columns)."""
    elements = ceil(rows, length) * columns
    return call.temporary(elements, "double"), call.temporary(elements, "double")
