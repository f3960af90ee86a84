"""Steps that make a model NaN or infinite: they are undone, made again one by one, and the first of them is found.

If anything (Ctrl-C, a fault of the GPU) interrupts a chunk before its steps are counted, the whole chunk is undone. A chunk
after which a loss or a parameter is not finite is undone too, and its steps are made again one at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

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

    def advance(self, count: int) -> None:
        """The models are `count` whole steps further."""

    def count(self, log: Any, rows: int) -> None:
        """Note what whole steps of `rows` rows each wrote down."""

    def drop(self, spoiled: Spoiled) -> Any:
        """Bring the models that one step made NaN or infinite to where they were before it.

        Returns the log of the remaining models; raises DivergenceError if none remain: then all models are brought back.
        """


@dataclass(frozen=True)
class Spoiled:
    """A step after which models are not finite."""

    before: Any
    """A snapshot from before it."""
    rows: int
    position: int
    """Where its mini-batch begins in the order."""
    log: Any
    nonfinite: Sequence[int]


class Attempt(NamedTuple):
    """Steps that were made."""

    log: Any
    undone: bool
    """Whether models were not finite behind them: the steps are to be made again one by one."""
    copying: float
    """Seconds that the snapshot took."""
    playing: float
    """Seconds that the steps took."""


def attempt(steps: Steps, instance: Instance, rows: int, count: int, position: int) -> Attempt:
    """Make `count` steps by their `instance` on the mini-batches from `position` of the order on, all of them or none."""
    started = time.perf_counter()
    before = steps.snapshot()
    copied = time.perf_counter()
    try:
        steps.prepare(count, position)
        instance.play(count)
        log, nonfinite = steps.look(count)
        played, undone = time.perf_counter(), bool(nonfinite) and count > 1
        if undone:
            steps.restore(before)
        else:
            if nonfinite:
                log = steps.drop(Spoiled(before, rows, position, log, nonfinite))
            steps.advance(count)
    except BaseException:
        insist(lambda: steps.restore(before))  # from wherever it came, `restore` itself included
        instance.engine.wait()  # the steps read what is written for others next
        raise
    return Attempt(log, undone, copied - started, played - copied)


def insist(call: Callable[[], None]) -> None:
    """Make this call, and once more where a second Ctrl-C comes on the way: it can be made from the beginning again."""
    try:
        call()
    except BaseException:
        call()
        raise


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
