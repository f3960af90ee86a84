"""Mini-batches that the user makes: an iterable of (X, y) or (X, y, weights), gone through once an epoch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from time import perf_counter
from typing import Any

from fastnn.data.prepared import PreparedData
from fastnn.errors import InputError, InputTypeError

BLOCK = 64
"""Mini-batches that are played in one go, at most."""

BLOCK_BYTES = 2**26
"""Bytes of examples that wait to be played in one go, about."""

BLOCK_SECONDS = 0.05
"""How long mini-batches are waited for before those that have come are played."""

_END = object()


def is_batches(X: Any, y: Any) -> bool:
    """Whether X stands for an iterable of mini-batches: there is no y, and X is no array."""
    if y is not None or hasattr(X, "shape") or hasattr(X, "__array__") or hasattr(X, "__dlpack__"):
        return False
    return callable(X) or isinstance(X, Iterable)


class Batches:
    """An iterable of mini-batches, or a function that returns one for each epoch."""

    def __init__(self, source: Any, epochs: Any) -> None:
        self._source = source
        self._first: Iterator[Any] | None = None
        once = not callable(source) and iter(source) is source
        if once and isinstance(epochs, int) and epochs > 1:
            raise InputError(
                f"an iterator can be gone through once, and there are {epochs} epochs: give a list of mini-batches, or a "
                "function that returns an iterator for each epoch"
            )

    def first(self) -> tuple[Any, Any, Any]:
        """The first mini-batch, which the first epoch begins with."""
        batches = self._iterate()
        try:
            batch = next(batches)
        except StopIteration:
            raise InputError("the iterable of mini-batches is empty") from None
        self._first = itertools.chain([batch], batches)
        return _parts(batch, 0)

    def blocks(self, done: int, check: Callable[..., PreparedData], most: int | None = None) -> Iterator[list[PreparedData]]:
        """Mini-batches of an epoch after the first `done`, checked; those that follow each other and are alike together.

        `most`: how many an epoch has, where the iterable has more, or no end.
        """
        batches, self._first = self._first or self._iterate(), None
        for _ in range(done):
            if next(batches, None) is None:
                raise InputError(f"the iterable of mini-batches ended within the {done} that the run was trained on before")
        if most is not None:
            batches = itertools.islice(batches, max(0, most - done))
        block: list[PreparedData] = []
        begun, size = perf_counter(), 0
        for index in itertools.count(done):
            try:
                batch = next(batches, _END)
                if batch is _END:
                    break
                examples = check(*_parts(batch, index), f"mini-batch {index}: ")
            except Exception:
                if block:  # those before it are trained on, however many of them were waiting
                    yield block
                raise
            alike = not block or (examples.layout == block[0].layout and len(examples.X) == len(block[0].X))
            if not alike or (block and not examples.on_host):
                yield block
                block, begun, size = [], perf_counter(), 0
            block.append(examples)
            size += sum(array.nbytes for array in examples.arrays().values())
            if len(block) == BLOCK or size > BLOCK_BYTES or perf_counter() - begun > BLOCK_SECONDS:
                yield block
                block, begun, size = [], perf_counter(), 0
        if block:
            yield block

    def _iterate(self) -> Iterator[Any]:
        source = self._source() if callable(self._source) else self._source
        if not isinstance(source, Iterable):
            raise InputTypeError(f"expected an iterable of mini-batches (X, y), got {type(source).__name__}")
        return iter(source)


def _parts(batch: Any, index: int) -> tuple[Any, Any, Any]:
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        cure = "" if index else "; or is y missing?"
        raise InputError(f"mini-batch {index}: expected (X, y) or (X, y, weights), got {type(batch).__name__}{cure}")
    return batch[0], batch[1], batch[2] if len(batch) == 3 else None
