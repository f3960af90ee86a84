"""`Undo`: the way back to before a chunk of steps.

A snapshot copies the whole model, which takes longer than a few steps do. It stays good for the chunks after it, in this call
of `fit` and in later ones, as long as copies of the rows that they visited are the smaller ones: to undo a later chunk the
snapshot is put back, and those between are played again, which gives the same bits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastnn.network.programs import InstanceKey
from fastnn.network.state import Progress, Snapshot, State

LONGEST = 64
"""Steps that are played again, at most."""

KEPT_BYTES = 2**21
"""Rows of about so many bytes are kept, or of as many as the model has."""


class Chunk(NamedTuple):
    """Steps that are whole, and what they read: the rows that they visited, one after another, and the tables of the host."""

    key: InstanceKey
    steps: int
    data: dict[str, np.ndarray]
    step: int
    scalars: np.ndarray
    penalties: np.ndarray


class Mark(NamedTuple):
    """Where a model was: behind so many of the chunks after the snapshot."""

    chunks: int
    progress: Progress


class Undo:
    """A snapshot, whose memory is used again for the next one, and the chunks since then. It is of one state at a time, and of
    steps that are made in one way."""

    def __init__(self) -> None:
        self.snapshot = Snapshot({})
        self.chunks: list[Chunk] = []
        self._state: State | None = None
        self._version: tuple[int, ...] = ()
        """Of the state behind the last chunk: others have changed it since where it is another now."""
        self._steps = self._bytes = self._most = 0

    def mark(self, state: State) -> Mark:
        """The place where the state is now, to come back to; a snapshot is made where the last one is of no use."""
        if self._version != state.version or self._state is not state or self._steps >= LONGEST:
            self.end()
            self.snapshot = state.snapshot(self.snapshot)
            self.chunks, self._state, self._steps, self._bytes = [], state, 0, 0
            self._most = sum(array.nbytes for array in self.snapshot.arrays.values())
            self._version = state.version
        return Mark(len(self.chunks), state.progress)

    def end(self) -> None:
        """The next `mark` makes a snapshot."""
        self._version = ()

    def has_room(self, size: int) -> bool:
        """Whether rows of so many bytes are worth keeping: they are fewer than a snapshot has."""
        return size <= self._most and self._bytes + size <= max(KEPT_BYTES, self._most)

    def add(self, state: State, chunk: Chunk, size: int) -> None:
        """This chunk of so many bytes is behind the last one, and nothing else."""
        changes, step, updates = self._version or (0, 0, 0)
        after = changes, step + chunk.steps, updates + chunk.steps
        if self._version and after == state.version:
            self.chunks.append(chunk)
            self._version = after
            self._steps += chunk.steps
            self._bytes += size
        else:
            self.end()

    def cut(self, state: State, mark: Mark) -> None:
        """The state is at `mark` again."""
        self.chunks = self.chunks[: mark.chunks]
        self._steps = sum(chunk.steps for chunk in self.chunks)
        self._bytes = sum(array.nbytes for chunk in self.chunks for array in chunk.data.values())
        self._version = state.version
