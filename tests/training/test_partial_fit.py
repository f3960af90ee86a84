"""Steps that a caller makes one by one: what goes on from call to call."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import schedules
from fastnn.errors import InputError

X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(6, 2)
T = np.linspace(0, 1, 6, dtype=np.float32).reshape(6, 1)


def network() -> fastnn.Sequential:
    return fastnn.Sequential([fastnn.Dense(4, activation="tanh"), fastnn.Dense(1)], seed=0)


def stepped(model: fastnn.Sequential, optimizer: fastnn.optimizers.Optimizer, calls: int) -> list[bytes]:
    """The weights before the first call of `partial_fit` and after each."""
    found = []
    for _ in range(calls):
        model.partial_fit(X, T, loss="quadratic", optimizer=optimizer)
        found.append(model.weights["0.weight"].tobytes())
    return found


def test_a_table_of_rates() -> None:
    """Nothing at first, then steps: the schedule counts the calls."""
    model = network().build(2)
    before = model.weights["0.weight"].tobytes()
    table = schedules.Table({0: 0.0, 2: 0.1}, per="step")
    after = stepped(model, fastnn.SGD(table), 4)
    assert after[:2] == [before, before]
    assert before != after[2] != after[3]


@pytest.mark.parametrize("optimizer", [fastnn.SGD, fastnn.Adam, fastnn.NAdam])
@pytest.mark.parametrize(
    "schedule",
    [
        schedules.Exponential(0.1, 0.5, per="step"),
        schedules.Staircase(0.1, 0.5, 2, per="step"),
        schedules.InverseSqrt(0.1, per="step"),
        schedules.Warmup(3, schedules.InverseTime(0.1, 0.5, per="step"), per="step"),
        schedules.Constant(0.1),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_the_steps_of_one_run(optimizer: Any, schedule: schedules.Schedule) -> None:
    """Five calls are five steps of a `fit` on the same mini-batch."""
    model, whole = network(), network()
    stepped(model, optimizer(schedule), 5)
    whole.fit(
        X, T, loss="quadratic", optimizer=optimizer(schedule), batch_size="all", epochs=5, order=lambda _: range(6), verbose=0
    )
    assert all(array.tobytes() == whole.weights[name].tobytes() for name, array in model.weights.items())


def test_it_goes_on_behind_a_fit_and_in_a_file(tmp_path: Any) -> None:
    optimizer = fastnn.SGD(schedules.Exponential(0.1, 0.5, per="step"))
    model, whole = network(), network()
    options: dict[str, Any] = {"loss": "quadratic", "batch_size": "all", "order": lambda _: range(6), "verbose": 0}
    model.fit(X, T, optimizer=optimizer, epochs=2, **options)
    model.save(tmp_path / "m.safetensors", optimizer=True)
    model = fastnn.load(tmp_path / "m.safetensors")
    stepped(model, optimizer, 2)
    whole.fit(X, T, optimizer=optimizer, epochs=4, **options)
    assert all(array.tobytes() == whole.weights[name].tobytes() for name, array in model.weights.items())


class Own(schedules.Schedule):
    def rate_at(self, t: Any, length: int) -> Any:
        return np.full(t.shape, 0.1)


class Endless(Own):
    depends_on_length = False


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        (schedules.Cosine(0.1, per="step"), "the rates of Cosine depend on how long the run is"),
        (schedules.OneCycle(0.1, per="step"), "the rates of OneCycle depend"),
        (schedules.Warmup(2, schedules.Cosine(0.1, per="step"), per="step"), "the rates of Cosine depend"),
        (schedules.Exponential(0.1), 'give Exponential per="step"'),
        (schedules.Warmup(2, 0.1), 'give Warmup per="step"'),
        (schedules.Warmup(2, schedules.Exponential(0.1), per="step"), 'give Exponential per="step"'),
        (Own(per="step"), "the rates of Own depend"),
    ],
)
def test_schedules_that_it_cannot_follow(schedule: schedules.Schedule, says: str) -> None:
    model = network()
    with pytest.raises(InputError, match=says):
        model.partial_fit(X, T, loss="quadratic", optimizer=fastnn.SGD(schedule))
    assert not model.built


def test_a_schedule_of_ones_own_that_has_no_end() -> None:
    assert len(set(stepped(network(), fastnn.SGD(Endless(per="step")), 3))) == 3
