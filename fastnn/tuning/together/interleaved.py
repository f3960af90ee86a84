"""Models interleaved on one core: one program makes the step of each of them on a mini-batch that is gathered once.

The calls of a model are those of its step in `fit`, one model after another, so that each has the bits it has alone. What is
saved is the gathering: rows far apart in memory cost more than the update of a small network, and here all but the first model
find them in the cache.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from fastnn import engines
from fastnn.data.orders import segments
from fastnn.errors import DivergenceError
from fastnn.network.programs import LOG_ROWS
from fastnn.network.state import Snapshot
from fastnn.program.trace import Program, Symbol
from fastnn.training.trainer import CHUNK_SECONDS, SNAPSHOT_SHARE, Trainer

SHARED = ("X", "y", "order")
"""Inputs that only the calls read which are made once."""


def join_programs(programs: Sequence[Program]) -> Program:
    """Steps of several models on the same mini-batch as one: gathered at the beginning, moved on to the next at the end.

    The same program may be there several times. Input `name` of program k is called `name.k`.
    """
    inputs: dict[str, Symbol] = {}
    calls = []
    first: list[Symbol] = []
    for k, program in enumerate(programs):
        roots = {symbol.root for call in program.calls for symbol in call.operands} | set(program.inputs.values())
        own = {root: Symbol(root.trace, root.shape, root.dtype, root.name) for root in roots}
        gathered = [call.outputs[0] for call in program.calls if call.kernel == "gather_rows"]
        first = first or [own[symbol] for symbol in gathered]
        own |= dict(zip(gathered, first, strict=True))
        inputs |= {f"{name}.{k}": own[symbol] for name, symbol in program.inputs.items() if not k or name not in SHARED}
        for call in program.calls:
            if (k and call.kernel == "gather_rows") or (k < len(programs) - 1 and call.kernel == "advance"):
                continue
            there = {s: own[s] if s in own else own[s.root].view(s.shape, s.start, s.name) for s in call.operands}
            calls.append(call.replace(there))
    return Program(inputs, tuple(calls), {})


class Interleaved:
    """Runs of the same settings on the same examples, each after the first one made `like` it; trained to their ends.

    `going_on` is called after every chunk, and may raise. A run that diverges leaves the others: `diverged` says where.
    """

    def __init__(self, runs: Sequence[Trainer], going_on: Callable[[], None]) -> None:
        self.all, self.going, self.going_on = runs, list(runs), going_on
        self.diverged: dict[Trainer, str] = {}
        self.instances: dict[int, engines.Instance] = {}
        self.program: Program | None = None
        self.chunk = 0

    def train(self) -> None:
        """All epochs."""
        with contextlib.ExitStack() as open_:
            for run in self.all:
                run._setup(open_)
            leader = self.all[0]
            for epoch in range(leader.epochs):
                order = leader._order_of(epoch)
                leader.whole.begin(order)
                position = 0
                for rows, count in segments(len(order), leader.batch_size, leader.pairs):
                    self._segment(rows, count, position)
                    position += rows * count
                for run in self.going:
                    run._close(run._values())

    def _segment(self, rows: int, count: int, position: int) -> None:
        """Play `count` mini-batches of `rows` rows from `position` of the order on."""
        done, source = 0, self.all[0].whole
        while done < count and self.going:
            instance = self._instance(rows)
            instance.bind(**{f"{name}.0": array for name, array in source.bindings().items()})
            here = position + done * rows
            chunk = min(self.chunk or instance.first_chunk(CHUNK_SECONDS), count - done, LOG_ROWS)
            chunk = min(chunk, source.most(here, rows) or chunk)
            self._play(instance, chunk, here)
            done += chunk
            self.going_on()

    def _play(self, instance: engines.Instance, count: int, position: int) -> None:
        """One chunk of `count` steps of each model, undone and made again alone by one that it spoils."""
        started = time.perf_counter()
        before = [run.model.snapshot() for run in self.going]
        for run in self.going:
            run.feed = run.whole
            run._prepare(count, position, run.epoch)
        prepared = time.perf_counter()
        instance.play(count)
        played = time.perf_counter()
        for run, snapshot in zip(list(self.going), before, strict=True):
            log, finite = run._finite(count)
            if finite:
                run._count(count)
                run._add(log, instance.rows, run.examples)
            else:
                self._drop(run, snapshot, instance.rows, count, position)
        aim = max(CHUNK_SECONDS, SNAPSHOT_SHARE * (prepared - started))
        self.chunk = int(min(LOG_ROWS, max(1, min(8 * count, aim * count / max(played - prepared, 1e-7)))))

    def _drop(self, run: Trainer, before: Snapshot, rows: int, count: int, position: int) -> None:
        """Bring a run that diverged in this chunk to its last finite step; the others continue in a program without it."""
        alone = run._instance(rows, run.examples)
        alone.bind(**run.whole.bindings())
        try:
            run._diverged(alone, before, count, position, run.epoch)
        except DivergenceError as error:
            self.diverged[run] = str(error)
        self.going.remove(run)
        self.instances.clear()
        self.program = None

    def _instance(self, rows: int) -> engines.Instance:
        """The step of all models that are going on, with what is theirs bound to it."""
        instance = self.instances.get(rows)
        if instance is None:
            leader = self.going[0]
            if self.program is None:
                self.program = join_programs(self._programs())
            instance = self.instances[rows] = leader.engine.instantiate(self.program, rows, 1)
            for k, run in enumerate(self.going):
                own: dict[str, Any] = run.model._state.on(run.engine) | run.storage | {"control": leader.storage["control"]}
                if run.network.frozen == leader.network.frozen:  # written and read before the next model's turn
                    own["gradient"] = leader.storage["gradient"]
                given = {f"{name}.{k}": array for name, array in own.items()}
                instance.bind(**{name: array for name, array in given.items() if name in self.program.inputs})
        return instance

    def _programs(self) -> list[Program]:
        """The step of each model that is going on; one for all those for which `fit` would record the same."""
        made: dict[Any, Program] = {}
        for run in self.going:
            key = run._key(0, run.examples.layout) if all(layer.records_alike for layer in run.model.layers) else run
            if key not in made:
                made[key] = run._program()
            made[run] = made[key]
        return [made[run] for run in self.going]
