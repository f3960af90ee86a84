"""`MLPClassifier` and `MLPRegressor` beside scikit-learn's, from the same seed: the same weights, up to rounding."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import sklearn
import sklearn.neural_network as theirs
from sklearn.exceptions import ConvergenceWarning

from fastnn import estimators as ours

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

WEIGHTED = tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 7)
"""Whether theirs knows weights of examples, and the loss of Poisson."""

rng = np.random.default_rng(3)
X = rng.standard_normal((233, 7))
SCORES = X @ rng.standard_normal((7, 4))
FOUR = SCORES.argmax(axis=1)
TWO = np.where(SCORES[:, 0] > 0, "yes", "no")
SEVERAL = (SCORES[:, :3] > 0).astype(int)
NUMBERS = SCORES[:, 0] + 0.1 * rng.standard_normal(233)
COUNTS = rng.poisson(np.exp(0.3 * NUMBERS)).astype(float)
WEIGHTS = rng.integers(1, 5, 233).astype(float)

SETTINGS: list[dict[str, Any]] = [
    {},
    {"batch_size": 31, "alpha": 0.5},  # the last mini-batch has 16 rows, and another penalty
    {"batch_size": 1000, "alpha": 0.5},
    {"shuffle": False, "hidden_layer_sizes": (33, 1, 20), "activation": "tanh"},
    {"hidden_layer_sizes": 5, "activation": "logistic", "beta_1": 0.0, "epsilon": 1e-3},
    {"hidden_layer_sizes": (), "activation": "identity"},
    {"solver": "sgd", "learning_rate_init": 0.05},
    {"solver": "sgd", "momentum": 0.0, "batch_size": 50},
    {"solver": "sgd", "nesterovs_momentum": False, "batch_size": 50},
    {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.3, "batch_size": 50},
    {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.5, "tol": 0.05, "n_iter_no_change": 2},
    {"early_stopping": True, "batch_size": 50, "max_iter": 40},
    {"early_stopping": True, "solver": "sgd", "learning_rate": "adaptive", "n_iter_no_change": 1, "max_iter": 40},
    {"solver": "lbfgs", "max_iter": 12},
    {"tol": 0.02, "n_iter_no_change": 1, "max_iter": 60},
]


def compare(kind: str, y: Any, settings: dict[str, Any], weights: np.ndarray | None = None, data: Any = X) -> tuple[Any, Any]:
    given = {"max_iter": 12, "random_state": 5, **settings}
    arguments = () if weights is None else (weights,)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Got `batch_size`")
        warnings.simplefilter("ignore", ConvergenceWarning)
        expected = getattr(theirs, kind)(**given).fit(data, y, *arguments)
        found = getattr(ours, kind)(**given).fit(data, y, *arguments)
    assert found.n_iter_ == expected.n_iter_
    tolerance = 1e-4 if found.model_.dtype == np.float32 else 1e-8
    for name in ("coefs_", "intercepts_"):
        for mine, other in zip(getattr(found, name), getattr(expected, name), strict=True):
            assert mine.dtype == other.dtype
            np.testing.assert_allclose(mine, other, rtol=tolerance, atol=tolerance)
    for name in ("loss_", "loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_"):
        assert hasattr(found, name) == hasattr(expected, name), name
        value = getattr(expected, name, None)
        if value is None:
            assert getattr(found, name, None) is None, name
        else:
            np.testing.assert_allclose(getattr(found, name), value, rtol=10 * tolerance, err_msg=name)
    for name in ("n_layers_", "n_outputs_", "out_activation_", "t_", "n_features_in_"):
        assert getattr(found, name) == getattr(expected, name), name
    return found, expected


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: ",".join(map(str, settings)) or "defaults")
def test_four_classes(settings: dict[str, Any]) -> None:
    found, expected = compare("MLPClassifier", FOUR, settings)
    np.testing.assert_array_equal(found.predict(X), expected.predict(X))
    np.testing.assert_allclose(found.predict_proba(X), expected.predict_proba(X), atol=1e-7)
    np.testing.assert_allclose(found.predict_log_proba(X), expected.predict_log_proba(X), atol=1e-6)
    assert found.score(X, FOUR) == expected.score(X, FOUR)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: ",".join(map(str, settings)) or "defaults")
def test_numbers(settings: dict[str, Any]) -> None:
    found, expected = compare("MLPRegressor", NUMBERS, settings)
    np.testing.assert_allclose(found.predict(X), expected.predict(X), atol=1e-7)


@pytest.mark.parametrize("y", [TWO, SEVERAL, TWO == "yes", FOUR * 1.0], ids=["strings", "several", "booleans", "floats"])
@pytest.mark.parametrize("settings", [{}, SETTINGS[11], SETTINGS[13]], ids=["adam", "early", "lbfgs"])
def test_other_labels(y: np.ndarray, settings: dict[str, Any]) -> None:
    if not WEIGHTED and y.dtype.kind == "U" and "early_stopping" in settings:
        pytest.skip("that of scikit-learn 1.6 looks for NaN among predicted strings")
    found, expected = compare("MLPClassifier", y, settings)
    assert found.predict(X).dtype == expected.predict(X).dtype
    np.testing.assert_array_equal(found.predict(X), expected.predict(X))
    np.testing.assert_allclose(found.predict_proba(X), expected.predict_proba(X), atol=1e-7)
    np.testing.assert_array_equal(found.classes_, expected.classes_)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_several_numbers(solver: str) -> None:
    y = np.stack([NUMBERS, -(NUMBERS**2)], 1)
    if solver == "adam":
        found, expected = compare("MLPRegressor", y, {})
        np.testing.assert_allclose(found.predict(X), expected.predict(X), atol=1e-7)
        return
    # Theirs searches with the mean over the outputs as the cost, and the slope of the sum: ours has the sum for both.
    settings = {"solver": solver, "max_iter": 300, "random_state": 0, "hidden_layer_sizes": (10,)}
    errors = [np.square(make(**settings).fit(X, y).predict(X) - y).mean() for make in (ours.MLPRegressor, theirs.MLPRegressor)]
    assert errors[0] <= errors[1]
    first = [make(**{**settings, "max_iter": 1}) for make in (ours.MLPRegressor, theirs.MLPRegressor)]
    losses = [np.square(net.fit(X, y).predict(X) - y).mean() / 2 for net in first]
    assert first[0].loss_ == pytest.approx(losses[0], rel=1e-4), "its penalty is small"


@pytest.mark.skipif(not WEIGHTED, reason="weights of examples came with scikit-learn 1.7")
@pytest.mark.parametrize("settings", SETTINGS[1:2] + SETTINGS[6:7] + SETTINGS[11:14], ids=lambda settings: ",".join(settings))
def test_weights(settings: dict[str, Any]) -> None:
    compare("MLPClassifier", FOUR, {**settings, "alpha": 0.5}, WEIGHTS)
    compare("MLPRegressor", NUMBERS, {**settings, "alpha": 0.5}, WEIGHTS)


@pytest.mark.skipif(not WEIGHTED, reason="the loss came with scikit-learn 1.7")
@pytest.mark.parametrize("settings", [{}, SETTINGS[11], SETTINGS[13]], ids=["adam", "early", "lbfgs"])
def test_counts(settings: dict[str, Any]) -> None:
    found, expected = compare("MLPRegressor", COUNTS, {**settings, "loss": "poisson"})
    np.testing.assert_allclose(found.predict(X), expected.predict(X), rtol=1e-7)


@pytest.mark.skipif(not WEIGHTED, reason="the loss came with scikit-learn 1.7")
def test_weighted_counts() -> None:
    compare("MLPRegressor", COUNTS, {"loss": "poisson", "batch_size": 31}, WEIGHTS)


def test_float32() -> None:
    compare("MLPClassifier", FOUR, {}, data=X.astype(np.float32))
    compare("MLPRegressor", NUMBERS, {"solver": "sgd"}, data=X.astype(np.float32))


@pytest.mark.parametrize("make", [scipy.sparse.csr_matrix, scipy.sparse.csc_matrix])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_sparse(make: Any, solver: str) -> None:
    data = make(np.where(np.abs(X) > 1, X, 0.0))
    found, expected = compare("MLPClassifier", FOUR, {"solver": solver}, data=data)
    np.testing.assert_allclose(found.predict_proba(data), expected.predict_proba(data), atol=1e-7)


def test_sparse_labels() -> None:
    y = scipy.sparse.csr_matrix(SEVERAL)
    found, expected = compare("MLPClassifier", y, {})
    assert scipy.sparse.issparse(found.predict(X))
    np.testing.assert_array_equal(found.predict(X).toarray(), expected.predict(X).toarray())


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_partial_fit_goes_on_as_theirs(solver: str) -> None:
    settings: dict[str, Any] = {"solver": solver, "random_state": 1, "learning_rate": "invscaling", "batch_size": 40}
    mine, other = ours.MLPClassifier(**settings), theirs.MLPClassifier(**settings)
    for first in (0, 100, 50, 0):
        rows = slice(first, first + 100)
        for estimator in (mine, other):
            estimator.partial_fit(X[rows], FOUR[rows], classes=[0, 1, 2, 3])
    for one, two in zip(mine.coefs_, other.coefs_, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-9)
    np.testing.assert_allclose(mine.loss_curve_, other.loss_curve_)


def test_warm_start_goes_on_as_theirs() -> None:
    settings: dict[str, Any] = {"warm_start": True, "random_state": 1, "max_iter": 3}
    mine, other = ours.MLPRegressor(**settings), theirs.MLPRegressor(**settings)
    for _ in range(3):
        mine.fit(X, NUMBERS)
        other.fit(X, NUMBERS)
    np.testing.assert_allclose(mine.coefs_[0], other.coefs_[0], atol=1e-9)
    np.testing.assert_allclose(mine.loss_curve_, other.loss_curve_)
    assert len(mine.loss_curve_) == 9


def test_what_is_printed_is_theirs(capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for kind in (ours.MLPClassifier, theirs.MLPClassifier):
        kind(early_stopping=True, verbose=True, tol=0.1, n_iter_no_change=2, random_state=0).fit(X, FOUR)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != ""
