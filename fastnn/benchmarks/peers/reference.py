"""The workloads that runs are compared by: fixed, in plain NumPy, on one core and on every core at once.

A neighbor who takes one core away slows down what needs all of them and nothing else, so that both must be known. BLAS does
not share its work between threads here: with two, it takes 5.6 or 8.2 ms for one and the same product, as its threads happen
to be placed, while on one thread the medians of different processes differ by less than a hundredth.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

from fastnn.benchmarks.grid import Task
from fastnn.benchmarks.peers import Contestant

SIZE = 512
ELEMENTS = 2**20


class Work:
    """A BLAS product of 512 x 512 float32 matrices, and a pass over 4 MiB, as training does both."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.a, self.b, self.c = (rng.random((SIZE, SIZE), dtype=np.float32) for _ in range(3))
        self.x, self.y = (rng.random(ELEMENTS, dtype=np.float32) for _ in range(2))

    def play(self) -> None:
        for _ in range(3):
            np.matmul(self.a, self.b, out=self.c)
        np.multiply(self.x, np.float32(0.999), out=self.y)
        np.add(self.y, self.x, out=self.y)


class OneCore(Contestant):
    """The work once, on one thread."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        threadpool_limits(1)
        self.work_of_one = Work()

    def epoch(self) -> float:
        self.work_of_one.play()
        return 0.0


class AllCores(Contestant):
    """The work on every thread, each on a core of its own; it takes as long as the slowest of them."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        threadpool_limits(1)
        cores: Iterator[int] = iter(sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else ())
        self.works = [Work() for _ in range(task.threads)]
        self.threads = ThreadPoolExecutor(task.threads, initializer=_settle, initargs=(cores,))

    def epoch(self) -> float:
        for done in [self.threads.submit(work.play) for work in self.works]:
            done.result()
        return 0.0


def _settle(cores: Iterator[int]) -> None:
    """Keep this thread on the next of the cores."""
    core = next(cores, None)
    if core is not None:
        os.sched_setaffinity(0, {core})
