"""The learning-rate range test: its rates, losses and average against a training by hand, its suggestion, and its end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn.averages import exponentially_weighted_average
from fastnn.errors import DivergenceError, InputError, InputTypeError
from fastnn.inspection.learning_rate_range import RangeTest


def data(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    X = rng.standard_normal((300, 6)).astype(np.float32)
    return X, (X[:, 0] + X[:, 1] ** 2 > 1).astype(int)


def network() -> fastnn.Sequential:
    return fastnn.Sequential([fastnn.Dense(16, activation="relu"), fastnn.Dense(2)], seed=0)


def test_rates_losses_and_average_are_those_of_steps_by_hand(rng: np.random.Generator) -> None:
    X, y = data(rng)
    found = fastnn.find_learning_rate(
        network(), X, y, lowest=1e-3, highest=1.0, steps=12, optimizer="sgd", batch_size="all", device="cpu"
    )
    np.testing.assert_allclose(found.rates, 1e-3 * 1e3 ** (np.arange(12) / 11))
    by_hand, average = network(), 0.0
    for step, rate in enumerate(found.rates):
        made = by_hand.fit(X, y, optimizer=fastnn.SGD(rate), batch_size="all", epochs=1, verbose=0, device="cpu")
        np.testing.assert_allclose(found.losses[step], made["loss"][0], rtol=1e-5)
        average = 0.9 * average + 0.1 * found.losses[step]
        np.testing.assert_allclose(found.smoothed[step], average / (1 - 0.9 ** (step + 1)))
    assert not found.diverged


def test_the_suggested_rate_trains_well_and_the_model_is_left_alone(rng: np.random.Generator) -> None:
    X, y = data(rng)
    model = network()
    found = fastnn.find_learning_rate(model, X, y, batch_size=32, device="cpu")
    assert not model.built
    assert found.suggestion is not None
    assert found.suggestion < found.rate_at_lowest_loss
    ends = {
        rate: network().fit(X, y, optimizer=fastnn.Adam(rate), batch_size=32, epochs=5, verbose=0, device="cpu")["loss"][-1]
        for rate in (found.suggestion, found.suggestion / 100, found.suggestion * 1000)
    }
    assert min(ends, key=lambda rate: ends[rate]) == found.suggestion
    assert all(len(line) <= 80 for line in str(found).splitlines())


def test_a_trained_model_goes_on_from_its_weights_and_is_not_changed(rng: np.random.Generator) -> None:
    X, y = data(rng)
    model = network()
    history = model.fit(X, y, epochs=20, batch_size=32, verbose=0, device="cpu")
    before, updates = model.weights, model.optimizer_state
    assert updates is not None
    counted, counters = updates.updates, (model.counters.step, model.counters.epoch)
    found = fastnn.find_learning_rate(model, X, y, optimizer="sgd", batch_size="all", steps=5, device="cpu")
    assert found.losses[0] == pytest.approx(model.evaluate(X, y)["loss"], rel=1e-4)
    assert found.losses[0] < history["loss"][0]
    assert all(np.array_equal(value, before[name]) for name, value in model.weights.items())
    assert (model.counters.step, model.counters.epoch) == counters
    state = model.optimizer_state
    assert state is not None
    assert (state.optimizer, state.updates) == ("Adam", counted)


def test_it_ends_where_the_loss_diverges_or_is_not_finite(rng: np.random.Generator) -> None:
    X, _ = data(rng)
    wild = fastnn.Sequential([fastnn.Dense(16), fastnn.Dense(1)], seed=0)
    options: dict[str, Any] = {"loss": "quadratic", "optimizer": "sgd", "batch_size": 32, "device": "cpu", "highest": 1e6}
    found = fastnn.find_learning_rate(wild, X, X[:, :1], **options)
    assert found.diverged
    assert len(found.rates) == len(found.losses) == len(found.smoothed) < 100
    assert found.smoothed[-1] > 4 * found.smoothed.min()
    assert (found.smoothed[:-1] <= 4 * np.minimum.accumulate(found.smoothed[:-1])).all()
    patient = fastnn.find_learning_rate(wild, X, X[:, :1], divergence_factor=1e300, **options)
    assert patient.diverged
    assert len(patient.rates) > len(found.rates)
    assert np.isfinite(patient.losses).all()
    with pytest.raises(DivergenceError):
        fastnn.find_learning_rate(wild, X, 1e6 * X[:, :1], **{**options, "lowest": 1e37, "highest": 1e38})


def test_the_rule_of_the_suggestion() -> None:
    rates = np.geomspace(1e-5, 1.0, 51)
    t = np.log10(rates)
    smoothed = 2.0 - np.tanh(2 * (t + 3)) + np.where(t > -0.5, 10 * (t + 0.5), 0)
    found = RangeTest(rates, smoothed, smoothed, 0.9, False)
    assert found.suggestion == pytest.approx(1e-3)
    assert found.rate_at_lowest_loss == pytest.approx(10**-0.5, rel=0.05)
    rough = smoothed.copy()
    rough[:5] += 100.0 * 0.5 ** np.arange(5)
    rough[20] += 0.2
    assert RangeTest(rates, rough, rough, 0.9, False).suggestion == pytest.approx(1e-3, rel=0.3), "noise hides nothing"
    abrupt = 2.0 - np.where(t > -1, t + 1, 0) + np.where(t > -0.5, 10 * (t + 0.5), 0)
    assert RangeTest(rates, abrupt, abrupt, 0.9, False).suggestion == pytest.approx(0.1, rel=0.6), "its beginning"
    rising = RangeTest(rates, t, t, 0.9, False)
    assert rising.suggestion is None
    assert "none: the loss falls nowhere" in str(rising)
    assert RangeTest(rates[:8], -t[:8], -t[:8], 0.9, False).suggestion is None, "too few steps for an average"


def noisy(rates: np.ndarray, level: np.ndarray, noise: float, seed: int) -> RangeTest:
    losses = level + noise * np.random.default_rng(seed).standard_normal(len(rates))
    smoothed = exponentially_weighted_average(losses, 0.9)
    return RangeTest(rates, losses, smoothed, 0.9, False)


def test_the_noise_of_a_plateau_is_no_descent() -> None:
    """Losses around 2.4 that fall by 0.15 from a rate of 0.02 to one of 0.5 and rise behind it; and such that stay there."""
    rates = np.geomspace(1e-6, 10.0, 100)
    t = np.log10(rates / 0.02) / np.log10(25.0)
    level = 2.4 - 0.15 * np.clip(t, 0, 1) + np.where(t > 1, 0.5 * (t - 1), 0)
    for noise, slowest in ((0.0, 0.05), (0.01, 0.05), (0.04, 0.02), (0.08, 0.001)):
        found = [noisy(rates, level, noise, seed) for seed in range(40)]
        suggested = [each.suggestion for each in found if each.suggestion is not None]
        assert len(suggested) == 40
        assert slowest < min(suggested) <= max(suggested) < 0.1
        assert min(each.rate_at_lowest_loss for each in found) > 0.05
    flat = [noisy(rates, np.full(100, 2.4), 0.08, seed).suggestion for seed in range(40)]
    assert flat.count(None) > 20


def test_deep_sigmoid_layers_learn_nothing_at_the_rates_of_their_plateau() -> None:
    digits = fastnn.datasets.load("digits")
    layers = [*(fastnn.Dense(30, "sigmoid") for _ in range(5)), fastnn.Dense(10)]
    for seed in (1, 2):
        model = fastnn.Sequential(layers, seed=seed)
        found = fastnn.find_learning_rate(model, digits.X_train, digits.y_train, optimizer="sgd", batch_size=32, device="cpu")
        assert found.suggestion is not None
        assert 0.01 < found.suggestion < found.rate_at_lowest_loss < 1.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lowest": 0.0}, "lowest < highest"),
        ({"lowest": 1.0, "highest": 0.1}, "lowest < highest"),
        ({"highest": float("inf")}, "lowest < highest"),
        ({"steps": 1}, "steps: expected an integer >= 2, got 1"),
        ({"steps": 2.5}, "steps"),
        ({"smoothing": 1.0}, "smoothing"),
        ({"divergence_factor": 1.0}, "divergence_factor"),
        ({"optimizer": "adm"}, "adam"),
        ({"loss": "hinge"}, "no loss is called"),
    ],
)
def test_bad_numbers_are_refused(wrong: dict[str, Any], message: str, rng: np.random.Generator) -> None:
    X, y = data(rng)
    model = network()
    with pytest.raises(InputError, match=message):
        fastnn.find_learning_rate(model, X, y, device="cpu", **wrong)
    assert not model.built


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(InputTypeError, match="model: expected a Sequential, got NoneType"):
        fastnn.find_learning_rate(None, np.zeros((2, 2)), [0, 1])  # type: ignore[arg-type]
