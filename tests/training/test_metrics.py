"""Metrics: scikit-learn's numbers over random cases, and the user's own metrics."""

from __future__ import annotations

import math
import re
import warnings
from functools import partial
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as theirs

import fastnn
from fastnn import ops
from fastnn.errors import InputError, InputTypeError
from fastnn.metrics import METRICS, Metric, as_metric, as_metrics, compute

KINDS = {
    "integers": np.arange(5),
    "others": np.array([-3, 7, 8, 1000]),
    "strings": np.array(["apple", "fig", "pear"]),
    "truth": np.array([False, True]),
    "signs": np.array([-1.0, 1.0]),
    "words": np.array(["no", "yes"]),
    "zero_one": np.arange(2),
}
CASES = range(12)


def case(number: int, kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Labels, predictions, mostly right, and weights, in every other case."""
    classes = KINDS[kind]
    n = int(rng.integers(1, 40))
    y = rng.choice(classes, n)
    predictions = np.where(rng.random(n) < 0.6, y, rng.choice(classes, n))
    return y, predictions, rng.random(n) + 0.1 if number % 2 else None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["accuracy", "f1", "precision", "recall"])
def test_labels_against_scikit_learn(name: str, kind: str, rng: np.random.Generator) -> None:
    classes = KINDS[kind]
    for number in CASES:
        y, predictions, weights = case(number, kind, rng)
        if name == "accuracy":
            expected = theirs.accuracy_score(y, predictions, sample_weight=weights)
        else:
            average = {"average": "binary", "pos_label": classes[1]} if len(classes) == 2 else {"average": "macro"}
            if len(classes) == 2 and len(np.unique([y, predictions])) < 2:
                average = {"average": None, "labels": [classes[1]]}
            function = getattr(theirs, f"{name}_score")
            expected = np.squeeze(function(y, predictions, sample_weight=weights, zero_division=0, **average))
        found = compute(METRICS[name], y, predictions, weights, classes)
        assert found == pytest.approx(float(expected), abs=1e-12)
        if len(np.unique([y, predictions])) == len(classes):
            assert compute(METRICS[name], y, predictions, weights) == found


@pytest.mark.parametrize("name", ["f1", "precision", "recall"])
def test_yes_or_no_answers_against_scikit_learn(name: str, rng: np.random.Generator) -> None:
    for number in CASES:
        y, predictions = rng.integers(0, 2, (2, 15, 4))
        weights = rng.random(15) if number % 2 else None
        expected = getattr(theirs, f"{name}_score")(y, predictions, average="macro", sample_weight=weights, zero_division=0)
        assert compute(METRICS[name], y.astype("f4"), predictions, weights) == pytest.approx(expected, abs=1e-12)


def test_accuracy_of_several_answers_is_the_share_of_right_ones() -> None:
    y, predictions = np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[1, 0], [0, 1]])
    assert compute(METRICS["accuracy"], y, predictions) == 0.75
    assert compute(METRICS["accuracy"], y, predictions, np.array([3.0, 1.0])) == 0.875


@pytest.mark.parametrize(
    ("name", "function"),
    [("r2", theirs.r2_score), ("mae", theirs.mean_absolute_error), ("mse", theirs.mean_squared_error)],
)
@pytest.mark.parametrize("outputs", [1, 3])
def test_values_against_scikit_learn(name: str, function: Any, outputs: int, rng: np.random.Generator) -> None:
    for number in CASES:
        y = rng.normal(5.0, 2.0, (20, outputs))
        predictions = y + rng.normal(size=y.shape)
        if number > 8:
            y[:, 0] = 3.0  # an output that never changes
        if number > 10:
            predictions[:, 0] = 3.0
        weights = rng.random(20) if number % 2 else None
        expected = function(y, predictions, sample_weight=weights)
        assert compute(METRICS[name], y, predictions, weights) == pytest.approx(expected, rel=1e-10)
        if outputs == 1:
            assert compute(METRICS[name], y[:, 0], predictions, weights) == pytest.approx(expected, rel=1e-10)
    assert name != "r2" or math.isnan(compute(METRICS["r2"], y[:1], predictions[:1]))


@pytest.mark.parametrize("kind", KINDS)
def test_log_loss_against_scikit_learn(kind: str, rng: np.random.Generator) -> None:
    classes = KINDS[kind]
    for number in CASES:
        y, _, weights = case(number, kind, rng)
        p = rng.dirichlet(np.ones(len(classes)), len(y))
        p[0] = np.eye(len(classes))[0]  # a zero is clipped
        expected = theirs.log_loss(y, p, sample_weight=weights, labels=classes)
        assert compute(METRICS["log_loss"], y, p, weights, classes) == pytest.approx(expected, rel=1e-9)
        if len(classes) == 2:
            assert compute(METRICS["log_loss"], y, p[:, 1:], weights, classes) == pytest.approx(expected, rel=1e-9)
        mirrored = compute(METRICS["log_loss"], y, p[:, ::-1], weights, classes[::-1])
        assert mirrored == pytest.approx(expected, rel=1e-9)


def test_log_loss_of_several_answers_is_the_sum_of_each() -> None:
    y, p = np.array([[1, 0], [1, 1]]), np.array([[0.5, 0.25], [0.75, 0.9]])
    each = [compute(METRICS["log_loss"], y[:, i], p[:, i], classes=np.arange(2)) for i in range(2)]
    assert compute(METRICS["log_loss"], y, p) == pytest.approx(sum(each), rel=1e-12)


def test_log_loss_guesses_no_classes() -> None:
    y, p = np.array(["yes", "yes"]), np.array([0.9, 0.8])
    assert compute(METRICS["log_loss"], y, p, None, np.array(["no", "yes"])) == pytest.approx(-np.log([0.9, 0.8]).mean())
    with pytest.raises(InputError, match="expected 2 classes for these probabilities, got 'yes'"):
        compute(METRICS["log_loss"], y, p)
    with pytest.raises(InputError, match="expected 3 classes"):
        compute(METRICS["log_loss"], np.array([0, 2]), np.full((2, 3), 1 / 3))


def test_nothing_is_warned_of_where_nothing_is_counted() -> None:
    with warnings.catch_warnings(action="error"):
        for name in ("f1", "precision", "recall"):
            assert compute(METRICS[name], np.array([0, 0]), np.array([0, 0]), None, np.arange(2)) == 0.0
            assert compute(METRICS[name], np.array([1, 1]), np.array([1, 1]), None, np.arange(3)) == 1.0


# --- the user's own -------------------------------------------------------------------------------------------------


def spread(y: np.ndarray, predictions: np.ndarray) -> Any:
    return np.ptp(y - predictions)


def test_a_function_is_a_metric_of_its_name() -> None:
    metric = as_metric(spread)
    assert (metric.name, metric.takes) == ("spread", "predictions")
    assert compute(metric, np.array([1.0, 2.0]), np.array([1.0, 4.0])) == 2.0
    y, predictions = np.array(["a", "b", "a"]), np.array(["a", "a", "a"])
    assert compute(as_metric(theirs.balanced_accuracy_score), y, predictions) == 0.5
    assert as_metric("mae") is METRICS["mae"]
    assert as_metric(METRICS["f1"].function) is METRICS["f1"]
    assert as_metric(metric) is metric


def test_several_metrics() -> None:
    assert [metric.name for metric in as_metrics(["r2", spread, Metric("worst", max)])] == ["r2", "spread", "worst"]
    assert as_metrics([]) == ()
    with pytest.raises(InputError, match="'r2' twice"):
        as_metrics(["r2", "mae", "r2"])
    with pytest.raises(InputTypeError, match=r"expected a list, got 'r2'; use \['r2'\]"):
        as_metrics("r2")


def test_weights_reach_those_who_take_them() -> None:
    y, weights = np.array([1.0, 3.0]), np.array([3.0, 1.0])
    weighed = Metric("weighed", lambda y, p, weights: np.average(y, weights=weights), extras=("weights",))
    assert compute(weighed, y, y, weights) == 1.5
    assert compute(weighed, y, y) == 2.0
    with pytest.raises(InputError, match=r'the metric spread takes no weights.*extras=\("weights",\)'):
        compute(as_metric(spread), y, y, weights)


def test_outputs_are_measured_in_the_vocabulary() -> None:
    outputs, targets = np.array([[1.0, 2.0], [3.0, 5.0]]), np.array([[0.0, 2.0], [3.0, 1.0]])
    rows = Metric("rows", lambda z, t: ops.sum(ops.abs(ops.subtract(z, t)), 1), "outputs")
    assert compute(rows, targets, outputs) == 2.5
    assert compute(rows, targets, outputs, np.array([3.0, 1.0])) == 1.75
    first = Metric("first", lambda z, t: z[0, 0] - t[0, 0], "outputs")
    assert compute(first, targets, outputs) == 1.0
    with pytest.raises(InputError, match="first takes no weights"):
        compute(first, targets, outputs, np.ones(2))


@pytest.mark.parametrize("found", [3, 0.5, np.float32(0.5), np.array(0.5), np.int64(3), float("nan")])
def test_numbers_are_taken(found: Any) -> None:
    number = compute(Metric("mine", lambda y, p: found), np.ones(2), np.ones(2))
    assert type(number) is float
    assert number == float(found) or math.isnan(found)


@pytest.mark.parametrize("found", [None, "0.5", True, np.True_, 1j, [0.5], np.ones(1), np.ones(2), {"mine": 1.0}])
def test_anything_else_is_refused(found: Any) -> None:
    with pytest.raises(InputTypeError, match=f"the metric mine: expected one real number, got {type(found).__name__}"):
        compute(Metric("mine", lambda y, p: found), np.ones(2), np.ones(2))


def test_infinity_is_refused() -> None:
    with pytest.raises(InputError, match="the metric mine: expected a finite number or NaN, got -inf"):
        compute(Metric("mine", lambda y, p: -np.inf), np.ones(2), np.ones(2))


def test_an_exception_goes_through() -> None:
    mine = LookupError("mine")

    def fails(y: Any, predictions: Any) -> float:
        raise mine

    with pytest.raises(LookupError) as caught:
        compute(as_metric(fails), np.ones(2), np.ones(2))
    assert caught.value is mine


def f1(y: Any, predictions: Any) -> float:
    return 0.0


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: as_metric("acuracy"), InputError, "no metric is called 'acuracy'; did you mean 'accuracy'?"),
        (lambda: as_metric(3), InputTypeError, "got int"),
        (lambda: as_metric(lambda y, p: 0.0), InputError, 'use Metric("name", function)'),
        (lambda: as_metric(partial(spread)), InputError, 'use Metric("name", function)'),
        (lambda: as_metric(f1), InputError, "the name of the library's f1"),
        (lambda: as_metric(Metric("r2", spread)), InputError, "the name of the library's r2"),
        (lambda: Metric("", spread), InputError, "expected a name"),
        (lambda: Metric("a\nb", spread), InputError, "expected a name"),
        (lambda: Metric("loss", spread), InputError, "'loss' is taken"),
        (lambda: Metric("val_r2", spread), InputError, "'val_r2' is taken"),
        (lambda: Metric("mine", 3), InputTypeError, "expected a function, got int"),
        (lambda: Metric("mine", spread, "prediction"), InputError, "did you mean 'predictions'"),
        (lambda: Metric("mine", spread, extras=("weight",)), InputError, "did you mean 'weights'"),
    ],
)
def test_metrics_that_cannot_be(make: Any, error: type, says: str) -> None:
    with pytest.raises(error, match=re.escape(says)):
        make()


def test_metrics_need_something_to_be_computed_on() -> None:
    assert as_metrics([], validated=False) == ()
    with pytest.raises(InputError, match=r"metrics: f1, mae would be computed on validation_data, and there is none; give"):
        as_metrics(["f1", "mae"], validated=False)


def test_fit_takes_metrics_only_with_something_to_measure_them_on() -> None:
    model = fastnn.Sequential([fastnn.Dense(2)], seed=0)
    with pytest.raises(InputError, match="validation_data"):
        model.fit(np.zeros((4, 3)), [0, 1, 0, 1], metrics=["f1"], verbose=0)
    assert not model.built


def test_texts_may_come_as_objects() -> None:
    """As columns of pandas and what is read from files do."""
    y, predictions = np.array(["no", "yes", "no"], object), np.array(["no", "yes", "yes"])
    assert fastnn.metrics.f1(y, predictions) == fastnn.metrics.f1(y.astype(str), predictions) == pytest.approx(2 / 3)
    shares = np.array([0.2, 0.7, 0.4])
    assert fastnn.metrics.log_loss(y, shares) == fastnn.metrics.log_loss(y.astype(str), shares)
    with pytest.raises(InputError, match="y: 1 labels are missing"):
        fastnn.metrics.f1(np.array(["no", None, "no"], object), predictions)


VALUES = np.linspace(-1.0, 1.0, 12)
TEXTS = np.array(["no", "yes"] * 6)
UNFIT = {
    **{name: (VALUES, "mean_squared_error", name, "compares labels") for name in ("accuracy", "f1", "precision", "recall")},
    **{name: (TEXTS, "softmax_cross_entropy", name, "is for numbers, .* the labels 'no'") for name in ("r2", "mae", "mse")},
    "log_loss of values": (VALUES, "mean_squared_error", "log_loss", "takes probabilities"),
    "log_loss of labels": (TEXTS, "mean_squared_error", "log_loss", "takes probabilities"),
    "own": (VALUES, "mean_squared_error", Metric("surest", lambda y, p: p.max(), "probabilities"), "takes probabilities"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_metrics_that_say_nothing_of_a_task_are_refused(case: str) -> None:
    y, loss, metric, says = UNFIT[case]
    X = np.linspace(-1.0, 1.0, 24).reshape(12, 2)
    model = fastnn.Sequential([fastnn.Dense(1 if y is VALUES else 2)], seed=0)
    with pytest.raises(InputError, match=says):
        model.fit(X, y, loss=loss, batch_size=12, epochs=1, validation_data=(X, y), metrics=[metric], verbose=0)
    assert not model.built
    model.fit(X, y, loss=loss, batch_size=12, epochs=1, verbose=0)
    with pytest.raises(InputError, match=says):
        model.evaluate(X, y, metrics=[metric])


def test_shares_have_a_log_loss() -> None:
    X, y = np.linspace(-1.0, 1.0, 24).reshape(12, 2), np.linspace(0.1, 0.9, 12)
    model = fastnn.Sequential([fastnn.Dense(1)], seed=0)
    model.fit(X, y, loss="sigmoid_cross_entropy", batch_size=12, epochs=1, verbose=0)
    found = model.evaluate(X, y, metrics=["log_loss", "mse"])
    assert found["log_loss"] == pytest.approx(found["loss"], rel=1e-5)
