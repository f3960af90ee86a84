"""Spaces: what is drawn and where grids lie, against the formulas of the scales; Optuna and JSON and back."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from fastnn.errors import FastnnError, InputError, InputTypeError
from fastnn.tuning import Choice, Integers, LogUniform, OneMinus, Space, Uniform

SPACE = Space(
    {
        "learning_rate": LogUniform(1e-4, 1),
        "beta": OneMinus(LogUniform(1e-3, 1e-1)),
        "keep": Uniform(0.5, 1.0),
        "units": Integers(8, 512, log=True),
        "layers": Integers(1, 4),
        "activation": Choice(["relu", "tanh", None, True, 3, 0.5]),
    }
)
KINDS = [float, float, float, int, int, object]


def test_what_is_drawn_follows_the_formulas_of_the_scales() -> None:
    for seed in range(50):
        drawn = SPACE.sample(seed)
        u = np.random.default_rng(seed).random(6)
        assert drawn["learning_rate"] == pytest.approx(10 ** (-4 + 4 * u[0]), rel=1e-12)
        assert drawn["beta"] == pytest.approx(1 - 10 ** (-1 - 2 * u[1]), rel=1e-12)
        assert drawn["keep"] == pytest.approx(0.5 + 0.5 * u[2], rel=1e-12)
        assert drawn["units"] == round(7.5 * (512.5 / 7.5) ** u[3])
        assert drawn["layers"] == 1 + math.floor(4 * u[4])
        assert drawn["activation"] == SPACE["activation"].options[math.floor(6 * u[5])]
        assert all(isinstance(value, kind) for value, kind in zip(drawn.values(), KINDS, strict=True))
        assert drawn == SPACE.sample(np.random.default_rng(seed))
    assert SPACE.sample(0) != SPACE.sample(1)


def test_each_decade_of_a_log_scale_is_as_likely(rng: np.random.Generator) -> None:
    space = Space({"rate": LogUniform(1e-4, 1), "beta": OneMinus(LogUniform(1e-3, 1e-1)), "whole": Integers(3, 5)})
    drawn = [space.sample(rng) for _ in range(8000)]
    decades = Counter(math.floor(math.log10(point["rate"])) for point in drawn)
    assert set(decades) == {-4, -3, -2, -1}
    assert all(abs(count - 2000) < 200 for count in decades.values())  # five standard deviations
    assert abs(sum(point["beta"] < 0.99 for point in drawn) - 4000) < 225
    assert all(abs(count - 2667) < 215 for count in Counter(point["whole"] for point in drawn).values())


@pytest.mark.parametrize("u", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", SPACE)
def test_nothing_is_out_of_bounds(name: str, u: float) -> None:
    value = SPACE[name].at(u)
    if name == "beta":
        assert 0.9 <= value <= 0.999
    elif name == "activation":
        assert value in SPACE[name].options
    else:
        assert SPACE[name].lower <= value <= SPACE[name].upper  # type: ignore[attr-defined]


def test_a_grid_has_equal_steps_on_the_scales() -> None:
    np.testing.assert_allclose(LogUniform(1e-4, 1).grid(5), np.geomspace(1e-4, 1, 5))
    np.testing.assert_allclose(Uniform(-1, 2).grid(4), [-1, 0, 1, 2])
    np.testing.assert_allclose(OneMinus(LogUniform(1e-3, 1e-1)).grid(3), [0.9, 0.99, 0.999])
    assert Integers(16, 256, log=True).grid(5) == (16, 32, 64, 128, 256)
    assert Integers(1, 4).grid(9) == (1, 2, 3, 4)
    assert Uniform(0, 1).grid(1) == (0.5,)
    assert LogUniform(1e-4, 1).grid(1) == (pytest.approx(0.01),)


def test_the_points_of_a_grid() -> None:
    space = Space({"a": Uniform(0, 1), "c": Choice(["x", "y"])})
    expected = [{"a": a, "c": c} for a in (0.0, 0.5, 1.0) for c in ("x", "y")]
    assert space.grid({"a": 3, "c": 2}) == expected == space.grid(7)
    three = Space({name: Uniform(0, 1) for name in "abc"})
    assert len(three.grid(60)) == 60  # 5 x 4 x 3
    assert len(three.grid(1)) == 1
    assert len(Space({"n": Integers(1, 3)}).grid(50)) == 3


def test_the_smallest_box_around_points(rng: np.random.Generator) -> None:
    points = [SPACE.sample(rng) for _ in range(9)]
    box = SPACE.narrow(points)
    for name in ("learning_rate", "keep", "units"):
        values = [point[name] for point in points]
        given: Any = box[name]
        assert (given.lower, given.upper) == (min(values), max(values))
        assert given.scale == SPACE[name].scale
    beta: Any = box["beta"]
    np.testing.assert_allclose([beta.at(0.0), beta.at(1.0)], [min(p["beta"] for p in points), max(p["beta"] for p in points)])
    assert set(box["activation"].options) == {point["activation"] for point in points}  # type: ignore[attr-defined]
    assert SPACE.narrow(points[:1]).sample(3) == points[0]


def test_to_optuna_and_back() -> None:
    optuna = pytest.importorskip("optuna")
    known = SPACE.to_optuna()
    assert known["learning_rate"] == optuna.distributions.FloatDistribution(1e-4, 1.0, log=True)
    assert known["1 - beta"] == optuna.distributions.FloatDistribution(1e-3, 1e-1, log=True)
    assert known["units"] == optuna.distributions.IntDistribution(8, 512, log=True)
    assert known["activation"].choices == ("relu", "tanh", None, True, 3, 0.5)
    assert Space.from_optuna(known) == SPACE
    assert list(Space.from_optuna(known)) == list(SPACE)
    with pytest.raises(InputError, match="without steps"):
        Space.from_optuna({"x": optuna.distributions.FloatDistribution(0, 1, step=0.25)})


def test_points_as_optuna_keeps_them() -> None:
    for seed in range(100):
        point = SPACE.sample(seed)
        stored = SPACE.to_stored(point)
        assert stored["1 - beta"] == 1 - point["beta"]
        assert SPACE.point(stored) == point


def test_to_json_and_back() -> None:
    assert Space.from_config(json.loads(json.dumps(SPACE.to_config()))) == SPACE


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: Uniform(1, 1), InputError, "expected lower < upper, got 1 and 1"),
        (lambda: Uniform(2, 1), InputError, "lower < upper"),
        (lambda: Uniform(0, math.nan), InputError, "two finite numbers"),
        (lambda: Uniform("0", 1), InputError, "two finite numbers"),  # type: ignore[arg-type]
        (lambda: Uniform(False, True), InputError, "two finite numbers"),
        (lambda: LogUniform(0, 1), InputError, "expected 0 < lower, got 0.0; there is no logarithm"),
        (lambda: LogUniform(-1, 1), InputError, "0 < lower"),
        (lambda: OneMinus(0.1), InputTypeError, "expected a LogUniform or a Uniform"),  # type: ignore[arg-type]
        (lambda: OneMinus(Integers(1, 3)), InputTypeError, "expected a LogUniform"),  # type: ignore[arg-type]
        (lambda: Integers(0, 5, log=True), InputError, "lower >= 1 on a log scale"),
        (lambda: Integers(5, 5), InputError, "lower < upper"),
        (lambda: Integers(1, 2.5), InputError, "two integers"),  # type: ignore[arg-type]
        (lambda: Choice([]), InputError, "at least one option"),
        (lambda: Choice("relu"), InputTypeError, "a list of options"),  # type: ignore[arg-type]
        (lambda: Choice([1, 1]), InputError, "different options"),
        (lambda: Choice([(64, 64)]), InputTypeError, "got a tuple; look it up"),
        (lambda: Choice([math.nan]), InputError, "NaN"),
        (lambda: Space({}), InputError, "at least one parameter, got none"),
        (lambda: Space([Uniform(0, 1)]), InputTypeError, "a dict of distributions"),  # type: ignore[arg-type]
        (lambda: Space({"rate": 0.1}), InputTypeError, "rate: expected one of Uniform, LogUniform"),  # type: ignore[dict-item]
        (lambda: Space({"": Uniform(0, 1)}), InputTypeError, "names of parameters"),
        (lambda: Space({"1 - beta": Uniform(0, 1)}), InputError, "does not begin with"),
        (lambda: SPACE["learning_rat"], InputError, "did you mean 'learning_rate'"),
        (lambda: SPACE.grid({"unit": 3}), InputError, "did you mean 'units'"),
        (lambda: SPACE.grid({"units": 3}), InputError, "a number of values for each of"),
        (lambda: SPACE.grid(5), InputError, "5 points are too few for 6 combinations"),
        (lambda: SPACE.narrow([]), InputError, "at least one point"),
    ],
)
def test_bad_spaces(make: Any, kind: type[FastnnError], message: str) -> None:
    with pytest.raises(kind, match=message):
        make()
