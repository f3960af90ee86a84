"""The order in which a GPU does the works of a program: levels, whose works do not depend on each other.

Works of one level become one kernel where they are small, and the first levels of a step may be shared with the last ones of
the step before: a step then has fewer nodes, each of which costs more than a small work itself. Two works depend on each other
where the memory that one writes overlaps what the other reads or writes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fastnn_kernels.cuda.lowering import Ahead, Body, Lowered, Pointer, Product, Work

SCRATCH = "scratch"
"""The space that the scratch memory of all calls lies in."""


@dataclass(frozen=True)
class Place:
    """Where an operand begins: bytes from the start of a space. `open`: its length is not known."""

    space: str
    offset: int
    open: bool = False


@dataclass(frozen=True)
class Placed:
    """A work and where each of its pointers points."""

    work: Work
    places: tuple[Place, ...]

    @property
    def touches(self) -> tuple[tuple[str, float, float, bool], ...]:
        """(space, first byte, first byte behind it, whether it is written) of each pointer."""
        return tuple(
            (place.space, place.offset, math.inf if place.open else place.offset + pointer.nbytes, pointer.written)
            for pointer, place in zip(self.work.pointers, self.places, strict=True)
        )


@dataclass(frozen=True)
class Schedule:
    """The levels of one step, and how many of its first ones may be shared with the last ones of the step before."""

    levels: tuple[tuple[Placed, ...], ...]
    shared: int

    def steps(self, count: int) -> list[list[tuple[Placed, int]]]:
        """The levels of `count` steps in a row: works, each with the number of its step."""
        stride = len(self.levels) - self.shared
        together: list[list[tuple[Placed, int]]] = [[] for _ in range(stride * count + self.shared if count else 0)]
        for step in range(count):
            for index, level in enumerate(self.levels):
                together[step * stride + index] += [(placed, step) for placed in level]
        return together


def place(lowered: Lowered, places: Sequence[Place], scratch: int) -> list[Placed]:
    """The works of a call whose operands lie at `places` and whose scratch memory begins `scratch` bytes into its space."""

    def where(pointer: Pointer) -> Place:
        if pointer.operand < 0:
            return Place(SCRATCH, scratch + pointer.offset)
        operand = places[pointer.operand]
        return Place(operand.space, operand.offset + pointer.offset, operand.open)

    return [Placed(work, tuple(where(pointer) for pointer in work.pointers)) for work in lowered.works]


def depend(a: Placed, b: Placed) -> bool:
    """Whether one writes what the other reads or writes."""
    return any(
        (written or other_written) and space == other_space and start < other_stop and other_start < stop
        for space, start, stop, written in a.touches
        for other_space, other_start, other_stop, other_written in b.touches
    )


def schedule(works: Sequence[Placed]) -> Schedule:
    """Each work in the level behind the last one that it depends on."""
    depths: list[int] = []
    for index, work in enumerate(works):
        before = (depths[other] for other in range(index) if depend(works[other], work))
        depths.append(max(before, default=-1) + 1)
    levels = tuple(
        tuple(work for work, depth in zip(works, depths, strict=True) if depth == level)
        for level in range(max(depths, default=-1) + 1)
    )
    return Schedule(levels, _shared_levels(levels))


def _shared_levels(levels: Sequence[Sequence[Placed]]) -> int:
    """The most first levels of the next step that fit beside the last ones of this step."""
    for count in range(len(levels) - 1, 0, -1):
        free = all(
            not depend(mine, its)
            for index in range(count)
            for its in levels[index]
            for level in levels[len(levels) - count + index :]
            for mine in level
        )
        if free:
            return count
    return 0


def kernels_of(level: Sequence[tuple[Placed, int]], many_blocks: int) -> list[list[tuple[Placed, int]]]:
    """The works of a level as nodes: products and bodies of more than `many_blocks` blocks alone, all others together."""
    alone = [[item] for item in level if isinstance(item[0].work, Product) or item[0].work.blocks > many_blocks]
    together = [item for item in level if isinstance(item[0].work, Body) and item[0].work.blocks <= many_blocks]
    return alone + ([together] if together else [])


def follows_control(works: Sequence[Placed], operands: Sequence[Place], control: str) -> bool:
    """Whether a call looks ahead wherever it reads the control block, so that several steps may run before that moves on."""
    bodies = [placed.work for placed in works if isinstance(placed.work, Body)]
    looked = {argument.operand for body in bodies for argument in body.arguments if isinstance(argument, Ahead)}
    return all(index in looked for index, place in enumerate(operands) if place.space == control)
