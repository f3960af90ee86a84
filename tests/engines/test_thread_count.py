"""The choice of the number of threads: found early, not misled by steps after a rest, revised when the machine changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastnn.engines import thread_count as engines


class Machine:
    """Calls whose steps take so many seconds, by the number of threads; sleeping threads take a while to wake up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float], waking: float = 0.0) -> None:
        self.now = 0.0
        self.parts = 1
        self.seconds, self.waking = seconds, waking
        self.awake = False
        self.steps = {1: 0, 2: 0}
        monkeypatch.setattr(engines.time, "perf_counter", lambda: self.now)

    def set_parts(self, parts: int) -> None:
        self.awake = self.awake and parts == self.parts
        self.parts = parts

    def play(self, repeats: int) -> None:
        if self.parts > 1 and not self.awake:
            self.now += self.waking
            self.awake = True
        self.now += repeats * self.seconds(self.parts)
        self.steps[self.parts] += repeats


def run(pace: engines.ThreadCountTuner, machine: Machine, epochs: int, chunks: tuple[int, ...] = (8, 64, 128)) -> None:
    for _ in range(epochs):
        machine.awake = False
        for chunk in chunks:
            pace.play(machine, chunk)


@pytest.mark.parametrize("guess", [1, 2])
@pytest.mark.parametrize(
    "times", [{1: 560e-6, 2: 305e-6}, {1: 18e-6, 2: 25e-6}, {1: 0.5e-6, 2: 2e-6}, {1: 0.3, 2: 0.16}], ids=str
)
def test_the_faster_number_is_found(monkeypatch: pytest.MonkeyPatch, times: dict[int, float], guess: int) -> None:
    machine, pace = Machine(monkeypatch, times.__getitem__, waking=1.2e-3), engines.ThreadCountTuner(guess, 2)
    best = min(times, key=times.__getitem__)
    run(pace, machine, 30, (8, 64, 128, 1416))
    assert pace.best == best
    before = dict(machine.steps)
    run(pace, machine, 50, (8, 64, 128, 1416))
    tried = machine.steps[3 - best] - before[3 - best]
    assert tried * times[3 - best] <= 0.025 * machine.steps[best] * times[best], "trying takes hardly any time"


def test_a_slow_first_step_does_not_bring_in_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step of a program takes long; with tiny steps no chunk is long enough to be a measure by itself."""
    first = iter([15e-6])
    machine = Machine(monkeypatch, lambda parts: next(first, 0.5e-6) if parts == 1 else 2e-6)
    pace = engines.ThreadCountTuner(1, 2)
    run(pace, machine, 200, (1, 8, 64, 512, 1416))
    assert pace.best == 1
    assert machine.steps[2] == 0


def test_a_load_that_comes_and_goes_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = False
    times = {False: {1: 560e-6, 2: 305e-6}, True: {1: 600e-6, 2: 1500e-6}}
    machine, pace = Machine(monkeypatch, lambda parts: times[busy][parts], waking=1.2e-3), engines.ThreadCountTuner(2, 2)
    run(pace, machine, 20)
    assert pace.best == 2
    busy = True
    run(pace, machine, 5)
    assert pace.best == 1
    busy = False
    run(pace, machine, 10)
    assert pace.best == 2
