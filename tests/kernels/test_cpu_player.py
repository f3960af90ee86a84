"""The CPU's player: each part is played once, in the order of the stages, by whoever comes; nobody else is waited for."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from laws import check_scratch

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
        else:
            assert entered.wait(60)
        run.work.play(run.repeats, worker, run.workers, run.state.ctypes.data)

    monkeypatch.setattr("fastnn_kernels.cpu.team._Run.play", play_late)
    team, program = Team(), Program((4, 4, 4))
    team.play(program.work, 50, 2)
    program.check(50)
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


def test_a_ctrl_c_before_a_run_leaves_the_team_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it comes: when the caller has just got the team, or while a thread starts, of which there is one a worker."""

    class Callers(list[object]):
        def append(self, caller: object) -> None:
            super().append(caller)
            if not interrupted:
                interrupted.append("caller")
                raise KeyboardInterrupt

    def start(thread: threading.Thread) -> None:
        started.append(thread)
        begin(thread)
        if len(interrupted) == 1:
            interrupted.append("thread")
            raise KeyboardInterrupt

    interrupted: list[str] = []
    started: list[threading.Thread] = []
    begin = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", start)
    team, program = Team(), Program((4, 4, 4))
    team.callers = Callers()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            team.play(program.work, 50, 2)
        program.arrays["x"][...] = 0  # of runs that have not begun, nothing is played
        assert not team.callers
    team.play(program.work, 50, 2)
    program.check(50)
    assert interrupted == ["caller", "thread"]
    assert len(started) == 2
    started[1].join(60)
    assert [thread.is_alive() for thread in started] == [True, False]
    assert team.workers[0].native_id == started[0].native_id


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_workers_write_to_scratch_memory_of_their_own(dtype: str) -> None:
    """Also a part that is not the worker's own, and a call that only one of them plays."""
    rng, kind = np.random.default_rng(0), np.dtype(dtype)
    wide = 4096 // kind.itemsize

    def numbers(*shape: int) -> np.ndarray:
        return rng.uniform(0.1, 1, shape).astype(kind)

    products = [
        ("dense_backward_weight", [numbers(rows, wide), numbers(rows, columns), numbers(wide, columns), numbers(columns)], {})
        for rows in (65, 100, 200, 257) for columns in (wide // 4, wide // 4 + 3)
    ]  # fmt: skip
    calls: list[tuple[str, list[np.ndarray], dict[str, Any]]] = [
        *products,
        ("matmul", [numbers(100, wide), numbers(wide, 100), numbers(wide, wide)], {"transpose_a": True, "transpose_b": True}),
        ("matmul", [numbers(5000, wide), numbers(1, 5000), numbers(wide, 1)], {"transpose_a": True, "transpose_b": True}),
        ("sum", [numbers(1000, 3), numbers(3)], {"axis": (0,)}),
        ("sum", [numbers(1000), numbers()], {"axis": (0,)}),
        ("weighted_mean", [numbers(1000), numbers(1000), numbers()], {}),
        ("weighted_mean_backward", [numbers(), numbers(1000), numbers(1000)], {}),
        ("grouped_dense_backward_weight", [numbers(200, 3, 5), numbers(200, 2, 5), numbers(3, 2, 5), numbers(2, 5)], {}),
    ]
    for name, arrays, attributes in calls:
        check_scratch(name, arrays, attributes)
