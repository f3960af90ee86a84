"""Metrics of scores by name, equal to scikit-learn's; and scikit-learn's own, which get scores where they need some."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn.metrics as theirs

import fastnn
from fastnn import metrics
from fastnn.errors import InputError

SEEDS = range(6)


def case(seed: int, classes: int, rows: int = 97) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, shares with many ties, and weights of which some are 0."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, rows)
    y[:classes] = np.arange(classes)
    logits = np.round(rng.normal(size=(rows, classes)) + np.eye(classes)[y], 1 if seed % 2 else 6)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return y, shares, np.where(rng.random(rows) < 0.1, 0.0, rng.random(rows))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_of_two_classes(seed: int, weighted: bool) -> None:
    y, shares, w = case(seed, 2)
    weights = w if weighted else None
    for ours, reference in (
        (metrics.auc, theirs.roc_auc_score),
        (metrics.average_precision, theirs.average_precision_score),
        (metrics.brier, theirs.brier_score_loss),
    ):
        expected = reference(y, shares[:, 1], sample_weight=weights)
        for given in (shares, shares[:, 1:], shares[:, 1]):
            assert ours(y, given, weights) == pytest.approx(expected, rel=1e-12, abs=1e-12), ours.__name__
        named = np.array(["ash", "elm"])
        assert ours(named[y], shares, weights, named) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("classes", [3, 5])
def test_of_several_classes(classes: int, seed: int, weighted: bool) -> None:
    y, shares, w = case(seed, classes)
    weights = w if weighted else None
    one_hot = np.eye(classes)[y]
    expected = theirs.roc_auc_score(one_hot, shares, average="macro", sample_weight=weights)
    assert metrics.auc(y, shares, weights) == pytest.approx(expected, rel=1e-12)
    expected = theirs.average_precision_score(one_hot, shares, average="macro", sample_weight=weights)
    assert metrics.average_precision(y, shares, weights) == pytest.approx(expected, rel=1e-12)
    expected = np.average(((one_hot - shares) ** 2).sum(axis=1), weights=weights)
    assert metrics.brier(y, shares, weights) == pytest.approx(expected, rel=1e-12)
    for k in range(1, classes):
        expected = theirs.top_k_accuracy_score(y, shares, k=k, sample_weight=weights)
        assert metrics.top_k_accuracy(y, shares, weights, k=k) == pytest.approx(expected, rel=1e-12)
    predicted = shares.argmax(axis=1)
    expected = theirs.balanced_accuracy_score(y, predicted, sample_weight=weights)
    assert metrics.balanced_accuracy(y, predicted, weights) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_root_of_squares(weighted: bool) -> None:
    rng = np.random.default_rng(0)
    y, a, w = rng.normal(size=(50, 3)), rng.normal(size=(50, 3)), rng.random(50) if weighted else None
    for given in ((y, a), (y[:, 0], a[:, 0]), (y[:, :1], a[:, :1])):
        expected = np.sqrt(theirs.mean_squared_error(*given, sample_weight=w, multioutput="raw_values")).mean()
        assert metrics.root_mean_squared_error(*given, w) == pytest.approx(expected, rel=1e-12)


def test_where_there_is_nothing_to_compare() -> None:
    assert np.isnan(metrics.auc(np.ones(5, int), np.linspace(0, 1, 5), classes=np.arange(2)))
    assert metrics.average_precision(np.zeros(5, int), np.linspace(0, 1, 5), classes=np.arange(2)) == 0.0
    assert metrics.auc(np.array([0, 1]), np.array([0.5, 0.5])) == 0.5


def trained(labels: Any, outputs: int) -> tuple[fastnn.Sequential, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(200, 4)).astype("float32")
    y = np.asarray(labels)[((X[:, 0] + 0.7 * rng.normal(size=200)) > 0).astype(int) + (X[:, 1] > 1) * (len(labels) - 2)]
    model = fastnn.Sequential([fastnn.Dense(outputs)], seed=0)
    loss = "sigmoid_cross_entropy" if outputs == 1 else "softmax_cross_entropy"
    model.fit(X, y, loss=loss, optimizer=fastnn.Adam(0.05), epochs=10, batch_size=20, verbose=0)
    return model, X, y


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("labels", [[0, 1], ["no", "yes"], [False, True]])
def test_functions_of_scikit_learn_get_scores(labels: list[Any], outputs: int) -> None:
    """Of labels, the area under the curve would be another number, without a word."""
    model, X, y = trained(labels, outputs)
    found = model.evaluate(X, y, metrics=[theirs.roc_auc_score, theirs.average_precision_score, "auc", "average_precision"])
    yes, shares = y == model.classes_[1], model.predict_proba(X)[:, 1]
    assert found["roc_auc_score"] == pytest.approx(theirs.roc_auc_score(yes, shares), rel=1e-6)
    assert found["auc"] == pytest.approx(found["roc_auc_score"], rel=1e-12)
    assert found["average_precision"] == pytest.approx(found["average_precision_score"], rel=1e-12)
    assert found["roc_auc_score"] != pytest.approx(theirs.roc_auc_score(yes, model.predict(X) == model.classes_[1]), rel=1e-3)
    weights = np.linspace(0, 1, 200)
    weighted = model.evaluate(X, y, metrics=[theirs.roc_auc_score, "auc"], sample_weight=weights)
    assert weighted["roc_auc_score"] == pytest.approx(theirs.roc_auc_score(yes, shares, sample_weight=weights), rel=1e-6)
    assert weighted["auc"] == pytest.approx(weighted["roc_auc_score"], rel=1e-12)


def test_scores_of_three_classes() -> None:
    model, X, y = trained([3, 5, 8], 3)
    found = model.evaluate(X, y, metrics=["auc", "top_k_accuracy", "balanced_accuracy", "brier", theirs.top_k_accuracy_score])
    shares = model.predict_proba(X)
    assert found["auc"] == pytest.approx(theirs.roc_auc_score(y, shares, multi_class="ovr"), rel=1e-6)
    expected = theirs.top_k_accuracy_score(y, shares, k=2)
    assert found["top_k_accuracy"] == found["top_k_accuracy_score"] == pytest.approx(expected)
    assert found["balanced_accuracy"] == pytest.approx(theirs.balanced_accuracy_score(y, model.predict(X)))


def test_what_they_are_not_for() -> None:
    rng = np.random.default_rng(0)
    X, t = rng.normal(size=(20, 2)), rng.normal(size=20)
    model = fastnn.Sequential([fastnn.Dense(1)], seed=0)
    model.fit(X, t, loss="mean_squared_error", epochs=1, batch_size=10, verbose=0)
    for name in ("auc", "balanced_accuracy", "brier", "top_k_accuracy", "average_precision"):
        with pytest.raises(InputError, match=f"the metric {name} compares labels, and y holds numbers"):
            model.evaluate(X, t, metrics=[name])
    expected = np.sqrt(theirs.mean_squared_error(t, model.predict(X)))
    assert model.evaluate(X, t, metrics=["rmse"])["rmse"] == pytest.approx(expected, rel=1e-5)
    several = fastnn.Sequential([fastnn.Dense(2)], seed=0)
    several.fit(X, X > 0, loss="sigmoid_cross_entropy", epochs=1, batch_size=10, verbose=0)
    assert 0 <= several.evaluate(X, X > 0, metrics=["auc"])["auc"] <= 1
    with pytest.raises(InputError, match="brier is for one label an example"):
        several.evaluate(X, X > 0, metrics=["brier"])
