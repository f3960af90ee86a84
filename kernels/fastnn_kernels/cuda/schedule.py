"""The order in which a GPU does the works of a program: levels, whose works do not depend on each other.

Works of one level become one kernel where they are small, and the first levels of a step may be shared with the last ones of
the step before: a step then has fewer nodes, each of which costs more than a small work itself. A single block for which nobody
waits, such as one that logs the loss, runs as late as it can beside another body, of any size. Two nodes of a level, one of
them a product, run side by side where they leave room for each other. Two works depend on each other where the memory that one
writes overlaps what the other reads or writes; other columns of one array do not overlap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fastnn_kernels.cuda.lowering import Ahead, Body, Lowered, Pointer, Product, Work, ceil

SCRATCH = "scratch"
"""The space that the scratch memory of all calls lies in."""

PRODUCT_BLOCK = 2**13
"""Elements of its result for which a product of cuBLASLt counts as one block: a tile of 128 x 128, which may have a
multiprocessor to itself, counts as two of our blocks. Estimated, and so is what is gained by it: never measured on a GPU. What
cuBLASLt splits along the inner axis has more blocks than that."""


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
    def touches(self) -> tuple[tuple[str, float, float, bool, tuple[int, int, int] | None], ...]:
        """(space, first byte, first byte behind it, whether it is written, columns) of each pointer."""
        stops = (math.inf if p.open else p.offset + a.nbytes for a, p in zip(self.work.pointers, self.places, strict=True))
        return tuple(
            (place.space, place.offset, stop, pointer.written, pointer.columns)
            for pointer, place, stop in zip(self.work.pointers, self.places, stops, strict=True)
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
        and not (start == other_start and _are_apart(columns, other_columns))
        for space, start, stop, written, columns in a.touches
        for other_space, other_start, other_stop, other_written, other_columns in b.touches
    )  # fmt: skip


def _are_apart(columns: tuple[int, int, int] | None, others: tuple[int, int, int] | None) -> bool:
    """Whether two pointers to the start of one array mean different columns of it."""
    if columns is None or others is None or columns[0] != others[0]:
        return False
    return columns[2] <= others[1] or others[2] <= columns[1]


def schedule(works: Sequence[Placed]) -> Schedule:
    """Each work in the level behind the last one that it depends on, but for single blocks that nobody waits for."""
    depths: list[int] = []
    for index, work in enumerate(works):
        before = (depths[other] for other in range(index) if depend(works[other], work))
        depths.append(max(before, default=-1) + 1)
    early, late = (_schedule_at(works, each) for each in (depths, _postpone(works, depths)))
    return late if late.shared >= early.shared else early


def _schedule_at(works: Sequence[Placed], depths: Sequence[int]) -> Schedule:
    levels = tuple(
        tuple(work for work, depth in zip(works, depths, strict=True) if depth == level)
        for level in range(max(depths, default=-1) + 1)
    )
    return Schedule(levels, _shared_levels(levels))


def _postpone(works: Sequence[Placed], depths: Sequence[int]) -> list[int]:
    """Levels in which single blocks stand beside the last other body that they may.

    Only those are moved for which nobody waits, or nobody but others that are moved.
    """
    levels, moved = list(depths), set[int]()
    for index in reversed(range(len(works))):
        waiting = [other for other in range(index + 1, len(works)) if depend(works[index], works[other])]
        if not is_single_block(works[index]) or not moved.issuperset(waiting):
            continue
        limit = min((levels[other] for other in waiting), default=max(depths) + 1)
        beside = {
            levels[other]
            for other, placed in enumerate(works)
            if isinstance(placed.work, Body) and other != index and other not in moved
        }
        level = max((each for each in beside if depths[index] < each < limit), default=depths[index])
        if level > depths[index]:
            levels[index] = level
            moved.add(index)
    return levels


def is_single_block(placed: Placed) -> bool:
    """Whether a work is a body of one block without shared memory: any other body may have it beside itself."""
    return isinstance(placed.work, Body) and placed.work.blocks == 1 and not placed.work.shared


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
    """The works of a level as nodes: products and bodies of more than `many_blocks` blocks alone, all others together.

    Where the others are single blocks only, they come first in the node of a large body.
    """
    alone = [[item] for item in level if isinstance(item[0].work, Product) or item[0].work.blocks > many_blocks]
    together = [item for item in level if isinstance(item[0].work, Body) and item[0].work.blocks <= many_blocks]
    large = next((node for node in alone if isinstance(node[0][0].work, Body)), None)
    if large is not None and all(is_single_block(placed) for placed, _ in together):
        large[:0] = together
        return alone
    return alone + ([together] if together else [])


def stages_of(level: Sequence[tuple[Placed, int]], many_blocks: int) -> list[list[list[tuple[Placed, int]]]]:
    """The nodes of a level in stages, one stage after another: two nodes that run side by side, or one alone.

    Two are a stage where they have no more than `many_blocks` blocks together, so that neither waits for room. One of them is a
    product: all bodies that are small enough are one node.
    """
    stages: list[list[list[tuple[Placed, int]]]] = []
    for node in kernels_of(level, many_blocks):
        blocks = _count_blocks(node)
        free = (stage for stage in stages if len(stage) == 1 and _count_blocks(stage[0]) + blocks <= many_blocks)
        beside = next(free, None)
        if beside is None:
            stages.append([node])
        else:
            beside.append(node)
    return stages


def _count_blocks(node: Sequence[tuple[Placed, int]]) -> int:
    works = [placed.work for placed, _ in node]
    return sum(ceil(w.rows * w.columns, PRODUCT_BLOCK) if isinstance(w, Product) else w.blocks for w in works)


def follows_control(works: Sequence[Placed], operands: Sequence[Place], control: str) -> bool:
    """Whether a call looks ahead wherever it reads the control block, so that several steps may run before that moves on."""
    bodies = [placed.work for placed in works if isinstance(placed.work, Body)]
    looked = {argument.operand for body in bodies for argument in body.arguments if isinstance(argument, Ahead)}
    return all(index in looked for index, place in enumerate(operands) if place.space == control)
