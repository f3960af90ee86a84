"""In which order examples are visited: a user's, the library's shuffle, and the mini-batches that an epoch is cut into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fastnn import arrays, engines
from fastnn.errors import InputError
from fastnn.program.trace import Call, Trace


def as_order(given: Any, n: int) -> np.ndarray:
    """What a user's `order` returned, for n examples, as programs read it. Raises InputError where it is none."""
    order = arrays.to_host(given)
    if order.ndim != 1 or (order.size and order.dtype.kind not in "iu"):
        raise InputError(f"order(epoch): expected a list of integers, got {order.dtype} of shape {order.shape}")
    if not order.size:
        raise InputError("order(epoch): expected at least one index, got none")
    if order.min() < 0 or order.max() >= n:
        raise InputError(f"order(epoch): expected indices 0 to {n - 1}, got {order.min()} to {order.max()}")
    return np.require(order, np.int64, ["C", "A"])


def shuffle_program(n: int, key: tuple[int, int], engine: engines.Engine) -> engines.Instance:
    trace = Trace()
    epoch, order = trace.input("epoch", (), "int64"), trace.input("order", (n,), "int64")
    trace.calls.append(Call("shuffle", (epoch, order), {"key": key}))
    instance = engine.instantiate(trace.program({}), n, min(engines.cores(), 1 + n // 4096))
    instance.bind(order=engine.zeros((n,), np.int64), epoch=engine.zeros((), np.int64, mirrored=True))
    return instance


def batch_runs(n: int, batch_size: int, pairs: bool = False) -> Iterator[tuple[int, int]]:
    """(rows, how many such mini-batches in a row) of an epoch of n examples."""
    return grouped(batch_sizes(n, batch_size, pairs))


def batch_sizes(n: int, batch_size: int, pairs: bool = False) -> list[int]:
    """The sizes of an epoch's mini-batches; with `pairs` a last one of one row joins the one before."""
    sizes = [batch_size] * (n // batch_size) + ([n % batch_size] if n % batch_size else [])
    if pairs and len(sizes) > 1 and sizes[-1] == 1:
        sizes[-2:] = [batch_size + 1]
    return sizes


def grouped(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(size, how many in a row)."""
    start = 0
    for index in range(1, len(sizes) + 1):
        if index == len(sizes) or sizes[index] != sizes[start]:
            yield sizes[start], index - start
            start = index
