"""Kernels for data: dropout, mini-batches, the shuffle, and the bookkeeping of a program."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from fastnn_kernels.contract import SUM_BLOCK
from fastnn_kernels.cuda.lowering import THREADS, WARPS, Body, Pointer, Request, Work, ceil, lowering, spread
from fastnn_kernels.numpy.philox import UNIFORM_BITS, shuffle_bits

VECTOR = 16
"""Bytes that a thread loads or stores at once."""


def dropout_numbers(rate: float, key: tuple[int, int]) -> tuple[int, float, int, int]:
    """What `Dropout` of philox.cuh is made of, behind the step: least, scale, and the words of the key."""
    return math.ceil(rate * 2**UNIFORM_BITS), 1.0 / (1.0 - rate) if rate < 1 else 0.0, *key


@lowering("dropout", family="data")
def dropout(call: Request) -> Iterable[Work]:
    size = call.size("x")
    yield call.body(
        "dropout", call["x"], call["step"], call.ahead("step"), call["y"], size, *dropout_numbers(**call.attributes),
        blocks=spread(size, call.device),
    )  # fmt: skip


@lowering("gather_rows", family="data")
def gather_rows(call: Request) -> Iterable[Work]:
    yield _gather(call)


@lowering("gather_standardized", family="data")
def gather_standardized(call: Request) -> Iterable[Work]:
    yield _gather(call, call["offset"], call["factor"])


def _gather(call: Request, *maps: Pointer) -> Body:
    """The body named as the call; `maps`: the arrays with a number for each element of a row."""
    y = call.operands["y"]
    rows, width = y.shape[0], math.prod(y.shape[1:])
    pack = math.gcd(width, VECTOR // y.dtype.itemsize)
    threads_per_row = min(THREADS, 1 << max(0, width // pack - 1).bit_length())
    return call.body(
        call.name, call["source"], call["order"], call["position"], call.ahead("position", unit=rows), *maps, call["y"],
        rows, width, threads_per_row, float(call.attributes["scale"]),
        blocks=spread(rows * threads_per_row, call.device, each=1), template=(str(pack),),
    )  # fmt: skip


@lowering("shuffle", family="data")
def shuffle(call: Request) -> Iterable[Work]:
    n = call.size("order")
    yield call.body(
        "shuffle", call["epoch"], call["order"], n, *shuffle_bits(n), *call.attributes["key"],
        blocks=spread(n, call.device, each=1),
    )  # fmt: skip


@lowering("fill", family="data")
def fill(call: Request) -> Iterable[Work]:
    y, value = call.operands["y"], call.attributes["value"]
    whole = {"bool": bool, "int64": int, "uint8": int}
    number = whole.get(y.dtype.name, float)(value)
    yield call.body("fill", call["y"], number, y.size, blocks=spread(y.size, call.device, each=VECTOR // y.dtype.itemsize))


@lowering("log_value", family="data")
def log_value(call: Request) -> Iterable[Work]:
    columns, column, count = call.shape("log")[1], call.attributes["column"], call.size("value")
    size = call.operands["log"].dtype.itemsize
    log = replace(call["log"], columns=(size * columns, size * column, size * (column + count)))
    yield call.body("log_value", call["value"], call["index"], call.ahead("index"), log, columns, column, count, blocks=1)


@lowering("advance", family="data")
def advance(call: Request) -> Iterable[Work]:
    yield call.body("advance", call["control"], call.ahead("control"), call.attributes["rows"], blocks=1)


@lowering("count_nonfinite", family="data")
def count_nonfinite(call: Request) -> Iterable[Work]:
    size = call.size("x")
    yield call.body("count_nonfinite", call["x"], call["counts"], size, blocks=ceil(size, SUM_BLOCK), shared=4 * WARPS)
