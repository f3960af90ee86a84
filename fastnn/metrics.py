"""Metrics: one number that says how good predictions are, beside the loss that training minimizes.

A metric of your own is a function of (y, predictions) in your labels, the order of scikit-learn, whose metrics can be given as
they are; with `Metric` it can take probabilities or the outputs of the last layer instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from fastnn.data.targets import abridge, indices, plain
from fastnn.errors import InputError, InputTypeError, nearest

Function = Callable[..., Any]

TAKES = ("predictions", "probabilities", "outputs")
EXTRAS = ("weights", "classes")
OF_LABELS = (
    "accuracy", "precision", "recall", "f1", "balanced_accuracy", "top_k_accuracy", "auc", "average_precision", "brier",
)  # fmt: skip
OF_ONE_LABEL = ("balanced_accuracy", "top_k_accuracy", "brier")
OF_NUMBERS = ("r2", "mae", "mse", "rmse")
OF_SCORES = (
    "roc_auc_score", "average_precision_score", "brier_score_loss", "log_loss", "top_k_accuracy_score", "d2_log_loss_score",
    "d2_brier_score", "hinge_loss", "roc_curve", "precision_recall_curve", "det_curve", "dcg_score", "ndcg_score",
)  # fmt: skip
"""Functions of scikit-learn that take scores, and are wrong about labels."""
RESERVED = ("loss", "penalty")
"""What a history holds under these names is something else."""


@dataclass(frozen=True)
class Metric:
    """`function(y, predictions)` -> one number, NaN where there is none.

    `takes`: "predictions" (labels (n,), 0/1 (n, O) or values (n, O), as `predict` returns them), "probabilities" (n, C), in the
    place of predictions, or "outputs": `function(outputs, targets)` is then written in the vocabulary, as a loss, and returns
    (n,), which is averaged, or one number. `extras` names what the function takes besides, by these names: "weights" (n,) or
    None, and "classes" (C,), the labels in the order of the outputs, or None.
    """

    name: str
    function: Function
    takes: str = "predictions"
    extras: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isprintable() or not self.name.strip():
            raise InputError(f"Metric: expected a name, got {self.name!r}")
        if self.name in RESERVED or self.name.startswith("val_"):
            raise InputError(f"Metric: the name {self.name!r} is taken by what a history holds; give the metric another one")
        if not callable(self.function):
            raise InputTypeError(f"the metric {self.name}: expected a function, got {type(self.function).__name__}")
        if self.takes not in TAKES:
            raise InputError(f"the metric {self.name}: unknown takes={self.takes!r}{nearest(self.takes, TAKES)}")
        for extra in self.extras:
            if extra not in EXTRAS:
                raise InputError(f"the metric {self.name}: unknown extra {extra!r}{nearest(extra, EXTRAS)}")


# --- values ---------------------------------------------------------------------------------------------------------


def r2(y: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> float:
    """1 - sum w (y - a)^2 / sum w (y - mean y)^2, the mean over outputs of (n,) or (n, O); NaN for one example.

    1 for an output where both sums are 0, 0 where only the second is.
    """
    if len(y) < 2:
        return math.nan
    y, a, w = _columns(y), _columns(predictions), _row_weights(weights, len(y))[:, np.newaxis]
    left = (w * (y - a) ** 2).sum(0)
    whole = (w * (y - (w * y).sum(0) / w.sum()) ** 2).sum(0)
    ratio = np.divide(left, whole, out=np.where(left == 0.0, 0.0, 1.0), where=whole > 0)
    return float(np.mean(1.0 - ratio))


def mean_absolute_error(y: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The mean of |y - a| over everything, rows weighted."""
    return _mean(np.abs(_columns(y) - _columns(predictions)), weights)


