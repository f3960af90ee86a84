"""How many threads play a program fastest: measured while it plays."""

from __future__ import annotations

import math
import time
from typing import Any

TRIAL_SECONDS = 2e-3  # how long the other number of threads is tried
FIRST_SHARE = 5  # the first trial may take this part of the time played
TRIAL_SHARE = 50  # a trial may take this part of the time played since the last one
PATIENCE = 4  # trials that find nothing new become rarer, up to this many times


class ThreadCountTuner:
    """How many threads play a program fastest: one or all, tried again now and then, since others use the machine too.

    The number changes no bit of the results.
    """

    def __init__(self, guess: int, most: int) -> None:
        self.best = guess
        self.other = 1 if guess > 1 else most
        self.seconds: dict[int, float] = {}
        self.least: dict[int, float] = {}
        self.since = 0.0
        self.patience = 1

    def play(self, calls: Any, repeats: int) -> None:
        trial = self._trial(repeats)
        if trial:
            # Threads that slept need a millisecond or more until they run on cores of their own: that is not timed.
            calls.set_parts(self.other)
            calls.play(1)
            self._time(calls, self.other, trial - 1)
            self.since = 0.0
            self.patience = min(2 * self.patience, PATIENCE)
            self._compare()
        if repeats > trial:
            self.since += self._time(calls, self.best, repeats - trial)
            self._compare()

    def _compare(self) -> None:
        """Change to the other number where it was faster when last played, which a neighbor's sudden load can bring about."""
        if self.seconds[self.best] > 1.1 * self.seconds.get(self.other, math.inf):
            self.best, self.other = self.other, self.best
            self.since, self.patience = 0.0, 1

    def _trial(self, repeats: int) -> int:
        """How many of the repeats to play with the other number of threads; 0 while it would cost too much."""
        if self.best not in self.seconds:
            return 0
        best = max(self.seconds[self.best], 1e-7)
        count = 1 + math.ceil(TRIAL_SECONDS / best)
        if self.other in self.seconds:
            due = self.since >= TRIAL_SHARE * self.patience * count * self.least[self.other]
        else:
            due = self.since >= FIRST_SHARE * count * 2.0 * best
        return count if due and count <= repeats else 0

    def _time(self, calls: Any, threads: int, repeats: int) -> float:
        calls.set_parts(threads)
        started = time.perf_counter()
        calls.play(repeats)
        taken = time.perf_counter() - started
        each = taken / repeats
        least = self.least[threads] = min(each, self.least.get(threads, math.inf))
        if taken >= TRIAL_SECONDS / 2 or each == least:  # a few slow steps after a rest are no measure
            self.seconds[threads] = each
        return taken
