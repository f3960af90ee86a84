"""The team: threads that play a list of kernel calls together, parked between chunks.

One team a process. All parts run on the team's own threads while the caller sleeps, so that a Ctrl-C reaches the caller without
leaving a part waiting for one that never comes. A caller that finds the team at work plays alone on its own thread, and so
does a caller that asks for one part: the results are the same. After a fork the child makes a team of its own.
"""

from __future__ import annotations

import os
import threading

import numpy as np

from fastnn_kernels.cpu.player import play


class _Worker(threading.Thread):
    """One parked thread; `start_part` lets it play its part once."""

    def __init__(self, team: Team, part: int) -> None:
        super().__init__(name=f"fastnn-{part}", daemon=True)
        self.team = team
        self.part = part
        self.wake = threading.Semaphore(0)
        self.start()

    def run(self) -> None:
        while True:
            self.wake.acquire()
            team = self.team
            if team.closed:
                return
            calls, count, repeats, parts = team.work
            play()(calls, count, repeats, self.part, parts, team.arrived.ctypes.data)
            with team.counting:
                team.running -= 1
                if team.running == 0:
                    team.finished.set()


class Team:
    """A growing set of workers and the lock that only one caller holds at a time."""

    def __init__(self) -> None:
        self.busy = threading.Lock()
        self.counting = threading.Lock()
        self.finished = threading.Event()
        self.workers: list[_Worker] = []
        self.arrived = np.zeros(8, np.int64)
        self.work = (0, 0, 0, 1)
        self.running = 0
        self.closed = False

    def play(self, calls: int, count: int, repeats: int, parts: int) -> None:
        """Play `count` calls at address `calls` `repeats` times in `parts` parts; returns when all is done."""
        if parts <= 1 or not self.busy.acquire(blocking=False):
            play()(calls, count, repeats, 0, 1, 0)
            return
        interruption: BaseException | None = None
        try:
            while len(self.workers) < parts:
                self.workers.append(_Worker(self, len(self.workers)))
            self.arrived[:] = 0
            self.work = (calls, count, repeats, parts)
            self.running = parts
            self.finished.clear()
            play()  # compiled by now at the latest, so that no worker has to
            started = 0
            while started < parts:
                try:
                    while started < parts:
                        started += 1
                        self.workers[started - 1].wake.release()
                except KeyboardInterrupt as error:
                    interruption = error
            while not self.finished.is_set():
                try:
                    self.finished.wait()
                except KeyboardInterrupt as error:
                    interruption = error
        finally:
            self.busy.release()
        if interruption is not None:
            raise interruption

    def close(self) -> None:
        """End the threads; the team makes new ones when it is asked to play again."""
        with self.busy:
            self.closed = True
            for worker in self.workers:
                worker.wake.release()
            for worker in self.workers:
                worker.join()
            self.workers.clear()
            self.closed = False


TEAM = Team()


def _after_fork() -> None:
    """A forked child has none of the parent's threads, and locks that may be held by one of them."""
    TEAM.__init__()  # type: ignore[misc]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
