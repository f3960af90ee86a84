"""The estimators on a GPU made of the host: the results of the CPU, up to rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_on_host.runtime import HostRuntime

from fastnn.estimators import Classifier, MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

rng = np.random.default_rng(2)
X = rng.standard_normal((70, 5))
LABELS = (X @ rng.standard_normal((5, 3))).argmax(axis=1)


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 16, "alpha": 0.5},  # the last of five mini-batches has 6 rows, and another penalty
        {"batch_size": 16, "alpha": 0.5, "class_weight": "balanced"},
        {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1, "batch_size": 16},
        {"solver": "lbfgs"},
        {"early_stopping": True, "batch_size": 16},
    ],
    ids=str,
)
def test_a_classifier(settings: dict[str, Any], cuda_host: HostRuntime) -> None:
    given = {"hidden_layer_sizes": (7,), "max_iter": 3, "random_state": 0, **settings}
    there, here = (MLPClassifier(device=device, **given).fit(X, LABELS) for device in ("cuda", "cpu"))
    for mine, other in zip(there.coefs_ + there.intercepts_, here.coefs_ + here.intercepts_, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-9)
    assert there.loss_ == pytest.approx(here.loss_, rel=1e-9)
    np.testing.assert_allclose(there.predict_proba(X), here.predict_proba(X), atol=1e-9)
    if "solver" not in settings:
        assert there.history_.device == "cuda:0"


def test_a_regressor_and_a_model(cuda_host: HostRuntime) -> None:
    there, here = (MLPRegressor("poisson", (7,), device=device, max_iter=2, random_state=0) for device in ("cuda", "cpu"))
    y = np.abs(X[:, 0])
    np.testing.assert_allclose(there.fit(X, y).predict(X), here.fit(X, y).predict(X), rtol=1e-9)
    model = Classifier(device="cuda", options={"epochs": 2}, random_state=0).fit(X, LABELS)
    assert model.history_.device == "cuda:0"
    assert set(model.predict(X)) <= {0, 1, 2}
