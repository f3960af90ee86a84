"""Steps that make a model NaN or infinite: they are undone, made again one by one, and the first of them is found.

If anything (Ctrl-C, a fault of the GPU) interrupts a chunk before its last step is confirmed complete, the whole chunk is
undone. A chunk after which a loss or a parameter is not finite is undone too, and its steps are made again one at a time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fastnn.data.feeds import Feed
from fastnn.engines import Instance


class Steps(Protocol):
    """The steps of one model, or of several that are trained together."""

    feed: Feed
    """Where the mini-batches come from."""

    def instance(self, rows: int) -> Instance:
        """The step for mini-batches of `rows` rows, with all that it reads and writes bound to it."""

    def until_call(self) -> int | None:
        """How many steps may be made before the next callback is due; None: any number."""

    def snapshot(self) -> Any:
        """A copy of everything that a step changes."""

    def restore(self, snapshot: Any) -> None:
        """Put it back."""

    def prepare(self, count: int, position: int) -> None:
        """Write what the next `count` steps read, whose mini-batches begin at `position` of the order."""

    def look(self, count: int) -> tuple[Any, Sequence[int]]:
        """What the last `count` steps wrote down, and the numbers of the models whose losses or parameters are not finite."""

    def count(self, log: Any, rows: int) -> None:
        """The steps of `rows` rows each that wrote this down are whole."""

    def drop(self, outcome: Attempt, position: int) -> Any:
        """Bring the models that this one step at `position` made NaN or infinite to where they were before it.

        Returns the log of the remaining models; raises DivergenceError if none remain.
        """


@dataclass(frozen=True)
class Attempt:
    """Steps that were made, but are not counted yet."""

    instance: Instance
    before: Any
    """A snapshot from before the first of them."""
    log: Any
    nonfinite: Sequence[int]
    copying: float
    """Seconds that the snapshot took."""
    playing: float
    """Seconds that the steps took."""


def attempt(steps: Steps, instance: Instance, count: int, position: int) -> Attempt:
    """Make `count` steps by their `instance` on the mini-batches from `position` of the order on, all of them or none."""
    started = time.perf_counter()
    before = steps.snapshot()
    copied = time.perf_counter()
    try:
        steps.prepare(count, position)
        instance.play(count)
        log, nonfinite = steps.look(count)
    except BaseException:
        steps.restore(before)
        instance.engine.wait()  # the steps read what is written for others next
        raise
    return Attempt(instance, before, log, nonfinite, copied - started, time.perf_counter() - copied)


def replay(steps: Steps, before: Any, rows: int, count: int, position: int) -> None:
    """Make the steps of a chunk again from `before` on, one at a time, so that each model is left at its last finite one."""
    steps.restore(before)
    for index in range(count):
        start = position + index * rows
        outcome = attempt(steps, steps.instance(rows), 1, start)
        log = steps.drop(outcome, start) if outcome.nonfinite else outcome.log
        steps.count(log, rows)


def first_nonfinite(instance: Instance) -> str:
    """Play a step call by call, and name the first result that is not finite."""
    engine = instance.engine
    for index, call in enumerate(instance.computing()):
        instance.play_calls(index, 1)
        if call.kernel == "log_value":  # rows of later steps may still stand in the log; what is logged was looked at before
            continue
        for symbol in (*call.updated, *call.outputs):
            if symbol.dtype.kind == "f" and engine.read(engine.count_nonfinite(instance.array(symbol)))[0].any():
                return f"{symbol.name or 'the result'} of {call.kernel}"
    return "the loss"
