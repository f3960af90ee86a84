"""Targets of regressors: numbers, one or several an example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils.validation import validate_data

from fastnn import ops
from fastnn.errors import InputError
from fastnn.estimators.base import DTYPES, SPARSE, Trained
from fastnn.losses import LOSSES, Loss, as_loss


def half_poisson_deviance(outputs: Any, targets: Any) -> Any:
    """l = sum_j exp(z_j) - y_j z_j: half the Poisson deviance of the means exp(z), but for what does not depend on z."""
    return ops.sum(ops.subtract(ops.exp(outputs), ops.multiply(targets, outputs)), 1)


class Values(RegressorMixin, Trained):  # type: ignore[misc]
    """What makes an estimator a regressor."""

    loss: Any
    loss_names: ClassVar[Mapping[str, Loss]] = {
        "squared_error": LOSSES["quadratic"],
        "poisson": Loss("half_poisson_deviance", half_poisson_deviance, "exp"),
        "absolute_error": LOSSES["mean_absolute_error"],
    }
    """scikit-learn's names of losses."""

    def predict(self, X: Any) -> np.ndarray:
        """Values (n,), or (n, O) for several outputs."""
        outputs = self._outputs_for(X)
        return outputs[:, 0] if outputs.shape[1] == 1 else outputs

    def _read(self, X: Any, y: Any, incremental: bool, first: bool) -> tuple[Any, np.ndarray]:
        X, y = validate_data(self, X, y, accept_sparse=SPARSE, multi_output=True, y_numeric=True, dtype=DTYPES, reset=first)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return X, self._values(y, X.dtype)

    def _read_targets(self, y: Any) -> np.ndarray:
        return self._values(np.asarray(y), np.dtype(np.float64))

    def _values(self, y: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
        values = y.astype(dtype, copy=False)
        return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values

    def _loss(self) -> Loss:
        loss = self.loss_names.get(self.loss) if isinstance(self.loss, str) else None
        loss = loss or as_loss(self.loss)
        if loss.link not in (None, "exp") or loss.accepts == "classes":
            raise InputError(
                f"{type(self).__name__}: loss: {loss.name} compares classes; expected one of numbers, such as 'huber'"
            )
        return loss

    def _outputs(self, targets: np.ndarray) -> int:
        return 1 if targets.ndim == 1 else int(targets.shape[1])

    def _labels(self) -> None:
        return None

    def _score_of(self, outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray | None) -> float:
        return float(r2_score(targets.reshape(len(targets), -1), outputs, sample_weight=weights))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
