"""Contestants that go wrong in one way each; the runner must find it."""

from __future__ import annotations

import math
import os
import signal
import sys
import time

import numpy as np

import fastnn
from fastnn.benchmarks.grid import Call, Task
from fastnn.benchmarks.peers import Cannot, Contestant
from fastnn.benchmarks.peers.ours import Fastnn


class Sound(Fastnn):
    """Does everything right, and prints while it does."""

    def epoch(self) -> float:
        print("an answer that is none", flush=True)
        os.write(1, b'{"seconds": 0.0}\n')
        return super().epoch()


class OnTheCpu(Fastnn):
    """Trains on the CPU whatever it is asked for."""

    def __init__(self, task: Task) -> None:
        super().__init__(task, device="cpu")


class FasterLearner(Fastnn):
    """Takes steps twice as long: another computation, as fast as the right one."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.optimizer = fastnn.Adam(2e-3)


class NotANumber(Fastnn):
    def losses(self, order: np.ndarray) -> list[float]:
        return [math.nan] * len(order)


class Forgetful(Fastnn):
    """Leaves dropout away."""

    def __init__(self, task: Task) -> None:
        super().__init__(Task(**{**task.__dict__, "dropout": 0.0}))


class Unable(Contestant):
    def __init__(self, task: Task) -> None:
        raise Cannot("it has no hands")


class Raises(Fastnn):
    def losses(self, order: np.ndarray) -> list[float]:
        raise ValueError("one\nand two")


class Dies(Fastnn):
    """Ends in its first timed turns, as a crash in compiled code does."""

    def time(self, runs: int) -> float:
        print("the last words", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
        return 1.0


class Hangs(Contestant):
    def losses(self, order: np.ndarray) -> list[float]:
        time.sleep(3600)
        return []


class HangsLater(Fastnn):
    """Answers until it is timed."""

    def time(self, runs: int) -> float:
        if runs > 1:
            time.sleep(3600)
        return super().time(runs) / 100


class Doubles(Fastnn):
    """Answers twice as much."""

    def predict(self, x: np.ndarray) -> np.ndarray:
        return 2 * super().predict(x)


class Epochs(Fastnn):
    """Makes no short calls."""

    def time_calls(self, call: Call, runs: int) -> float:
        raise Cannot("it has no patience for less")


class Slow(Fastnn):
    """Takes its time for short calls."""

    def time_calls(self, call: Call, runs: int) -> float:
        time.sleep(8.0)
        return 8.0


class Late(Fastnn):
    """Answers the first of short calls alone."""

    def time_calls(self, call: Call, runs: int) -> float:
        if runs > 1:
            time.sleep(3600)
        return 0.001


class Ends(Fastnn):
    """Ends in its first short call."""

    def time_calls(self, call: Call, runs: int) -> float:
        os.kill(os.getpid(), signal.SIGSEGV)
        return 1.0


class Diverges(Fastnn):
    def epoch(self) -> float:
        return math.inf
