"""The workload that runs are compared by: fixed, in plain NumPy, on the same cores.

It is played by one thread: with two, BLAS takes 5.6 or 8.2 ms for one and the same work, as its threads happen to be placed,
and by one thread its medians in different processes differ by less than a hundredth.
"""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_limits

from fastnn.benchmarks.grid import Task
from fastnn.benchmarks.peers import Contestant

SIZE = 512
ELEMENTS = 2**20


class Reference(Contestant):
    """A BLAS product of 512 x 512 float32 matrices, and a pass over 4 MiB, as training does both."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        threadpool_limits(1)
        rng = np.random.default_rng(0)
        self.a, self.b, self.c = (rng.random((SIZE, SIZE), dtype=np.float32) for _ in range(3))
        self.x, self.y = (rng.random(ELEMENTS, dtype=np.float32) for _ in range(2))

    def losses(self, order: np.ndarray) -> list[float]:
        return []

    def epoch(self) -> float:
        for _ in range(3):
            np.matmul(self.a, self.b, out=self.c)
        np.multiply(self.x, np.float32(0.999), out=self.y)
        np.add(self.y, self.x, out=self.y)
        return float(self.c[0, 0])
