"""Targets of classifiers: labels, several yeses, shares of classes, and predictions as such."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import scipy.sparse
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import column_or_1d
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import type_of_target, unique_labels
from sklearn.utils.validation import validate_data

from fastnn.data.targets import Task
from fastnn.errors import InputError, InputTypeError
from fastnn.estimators.base import DTYPES, SPARSE, Trained
from fastnn.losses import LOSSES, Loss, as_loss

LINKS = {"binary": ("sigmoid", "softmax"), "multilabel": ("sigmoid",), "multiclass": ("softmax",), "shares": ("softmax",)}
"""By kind of targets, what a loss may end in."""

MOST_OFF = 1e-3
"""How far shares of classes may add up to something else than 1."""


class Labels(ClassifierMixin, Trained):  # type: ignore[misc]
    """What makes an estimator a classifier."""

    class_weight: Any
    loss: Any
    warm_start = False
    loss_names: ClassVar[Mapping[str, Mapping[str, str]]]
    """By name, which of our losses it means for each kind of targets."""
    classes_: np.ndarray
    _kind: str
    """Of the targets: "binary", "multiclass", "multilabel" or "shares"; "" where only the labels are known."""

    def predict(self, X: Any) -> Any:
        """Labels (n,), or 0/1 (n, C) where several yeses were trained for: a sparse matrix where y was one."""
        outputs = self._outputs_for(X)
        if self._kind == "multilabel":
            yes = (outputs > 0.5).astype(int)
            return scipy.sparse.csr_matrix(yes) if self._sparse else yes
        return np.asarray(self.classes_[self._indices_of(outputs)])

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (n, C) in the order of `classes_`; for several yeses that of each."""
        outputs = self._outputs_for(X)
        if self._kind == "binary" and len(self.classes_) == 1:
            return np.ones_like(outputs[:, :1])
        if outputs.shape[1] > 1 or self._kind == "multilabel":
            return outputs
        return np.concatenate([1.0 - outputs, outputs], 1)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """The logarithms of `predict_proba`."""
        logarithms: np.ndarray = np.log(self.predict_proba(X))
        return logarithms

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The accuracy on X and y; of shares, how often the largest of them is that of the largest probability."""
        if hasattr(self, "classes_") and self._kind == "shares" and are_shares(y):
            y = self.classes_[np.asarray(y).argmax(axis=1)]
        return float(super().score(X, y, sample_weight))

    # --- labels -------------------------------------------------------------------------------------------------------

    def _indices_of(self, outputs: np.ndarray) -> np.ndarray:
        if len(self.classes_) == 1:
            return np.zeros(len(outputs), np.int64)
        return np.asarray(outputs.argmax(axis=1)) if outputs.shape[1] > 1 else (outputs[:, 0] > 0.5).astype(np.int64)

    def _read(self, X: Any, y: Any, incremental: bool, first: bool) -> tuple[Any, np.ndarray]:
        X, y = validate_data(self, X, y, accept_sparse=SPARSE, multi_output=True, dtype=DTYPES, reset=first)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        kind, self._sparse = _kind_of(y), scipy.sparse.issparse(y)
        begins = not hasattr(self, "classes_") or (first and not incremental)
        if begins or not self._kind:
            named = None if begins else self.classes_
            if named is None:
                named = np.arange(y.shape[1]) if y.ndim == 2 else unique_labels(y) if y.dtype.kind == "O" else np.unique(y)
            self.classes_ = named
            if kind == "labels":
                kind = "multiclass" if len(self.classes_) > 2 else "binary"
            self._kind = kind
        elif self.warm_start and not incremental and y.ndim == 1:
            present = unique_labels(y)
            if set(present) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous call to fit. Previously got "
                    f"{self.classes_}, `y` has {present}"
                )
        return X, self._read_targets(y)

    def _read_targets(self, y: Any) -> np.ndarray:
        rows: np.ndarray = y.toarray() if scipy.sparse.issparse(y) else np.asarray(y)
        several = self._kind in ("multilabel", "shares")
        if several != (rows.ndim == 2 and rows.shape[1] > 1) or (several and rows.shape[1] != len(self.classes_)):
            raise ValueError(f"y: expected {self._kind} of {len(self.classes_)} classes, got shape {rows.shape}")
        if several:
            return rows if self._kind == "shares" else rows.astype(np.int64)
        labels = column_or_1d(rows)
        places: np.ndarray = np.searchsorted(self.classes_, labels)
        known = places < len(self.classes_)
        known[known] = self.classes_[places[known]] == labels[known]
        if not known.all():
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has {np.unique(labels)}."
            )
        return places

    def _weights(self, X: Any, y: Any, sample_weight: Any) -> np.ndarray | None:
        if self.class_weight is not None:
            each: np.ndarray = compute_sample_weight(self.class_weight, y).astype(X.dtype)
            weights = super()._weights(X, y, sample_weight)
            sample_weight = each if weights is None else weights * each
        return super()._weights(X, y, sample_weight)

    def _labels(self) -> Sequence[Any] | None:
        if self._kind == "multilabel":
            return None
        return range(max(2, len(self.classes_)))

    def _task(self, task: Task) -> Task:
        if task.classes is None or len(self.classes_) != len(task.classes):
            return task
        try:
            return replace(task, classes=self.classes_)
        except (InputError, InputTypeError):  # labels that a model does not store, which are indices there
            return task

    # --- what is minimized ----------------------------------------------------------------------------------------------

    def _loss(self) -> Loss:
        if isinstance(self.loss, str) and self.loss in self.loss_names:
            return LOSSES[self.loss_names[self.loss][self._kind]]
        loss = as_loss(self.loss)
        links = LINKS[self._kind]
        if loss.link not in links:
            raise InputError(
                f"{type(self).__name__}: loss: {loss.name} does not go with {self._kind} targets: expected one that "
                f"ends in {' or '.join(links)}, or {' or '.join(map(repr, self.loss_names))}"
            )
        return loss

    def _outputs(self, targets: np.ndarray) -> int:
        if self._kind == "binary" and self._loss().link == "sigmoid":
            return 1
        return int(targets.shape[1]) if self._kind == "multilabel" else max(2, len(self.classes_))

    def _score_of(self, outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray | None) -> float:
        if self._kind == "multilabel":
            return float(accuracy_score(targets, outputs > 0.5, sample_weight=weights))
        labels = targets.argmax(axis=1) if self._kind == "shares" else targets
        return float(accuracy_score(labels, self._indices_of(outputs), sample_weight=weights))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _kind_of(y: np.ndarray) -> str:
    """Which of "labels", "multilabel" and "shares" these are. Raises ValueError for targets of regression."""
    if y.ndim == 1 and y.dtype.kind in "biuU":
        return "labels"
    if are_shares(y):
        return "shares"
    kind = type_of_target(y, input_name="y")
    if kind == "multilabel-indicator":
        return "multilabel"
    if kind not in ("binary", "multiclass"):
        raise ValueError(f"Unknown label type: {kind}: expected labels (n,), 0/1 (n, C), or shares (n, C) that add up to 1")
    return "labels"


def are_shares(y: Any) -> bool:
    """Whether these are rows of shares that add up to 1, and not all of them one-hot."""
    if scipy.sparse.issparse(y):
        return False
    rows = np.asarray(y)
    if rows.ndim != 2 or rows.shape[1] < 2 or rows.dtype.kind != "f" or not len(rows):
        return False
    if not (rows >= 0).all() or ((rows == 0) | (rows == 1)).all():
        return False
    return bool((np.abs(rows.sum(axis=1, dtype=np.float64) - 1.0) < MOST_OFF).all())
