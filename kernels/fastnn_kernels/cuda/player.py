"""Playing a list of calls on a GPU: lowered and scheduled once, then launched as graphs of several steps each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastnn_kernels.contract import Operand
from fastnn_kernels.cuda.kernels import kernel
from fastnn_kernels.cuda.lowering import ALIGNMENT, Ahead, Body, Number, Pointer, Product, lower
from fastnn_kernels.cuda.runtime import Launch, Memory, Multiplication, Node, Runtime
from fastnn_kernels.cuda.schedule import (
    SCRATCH,
    Place,
    Placed,
    Schedule,
    follows_control,
    place,
    schedule,
    stages_of,
)
from fastnn_kernels.cuda.variants import Choice

LENGTHS = (64, 8, 1)
"""Steps of the graphs that a program is played with, longest first."""

WORTH = 4
"""A graph of several steps is captured once so many times its steps have been asked for."""

CONTROL = "control"
"""The input that holds the control block: `advance` moves it on."""


@dataclass(frozen=True)
class PlacedCall:
    """A call of the contract and where its operands lie."""

    kernel: str
    operands: tuple[Operand, ...]
    attributes: Mapping[str, Any]
    places: tuple[Place, ...]

    @property
    def offsets(self) -> list[int]:
        return [place.offset for place in self.places]


class Player:
    """A list of calls on one GPU. `spaces`: addresses that places count from; set with `bind`, at any time between plays.

    `precision`: of products of float32, "float32" or "tf32"; `choices`: how products are computed where not by the rule.
    Spaces should begin at boundaries of ALIGNMENT, which is what cuBLASLt is asked for.
    `capture=False` launches every kernel on its own, for debuggers and sanitizers; the results are the same bits.
    """

    def __init__(
        self,
        runtime: Runtime,
        calls: Sequence[PlacedCall],
        precision: str = "float32",
        capture: bool = True,
        choices: Mapping[str, Choice] | None = None,
    ) -> None:
        self.runtime = runtime
        self.capture = capture
        self.calls: list[list[Placed]] = []
        self.notes: list[str] = []
        """What lowering says of each call."""
        device = replace(runtime.device, precision=precision, choices=choices or {})
        scratch = 0
        unrolled = True
        for call in calls:
            lowered = lower(call.kernel, call.operands, call.attributes, device, call.offsets)
            self.notes.append(lowered.note)
            works = place(lowered, call.places, scratch)
            scratch += -(-lowered.scratch // ALIGNMENT) * ALIGNMENT
            self.calls.append(works)
            unrolled = unrolled and follows_control(works, call.places, CONTROL)
        self._scratch: Memory | None = runtime.allocate(scratch) if scratch else None
        ends = [works for call, works in zip(calls, self.calls, strict=True) if call.kernel == "advance"]
        steps = [works for call, works in zip(calls, self.calls, strict=True) if call.kernel != "advance"]
        self._end: list[Placed] = [placed for works in ends for placed in works]
        self.schedule: Schedule = schedule([placed for works in steps for placed in works])
        self.lengths = LENGTHS if unrolled and self._end else (1,)
        self.spaces: dict[str, int] = {SCRATCH: self._scratch.address} if self._scratch else {}
        self._graphs: dict[int, Any] = {}
        self._asked = 0

    def bind(self, space: str, address: int) -> None:
        """Let a space begin at `address`; what was captured with another address is thrown away."""
        if self.spaces.get(space) != address:
            self.spaces[space] = address
            self._graphs.clear()

    def play(self, repeats: int, stream: Any) -> None:
        """Give `repeats` steps to the stream."""
        self._asked += repeats
        while repeats:
            length = next(n for n in self.lengths if n == 1 or (n <= repeats and n * WORTH <= self._asked))
            self._play(length, stream)
            repeats -= length

    def play_calls(self, first: int, count: int, repeats: int, stream: Any) -> None:
        """Give some calls on their own to the stream, one after another."""
        nodes = [self._node([(placed, 0)]) for works in self.calls[first : first + count] for placed in works]
        self.runtime.prepare(nodes)
        many = LENGTHS[0]
        if self.capture and repeats >= many * WORTH:
            graph = self.runtime.capture([[node] for node in nodes] * many)
            for _ in range(repeats // many):
                self.runtime.launch(graph, stream)
            repeats %= many
        for _ in range(repeats):
            for node in nodes:
                self.runtime.run(node, stream)

    def describe(self) -> str:
        """How the program is played: `19.0 nodes a step, 6.0 of them in pairs side by side, 64 steps a graph`."""
        steps = self.lengths[0]
        stages = self.stages(steps)
        nodes, paired = sum(map(len, stages)), sum(len(stage) for stage in stages if len(stage) > 1)
        beside = f", {paired / steps:.1f} of them in pairs side by side" if paired and self.capture else ""
        return f"{nodes / steps:.1f} nodes a step{beside}, {steps} step{'s' if steps > 1 else ''} a graph"

    def nodes(self, steps: int) -> list[Node]:
        """What `steps` steps in a row are: kernels and products, in an order in which they may run one after another."""
        return [node for stage in self.stages(steps) for node in stage]

    def stages(self, steps: int) -> list[list[Node]]:
        """The same nodes, those together that a graph runs side by side."""
        many_blocks = 2 * self.runtime.device.multiprocessors
        stages = [stage for level in self.schedule.steps(steps) for stage in stages_of(level, many_blocks)]
        stages += [[[(placed, steps - 1)]] for placed in self._end]
        return [[self._node(group) for group in stage] for stage in stages]

    def _play(self, length: int, stream: Any) -> None:
        graph = self._graphs.get(length)
        if graph is None:
            stages = self.stages(length)
            nodes = [node for stage in stages for node in stage]
            self.runtime.prepare(nodes)
            graph = self._graphs[length] = self.runtime.capture(stages) if self.capture else nodes
        if self.capture:
            self.runtime.launch(graph, stream)
        else:
            for node in graph:
                self.runtime.run(node, stream)

    def _node(self, group: Sequence[tuple[Placed, int]]) -> Node:
        """One node of works side by side, each with the number of the step it belongs to."""
        first, _ = group[0]
        if isinstance(first.work, Product):
            return Multiplication(first.work, tuple(self.spaces[p.space] + p.offset for p in first.places))
        bodies: list[Body] = []
        values: list[int | float | bool] = []
        for placed, step in group:
            body = placed.work
            assert isinstance(body, Body)
            bodies.append(body)
            values.append(body.blocks)
            places = iter(placed.places)
            for argument in body.arguments:
                if isinstance(argument, Pointer):
                    where = next(places)
                    values.append(self.spaces[where.space] + where.offset)
                elif isinstance(argument, Number):
                    values.append(argument.value)
                else:
                    assert isinstance(argument, Ahead)
                    values.append(argument.unit * step)
        blocks, shared = sum(body.blocks for body in bodies), max(body.shared for body in bodies)
        return Launch(kernel(bodies), blocks, shared, tuple(values))