def mean_squared_error(y: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The mean of (y - a)^2 over everything, rows weighted."""
    return _mean((_columns(y) - _columns(predictions)) ** 2, weights)


def root_mean_squared_error(y: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The root of the mean of (y - a)^2, rows weighted; of several outputs (n, O) the mean of the roots."""
    squares = (_columns(y) - _columns(predictions)) ** 2
    return float(np.mean(np.sqrt(np.average(squares, axis=0, weights=_row_weights(weights, len(squares))))))


# --- classes --------------------------------------------------------------------------------------------------------


def accuracy(y: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The share of labels (n,), or of binary answers (n, O), that are predicted right."""
    return _mean(np.asarray(y) == np.asarray(predictions), weights)


def precision(y: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None, classes: Any = None) -> float:
    """Right ones of those that were predicted, TP / (TP + FP); over classes as `f1`."""
    right, predicted, _ = _counts(y, predictions, weights, classes)
    return _mean_ratio(right, predicted)


def recall(y: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None, classes: Any = None) -> float:
    """Right ones of those that are there, TP / (TP + FN); over classes as `f1`."""
    right, _, present = _counts(y, predictions, weights, classes)
    return _mean_ratio(right, present)


def f1(y: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None, classes: Any = None) -> float:
    """2 TP / (2 TP + FP + FN), 0 where nothing is counted: of two classes that of the second, the yes.

    Of more classes the mean over those that occur in y or in the predictions; of binary answers (n, O) that over the
    outputs. Without `classes`, those that occur are taken for all.
    """
    right, predicted, present = _counts(y, predictions, weights, classes)
    return _mean_ratio(2.0 * right, predicted + present)


def log_loss(y: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None, classes: Any = None) -> float:
    """The mean of -log p of the right answer, p at least the distance of 1 to the next number of its dtype.

    Labels y (n,) with shares (n, C), columns in the order of `classes`, or with those of the yes, (n, 1) or (n,); 0/1 (n, O)
    with shares (n, O), over which the sum is taken.
    """
    y, p = plain(y, "y"), np.asarray(probabilities)
    least = float(np.finfo(np.result_type(p, np.float32)).eps)
    p = np.clip(_columns(p), least, 1.0 - least)
    if y.ndim == 1:
        known = np.unique(y) if classes is None else np.asarray(classes)
        if len(known) != max(2, p.shape[1]):
            raise InputError(f"log_loss: expected {max(2, p.shape[1])} classes for these probabilities, got {abridge(known)}")
        class_index = indices(y, known)
        if p.shape[1] > 1:
            return _mean(-np.log(p[np.arange(len(y)), class_index]), weights)
        y = class_index
    yes = _columns(y)
    return _mean(-(yes * np.log(p) + (1.0 - yes) * np.log1p(-p)).sum(axis=1), weights)


def balanced_accuracy(y: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The mean over the classes that occur in y (n,) of the share of each that is predicted right."""
    y, predictions = plain(y, "y"), plain(predictions, "predictions")
    if y.ndim > 1:
        raise InputError(f"balanced_accuracy: expected labels (n,), got {y.shape}")
    class_index = np.unique(y, return_inverse=True)[1]
    w = _row_weights(weights, len(y))
    right, whole = np.bincount(class_index, w * (y == predictions)), np.bincount(class_index, w)
    return float(np.mean(right[whole > 0] / whole[whole > 0]))


def top_k_accuracy(
    y: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None, classes: Any = None, k: int = 2
) -> float:
    """The share of examples whose class is among the k most probable ones; of equal ones the later class comes first."""
    _, class_index, p = _classes_and_shares("top_k_accuracy", y, probabilities, classes)
    best = np.argsort(p, axis=1, kind="stable")[:, ::-1][:, :k]
    return _mean((best == class_index[:, np.newaxis]).any(axis=1), weights)


def brier(y: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None, classes: Any = None) -> float:
    """The mean of sum_c (t_c - p_c)^2 with one-hot rows t; of two classes that of (t - p)^2 for the second, half of it."""
    _, class_index, p = _classes_and_shares("brier", y, probabilities, classes)
    squares = ((np.eye(p.shape[1])[class_index] - p) ** 2).sum(axis=1)
    return _mean(squares / 2.0 if p.shape[1] == 2 else squares, weights)


def auc(y: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None, classes: Any = None) -> float:
    """The area under the curve of true against false positives: how probable it is that a yes is said to be more probable than
    a no, ties counting half. Of more than two classes, each against the rest, and of binary answers (n, O), the mean.

    NaN where there are yeses or noes only. Hanley & McNeil 1982.
    """
    return _mean_over_classes("auc", _auc, y, probabilities, weights, classes)


def average_precision(
    y: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None, classes: Any = None
) -> float:
    """sum_n (R_n - R_(n-1)) P_n, precision P and recall R at each distinct probability as the threshold, from the largest down.

    Means as in `auc`; 0 where there is no yes.
    """
    return _mean_over_classes("average_precision", _average_precision, y, probabilities, weights, classes)


def _mean_over_classes(
    name: str,
    of_two: Callable[[np.ndarray, np.ndarray, np.ndarray], float],
    y: Any,
    probabilities: Any,
    weights: Any,
    classes: Any,
) -> float:
    y = plain(y, "y")
    w = _row_weights(weights, len(y))
    if y.ndim > 1:
        p = _columns(probabilities)
        return float(np.mean([of_two(yes != 0, share, w) for yes, share in zip(y.T, p.T, strict=True)]))
    count, class_index, p = _classes_and_shares(name, y, probabilities, classes)
    if count == 2:
        return of_two(class_index == 1, p[:, 1], w)
    return float(np.mean([of_two(class_index == c, p[:, c], w) for c in range(count)]))


def _classes_and_shares(name: str, y: Any, probabilities: Any, classes: Any) -> tuple[int, np.ndarray, np.ndarray]:
    """How many classes there are, the index of that of each example, and the shares (n, C) of all of them."""
    y, p = plain(y, "y"), _columns(probabilities)
    if y.ndim > 1:
        raise InputError(f"{name}: expected labels (n,), got {y.shape}")
    p = np.concatenate([1.0 - p, p], axis=1) if p.shape[1] == 1 else p
    known = np.unique(y) if classes is None else np.asarray(classes)
    if len(known) != p.shape[1]:
        raise InputError(f"{name}: expected {p.shape[1]} classes for these probabilities, got {abridge(known)}")
    return len(known), indices(y, known), p


def _steps(yes: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weights of true and of false positives at each distinct score as the threshold, from the largest down."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    w = weights[order]
    return np.cumsum(w * yes[order])[last], np.cumsum(w * ~yes[order])[last]


def _auc(yes: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> float:
    true, false = (np.concatenate([[0.0], counts]) for counts in _steps(yes, scores, weights))
    if true[-1] == 0 or false[-1] == 0:
        return math.nan
    return float((np.diff(false) * (true[1:] + true[:-1])).sum() / (2.0 * true[-1] * false[-1]))


def _average_precision(yes: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> float:
    true, false = _steps(yes, scores, weights)
    if true[-1] == 0:
        return 0.0
    predicted = true + false
    share = np.divide(true, predicted, out=np.zeros(len(true)), where=predicted > 0)
    return float((np.diff(true, prepend=0.0) * share).sum() / true[-1])


def _counts(y: Any, predictions: Any, weights: np.ndarray | None, classes: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The weight of what was predicted right, of what was predicted and of what is there, one number a class (see `f1`)."""
    y, predictions = plain(y, "y"), plain(predictions, "predictions")
    w = _row_weights(weights, len(y))
    if y.ndim > 1:
        yes, said = y != 0, predictions != 0
        return w @ (yes & said), w @ said, w @ yes
    classes = np.unique(np.concatenate([y, predictions])) if classes is None else np.asarray(classes)
    actual, said = indices(y, classes), indices(predictions, classes, "predictions")
    count = len(classes)
    right = np.bincount(actual[actual == said], w[actual == said], count)
    predicted, present = np.bincount(said, w, count), np.bincount(actual, w, count)
    chosen = np.flatnonzero(np.bincount(actual, minlength=count) + np.bincount(said, minlength=count))
    if count == 2:
        chosen = np.array([1])
    return right[chosen], predicted[chosen], present[chosen]


def _mean_ratio(part: np.ndarray, whole: np.ndarray) -> float:
    return float(np.mean(np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)))


def _mean(each: np.ndarray, weights: np.ndarray | None) -> float:
    """The weighted mean over rows of the mean of each row."""
    rows = each.reshape(len(each), -1).mean(axis=1, dtype=np.float64)
    return float(np.average(rows, weights=_row_weights(weights, len(rows))))


def _row_weights(weights: np.ndarray | None, n: int) -> np.ndarray:
    return np.ones(n) if weights is None else np.asarray(weights, np.float64)


def _columns(values: Any) -> np.ndarray:
    columns: np.ndarray = np.asarray(values, np.float64)
    return columns[:, np.newaxis] if columns.ndim == 1 else columns


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", accuracy, extras=("weights",)),
        Metric("r2", r2, extras=("weights",)),
        Metric("mae", mean_absolute_error, extras=("weights",)),
        Metric("mse", mean_squared_error, extras=("weights",)),
        Metric("f1", f1, extras=EXTRAS),
        Metric("precision", precision, extras=EXTRAS),
        Metric("recall", recall, extras=EXTRAS),
        Metric("rmse", root_mean_squared_error, extras=("weights",)),
        Metric("balanced_accuracy", balanced_accuracy, extras=("weights",)),
        Metric("log_loss", log_loss, "probabilities", EXTRAS),
        Metric("auc", auc, "probabilities", EXTRAS),
        Metric("average_precision", average_precision, "probabilities", EXTRAS),
        Metric("brier", brier, "probabilities", EXTRAS),
        Metric("top_k_accuracy", top_k_accuracy, "probabilities", EXTRAS),
    )
}
"""The metrics that `fit` and `evaluate` know by name."""


# --- use ------------------------------------------------------------------------------------------------------------


def as_metric(metric: str | Metric | Function) -> Metric:
    """The metric of that name, or a function of (y, predictions) as a metric of the function's name."""
    if isinstance(metric, str):
        if metric not in METRICS:
            raise InputError(f"no metric is called {metric!r}{nearest(metric, METRICS)}")
        return METRICS[metric]
    if not isinstance(metric, Metric):
        if not callable(metric):
            raise InputTypeError(
                f"expected the name of a metric, a Metric or a function of (y, predictions), got {type(metric).__name__}"
            )
        for known in METRICS.values():
            if metric is known.function:
                return known
        name = getattr(metric, "__name__", "<nameless>")
        if name.startswith("<"):
            raise InputError('a metric needs a name, and this function has none; use Metric("name", function)')
        scores = name in OF_SCORES and (getattr(metric, "__module__", None) or "").startswith("sklearn.")
        metric = _of_scores(name, metric) if scores else Metric(name, metric)
    if metric.name in METRICS and metric is not METRICS[metric.name]:
        raise InputError(f"your metric has the name of the library's {metric.name}; give it a name of its own")
    return metric


def _of_scores(name: str, function: Function) -> Metric:
    """A function of scikit-learn that takes scores: shares of all classes, or of the second of two, whose label is then 1."""

    def score(y: np.ndarray, shares: np.ndarray, weights: np.ndarray | None, classes: np.ndarray | None) -> Any:
        if classes is not None and len(classes) == 2:
            y, shares = (np.asarray(y) == classes[1]).astype(np.int64), shares[:, -1]
        return function(y, shares, sample_weight=weights)

    return Metric(f"{name} of scikit-learn" if name in METRICS else name, score, "probabilities", EXTRAS)


def as_metrics(metrics: Iterable[str | Metric | Function], validated: bool = True) -> tuple[Metric, ...]:
    """Each as a metric; InputError for two of one name, and for any where there is nothing to compute it on (`validated`)."""
    if not isinstance(metrics, tuple | list) and (isinstance(metrics, str) or not isinstance(metrics, Iterable)):
        cure = "" if metrics is None else f"; use [{metrics!r}]"
        raise InputTypeError(f"metrics: expected a list, got {metrics!r}{cure}")
    by_name: dict[str, Metric] = {}
    for metric in map(as_metric, metrics):
        if metric.name in by_name:
            raise InputError(f"metrics: expected different names, got {metric.name!r} twice")
        by_name[metric.name] = metric
    if by_name and not validated:
        raise InputError(
            f"metrics: {', '.join(by_name)} would be computed on validation_data, and there is none; "
            "give validation_data=(X, y) or validation_split, or call evaluate(X, y, metrics=...) after the training"
        )
    return tuple(by_name.values())


def check_metrics(
    metrics: Iterable[Metric], kind: str, classes: np.ndarray | None, probable: bool, weighted: bool = False
) -> None:
    """Raise InputError for a metric that says nothing of such a task, or takes no weights.

    `kind` and `classes`: those of the `Task`; `probable`: whether the outputs make probabilities; `weighted`: whether the
    examples have weights.
    """
    for metric in metrics:
        if weighted and metric.takes != "outputs" and "weights" not in metric.extras:
            raise _takes_no_weights(metric)
        if kind == "values" and metric.name in OF_LABELS:
            raise InputError(f"the metric {metric.name} compares labels, and y holds numbers; use r2, mae or mse")
        if classes is not None and classes.dtype.kind == "U" and metric.name in OF_NUMBERS:
            raise InputError(
                f"the metric {metric.name} is for numbers, and y holds the labels {abridge(classes)}; use f1 or log_loss"
            )
        if kind == "multilabel" and metric.name in OF_ONE_LABEL:
            raise InputError(f"the metric {metric.name} is for one label an example, and y holds several answers each")
        if metric.takes == "probabilities" and not probable:
            raise InputError(
                f"the metric {metric.name} takes probabilities, and the outputs are none; use a cross-entropy as the loss, or "
                "end the network in a softmax or sigmoid"
            )


def compute(
    metric: Metric, y: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None, classes: np.ndarray | None = None
) -> float:
    """The number that the metric has for all of y, (n,) or (n, O), and what it takes: predictions, probabilities or outputs.

    Whatever its function raises goes through. Raises InputError where there are weights (n,) and the function takes none, and
    for infinity; InputTypeError where it returns anything but one real number.
    """
    available = {"weights": weights, "classes": classes}
    extras = {name: available[name] for name in metric.extras}
    first, second = (predictions, y) if metric.takes == "outputs" else (y, predictions)
    value = metric.function(first, second, **extras)
    averaged = metric.takes == "outputs" and getattr(value, "shape", None) == (len(y),)
    if averaged:
        value = _mean(np.asarray(value), weights)
    elif weights is not None and "weights" not in metric.extras:
        raise _takes_no_weights(metric)
    number = _as_number(value)
    if number is None:
        shape = f" of shape {value.shape}" if getattr(value, "shape", ()) else ""
        raise InputTypeError(f"the metric {metric.name}: expected one real number, got {type(value).__name__}{shape}")
    if math.isinf(number):
        raise InputError(f"the metric {metric.name}: expected a finite number or NaN, got {number}")
    return number


def _takes_no_weights(metric: Metric) -> InputError:
    return InputError(
        f"the metric {metric.name} takes no weights, and the examples have some; give it as "
        f'Metric("{metric.name}", function, extras=("weights",)) with a function of (y, predictions, weights)'
    )


def _as_number(value: Any) -> float | None:
    """A Python or NumPy number, or an array (0-d) of one, as a float; None for everything else."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else None


__all__ = [
    "METRICS",
    "Metric",
    "accuracy",
    "auc",
    "average_precision",
    "balanced_accuracy",
    "brier",
    "f1",
    "log_loss",
    "mean_absolute_error",
    "mean_squared_error",
    "precision",
    "r2",
    "recall",
    "root_mean_squared_error",
    "top_k_accuracy",
]
