"""What threads share of a program, and when they do: found early, not misled by others who used the machine for a while."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from fastnn.engines import thread_count
from fastnn.engines.thread_count import MEETING, Partition, ThreadCountTuner

LARGE, SMALL = (1_600_000_000, 100_000), (100, 1000)
"""A product of twenty milliseconds, and a call that no thread is worth waking up for."""


def test_what_is_small_is_played_by_one_thread() -> None:
    """Small calls in a row are one stage; a call that is worth it is cut, a large product more finely."""
    partition = Partition([SMALL, SMALL, LARGE, SMALL, (0, 6_000_000), LARGE], threads=2)
    assert partition.stages() == [(0, 2, 1), (2, 1, 10), (3, 1, 1), (4, 1, 2), (5, 1, 10)]


@pytest.mark.parametrize("work", [[SMALL] * 20, [], [(0, 30_000)] * 4], ids=["small", "none", "too small for the meetings"])
def test_a_program_that_gains_nothing_is_one_stage(work: list[tuple[int, int]]) -> None:
    assert Partition(work, threads=2).stages() in ([(0, len(work), 1)], [])


def test_one_thread_shares_nothing() -> None:
    assert Partition([LARGE] * 3, threads=1).stages() == [(0, 3, 1)]


def test_calls_that_read_the_same_are_one_stage() -> None:
    """Of at least so many parts, on one thread too; of as many for each thread."""
    work = [SMALL, LARGE, LARGE, SMALL, SMALL]
    assert Partition(work, 1, {2: 6}).stages() == [(0, 1, 1), (1, 2, 6), (3, 2, 1)]
    assert Partition(work, 2, {2: 3}).stages() == [(0, 1, 1), (1, 2, 10), (3, 2, 1)]
    assert Partition(work, 2, {2: 13}).stages() == [(0, 1, 1), (1, 2, 14), (3, 2, 1)]
    alone = Partition([SMALL] * 3, 2, {1: 2})
    assert (alone.stages(), alone.shared) == ([(0, 2, 2), (2, 1, 1)], False)


def test_times_correct_the_guess_and_the_least_counts() -> None:
    """A sigmoid takes longer than its bytes; a machine that was busy when it was timed is forgotten."""
    partition = Partition([(1000, 8000), LARGE], threads=2)
    assert partition.stages()[0] == (0, 1, 1)
    assert partition.timed == [True, False]
    partition.note(0, 15e-6)
    assert partition.stages()[0] == (0, 1, 2)
    partition.note(0, 0.6e-6)
    partition.note(0, 30e-6)
    assert partition.stages()[0] == (0, 1, 1)
    assert partition.parts(0) == 1
    assert 0.6e-6 / 2 + MEETING > 0.6e-6


class Machine:
    """A program whose step takes so many seconds, alone or together."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: Callable[[bool], float]) -> None:
        self.now, self.seconds = 0.0, seconds
        self.spent = {True: 0.0, False: 0.0}
        monkeypatch.setattr(thread_count.time, "perf_counter", lambda: self.now)

    def play(self, repeats: int, alone: bool) -> None:
        taken = repeats * self.seconds(alone)
        self.now += taken
        self.spent[alone] += taken


def run(tuner: ThreadCountTuner, machine: Machine, seconds: float, chunk: float = 0.05) -> None:
    """Chunks of about `chunk` seconds, as trainings are played."""
    end = machine.now + seconds
    while machine.now < end:
        tuner.play(max(1, round(chunk / machine.seconds(tuner.alone))))


TIMES = [{True: 560e-6, False: 305e-6}, {True: 18e-6, False: 25e-6}, {True: 0.3, False: 0.16}, {True: 0.02, False: 0.05}]


@pytest.mark.parametrize("times", TIMES, ids=str)
def test_the_faster_way_is_found(monkeypatch: pytest.MonkeyPatch, times: dict[bool, float]) -> None:
    machine = Machine(monkeypatch, times.__getitem__)
    tuner = ThreadCountTuner(machine.play)
    best = times[True] < times[False]
    run(tuner, machine, 40 * max(times.values()) + 1.0)
    assert tuner.alone is best
    before = dict(machine.spent)
    run(tuner, machine, 200 * max(times.values()) + 10.0)
    tried, played = (machine.spent[alone] - before[alone] for alone in (not best, best))
    assert tried <= 0.06 * played, "trying takes hardly any time"


@pytest.mark.parametrize("step", [20e-6, 600e-6, 20e-3], ids=str)
def test_a_neighbor_that_comes_and_goes_is_followed(monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    """Also one that was there when the run began, which makes both ways look alike."""
    neighbor = True
    times = {True: {True: step, False: 1.02 * step}, False: {True: step, False: 0.55 * step}}
    machine = Machine(monkeypatch, lambda alone: times[neighbor][alone])
    tuner = ThreadCountTuner(machine.play)
    run(tuner, machine, 5.0)
    neighbor = False
    begun, alone_before = machine.now, machine.spent[True]
    run(tuner, machine, 4.0)
    assert not tuner.alone
    assert machine.spent[True] - alone_before <= 1.7, f"{machine.now - begun:.1f} s at half its speed"
    neighbor = True
    times[True][False] = 3 * step
    together_before = machine.spent[False]
    run(tuner, machine, 5.0)
    assert tuner.alone
    assert machine.spent[False] - together_before <= 1.0


def test_what_is_faster_than_ever_alone_is_not_tried_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {True: 1e-3, False: 0.6e-3}.__getitem__)
    tuner = ThreadCountTuner(machine.play)
    run(tuner, machine, 1.0)
    alone = machine.spent[True]
    run(tuner, machine, 20.0)
    assert machine.spent[True] == alone
    assert math.isclose(alone, 2e-3), "one trial, at the beginning"
