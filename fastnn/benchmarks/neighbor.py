"""A neighbor: a process that keeps one core busy while a contestant takes a turn, and is stopped for the next one.

    python -m fastnn.benchmarks.neighbor THREADS

It may run on the cores of the contestants and on no other; the system moves it between them as it does with any process.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Self

from fastnn.benchmarks.process import Failed, end_with_parent, pin

STARTING = 30.0
"""Seconds that it may take until it is ready."""
SETTLING = 0.02
"""Seconds from waking it to the turn, in which the system finds it a core."""


class Neighbor:
    """The other end: started when it is first needed. Raises Failed where it does not run."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process is not None:
            self.process.kill()  # which ends a stopped process too
            self.process.wait()
            assert self.process.stdout
            self.process.stdout.close()
            self.process = None

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Keep a core busy meanwhile."""
        process = self._running()
        process.send_signal(signal.SIGCONT)
        time.sleep(SETTLING)
        try:
            yield
        finally:
            process.send_signal(signal.SIGSTOP)
        if process.poll() is not None:
            raise Failed(f"the busy neighbor ended with exit code {process.returncode}")

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is not None and self.process.poll() is None:
            return self.process
        self.__exit__()
        command = [sys.executable, "-m", "fastnn.benchmarks.neighbor", str(self.threads)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        assert self.process.stdout
        if not select.select([self.process.stdout], [], [], STARTING)[0] or not self.process.stdout.readline():
            self.__exit__()
            raise Failed("the busy neighbor did not start")
        return self.process


if __name__ == "__main__":
    end_with_parent()
    pin(int(sys.argv[1]))
    os.write(1, b"ready\n")
    while True:
        pass
