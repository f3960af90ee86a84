"""What all estimators share: how they read X and weights, and what they ask of the trained model."""

from __future__ import annotations

import contextlib
import copy
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted, validate_data

from fastnn.data.targets import Task
from fastnn.errors import InputError
from fastnn.estimators.solvers import Rate
from fastnn.losses import Loss
from fastnn.network.inference import outputs_of
from fastnn.sequential import Sequential

SPARSE = ("csr", "csc")
DTYPES = (np.float64, np.float32)
"""Of X and of the network: the first where X has another one."""


class Trained(BaseEstimator):  # type: ignore[misc]
    """An estimator whose `model_` is a trained `Sequential`."""

    threads: int | None
    model_: Sequential
    n_features_in_: int

    @abstractmethod
    def _read(self, X: Any, y: Any, incremental: bool, first: bool) -> tuple[Any, np.ndarray]:
        """X as scikit-learn checks it, and the targets as `Sequential.fit` takes them: indices (n,), 0/1 or values."""

    @abstractmethod
    def _read_targets(self, y: Any) -> np.ndarray:
        """The targets of validation data, whose kind is known."""

    @abstractmethod
    def _loss(self) -> Loss:
        """What the training minimizes."""

    @abstractmethod
    def _outputs(self, targets: np.ndarray) -> int:
        """How many outputs the network has."""

    @abstractmethod
    def _labels(self) -> Sequence[Any] | None:
        """The classes in the order of the outputs, as `Sequential.fit` takes them; None where there are none."""

    def _task(self, task: Task) -> Task:
        """The task of the trained model, with the labels of the user."""
        return task

    def _weights(self, X: Any, y: Any, sample_weight: Any) -> np.ndarray | None:
        """The weights of the examples (n,), checked; None where all count the same."""
        if sample_weight is None:
            return None
        if isinstance(sample_weight, Real):
            sample_weight = np.full(X.shape[0], sample_weight)
        weights: np.ndarray = check_array(
            sample_weight, ensure_2d=False, dtype=X.dtype, order="C", input_name="sample_weight", accept_sparse=False
        )
        if weights.ndim != 1 or len(weights) != X.shape[0]:
            raise ValueError(f"sample_weight: expected shape ({X.shape[0]},), got {weights.shape}")
        if weights.min(initial=0.0) < 0:
            raise ValueError(f"sample_weight: expected weights of at least 0, got {weights.min():g}")
        if not weights.any():
            raise ValueError("sample_weight: the weights are all zero, so that there is nothing to learn from")
        return weights

    def _validation(self, data: Any) -> tuple[Any, np.ndarray, np.ndarray | None]:
        """`validation_data` of `fit`, checked: (X, y) or (X, y, weights)."""
        if not isinstance(data, tuple | list) or len(data) not in (2, 3):
            raise InputError("validation_data: expected a pair (X, y), or (X, y, weights)")
        X = validate_data(self, data[0], accept_sparse=SPARSE, dtype=DTYPES, reset=False)
        targets = self._read_targets(data[1])
        if len(targets) != X.shape[0]:
            raise InputError(f"validation_data: expected as many targets as rows, got {len(targets)} and {X.shape[0]}")
        return X, targets, Trained._weights(self, X, data[1], data[2]) if len(data) == 3 else None

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Let an error inside leave the estimator as it was before; a model that was trained further stays so."""
        before = {name: copy.copy(value) if isinstance(value, list | Rate) else value for name, value in self.__dict__.items()}
        try:
            yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def _settle(self) -> None:
        """Tell the trained model the names that the user has for classes and features."""
        model, names = self.model_, getattr(self, "feature_names_in_", None)
        assert model.task is not None
        model.task = self._task(model.task)
        model.feature_names = None if names is None else tuple(map(str, names))

    def _predicted(self, model: Sequential, X: Any) -> np.ndarray:
        """What the final activation makes of the outputs of a model, (n, O)."""
        loss = self._loss()
        outputs: np.ndarray = outputs_of(model, X, self.threads, loss.link, loss.link)
        return outputs

    def _outputs_for(self, X: Any) -> np.ndarray:
        """The same of the trained model, of X as scikit-learn checks it."""
        if "model_" not in self.__dict__:
            check_is_fitted(self)  # says what is missing, and takes as long as a row's way through a small network
        X = validate_data(self, X, accept_sparse=SPARSE, reset=False)
        return self._predicted(self.model_, X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
