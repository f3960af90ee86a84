"""The team: threads that play a list of kernel calls together, parked between chunks.

One team a process. All parts run on the team's own threads while the caller sleeps, so that a Ctrl-C reaches the caller without
leaving a part waiting for one that never comes. A caller that finds the team at work plays alone on its own thread, and so
does a caller that asks for one part: the results are the same. After a fork the child makes a team of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading

import numpy as np

from fastnn_kernels.cpu.player import play


class _Worker(threading.Thread):
    """One parked thread: plays its part of each piece of work of the team."""

    def __init__(self, team: Team, part: int) -> None:
        super().__init__(name=f"fastnn-{part}", daemon=True)
        self.team = team
        self.part = part
        self.seen = team.generation
        self.start()

    def run(self) -> None:
        team = self.team
        while True:
            with team.condition:
                while team.generation == self.seen:
                    team.condition.wait()
                self.seen = team.generation
                calls, count, repeats, parts = team.work
            if self.part >= parts:
                continue
            play()(calls, count, repeats, self.part, parts, team.arrived.ctypes.data)
            with team.condition:
                team.running -= 1
                if team.running == 0:
                    team.condition.notify_all()


class Team:
    """A growing set of workers and the lock that only one caller holds at a time."""

    def __init__(self) -> None:
        self.busy = threading.Lock()
        self.condition = threading.Condition()
        self.workers: list[_Worker] = []
        self.arrived = np.zeros(8, np.int64)
        self.work = (0, 0, 0, 1)
        self.generation = 0
        self.running = 0
        self.placed: tuple[set[int], int] | None = None

    def play(self, calls: int, count: int, repeats: int, parts: int) -> None:
        """Play `count` calls at address `calls` `repeats` times in `parts` parts; returns when all is done.

        A KeyboardInterrupt is raised again once the parts that were started are done; where it comes before they start,
        nothing is played.
        """
        if parts <= 1 or not self.busy.acquire(blocking=False):
            play()(calls, count, repeats, 0, 1, 0)
            return
        try:
            play()  # compiled by now at the latest, so that no worker has to
            while len(self.workers) < parts:
                self.workers.append(_Worker(self, len(self.workers)))
            self._place(parts)
            self._play_together((calls, count, repeats, parts))
        finally:
            self.busy.release()

    def _place(self, parts: int) -> None:
        """Where there are as many parts as cores, keep each on a core of its own.

        Left to themselves, threads that wake up together often share a core, and wait for each other there for about 10 ms
        until one is moved. The cores are those of the caller.
        """
        if not hasattr(os, "sched_setaffinity"):
            return
        cores = os.sched_getaffinity(0)
        if self.placed != (cores, parts):
            apart = parts == len(cores)
            for worker, core in zip(self.workers, itertools.cycle(sorted(cores)), strict=False):
                if worker.native_id is not None:  # which it is once the thread has started
                    with contextlib.suppress(OSError):  # where it is forbidden, all is as it was
                        os.sched_setaffinity(worker.native_id, {core} if apart else cores)
            self.placed = (cores, parts)

    def _play_together(self, work: tuple[int, int, int, int]) -> None:
        self.arrived[:] = 0
        self.work, self.running = work, work[3]
        generation = self.generation + 1
        interruption: KeyboardInterrupt | None = None
        while True:
            try:
                # Each line may be interrupted and then runs again: setting and notifying twice does no harm.
                with self.condition:
                    self.generation = generation
                    self.condition.notify_all()
                    while self.running:
                        self.condition.wait()
                break
            except KeyboardInterrupt as error:
                interruption = error
        if interruption is not None:
            raise interruption


TEAM = Team()


def _after_fork() -> None:
    """A forked child has none of the parent's threads, and locks that may be held by one of them."""
    TEAM.__init__()  # type: ignore[misc]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
