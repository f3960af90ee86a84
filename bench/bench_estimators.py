"""Estimators: `fit` of `MLPClassifier` and of scikit-learn's, from one to 50 epochs, with the same results.

pytest bench/bench_estimators.py --benchmark-group-by=param:data,param:epochs
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import pytest
import sklearn.neural_network
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning

import fastnn
import fastnn.estimators

KINDS = {"fastnn": fastnn.estimators.MLPClassifier, "scikit-learn": sklearn.neural_network.MLPClassifier}
SIZES = {"100x10": (100, 10), "1000x20": (1_000, 20), "10000x50": (10_000, 50)}


@functools.cache
def examples(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Made points of three classes, in float64, or the digits."""
    if name == "digits":
        data = fastnn.datasets.load("digits")
        return data.X_train.astype(np.float64), data.y_train
    rows, columns = SIZES[name]
    X, y = make_classification(rows, columns, n_informative=8, n_classes=3, random_state=0)
    return X, y


def fit(kind: str, data: str, epochs: int) -> Any:
    X, y = examples(data)
    net = KINDS[kind](max_iter=epochs, tol=0, n_iter_no_change=epochs, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return net.fit(X, y)


@pytest.mark.parametrize("epochs", [1, 50])
@pytest.mark.parametrize("data", [*SIZES, "digits"])
@pytest.mark.parametrize("kind", KINDS)
def test_fit(benchmark: Any, kind: str, data: str, epochs: int) -> None:
    X, _ = examples(data)
    other = next(name for name in KINDS if name != kind)
    expected = fit(other, data, epochs).predict_proba(X)
    net = benchmark(fit, kind, data, epochs)
    np.testing.assert_allclose(net.predict_proba(X), expected, atol=1e-6)
