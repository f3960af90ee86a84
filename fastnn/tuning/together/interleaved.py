"""Models interleaved on one core: one program makes the step of each of them on a mini-batch that is gathered once.

The calls of a model are those of its step in `fit`, one model after another, so that each has the bits it has alone. What is
saved is the gathering: rows far apart in memory cost more than the update of a small network, and here all but the first model
find them in the cache.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fastnn import engines
from fastnn.data.feeds import Feed
from fastnn.errors import DivergenceError
from fastnn.network.state import Snapshot
from fastnn.program.trace import Program, Symbol
from fastnn.training.chunks import Chunks
from fastnn.training.divergence import Spoiled
from fastnn.training.trainer import Trainer
from fastnn.training.undo import Mark

SHARED = ("X", "y", "order", "offset", "factor")
"""Inputs that only the calls read which are made once."""

GATHER = ("gather_rows", "gather_standardized")
"""The kernels of these calls."""


def join_programs(programs: Sequence[Program]) -> Program:
    """Steps of several models on the same mini-batch as one: gathered at the beginning, moved on to the next at the end.

    The same program may be there several times. Input `name` of program k is called `name.k`.
    """
    inputs: dict[str, Symbol] = {}
    calls = []
    first: list[Symbol] = []
    for k, program in enumerate(programs):
        roots = {symbol.root for call in program.calls for symbol in call.operands} | set(program.inputs.values())
        copies = {root: Symbol(root.trace, root.shape, root.dtype, root.name) for root in roots}
        gathered = [call.outputs[0] for call in program.calls if call.kernel in GATHER]
        first = first or [copies[symbol] for symbol in gathered]
        copies |= dict(zip(gathered, first, strict=True))
        inputs |= {f"{name}.{k}": copies[symbol] for name, symbol in program.inputs.items() if not k or name not in SHARED}
        for call in program.calls:
            if (k and call.kernel in GATHER) or (k < len(programs) - 1 and call.kernel == "advance"):
                continue
            operands = {s: copies[s] if s in copies else copies[s.root].view(s.shape, s.start, s.name) for s in call.operands}
            calls.append(call.replace(operands))
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
        self.feed: Feed

    def train(self) -> None:
        """All epochs."""
        with contextlib.ExitStack() as open_:
            for run in self.all:
                run.setup(open_)
            leader, chunks = self.all[0], Chunks(self)
            self.feed = leader.feed
            for epoch in range(leader.epochs):
                try:
                    for _ in chunks.epoch(leader.order_of(epoch), leader.batch_size, leader.pairs):
                        self.going_on()
                except DivergenceError:  # of the last one
                    return
                for run in list(self.going):
                    self._close(run)
                if not self.going:
                    return

    def _close(self, run: Trainer) -> None:
        """Count an epoch of a run that is over, unless it diverged on the validation data."""
        try:
            values = run.epoch_values()
        except DivergenceError as error:
            self.diverged[run] = str(error)
            self._go_on_without([run])
        else:
            run.close_epoch(values)

    def _go_on_without(self, runs: Sequence[Trainer]) -> None:
        self.going = [run for run in self.going if run not in runs]
        self.instances.clear()
        self.program = None

    # --- the steps of all models that are going on, as `Steps` of `fastnn.training.divergence` ----------------------

    def until_call(self) -> None:
        """Nobody is called within an epoch."""

    def instance(self, rows: int) -> engines.Instance:
        """The step of all models that are going on, with what is theirs bound to it."""
        instance = self.instances.get(rows)
        if instance is None:
            leader = self.going[0]
            if self.program is None:
                self.program = join_programs(self._programs())
            instance = self.instances[rows] = leader.engine.instantiate(self.program, rows, 1)
            for k, run in enumerate(self.going):
                arrays: dict[str, Any] = run.model.state.on(run.engine) | run.storage | {"control": leader.storage["control"]}
                if run.network.frozen == leader.network.frozen:  # written and read before the next model's turn
                    arrays["gradient"] = leader.storage["gradient"]
                inputs = {f"{name}.{k}": array for name, array in arrays.items()}
                instance.bind(**{name: array for name, array in inputs.items() if name in self.program.inputs})
        instance.bind(**{f"{name}.0": array for name, array in self.feed.bindings().items()})
        return instance

    def snapshot(self) -> dict[Trainer, Snapshot | Mark]:
        """What brings everything back that a step changes."""
        return {run: run.snapshot() for run in self.going}

    def restore(self, snapshot: Mapping[Trainer, Snapshot | Mark]) -> None:
        """Put it back."""
        for run, run_snapshot in snapshot.items():
            run.restore(run_snapshot)

    def prepare(self, count: int, position: int) -> None:
        """Write what the next `count` steps read."""
        for run in self.going:
            run.prepare(count, position)

    def look(self, count: int) -> tuple[list[np.ndarray], list[int]]:
        """What the last `count` steps of each model wrote down, and the numbers of the models that are not finite."""
        pairs = [run.look(count) for run in self.going]
        return [log for log, _ in pairs], [k for k, (_, nonfinite) in enumerate(pairs) if nonfinite]

    def advance(self, count: int) -> None:
        """The models are `count` whole steps further."""
        for run in self.going:
            run.advance(count)

    def count(self, log: Sequence[np.ndarray], rows: int) -> None:
        """Note what whole steps of `rows` rows each wrote down."""
        for run, run_log in zip(self.going, log, strict=True):
            run.count(run_log, rows)

    def drop(self, spoiled: Spoiled) -> list[np.ndarray]:
        """Bring the runs that this step spoils to before it; the others, if any, continue in a program without them."""
        going, dropped = list(self.going), [self.going[k] for k in spoiled.nonfinite]
        for run in dropped:
            try:
                run.drop(replace(spoiled, before=spoiled.before[run]))
            except DivergenceError as error:
                self.diverged[run] = str(error)
        if len(dropped) == len(going):
            raise DivergenceError("all models diverged")
        self._go_on_without(dropped)
        return [log for run, log in zip(going, spoiled.log, strict=True) if run not in dropped]

    # --- its program --------------------------------------------------------------------------------------------------

    def _programs(self) -> list[Program]:
        """The step of each model that is going on; one for all those for which `fit` would record the same."""
        programs: dict[Any, Program] = {}
        for run in self.going:
            alike = all(layer.records_alike for layer in run.model.layers)
            key = (run.recipe(), run.network.variant) if alike else run
            if key not in programs:
                programs[key] = run.program()
            programs[run] = programs[key]
        return [programs[run] for run in self.going]
