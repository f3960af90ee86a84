"""Schedules: their equations, what PyTorch's do, and the laws that all of them keep."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import FrozenInstanceError, dataclass, replace

import numpy as np
import pytest

from fastnn.errors import InputError
from fastnn.schedules import (
    Constant,
    Cosine,
    Exponential,
    InverseSqrt,
    InverseTime,
    OneCycle,
    Schedule,
    Staircase,
    Table,
    Warmup,
    as_schedule,
)

STEPS_PER_EPOCH = 7
EPOCHS = 12

EACH = [
    Constant(0.3),
    InverseTime(0.2, 1.5),
    Exponential(0.1, 0.95),
    InverseSqrt(0.1, 2.0),
    Staircase(0.1, 0.5, 3),
    Table({0: 0.1, 5: 0.03, 9: 0.0}),
    Cosine(0.1, 0.01),
    OneCycle(0.1, rise=0.4),
    Warmup(3, Cosine(0.1)),
    Warmup(5, Warmup(2, Exponential(0.5, per="step"), per="step")),
]
names = [type(schedule).__name__ for schedule in EACH]


def rates_of(schedule: Schedule, epochs: int = EPOCHS, steps_per_epoch: int = STEPS_PER_EPOCH) -> np.ndarray:
    total = epochs * steps_per_epoch
    return schedule.rates(np.arange(total), steps_per_epoch, total)


def per_epoch(schedule: Schedule, epochs: int) -> list[float]:
    """The rates of the epochs, after a check that each is held for all steps of its epoch."""
    table = rates_of(schedule, epochs).reshape(epochs, STEPS_PER_EPOCH)
    np.testing.assert_array_equal(table, np.repeat(table[:, :1], STEPS_PER_EPOCH, axis=1))
    return [float(rate) for rate in table[:, 0]]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Constant(0.25), [0.25, 0.25, 0.25]),
        (InverseTime(0.2, 1.0), [0.2, 0.1, 0.2 / 3, 0.05, 0.04]),
        (Exponential(0.1), [0.1, 0.095, 0.09025, 0.0857375]),
        (InverseSqrt(0.1, k=2.0), [0.2, 0.2 / math.sqrt(2), 0.2 / math.sqrt(3), 0.1]),
        (Staircase(0.8, 0.5, 2), [0.8, 0.8, 0.4, 0.4, 0.2, 0.2, 0.1]),
        (Table({2: 0.05, 0: 0.1, 3: 0.01}), [0.1, 0.1, 0.05, 0.01, 0.01, 0.01]),
        (Table([(0, 1.0), (1, 0.0)]), [1.0, 0.0, 0.0]),
        (Cosine(1.0), [1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)]),
        (Cosine(0.3, 0.1), [0.3, 0.25, 0.15]),
        (Warmup(3, 0.4), [0.1, 0.2, 0.3, 0.4, 0.4]),
        (Warmup(1, Staircase(0.8, 0.5, 1)), [0.4, 0.8, 0.4, 0.2]),
        (Warmup(2, Cosine(0.3, 0.1)), [0.1, 0.2, 0.3, 0.25, 0.15]),
        # rise * T = 3: the peak is at epoch 2 and the last epoch, 5, has the final rate.
        (OneCycle(1.0, 0.2, 0.1, rise=0.5), [0.2, 0.6, 1.0, 0.775, 0.325, 0.1]),
    ],
    ids=lambda value: repr(value) if isinstance(value, Schedule) else "",
)
def test_equations(schedule: Schedule, expected: list[float]) -> None:
    np.testing.assert_allclose(per_epoch(schedule, len(expected)), expected, rtol=4e-16 * 8, atol=0)


@pytest.mark.parametrize("schedule", EACH[:-1], ids=names[:-1])
def test_epochs_of_one_step_are_steps(schedule: Schedule) -> None:
    in_steps = replace(schedule, per="step")
    if isinstance(schedule, Warmup):
        in_steps = replace(in_steps, then=replace(schedule.then, per="step"))  # type: ignore[type-var]
    expected = schedule.rates(np.arange(EPOCHS), 1, EPOCHS)
    assert expected.dtype == np.float64
    np.testing.assert_array_equal(in_steps.rates(np.arange(EPOCHS), 5, EPOCHS), expected)
    np.testing.assert_array_equal(in_steps.rates(np.arange(EPOCHS), 1, EPOCHS), expected)


@pytest.mark.parametrize("schedule", [*EACH, *(replace(schedule, per="step") for schedule in EACH)], ids=repr)
def test_a_rate_does_not_depend_on_the_chunk(schedule: Schedule) -> None:
    """Bit for bit: chunks may end anywhere, and vectorized functions have loops of their own for what is left over."""
    whole = rates_of(schedule)
    assert whole.shape == (EPOCHS * STEPS_PER_EPOCH,)
    for start in (0, 1, 6, 7, 30):
        for length in (0, 1, 2, 3, 5, 8, 13, 31, 33):
            steps = np.arange(start, start + length)
            got = schedule.rates(steps, STEPS_PER_EPOCH, EPOCHS * STEPS_PER_EPOCH)
            np.testing.assert_array_equal(got, whole[start : start + length])


def test_warmup_by_steps_then_by_epochs() -> None:
    got = Warmup(3, Staircase(0.8, 0.5, 1), per="step").rates(np.arange(11), 4, 12)
    np.testing.assert_allclose(got, [0.2, 0.4, 0.6, *[0.8] * 4, *[0.4] * 4], rtol=1e-15)


def test_warmup_longer_than_the_run() -> None:
    np.testing.assert_allclose(Warmup(9, Cosine(1.0)).rates(np.arange(6), 2, 6), np.repeat([0.1, 0.2, 0.3], 2), rtol=1e-15)


def test_cosine_and_one_cycle_hold_their_end() -> None:
    beyond = np.arange(20, 50)
    np.testing.assert_array_equal(Cosine(0.5, 0.125, per="step").rates(beyond, 1, 20), 0.125)
    np.testing.assert_array_equal(OneCycle(0.5, 0.1, 0.125, per="step").rates(beyond, 1, 20), 0.125)


@pytest.mark.parametrize(("length", "expected"), [(0, []), (1, [1.0]), (2, [1.0, 0.1]), (3, [1.0, 0.55, 0.1])])
def test_one_cycle_of_a_short_run_begins_at_the_peak(length: int, expected: list[float]) -> None:
    got = OneCycle(1.0, 0.2, 0.1, per="step").rates(np.arange(length), 1, length)
    np.testing.assert_allclose(got, expected, rtol=1e-15)


def test_a_partial_last_epoch_counts_as_one() -> None:
    np.testing.assert_allclose(Cosine(1.0).rates(np.arange(9), 4, 9), [1.0] * 4 + [0.75] * 4 + [0.25], rtol=1e-15)


def test_underflow_is_zero_and_overflow_is_an_error() -> None:
    assert Exponential(0.1, 0.5).rates(np.array([100_000]), 1, 1)[0] == 0
    with pytest.raises(InputError, match="step 2000 is inf"):
        Exponential(1.0, 2.0).rates(np.array([0, 2000]), 1, 2000)


TORCH_STEPS = 40


def torch_rates(make: object, rate: float = 0.1, steps: int = TORCH_STEPS) -> list[float]:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schedule = make(torch.optim.lr_scheduler, optimizer)  # type: ignore[operator]
        rates = []
        for step in range(steps):
            rates.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            if step + 1 < steps:
                schedule.step()
    return rates


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Exponential(0.1, 0.9), lambda of, optimizer: of.ExponentialLR(optimizer, 0.9)),
        (Staircase(0.1, 0.3, 7), lambda of, optimizer: of.StepLR(optimizer, 7, 0.3)),
        (Cosine(0.1, 0.02), lambda of, optimizer: of.CosineAnnealingLR(optimizer, TORCH_STEPS, 0.02)),
        (OneCycle(0.1), lambda of, optimizer: of.OneCycleLR(optimizer, 0.1, total_steps=TORCH_STEPS)),
        (
            OneCycle(0.1, 0.01, 0.002, rise=0.43),
            lambda of, optimizer: of.OneCycleLR(
                optimizer, 0.1, total_steps=TORCH_STEPS, pct_start=0.43, div_factor=10, final_div_factor=5
            ),
        ),
        # Theirs starts from a factor at t = 0 and is at 1 at t = total_iters; ours is at 1 / (n + 1) at t = 0.
        (Warmup(9, 0.1), lambda of, optimizer: of.LinearLR(optimizer, 1 / 10, total_iters=9)),
    ],
    ids=lambda value: repr(value) if isinstance(value, Schedule) else "",
)
def test_pytorch(ours: Schedule, theirs: object) -> None:
    expected = torch_rates(theirs)
    got = replace(ours, per="step").rates(np.arange(TORCH_STEPS), 3, TORCH_STEPS)
    # PyTorch multiplies the rate of the step before, so its error grows with the steps.
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-17)


@pytest.mark.parametrize("schedule", [*EACH, replace(EACH[6], per="step"), OneCycle(1.0, 0.5, 0.25)], ids=repr)
def test_configurations_survive_json(schedule: Schedule) -> None:
    back = Schedule.from_config(json.loads(json.dumps(schedule.to_config())))
    assert back == schedule
    assert hash(back) == hash(schedule)
    assert type(schedule).from_config(schedule.to_config()) == schedule
    np.testing.assert_array_equal(rates_of(back), rates_of(schedule))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "Cosin", "initial": 1.0}, "did you mean 'Cosine'"),
        ({"type": "Cosine", "initial": 1.0, "finale": 0.0}, "did you mean 'final'"),
        ({"type": "Cosine"}, "initial"),
        ({"type": ["Cosine"]}, "unknown Schedule"),
        ({"initial": 1.0}, '"type"'),
        ("Cosine", '"type"'),
        ({"type": "Constant", "rate": "fast"}, "rate: expected a finite number >= 0, got 'fast'"),
    ],
)
def test_bad_configurations(config: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Schedule.from_config(config)  # type: ignore[arg-type]


def test_another_class_is_refused() -> None:
    with pytest.raises(InputError, match="unknown Constant 'Cosine'"):
        Constant.from_config(Cosine(0.1).to_config())


def test_a_schedule_of_ones_own() -> None:
    @dataclass(frozen=True)
    class Triangle(Schedule):
        def rate_at(self, t: np.ndarray, length: int) -> np.ndarray:
            return np.minimum(t, length - t).astype(float)

    np.testing.assert_array_equal(Triangle(per="step").rates(np.arange(5), 1, 4), [0, 1, 2, 1, 0])
    with pytest.raises(InputError, match="learning rate of step 5 is -1"):
        Triangle(per="step").rates(np.arange(6), 1, 4)
    with pytest.raises(InputError, match=r"Triangle cannot be stored: .*Schedule.types\['Triangle'\] = Triangle"):
        Triangle().to_config()


def test_as_schedule() -> None:
    cosine = Cosine(0.1)
    assert as_schedule(cosine) is cosine
    assert as_schedule(1) == as_schedule(np.float64(1)) == Constant(1.0)
    assert as_schedule(0.0) == Constant(0.0)
    assert as_schedule(cosine.to_config()) == cosine
    for bad in (-0.1, math.nan, math.inf, "0.1", None, True, [0.1], 1j, 10**400):
        with pytest.raises(InputError, match="learning rate: expected"):
            as_schedule(bad)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(-1.0), "Constant: rate: expected a finite number >= 0, got -1.0"),
        (lambda: Constant(math.nan), "rate: .* got nan"),
        (lambda: Constant(True), "rate: .* got True"),
        (lambda: Constant(0.1, per="batch"), "unknown per 'batch'"),  # type: ignore[arg-type]
        (lambda: InverseTime(0.1, -1.0), "decay"),
        (lambda: InverseTime(-0.1, 1.0), "initial"),
        (lambda: Exponential(0.1, 0.0), "base: expected a finite number > 0, got 0.0"),
        (lambda: Exponential(math.inf), "initial"),
        (lambda: InverseSqrt(0.1, math.nan), "k"),
        (lambda: Staircase(0.1, -0.5, 2), "factor"),
        (lambda: Staircase(0.1, 0.5, 0), "every: expected an integer >= 1, got 0"),
        (lambda: Staircase(0.1, 0.5, 1.5), "every"),  # type: ignore[arg-type]
        (lambda: Table({}), "entry for 0"),
        (lambda: Table({1: 0.1}), "entry for 0"),
        (lambda: Table(0.1), "entry for 0"),  # type: ignore[arg-type]
        (lambda: Table("ab"), "entry for 0"),  # type: ignore[arg-type]
        (lambda: Table({0: 0.1, 2.5: 0.2}), "integers >= 0 as times, got 2.5"),  # type: ignore[dict-item]
        (lambda: Table({0: 0.1, -1: 0.2}), "got -1"),
        (lambda: Table({0: -0.1}), "finite rates >= 0, got -0.1 at 0"),
        (lambda: Table([(0, 0.1), (0, 0.2)]), "0 has two rates"),
        (lambda: Table([(0, 0.1, 0.2)]), "pairs"),
        (lambda: Table([0.1]), "pairs"),  # type: ignore[list-item]
        (lambda: Cosine(-0.1), "initial"),
        (lambda: Cosine(0.1, -0.1), "final"),
        (lambda: OneCycle(-0.1), "peak"),
        (lambda: OneCycle(0.1, -1.0), "initial"),
        (lambda: OneCycle(0.1, final=math.nan), "final"),
        (lambda: OneCycle(0.1, rise=1.0), "rise: expected a finite number > 0 and < 1, got 1.0"),
        (lambda: Warmup(0, 0.1), "length"),
        (lambda: Warmup(2, -0.1), "learning rate"),
        (lambda: Constant(0.1).rates(np.arange(2), 0, 2), "steps_per_epoch"),
    ],
)
def test_bad_input(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()  # type: ignore[operator]


def test_immutable() -> None:
    with pytest.raises(FrozenInstanceError):
        Constant(0.1).rate = 0.2  # type: ignore[misc]
    source = {0: 0.1}
    table = Table(source)
    source[0] = 9.0
    assert rates_of(table)[0] == 0.1
