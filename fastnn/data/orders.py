"""In which order examples are visited: a user's, the library's shuffle, and the mini-batches that an epoch is cut into."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn import arrays, engines, random
from fastnn.engines.cache import Instances
from fastnn.errors import InputError
from fastnn.program.trace import Call, Trace


def as_order(visits: Any, n: int) -> np.ndarray:
    """What a user's `order` returned, for n examples, as programs read it. Raises InputError where it is none."""
    order = arrays.to_host(visits)
    if order.ndim != 1 or (order.size and order.dtype.kind not in "iu"):
        raise InputError(f"order(epoch): expected a list of integers, got {order.dtype} of shape {order.shape}")
    if not order.size:
        raise InputError("order(epoch): expected at least one index, got none")
    if order.min() < 0 or order.max() >= n:
        raise InputError(f"order(epoch): expected indices 0 to {n - 1}, got {order.min()} to {order.max()}")
    return np.require(order, np.int64, ["C", "A"])


def shuffle_program(n: int, key: tuple[int, int], engine: engines.Engine) -> engines.Instance:
    """Writes the order of an epoch to what is bound to `order`, (n,) int64; `epoch`: the number of the epoch, 0-d int64."""
    trace = Trace()
    epoch, order = trace.input("epoch", (), "int64"), trace.input("order", (n,), "int64")
    trace.calls.append(Call("shuffle", (epoch, order), {"key": key}))
    instance = engine.instantiate(trace.program({}), n, min(engines.cores(), 1 + n // 4096))
    instance.bind(epoch=engine.zeros((), np.int64, mirrored=True))
    return instance


def shuffle(kept: Instances, n: int, seed: int, epoch: int, engine: engines.Engine, order: Any) -> Any:
    """Write the library's order of an epoch of n examples to `order`, (n,) int64 of the engine, and return it. `kept`: of the
    model whose seed this is."""
    key = ("shuffle", n, engine.name)
    with kept.take(key, lambda: shuffle_program(n, random.key(seed, random.SHUFFLE), engine)) as instance:
        instance.bind(order=order)
        engine.write(instance.bound["epoch"], epoch)
        instance.play()
        return order


def batch_runs(n: int, batch_size: int, pairs: bool = False) -> list[tuple[int, int]]:
    """(rows, how many such mini-batches in a row) of an epoch of n examples; with `pairs` a last one of one row joins the
    one before."""
    whole, rest = divmod(n, batch_size)
    runs = [(batch_size, whole), (rest, 1)]
    if pairs and rest == 1 and whole:
        runs = [(batch_size, whole - 1), (batch_size + 1, 1)]
    return [(rows, count) for rows, count in runs if rows and count]


def batch_count(n: int, batch_size: int, pairs: bool = False) -> int:
    """How many mini-batches those are."""
    return sum(count for _, count in batch_runs(n, batch_size, pairs))
