"""`MLPRegressor`: scikit-learn's, trained by fastnn."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from scipy.special import xlogy
from sklearn.utils.metaestimators import available_if

from fastnn.estimators.multilayer import Multilayer
from fastnn.estimators.values import Values


class MLPRegressor(Values, Multilayer):
    """A multilayer perceptron that predicts numbers, with the parameters of scikit-learn's `MLPRegressor`, and more.

        from fastnn.estimators import MLPRegressor

        regressor = MLPRegressor(hidden_layer_sizes=(100,), loss="quantile:level=0.9", random_state=0).fit(X, y)

    `loss`: "squared_error", 1/2 sum_j (a_j - y_j)^2; "poisson", half the deviance of means exp(outputs); "absolute_error",
    "huber", "quantile" (with parameters as in `fastnn.losses`: "huber:delta=2.0"), or any loss of `fastnn.losses` that compares
    numbers. y: (n,) or (n, O). Cost, dtypes, all other parameters and attributes are those of `MLPClassifier`; the validation
    score is r2.
    """

    def __init__(
        self,
        loss: Any = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: Any = 10,
        max_fun: int = 15000,
        dropout: Any = 0.0,
        batch_norm: bool = False,
        callbacks: Any = (),
        device: str = "auto",
        precision: str = "float32",
        threads: int | None = None,
    ) -> None:
        for name, value in locals().items():
            if name not in ("self", "__class__"):
                setattr(self, name, value)

    def fit(self, X: Any, y: Any, sample_weight: Any = None, validation_data: Any = None) -> Self:
        """Train on X (n, features), dense or sparse, and y; returns the estimator. As `MLPClassifier.fit`."""
        with self._all_or_nothing():
            return self._fit(X, y, sample_weight, validation_data)

    @available_if(Multilayer._is_stochastic)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one epoch on X and y, from where the last call ended; returns the estimator."""
        with self._all_or_nothing():
            return self._fit(X, y, sample_weight, incremental=True)

    def _reported(self, loss: float, penalty: float, constant: float) -> float:
        # scikit-learn descends by the sum over outputs, and reports the mean.
        several = self.n_outputs_ if self.loss == "squared_error" else 1
        return loss / several + constant + penalty

    def _loss_constants(self, targets: np.ndarray) -> np.ndarray | None:
        if self.loss != "poisson":
            return None
        constants: np.ndarray = (xlogy(targets, targets) - targets).reshape(len(targets), -1).sum(axis=1, dtype=np.float64)
        return constants
