"""Estimators for scikit-learn's users: `MLPClassifier` and `MLPRegressor` with its parameters, and any model of one's own.

    from fastnn.estimators import MLPClassifier

    classifier = MLPClassifier((100,), random_state=0).fit(X, y)

They go wherever an estimator of scikit-learn goes: pipelines, searches, ensembles, calibration. scikit-learn is an extra:
`pip install "fastnn-xp[sklearn]"`.
"""

from fastnn.errors import PackageError

try:
    import sklearn  # noqa: F401 - asked for here, so that its absence has one message
except ImportError as error:
    raise PackageError.of("scikit-learn", "fastnn.estimators", error) from error

from fastnn.estimators.classification import MLPClassifier
from fastnn.estimators.models import Classifier, Regressor
from fastnn.estimators.regression import MLPRegressor

__all__ = ["Classifier", "MLPClassifier", "MLPRegressor", "Regressor"]
