"""The team: threads that take part in runs of kernel calls, parked between them.

One team a process. The caller plays itself and has the others woken up; whoever comes claims parts, and nobody waits for one
that does not come (see `player`). So a short run costs no more than on one thread, and a Ctrl-C, which Python handles when the
caller is back, finds a run that is whole. A caller that finds the team at work plays alone: the results are the same. After a
fork the child makes a team of its own.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastnn_kernels.cpu.player import play, state_words
from fastnn_kernels.memory import aligned_zeros


@dataclass(frozen=True, eq=False)
class Work:
    """Calls and the stages that they are played in, as tables of words for the player; `keeps` is what the words point to.

    Someone who comes late looks at the tables once more when all is done: they live as long as anybody has the work.
    """

    calls: np.ndarray
    stages: np.ndarray
    keeps: Any = None

    @functools.cached_property
    def most_workers(self) -> int:
        """No more than the parts of any stage that has several."""
        parts = self.stages[:, 2]
        return int(min(parts[parts > 1], default=1))

    @functools.cached_property
    def _tables(self) -> tuple[int, int, int]:
        """Where they lie, and how many stages there are."""
        return self.calls.ctypes.data, self.stages.ctypes.data, len(self.stages)

    def play(self, repeats: int, worker: int = 0, workers: int = 1, state: int = 0) -> None:
        play()(*self._tables, repeats, worker, workers, state)


@dataclass(frozen=True, eq=False)
class _Run:
    """Work that is being played."""

    work: Work
    repeats: int
    workers: int
    state: np.ndarray

    def play(self, worker: int) -> None:
        self.work.play(self.repeats, worker, self.workers, self.state.ctypes.data)


class _Worker:
    """One parked thread, which takes part in the runs of the team."""

    def __init__(self, team: Team, number: int) -> None:
        self.team, self.number = team, number
        self.native_id: int | None = None  # of the thread, once it runs
        self._started = False
        self._alive = threading.Lock()

    def start(self) -> None:
        """Start the thread unless that is done. Where a KeyboardInterrupt came in between, a second one may begin, which ends
        at once: two that play as the same worker would share its scratch memory."""
        if not self._started:
            thread = threading.Thread(target=self._live, name=f"fastnn-{self.number}", daemon=True)
            thread.start()
            self.native_id = self.native_id or thread.native_id
            self._started = True

    def _live(self) -> None:
        if self._alive.acquire(blocking=False):
            self.native_id = threading.get_native_id()
            self.run()

    def run(self) -> None:
        team, seen = self.team, 0
        while True:
            with team.condition:
                while team.generation == seen:
                    team.condition.wait()
                seen, run = team.generation, team.current
            if run is not None and self.number < run.workers:
                run.play(self.number)
            run = None  # which may hold the memory of a model


class Team:
    """A growing set of workers, and the callers, of which the first has them."""

    def __init__(self) -> None:
        self.callers: list[object] = []
        self.condition = threading.Condition()
        self.workers: list[_Worker] = []
        self.current: _Run | None = None
        self.generation = 0
        self.placed: tuple[set[int], int] | None = None

    def play(self, work: Work, repeats: int, workers: int) -> None:
        """Play `work` so many times with at most so many workers, the caller among them; returns when all is done.

        A KeyboardInterrupt is raised again once the run is over; where it comes before it begins, nothing is played.
        """
        workers, has_team, me = min(workers, work.most_workers), False, object()
        try:
            # No lock: a KeyboardInterrupt may come between any two lines, and `finally` would not know who holds it.
            if workers > 1:
                self.callers.append(me)
                has_team = self.callers[0] is me
            if has_team:
                play()  # compiled by now at the latest, so that no worker has to
                while len(self.workers) < workers - 1:
                    self.workers.append(_Worker(self, len(self.workers) + 1))
                for worker in self.workers:
                    worker.start()
                self._place(workers)
                self._play_together(_Run(work, repeats, workers, aligned_zeros(state_words(workers), np.int64)))
        finally:
            if me in self.callers:
                self.callers.remove(me)
        if not has_team:
            work.play(repeats)

    def _place(self, workers: int) -> None:
        """Where there are as many workers as cores, keep each on a core of its own, beside the caller's.

        Left to themselves, threads that wake up together often share a core for about 10 ms until one is moved. The cores are
        those of the caller.
        """
        if not hasattr(os, "sched_getaffinity"):
            return
        cores = os.sched_getaffinity(0)
        mine = _core() if workers == len(cores) else -1
        if self.placed != (cores, mine):
            others = sorted(cores - {mine})
            for worker, core in zip(self.workers, others, strict=False):
                if worker.native_id is not None:  # which it is once the thread runs
                    with contextlib.suppress(OSError):  # where it is forbidden, all is as it was
                        os.sched_setaffinity(worker.native_id, cores if mine < 0 else {core})
            self.placed = (cores, mine)

    def _play_together(self, run: _Run) -> None:
        interruption: KeyboardInterrupt | None = None
        while True:
            try:
                # Each line may be interrupted and then runs again, which does no harm: a run that is over ends at once.
                with self.condition:
                    self.current = run
                    self.generation += 1
                    self.condition.notify_all()
                run.play(0)
                break
            except KeyboardInterrupt as error:
                interruption = error
        self.current = None
        if interruption is not None:
            raise interruption


def _find_core() -> Callable[[], int]:
    """The function that tells which core the calling thread is on; -1 where the system does not say."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        function = ctypes.CDLL(None).sched_getcpu
        function.restype, function.argtypes = ctypes.c_int, ()
        return lambda: int(function())
    return lambda: -1


_core = _find_core()
TEAM = Team()


def _after_fork() -> None:
    """A forked child has none of the parent's threads, and locks that may be held by one of them."""
    TEAM.__init__()  # type: ignore[misc]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
