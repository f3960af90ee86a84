"""The CPU's player: each part is played once, in the order of the stages, by whoever comes; nobody else is waited for."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

import fastnn_kernels.cpu as cpu_set
from fastnn_kernels.contract import Operand
from fastnn_kernels.cpu.player import state_words
from fastnn_kernels.cpu.team import Team, Work, _Worker
from fastnn_kernels.memory import aligned_zeros

SIZE = 5000


class Program:
    """y = a @ b, then x = x + y, then z = x: each call reads what the one before wrote, and x grows with each play."""

    def __init__(self, parts: tuple[int, int, int], rows: int = 64) -> None:
        rng = np.random.default_rng(0)
        shapes = {"a": (rows, 48), "b": (48, 80), "y": (rows, 80), "x": (rows, 80), "z": (rows, 80)}
        self.arrays = {name: aligned_zeros(int(np.prod(shape)), "float32").reshape(shape) for name, shape in shapes.items()}
        for name in "ab":
            self.arrays[name][...] = rng.integers(-3, 4, shapes[name])
        calls: list[tuple[str, str, dict[str, Any]]] = [
            ("matmul", "a b y", {"transpose_a": False, "transpose_b": False}), ("add", "x y x", {}), ("identity", "x z", {}),
        ]  # fmt: skip
        words: list[np.ndarray] = []
        table = []
        for name, operands, attributes in calls:
            arrays = [self.arrays[operand] for operand in operands.split()]
            lowered = cpu_set.lower(name, [Operand(array.shape, array.dtype) for array in arrays], attributes)
            scratch = aligned_zeros(16 * (lowered.scratch or 0), np.uint8)
            words += [np.array(lowered.words([array.ctypes.data for array in arrays], scratch.ctypes.data), np.int64), scratch]
            table.append((lowered.address, words[-2].ctypes.data))
        stages = [(index, 1, of_call) for index, of_call in enumerate(parts)]
        self.work = Work(np.array(table, np.int64), np.array(stages, np.int64), words)

    def check(self, repeats: int) -> None:
        expected = self.arrays["a"] @ self.arrays["b"]  # small integers: exact
        np.testing.assert_array_equal(self.arrays["y"], expected)
        np.testing.assert_array_equal(self.arrays["x"], repeats * expected)
        np.testing.assert_array_equal(self.arrays["z"], self.arrays["x"])


@pytest.mark.parametrize("parts", [(1, 1, 1), (2, 2, 2), (7, 1, 3), (1, 5, 1), (16, 16, 16)], ids=str)
@pytest.mark.parametrize("late", [False, True], ids=["all at once", "some late"])
def test_every_part_is_played_once_and_in_order(parts: tuple[int, int, int], late: bool) -> None:
    repeats = 200
    for most in (1, 2, 5):
        program = Program(parts)
        workers = min(most, program.work.most_workers)
        state = aligned_zeros(state_words(workers), np.int64)

        def take_part(worker: int, workers: int = workers, program: Program = program, state: np.ndarray = state) -> None:
            if late:
                time.sleep(0.002 * worker)
            program.work.play(repeats, worker, workers, state.ctypes.data)

        threads = [threading.Thread(target=take_part, args=(worker,)) for worker in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        program.check(repeats)
        program.work.play(repeats, 0, workers, state.ctypes.data)  # it is over: nothing is played again
        program.check(repeats)


def test_a_worker_that_does_not_come_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Worker, "run", lambda worker: None)
    program = Program((4, 4, 4))
    Team().play(program.work, 50, 3)
    program.check(50)


def test_a_worker_that_comes_when_all_is_done_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """And holds no memory of a model afterwards."""
    hold, entered = threading.Event(), threading.Event()

    def play_late(run: Any, worker: int) -> None:
        if worker:
            entered.set()
            hold.wait(60)
        run.work.play(run.repeats, worker, run.workers, run.state.ctypes.data)

    monkeypatch.setattr("fastnn_kernels.cpu.team._Run.play", play_late)
    team, program = Team(), Program((4, 4, 4))
    team.play(program.work, 50, 2)
    program.check(50)
    assert entered.wait(60)
    hold.set()
    time.sleep(0.05)
    program.check(50)
    assert team.current is None


def test_callers_at_once() -> None:
    """One has the team, the others play alone."""
    team, programs = Team(), [Program((2, 3, 2)) for _ in range(4)]
    threads = [threading.Thread(target=team.play, args=(program.work, 300, 2)) for program in programs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for program in programs:
        program.check(300)
