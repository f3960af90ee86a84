"""Where the programs of a run find their examples: all of them on the engine, or, where they cannot lie there, block by block.

Streaming changes no bit: the order of an epoch is the same, and another thread gathers the rows of a block in that order while
the block before is worked on. Which of the two is done follows from the kind of the data and the free memory alone.
"""

from __future__ import annotations

import itertools
import math
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from fastnn import arrays
from fastnn.data.inputs import RowSource, take_rows
from fastnn.data.prepared import PreparedData
from fastnn.engines import Engine
from fastnn.engines.cache import Borrowed, Instances, let_go, make_with_room

BLOCK_BYTES = 2**26
"""About how many bytes of examples one block of a stream holds; there are two of them."""

RESIDENT_SHARE = 0.8
"""Examples stay on the device where they take no more than this share of its free memory."""


KEPT_SHARE = 0.1
"""The arrays of a feed are kept for the next one where the examples take no more than this share of the free memory."""


class Buffers:
    """Arrays on an engine, by name, that the values of one feed after another are written to: graphs know where they lie."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._arrays: dict[str, Any] = {}

    def holds(self, name: str, array: Any) -> bool:
        """Whether there is room for an array already, or it needs none."""
        return self._fits(name, array.shape, array.dtype) or self._lies_there(array)

    def room(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array of this shape, the same memory as before where it is large enough."""
        if not self._fits(name, shape, dtype):
            self._arrays.pop(name, None)  # it goes first: there may be no room for both
            self._arrays[name] = make_with_room(lambda: self.engine.empty(shape, dtype))
        array = self._arrays[name]
        return array if len(array) == shape[0] else array[: shape[0]]

    def place(self, name: str, array: Any) -> Any:
        """An array where the engine reads it: itself if it lies there, else its values as they are now; rows that are not dense
        are brought there block by block."""
        if self._lies_there(array):
            return self.engine.to_device(array)
        if not isinstance(array, RowSource):
            array = arrays.to_host(array)
        placed = self.room(name, array.shape, array.dtype)
        if not isinstance(array, RowSource):
            self.engine.write(placed, array)
            return placed
        rows = max(1, BLOCK_BYTES // max(1, _row_bytes(array)))
        for start in range(0, len(array), rows):
            block = array[start : start + rows]
            self.engine.write(placed.rows(start, len(block)), block)
        return placed

    def _fits(self, name: str, shape: tuple[int, ...], dtype: Any) -> bool:
        kept = self._arrays.get(name)
        return kept is not None and kept.dtype == dtype and kept.shape[1:] == shape[1:] and len(kept) >= shape[0]

    def _lies_there(self, array: Any) -> bool:
        return self.engine.adopts(array) and (type(array) is np.ndarray or not isinstance(array, RowSource))


class Feed:
    """All examples on the engine, visited through an order that lies there too.

    Where they are some rows of others, the others are there as a whole, once (`like` has them, if it is given), and an order of
    theirs leads to those rows.
    """

    def __init__(
        self, engine: Engine, examples: PreparedData, like: Feed | None = None, borrowed: Borrowed | None = None
    ) -> None:
        self.engine, self._borrowed = engine, borrowed
        self._buffers: Buffers = Buffers(engine) if borrowed is None else borrowed.item
        known = {} if like is None else like.arrays
        self.arrays: dict[str, Any] = {
            name: known[name] if name in known else self._buffers.place(name, array)
            for name, array in examples.placed(engine).items()
        }
        self.maps = {name: self._buffers.place(name, array) for name, array in examples.input_map.arrays().items()}
        self.selected = None if examples.rows is None else self._buffers.place("selected", examples.rows)
        self.order: Any = None

    def order_buffer(self, n: int) -> Any:
        """Where an order of n examples can be written on the engine; one at a time."""
        return self._buffers.room("order", (n,), np.int64)

    def begin(self, order: Any) -> None:
        """Visit the examples in this order, an array of the host or of the engine, from now on."""
        self.order = self._buffers.place("order", order)
        if self.selected is not None:
            visits = self._buffers.room("visits", (len(order),), np.int64)
            self.engine.compute("gather", (self.selected, self.order, visits), {})
            self.order = visits

    def bindings(self) -> dict[str, Any]:
        """What the inputs of a program are bound to."""
        return {**self.arrays, **self.maps, "order": self.order}

    def most(self, position: int, rows: int) -> int | None:
        """How many mini-batches of `rows` rows can be played in one go from `position` of the order on; None: all."""
        return None

    def ready(self, position: int) -> int:
        """See to it that the examples from `position` of the order on are there; returns the position for the control block."""
        return position

    def bytes_of(self, count: int) -> int | None:
        """Bytes of so many examples where they lie on the host as arrays; else None."""
        if not self.engine.is_host:
            return None
        each = 0
        for array in self.arrays.values():
            each += array.nbytes // len(array)
        return count * each

    def copy_rows(self, position: int, count: int) -> dict[str, np.ndarray]:
        """Copies of so many examples from `position` of the order on, of arrays of the host."""
        visits = self.order[position : position + count]
        return {name: array.take(visits, 0) for name, array in self.arrays.items()}

    def close(self) -> None:
        """Let go of what the feed holds; what was borrowed goes back."""
        if self._borrowed is not None:
            borrowed, self._borrowed = self._borrowed, None
            borrowed.__exit__()


class Blocks(Feed):
    """Blocks of an integer of mini-batches, in a ring of two on the engine, which knows how they come there."""

    def __init__(self, engine: Engine, examples: PreparedData, batch_size: int) -> None:
        self.engine, self.examples = engine, examples
        self._borrowed, self._buffers = None, Buffers(engine)
        given = examples.arrays()
        each = sum(_row_bytes(array) for array in given.values())
        most = -(-len(examples.X) // batch_size)
        self.rows = min(most, max(1, BLOCK_BYTES // max(1, each) // batch_size)) * batch_size
        self.stride = self.rows + 1  # a last mini-batch of one row may have joined the one before it
        self.ring = engine.feed(self.stride, given)
        self.arrays = self.ring.arrays
        self.maps = {name: engine.to_device(array) for name, array in examples.input_map.arrays().items()}
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

    def bytes_of(self, count: int) -> None:
        return None

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
        visits, given = self.visits[start:end], self.examples.arrays()
        self.ring.fill(block % 2, len(visits), lambda name, out: take_rows(given[name], visits, out))

    def _wait(self) -> None:
        if self.coming is not None:
            coming, self.coming = self.coming, None
            try:
                coming.result()
            finally:
                del coming  # else this frame would keep the error, and the error all frames, and what they hold

    def close(self) -> None:
        self.pool.shutdown()  # waits for a block that is still coming and that nobody needs any more
        self.coming = None


def feed(
    engine: Engine, examples: PreparedData, batch_size: int, like: Feed | None = None, kept: Instances | None = None
) -> Feed:
    """The examples on the engine, or blocks of them where they are not dense or do not fit. `like`: the feed of other rows of
    the same arrays; `kept`: where arrays of the engine are kept from one feed to the next."""
    key = ("feed", engine.name, examples.layout)
    borrowed = None if kept is None else kept.take(key, lambda: Buffers(engine))
    X = examples.X if examples.whole is None else examples.whole.X
    if like is not None:
        in_blocks, few = isinstance(like, Blocks), True
    elif engine.is_host or borrowed is None or not all(itertools.starmap(borrowed.item.holds, examples.placed(engine).items())):
        in_blocks, few = _weigh(engine, X)
    else:
        in_blocks, few = False, True
    if borrowed is not None and (in_blocks or not few):
        borrowed.__exit__()
        borrowed = None
    return Blocks(engine, examples, batch_size) if in_blocks else Feed(engine, examples, like, borrowed)


def _weigh(engine: Engine, X: Any) -> tuple[bool, bool]:
    """Whether inputs come in blocks, and whether they are so few that they may stay when nobody needs them."""
    room = engine.room()
    if room is None:
        return isinstance(X, RowSource), True  # the others are used where they lie
    if not isinstance(X, np.ndarray | RowSource):
        return False, True  # they lie on a device
    if X.nbytes > RESIDENT_SHARE * room and let_go():
        room = engine.room() or 0
    return X.nbytes > RESIDENT_SHARE * room, X.nbytes <= KEPT_SHARE * room


def _row_bytes(array: np.ndarray | RowSource) -> int:
    return math.prod(array.shape[1:]) * array.dtype.itemsize
