"""Planning: where each intermediate array of a program lies in one workspace, for a number of rows.

Two arrays may share memory when one is last read before the other is made. Calls that depend on no input (constants) are
split off: they are played once, before the first play, and keep their memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastnn.program.trace import Call, Program, Symbol
from fastnn_kernels.memory import ALIGNMENT


@dataclass(frozen=True)
class Plan:
    """`offsets` of the storage of each root symbol in a workspace of `size` bytes; `once` are the constant calls."""

    once: tuple[Call, ...]
    calls: tuple[Call, ...]
    offsets: Mapping[Symbol, int]
    size: int


def plan(program: Program, rows: int, shared_from: int = 0) -> Plan:
    """Lay out the workspace: the largest arrays first, each at the lowest place that is free for its whole life.

    Arrays of fewer than `shared_from` bytes share memory with none: calls that could share it can then be done at once.
    """
    once, calls = split_constants(program)
    bound = {symbol.root for symbol in program.inputs.values()}
    forever = {symbol.root for call in once for symbol in call.outputs}
    forever |= {symbol.root for symbol in program.outputs.values()}
    lives: dict[Symbol, tuple[int, int]] = {}
    for index, call in enumerate((*once, *calls)):
        for symbol in call.operands:
            root = symbol.root
            if root not in bound:
                lives[root] = (lives.get(root, (index, index))[0], index)
    last = len(once) + len(calls)
    for root in lives:
        if root in forever or root.operand(rows).nbytes < shared_from:
            lives[root] = (0, last)
    sizes = {root: -(-root.operand(rows).nbytes // ALIGNMENT) * ALIGNMENT for root in lives}
    placed: list[tuple[int, int, int, int]] = []  # start, end, first, last
    offsets: dict[Symbol, int] = {}
    for root in sorted(lives, key=lambda r: -sizes[r]):
        first, final = lives[root]
        start = 0
        for other_start, other_end, other_first, other_last in sorted(placed):
            if other_last < first or other_first > final:
                continue
            if start + sizes[root] <= other_start:
                break
            start = max(start, other_end)
        offsets[root] = start
        placed.append((start, start + sizes[root], first, final))
    size = max((end for _, end, _, _ in placed), default=0)
    return Plan(once, calls, offsets, size)


def split_constants(program: Program) -> tuple[tuple[Call, ...], tuple[Call, ...]]:
    """The calls that read nothing but constants and write no storage given from outside, and the rest."""
    bound = {symbol.root for symbol in program.inputs.values()}
    touched = {symbol.root for call in program.calls for symbol in call.updated}
    constants: set[Symbol] = set()
    once, rest = [], []
    for call in program.calls:
        fixed = not call.updated and all(symbol.root in constants for symbol in call.reads)
        if fixed and not any(symbol.root in bound or symbol.root in touched for symbol in call.outputs):
            constants.update(symbol.root for symbol in call.outputs)
            once.append(call)
        else:
            rest.append(call)
    return tuple(once), tuple(rest)
