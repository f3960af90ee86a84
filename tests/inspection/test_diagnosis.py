"""Bias and variance: the examples of the course, the thresholds, and the errors of a trained model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn.errors import InputError, InputTypeError, NotReadyError


@pytest.mark.parametrize(
    ("train", "dev", "base", "verdict"),
    [
        (0.01, 0.11, 0.0, "high variance"),
        (0.15, 0.16, 0.0, "high bias"),
        (0.15, 0.30, 0.0, "high bias and high variance"),
        (0.005, 0.01, 0.0, "low bias and low variance"),
        (0.15, 0.16, 0.15, "low bias and low variance"),
        (0.15, 0.30, 0.15, "high variance"),
    ],
)
def test_the_examples_of_the_course(train: float, dev: float, base: float, verdict: str) -> None:
    found = fastnn.diagnose(train, dev, base)
    assert found.verdict == verdict
    assert (found.high_bias, found.high_variance) == ("high bias" in verdict, "high variance" in verdict)
    assert found.bias == pytest.approx(train - base)
    assert found.variance == pytest.approx(dev - train)
    advice = " ".join(found.advice)
    assert ("bigger network" in advice) == found.high_bias
    assert ("more training data" in advice) == ("regularize" in advice) == found.high_variance
    assert len(set(found.advice)) == len(found.advice)
    if found.high_bias:
        assert "bigger" in found.advice[0], "bias is cured first"


def test_it_reads_well() -> None:
    shown = str(fastnn.diagnose(0.15, 0.30)).splitlines()
    assert shown[0] == "high bias and high variance"
    assert any("dev error" in line and "30.00%" in line for line in shown)
    assert any(line.split()[:2] == ["bias", "15.00%"] for line in shown)
    assert all(len(line) <= 80 for line in shown)
    odd = str(fastnn.diagnose(0.10, 0.05, 0.15))
    assert "below the base error" in odd
    assert "below the training error" in odd
    assert all(len(line) <= 80 for line in odd.splitlines())


def test_thresholds_are_arguments_and_what_equals_them_is_low() -> None:
    assert fastnn.diagnose(0.5, 0.5, bias_threshold=0.5).verdict == "low bias and low variance"
    assert 0.07 - 0.04 > 0.03, "of floating-point numbers"
    assert fastnn.diagnose(0.07, 0.10, 0.04).verdict == "low bias and low variance"
    assert fastnn.diagnose(0.25, 0.5, bias_threshold=0.2, variance_threshold=0.25).verdict == "high bias"
    assert fastnn.diagnose(0.01, 0.02, bias_threshold=0.0, variance_threshold=0.0).verdict == "high bias and high variance"


@pytest.mark.parametrize("value", [-0.01, 1.5, 11, float("nan"), float("inf"), "0.1", None, True])
@pytest.mark.parametrize("name", ["train_error", "dev_error", "base_error", "bias_threshold", "variance_threshold"])
def test_what_is_no_share_is_refused(name: str, value: Any) -> None:
    given: dict[str, Any] = {"train_error": 0.1, "dev_error": 0.2} | {name: value}
    with pytest.raises(InputError, match=f"{name}: expected a share from 0 to 1"):
        fastnn.diagnose(**given)


def test_the_errors_of_a_model_are_measured(rng: np.random.Generator) -> None:
    X = rng.standard_normal((200, 10)).astype(np.float32)
    y = rng.integers(0, 2, 200)  # noise: what is learned by heart
    model = fastnn.Sequential([fastnn.Dense(64, activation="relu"), fastnn.Dense(2)], seed=0)
    with pytest.raises(NotReadyError, match="fit"):
        fastnn.diagnose_model(model, (X, y), (X, y))
    model.fit(X[:100], y[:100], epochs=60, batch_size=20, optimizer=fastnn.Adam(0.01), verbose=0, device="cpu")
    found = fastnn.diagnose_model(model, (X[:100], y[:100]), (X[100:], y[100:]), variance_threshold=0.2)
    assert found.train_error == pytest.approx(np.mean(model.predict(X[:100]) != y[:100]), abs=1e-6)
    assert found.dev_error == pytest.approx(np.mean(model.predict(X[100:]) != y[100:]), abs=1e-6)
    assert found.verdict == "high variance"
    assert found.variance_threshold == 0.2
    with pytest.raises(InputTypeError, match="model: expected a Sequential, got NoneType"):
        fastnn.diagnose_model(None, (X, y), (X, y))  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match=r"dev: expected a pair \(X, y\), got ndarray"):
        fastnn.diagnose_model(model, (X, y), X)  # type: ignore[arg-type]


def test_a_regression_needs_errors_of_its_own(rng: np.random.Generator) -> None:
    X = rng.standard_normal((50, 3)).astype(np.float32)
    model = fastnn.Sequential([fastnn.Dense(1)], seed=0)
    model.fit(X, X[:, 0], loss="quadratic", epochs=1, batch_size=50, verbose=0, device="cpu")
    with pytest.raises(InputError, match=r"no share of errors.*1 - r2"):
        fastnn.diagnose_model(model, (X, X[:, 0]), (X, X[:, 0]))
