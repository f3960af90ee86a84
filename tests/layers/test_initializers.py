"""Initial weights: their moments within statistical bounds, their dtypes and shapes, names, defaults and configurations."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest

from fastnn.errors import InputError, InputTypeError
from fastnn.initializers import NAMES, Constant, Glorot, He, Initializer, LeCun, Normal, Zeros, by_name, default_for

EACH = [
    Zeros(),
    Constant(-0.5),
    Normal(),
    Normal(0.01),
    LeCun(),
    LeCun("uniform"),
    Glorot(),
    Glorot("uniform"),
    He(),
    He("uniform"),
]
RANDOM = [
    (Normal(), lambda fan_in, fan_out: 1.0),
    (Normal(0.01), lambda fan_in, fan_out: 1e-4),
    (LeCun(), lambda fan_in, fan_out: 1 / fan_in),
    (LeCun("uniform"), lambda fan_in, fan_out: 1 / fan_in),
    (Glorot(), lambda fan_in, fan_out: 2 / (fan_in + fan_out)),
    (Glorot("uniform"), lambda fan_in, fan_out: 2 / (fan_in + fan_out)),
    (He(), lambda fan_in, fan_out: 2 / fan_in),
    (He("uniform"), lambda fan_in, fan_out: 2 / fan_in),
]
NAMED = [repr(initializer) for initializer, _ in RANDOM]
KEY = (123456789, 987654321)
SIGMAS = 4.5  # a right generator fails once in 150,000 keys, and the key is fixed


@pytest.mark.parametrize(("initializer", "variance_of"), RANDOM, ids=NAMED)
@pytest.mark.parametrize("shape", [(401, 53), (31, 997), (3, 5, 29, 67)], ids=str)
def test_moments(initializer: Initializer, variance_of: Any, shape: tuple[int, ...]) -> None:
    field = math.prod(shape[:-2])
    variance = variance_of(field * shape[-2], field * shape[-1])
    values = initializer(KEY, shape, np.float64)
    unit = values.ravel() / math.sqrt(variance)
    n = unit.size
    uniform = getattr(initializer, "distribution", "normal") == "uniform"
    # Of unit variance: the fourth moment, and the share within one deviation.
    fourth, inside = (1.8, 1 / math.sqrt(3)) if uniform else (3.0, math.erf(math.sqrt(0.5)))
    assert abs(unit.mean()) < SIGMAS / math.sqrt(n)
    assert abs((unit**2).mean() - 1) < SIGMAS * math.sqrt((fourth - 1) / n)
    assert abs((np.abs(unit) < 1).mean() - inside) < SIGMAS * math.sqrt(inside * (1 - inside) / n)
    # Neither rows nor columns are alike, nor follow each other.
    table = unit.reshape(-1, shape[-1])
    for a, b in ((table[:-1], table[1:]), (table[:, :-1], table[:, 1:])):
        assert abs((a * b).mean()) < SIGMAS / math.sqrt(a.size)
    if uniform:
        limit = math.sqrt(3)
        assert -limit <= unit.min() < -0.99 * limit
        assert 0.99 * limit < unit.max() < limit
    else:
        assert np.abs(unit).max() > 3, "not truncated"


@pytest.mark.parametrize("initializer", EACH, ids=repr)
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (1, 1), (31, 33), (7, 127)], ids=str)
def test_shapes_and_rounding(initializer: Initializer, shape: tuple[int, int]) -> None:
    wide = initializer(KEY, shape, "float64")
    narrow = initializer(KEY, shape, np.float32)
    for values, dtype in ((wide, np.float64), (narrow, np.float32)):
        assert values.shape == shape
        assert values.dtype == dtype
        assert values.flags.c_contiguous
        assert values.flags.writeable
        assert np.isfinite(values).all()
    np.testing.assert_array_equal(narrow, wide.astype(np.float32))


@pytest.mark.parametrize(("initializer", "_"), RANDOM, ids=NAMED)
def test_the_key_decides(initializer: Initializer, _: Any) -> None:
    first = initializer(KEY, (31, 33), np.float32)
    np.testing.assert_array_equal(initializer(KEY, (31, 33), np.float32), first)
    assert (initializer((KEY[0] + 1, KEY[1]), (31, 33), np.float32) != first).mean() > 0.99
    assert (initializer((KEY[0], KEY[1] + 1), (31, 33), np.float32) != first).mean() > 0.99


def test_constants() -> None:
    np.testing.assert_array_equal(Zeros()(KEY, (3, 2), np.float32), np.zeros((3, 2), np.float32))
    np.testing.assert_array_equal(Constant(0.1)(KEY, (3,), np.float32), np.full(3, np.float32(0.1)))


@pytest.mark.parametrize("shape", [(), (4,)], ids=str)
def test_biases(shape: tuple[int, ...]) -> None:
    for initializer in (Zeros(), Constant(0.1), Normal()):
        assert initializer(KEY, shape, np.float32).shape == shape
    for initializer in (LeCun(), Glorot("uniform"), He()):
        with pytest.raises(InputError, match=r"expected the shape \(inputs, outputs\) of weights, got"):
            initializer(KEY, shape, np.float32)


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.complex64, bool])
def test_other_dtypes(dtype: Any) -> None:
    with pytest.raises(InputTypeError, match="expected float32 or float64, got"):
        Zeros()(KEY, (2, 2), dtype)


def test_each_call_returns_an_array_of_its_own() -> None:
    for initializer in EACH:
        first = initializer(KEY, (3, 2), np.float64)
        kept = first.copy()
        first[...] = 7
        np.testing.assert_array_equal(initializer(KEY, (3, 2), np.float64), kept)


def test_by_name() -> None:
    for name, expected in {
        "zeros": Zeros(),
        "normal": Normal(1.0),
        "lecun": LeCun("normal"),
        "lecun_uniform": LeCun("uniform"),
        "glorot": Glorot("normal"),
        "xavier": Glorot("normal"),
        "glorot_uniform": Glorot("uniform"),
        "xavier_uniform": Glorot("uniform"),
        "he": He("normal"),
        "he_uniform": He("uniform"),
    }.items():
        assert by_name(name) == expected
    for name in ("lecun", "glorot", "xavier", "he"):
        assert NAMES[name] == NAMES[f"{name}_normal"]
    he = He()
    assert by_name(he) is he
    with pytest.raises(InputError, match="did you mean 'xavier'"):
        by_name("xavir")
    for bad in (0.1, 0, None, He, ["he"]):
        with pytest.raises(InputError, match="expected an initializer"):
            by_name(bad)  # type: ignore[arg-type]


def test_defaults() -> None:
    for activation in ("relu", "leaky_relu", "elu", "gelu", "mish", "silu"):
        assert default_for(activation) == He("normal")
    for activation in ("sigmoid", "tanh", "softplus", None):
        assert default_for(activation) == Glorot("uniform")


@pytest.mark.parametrize("initializer", EACH, ids=repr)
def test_configurations_survive_json(initializer: Initializer) -> None:
    back = Initializer.from_config(json.loads(json.dumps(initializer.to_config())))
    assert back == initializer
    assert hash(back) == hash(initializer)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(math.nan), "Constant: value: expected a finite number, got nan"),
        (lambda: Constant("0"), "value"),  # type: ignore[arg-type]
        (lambda: Normal(-1.0), "Normal: deviation: expected a finite number >= 0, got -1.0"),
        (lambda: He("uniforn"), "unknown distribution 'uniforn'; did you mean 'uniform'"),  # type: ignore[arg-type]
        (lambda: Glorot(2.0), "unknown distribution 2.0"),  # type: ignore[arg-type]
        (lambda: Initializer.from_config({"type": "Xavier"}), "unknown Initializer 'Xavier'"),
        (lambda: Initializer.from_config({"type": "_Scaled"}), "unknown Initializer '_Scaled'"),
        (lambda: Initializer.from_config({"type": "He", "gain": 2}), "He has no 'gain'"),
    ],
)
def test_bad_input(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_immutable() -> None:
    with pytest.raises(FrozenInstanceError):
        Normal().deviation = 2.0  # type: ignore[misc]
