"""Where the programs of a run find their examples: all of them on the engine, or, where they cannot lie there, block by block.

Streaming changes no bit: the order of an epoch is the same, and another thread gathers the rows of a block in that order while
the block before is worked on. Which of the two is done follows from the kind of the data and the free memory alone.
"""

from __future__ import annotations

import math
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from fastnn.data.inputs import RowSource, take_rows
from fastnn.data.prepared import PreparedData
from fastnn.engines import Engine

BLOCK_BYTES = 2**26
"""About how many bytes of examples one block of a stream holds; there are two of them."""

RESIDENT_SHARE = 0.8
"""Examples stay on the device where they take no more than this share of its free memory."""


class Feed:
    """All examples on the engine, visited through an order that lies there too.

    Where they are some rows of others, the others are there as a whole, once (`like` has them, if it is given), and an order of
    theirs leads to those rows.
    """

    def __init__(self, engine: Engine, examples: PreparedData, like: Feed | None = None) -> None:
        self.engine = engine
        whole = examples if examples.whole is None else examples.whole
        known = {} if like is None else like.arrays
        self.arrays: dict[str, Any] = {
            name: known[name] if name in known else _to_device(engine, array)
            for name, array in whole.arrays().items()
            if name in examples.arrays()
        }
        self.maps = _maps(engine, examples)
        self.selected = None if examples.rows is None else engine.to_device(examples.rows)
        self.order: Any = None
        self._visits: Any = None  # the rows of an order, where these are some of all
        self._written: Any = None  # the order, where the feed has brought it to the engine itself

    def begin(self, order: Any) -> None:
        """Visit the examples in this order, an array of the host or of the engine, from now on."""
        if self.selected is not None:
            if self._visits is None or len(self._visits) != len(order):
                self._visits = self.engine.empty((len(order),), np.int64)
            self.engine.compute("gather", (self.selected, self.engine.to_device(order), self._visits), {})
            self.order = self._visits
            return
        if isinstance(order, np.ndarray) and self._written is not None and len(order) == len(self._written):
            self.engine.write(self._written, order)  # graphs know where it lies
            return
        self.order = self.engine.to_device(order)
        self._written = None if self.order is order else self.order

    def bindings(self) -> dict[str, Any]:
        """What the inputs of a program are bound to."""
        return {**self.arrays, **self.maps, "order": self.order}

    def most(self, position: int, rows: int) -> int | None:
        """How many mini-batches of `rows` rows can be played in one go from `position` of the order on; None: all."""
        return None

    def ready(self, position: int) -> int:
        """See to it that the examples from `position` of the order on are there; returns the position for the control block."""
        return position

    def close(self) -> None:
        """Let go of what the feed holds."""


class Blocks(Feed):
    """Blocks of an integer of mini-batches, in a ring of two on the engine, which knows how they come there."""

    def __init__(self, engine: Engine, examples: PreparedData, batch_size: int) -> None:
        self.engine, self.examples = engine, examples
        arrays = examples.arrays()
        each = sum(_row_bytes(array) for array in arrays.values())
        most = -(-len(examples.X) // batch_size)
        self.rows = min(most, max(1, BLOCK_BYTES // max(1, each) // batch_size)) * batch_size
        self.stride = self.rows + 1  # a last mini-batch of one row may have joined the one before it
        self.ring = engine.feed(self.stride, arrays)
        self.arrays, self.maps = self.ring.arrays, _maps(engine, examples)
        self.numbers = engine.to_device(np.arange(2 * self.stride))
        self.pool = ThreadPoolExecutor(1, "fastnn-stream")
        self.coming: Future[None] | None = None
        self.visits = np.zeros(0, np.int64)
        self.block = -1

    def begin(self, order: Any) -> None:
        self._wait()
        self.visits = order if isinstance(order, np.ndarray) else order.read()
        self.block, self.blocks = -1, max(1, -(-(len(self.visits) - 1) // self.rows))
        self.coming = self.pool.submit(self._load, 0)

    def bindings(self) -> dict[str, Any]:
        return {**self.arrays, **self.maps, "order": self.numbers}

    def most(self, position: int, rows: int) -> int | None:
        block = min(position // self.rows, self.blocks - 1)
        end = len(self.visits) if block == self.blocks - 1 else (block + 1) * self.rows
        return max(1, (end - position) // rows)

    def ready(self, position: int) -> int:
        block = min(position // self.rows, self.blocks - 1)
        if block != self.block:
            if self.block >= 0:
                self.ring.leave(self.block % 2)
            if self.coming is None or block != self.block + 1:
                self._wait()
                self.coming = self.pool.submit(self._load, block)
            self._wait()
            self.ring.enter(block % 2)
            self.block = block
            if block + 1 < self.blocks:
                self.coming = self.pool.submit(self._load, block + 1)
        return (block % 2) * self.stride + position - block * self.rows

    def _load(self, block: int) -> None:
        """Gather a block into its half of the ring, which nobody reads any more."""
        start = block * self.rows
        end = len(self.visits) if block == self.blocks - 1 else start + self.rows
        visits, arrays = self.visits[start:end], self.examples.arrays()
        self.ring.fill(block % 2, len(visits), lambda name, out: take_rows(arrays[name], visits, out))

    def _wait(self) -> None:
        if self.coming is not None:
            coming, self.coming = self.coming, None
            coming.result()

    def close(self) -> None:
        self.pool.shutdown()  # waits for a block that is still coming and that nobody needs any more


def feed(engine: Engine, examples: PreparedData, batch_size: int, like: Feed | None = None) -> Feed:
    """The examples on the engine, or blocks of them where they are not dense or do not fit. `like`: the feed of other rows of
    the same arrays."""
    room, X = engine.room(), examples.X if examples.whole is None else examples.whole.X
    if like is not None:
        in_blocks = isinstance(like, Blocks)
    elif room is None:
        in_blocks = isinstance(X, RowSource)
    else:
        in_blocks = isinstance(X, np.ndarray | RowSource) and X.nbytes > RESIDENT_SHARE * room
    return Blocks(engine, examples, batch_size) if in_blocks else Feed(engine, examples, like)


def _maps(engine: Engine, examples: PreparedData) -> dict[str, Any]:
    """The arrays of the examples' input map on the engine."""
    return {name: engine.to_device(array) for name, array in examples.input_map.arrays().items()}


def _row_bytes(array: np.ndarray | RowSource) -> int:
    return math.prod(array.shape[1:]) * array.dtype.itemsize


def _to_device(engine: Engine, array: Any) -> Any:
    """An array on the engine; rows that are not dense are brought there block by block."""
    if not isinstance(array, RowSource):
        return engine.to_device(array)
    on_device = engine.empty(array.shape, array.dtype)
    rows = max(1, BLOCK_BYTES // max(1, _row_bytes(array)))
    for start in range(0, len(array), rows):
        block = array[start : start + rows]
        engine.write(on_device.rows(start, len(block)), block)
    return on_device
