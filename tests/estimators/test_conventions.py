"""The estimators keep to scikit-learn's conventions, and go wherever one of its estimators goes."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import sklearn
import sklearn.neural_network
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingRegressor
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, TunedThresholdClassifierCV, cross_val_score
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastnn.estimators import Classifier, MLPClassifier, MLPRegressor, Regressor

WHOLE = {"epochs": 300, "batch_size": "all"}


@parametrize_with_checks(
    [
        MLPClassifier(max_iter=100),
        MLPClassifier(max_iter=100, solver="lbfgs"),
        MLPRegressor(max_iter=100),
        MLPRegressor(solver="lbfgs"),
        Classifier(options=WHOLE),
        Regressor(options=WHOLE),
    ]
)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    check(estimator)


INSIDE = {"test_fit", "test_gradient"}
"""Tests that call private methods of scikit-learn's own classes."""


@pytest.mark.slow
def test_scikit_learns_own_tests(tmp_path: Path) -> None:
    """The tests of scikit-learn's perceptrons, with our classes in their place."""
    source = Path(sklearn.neural_network.__file__).parent / "tests" / "test_mlp.py"
    if not source.exists():
        pytest.skip("scikit-learn is installed without its tests")
    ours, count = re.subn(
        r"^from sklearn.neural_network import MLPClassifier, MLPRegressor$",
        "from fastnn.estimators import MLPClassifier, MLPRegressor",
        source.read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    assert count == 1
    (tmp_path / "test_mlp.py").write_text(ours, encoding="utf-8")
    fixture = "import pytest\n\n\n@pytest.fixture\ndef global_random_seed():\n    return 42\n"
    (tmp_path / "conftest.py").write_text(fixture, encoding="utf-8")
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line", "-rfE", "-c", "/dev/null", "test_mlp.py"]
    run = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    failed = set(re.findall(r"^(?:FAILED|ERROR) \S*?::(\w+)", run.stdout, re.MULTILINE))
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None, run.stdout + run.stderr
    assert int(passed[1]) >= 40
    assert failed <= INSIDE, run.stdout


# Wherever an estimator goes.


def points(rows: int = 240) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    X = rng.standard_normal((rows, 5))
    return X, np.where(X[:, 0] + X[:, 1] ** 2 > 0.8, "in", "out")


X, Y = points()
SMALL = MLPClassifier((16,), learning_rate_init=0.02, max_iter=30, random_state=0, tol=0)
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def test_a_search_over_a_pipeline() -> None:
    pipeline = make_pipeline(StandardScaler(), clone(SMALL))
    grid = {"mlpclassifier__hidden_layer_sizes": [(4,), (16,)], "mlpclassifier__alpha": [0.0, 1.0]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(X, Y)
    assert search.best_score_ > 0.85
    assert search.best_estimator_.predict(X).dtype == Y.dtype


def test_columns_of_a_frame() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X[:, :2], columns=["size", "age"]).assign(kind=np.where(X[:, 2] > 0, "a", "b"))
    columns = ColumnTransformer([("number", StandardScaler(), ["size", "age"]), ("word", OneHotEncoder(), ["kind"])])
    assert make_pipeline(columns, clone(SMALL)).fit(frame, Y).score(frame, Y) > 0.8
    alone = clone(SMALL).fit(frame[["size", "age"]], Y)
    assert alone.feature_names_in_.tolist() == ["size", "age"]
    assert alone.model_.feature_names == ("size", "age")
    with pytest.raises(ValueError, match="feature names"):
        alone.predict(frame[["age", "size"]])


def test_probabilities_that_are_calibrated() -> None:
    calibrated = CalibratedClassifierCV(clone(SMALL), cv=3).fit(X, Y)
    np.testing.assert_allclose(calibrated.predict_proba(X).sum(axis=1), 1.0)
    assert calibrated.score(X, Y) > 0.8


def test_ensembles() -> None:
    bagged = BaggingClassifier(clone(SMALL), n_estimators=3, random_state=0).fit(X, Y)
    assert bagged.score(X, Y) > 0.85
    stacked = StackingClassifier([("net", clone(SMALL)), ("line", LogisticRegression())], cv=3).fit(X, Y)
    assert stacked.score(X, Y) > 0.85
    numbers = X[:, 0] * 2
    net = MLPRegressor(hidden_layer_sizes=(16,), solver="lbfgs", random_state=0)
    assert VotingRegressor([("a", net), ("b", clone(net))]).fit(X, numbers).score(X, numbers) > 0.95
    assert MultiOutputRegressor(net).fit(X, np.stack([numbers, -numbers], 1)).predict(X).shape == (240, 2)


def test_which_columns_count() -> None:
    found = permutation_importance(clone(SMALL).fit(X, Y), X, Y, n_repeats=3, random_state=0)
    assert found.importances_mean[:2].min() > found.importances_mean[2:].max()


def test_a_threshold_that_is_tuned() -> None:
    tuned = TunedThresholdClassifierCV(clone(SMALL), cv=3, scoring="balanced_accuracy").fit(X, Y)
    assert 0 < tuned.best_threshold_ < 1


@pytest.mark.slow
def test_processes_of_joblib_get_memory_maps() -> None:
    large = np.random.default_rng(0).standard_normal((40_000, 8))  # joblib hands over more than a megabyte as a memory map
    y = (large[:, 0] > 0).astype(int)
    net = MLPClassifier((8,), max_iter=3, random_state=0)
    apart = cross_val_score(net, large, y, cv=2, n_jobs=2)
    np.testing.assert_array_equal(apart, cross_val_score(net, large, y, cv=2))


def test_a_read_only_memory_map(tmp_path: Path) -> None:
    joblib.dump(X, tmp_path / "x.joblib")
    mapped = joblib.load(tmp_path / "x.joblib", mmap_mode="r")
    assert not mapped.flags.writeable
    np.testing.assert_array_equal(clone(SMALL).fit(mapped, Y).predict_proba(mapped), clone(SMALL).fit(X, Y).predict_proba(X))


@pytest.mark.parametrize("net", [SMALL, Classifier(options={"epochs": 3}), MLPClassifier(loss="focal", max_iter=3)])
def test_copies_and_pickles(net: Any) -> None:
    fitted = clone(net).fit(X, Y)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))
    assert clone(fitted).get_params() == net.get_params()


def test_metadata_is_routed() -> None:
    with sklearn.config_context(enable_metadata_routing=True):
        net = clone(SMALL).set_fit_request(sample_weight=True, validation_data=True)
        requests = net.get_metadata_routing().fit.requests
    assert requests == {"sample_weight": True, "validation_data": True}
