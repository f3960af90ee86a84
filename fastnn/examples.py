"""Examples: the user's arrays, checked once at the border and brought into the form in which programs read them.

What a program can read as it is (uint8, float32, float64, contiguous rows) is not copied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn import arrays, engines, steps
from fastnn.errors import InputError, KindError
from fastnn.layers import final_activation
from fastnn.losses import Loss

if TYPE_CHECKING:
    from fastnn.model import Sequential


@dataclass
class Examples:
    """Checked data in the form in which a program reads it; `kind` is the task's."""

    X: Any
    """An array of the host, or of a GPU."""
    y: np.ndarray
    weights: np.ndarray | None
    kind: str

    @property
    def data(self) -> steps.Data:
        return steps.Data(self.X.dtype.name, self.y.dtype.name, self.y.shape[1:], self.weights is not None)

    def arrays(self) -> dict[str, np.ndarray]:
        found = {"X": self.X, "y": self.y}
        return found if self.weights is None else {**found, "weights": self.weights}


def check_inputs(X: Any, features: tuple[int, ...] | None, name: str = "X") -> Any:
    """X as an array of rows with the features expected, on the host or where it lies on a GPU; raises what is wrong with it."""
    if isinstance(X, list | tuple):
        raise KindError(f"{name}: expected an array, got a {type(X).__name__}; convert it with numpy.asarray")
    array = arrays.to_host(X) if arrays.on_host(X) else engines.of(X).place(X)
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise KindError(f"{name}: expected numbers, got dtype {array.dtype}")
    if array.ndim < 2:
        raise InputError(
            f"{name}: expected rows of features, shape (n, features), got shape {array.shape}; "
            f"use {name}.reshape(1, -1) for one example or {name}.reshape(-1, 1) for one feature"
        )
    if features is not None and array.shape[1:] != features:
        raise InputError(f"{name}: expected shape {('n', *features)}, got {array.shape}")
    return array


def prepare(
    model: Sequential,
    X: Any,
    y: Any,
    loss: Loss,
    sample_weight: Any,
    class_weight: Mapping[int, float] | str | None,
    what: str = "",
    known: str | None = None,
) -> Examples:
    """Check data and bring it into the form a program reads, without copying what it can read as it is."""
    inputs = _readable(check_inputs(X, model.network.features, f"{what}X"), model.dtype, f"{what}X")
    n = len(inputs)
    if n == 0:
        raise InputError(f"{what}X: expected at least one example, got none")
    targets = arrays.to_host(y)
    if targets.ndim == 0 or len(targets) != n:
        raise InputError(f"{what}y: expected one target for each of the {n} examples, got shape {targets.shape}")
    if targets.dtype.kind not in "fiub" or targets.dtype.itemsize > 8:
        raise KindError(f"{what}y: expected numbers, got dtype {targets.dtype}")
    if targets.dtype.kind == "f":
        _finite(targets, f"{what}y")
    if len(model._outputs) != 1:
        raise InputError(f"losses need outputs (B, O), and the model's have the shape {('B', *model._outputs)}")
    targets, kind = _task(model, targets, loss, f"{what}y")
    if known is not None and kind != known:
        if targets.ndim != 2 or "values" not in (kind, known):
            raise InputError(f"{what}y: the model is trained for {known}, and these targets are {kind}")
        kind = known
    weights = _weights(model, targets, n, sample_weight, class_weight, kind)
    return Examples(inputs, targets, weights, kind)


def _task(model: Sequential, y: np.ndarray, loss: Loss, what: str) -> tuple[np.ndarray, str]:
    """Targets as int64 class indices (n,) or values (n, O), and the kind of task they make."""
    outputs = model._outputs[0]
    whole = y.dtype.kind in "iub"
    dtype = model.dtype
    if y.ndim == 1 and outputs > 1:
        if not whole:
            raise InputError(
                f"{what}: expected class indices (whole numbers) or shape (n, {outputs}) for {outputs} outputs, "
                f"got {y.dtype} of shape {y.shape}; class indices can be converted with .astype(int)"
            )
        labels = y.astype(np.int64)
        if labels.min() < 0 or labels.max() >= outputs:
            raise InputError(f"{what}: expected class indices 0 to {outputs - 1}, got {labels.min()} to {labels.max()}")
        return labels, "classes"
    if loss.accepts == "classes" and outputs == 1:
        raise InputError(f"{loss.name} compares classes and needs at least two outputs; use sigmoid_cross_entropy for one")
    if y.ndim == 1:
        y = y[:, np.newaxis]
    if y.shape[1:] != (outputs,):
        raise InputError(f"{what}: expected shape (n, {outputs}), got {y.shape}")
    values = np.ascontiguousarray(y, dtype)
    if loss.accepts == "classes":
        if values.min() < 0 or not np.allclose(values.sum(axis=1), 1.0, atol=1e-3):
            raise InputError(f"{what}: expected one-hot rows, or shares of at least 0 that add up to 1")
        return values, "classes"
    zero_or_one = bool(np.isin(y, (0, 1)).all())
    squashed = loss.link == "sigmoid" or final_activation(model.layers) == "sigmoid"
    if loss.link == "sigmoid" and (values.min() < 0 or values.max() > 1):
        raise InputError(f"{what}: {loss.name} expects targets from 0 to 1, got {values.min():g} to {values.max():g}")
    if outputs > 1 and whole and zero_or_one and bool((y.sum(axis=1) == 1).all()) and loss.link != "sigmoid":
        return values, "classes"
    if squashed and zero_or_one:
        return values, "binary" if outputs == 1 else "multilabel"
    return values, "values"


def _weights(
    model: Sequential,
    targets: np.ndarray,
    n: int,
    sample_weight: Any,
    class_weight: Mapping[int, float] | str | None,
    kind: str,
) -> np.ndarray | None:
    if sample_weight is None and class_weight is None:
        return None
    weights = np.ones(n)
    if sample_weight is not None:
        given = arrays.to_host(sample_weight)
        if given.shape != (n,) or given.dtype.kind not in "fiub":
            raise InputError(f"sample_weight: expected {n} numbers, got {given.dtype} of shape {given.shape}")
        _finite(given.astype(np.float64), "sample_weight")
        weights *= given
    if class_weight is not None:
        if kind not in ("classes", "binary"):
            raise InputError("class_weight: only a task with classes has them; use sample_weight")
        labels = targets if targets.ndim == 1 else (targets.argmax(axis=1) if kind == "classes" else targets[:, 0].astype(int))
        classes = max(2, model._outputs[0])
        if isinstance(class_weight, str):
            if class_weight != "balanced":
                raise InputError(f'class_weight: expected a dict or "balanced", got {class_weight!r}')
            counts = np.bincount(labels, minlength=classes)
            table = np.where(counts > 0, n / (np.count_nonzero(counts) * np.maximum(counts, 1)), 1.0)
        else:
            table = np.ones(classes)
            for label, weight in class_weight.items():
                if not isinstance(label, int | np.integer) or not 0 <= label < classes:
                    raise InputError(f"class_weight: expected classes 0 to {classes - 1}, got {label!r}")
                table[label] = weight
        weights *= table[labels]
    if weights.min() < 0 or not np.isfinite(weights).all():
        raise InputError("weights must be at least 0 and finite")
    if not weights.sum() > 0:
        raise InputError("the weights add up to 0, so that there is nothing to learn from")
    return weights.astype(model.dtype)


def _readable(X: Any, dtype: np.dtype[Any], what: str) -> Any:
    """X as it is where a program can gather from it (uint8, float32, float64, contiguous), else a copy in the model's dtype."""
    if not isinstance(X, np.ndarray):
        return _readable_on_gpu(X, dtype, what)
    if X.dtype.kind == "f":
        _finite(X, what, float(np.finfo(dtype).max))
    if X.dtype not in (np.dtype("uint8"), np.dtype("float32"), np.dtype("float64")) or not X.dtype.isnative:
        X = X.astype(dtype)
    return np.ascontiguousarray(X)


def _readable_on_gpu(X: Any, dtype: np.dtype[Any], what: str) -> Any:
    """The same for an array on a GPU, which is looked at and left there."""
    if X.dtype.name not in ("uint8", "float32", "float64") or (X.dtype == np.float64 and dtype != np.float64):
        raise KindError(f"{what}: expected uint8 or {dtype} on a GPU, got {X.dtype}; convert it with .astype('{dtype}')")
    if X.dtype.kind == "f":
        engine = engines.of(X)
        bad = int(engine.read(engine.count_nonfinite(X))[0].sum())
        if bad:
            raise InputError(f"{what}: {bad} values are NaN or infinite; remove or replace them")
    return X


def _finite(values: np.ndarray, what: str, largest: float = math.inf) -> None:
    """Raise where NaN, infinity or more than `largest` is, and how many; looks at blocks of rows, never at a copy of all."""
    if largest >= float(np.finfo(values.dtype).max):
        largest = math.inf
    rows = max(1, 2**20 // max(1, values[:1].size))
    bad, first = 0, -1
    for start in range(0, len(values), rows):
        block = values[start : start + rows]
        if np.isfinite(block).all() and (largest == math.inf or np.abs(block).max(initial=0.0) <= largest):
            continue
        spoilt = ~(np.isfinite(block) & (np.abs(block) <= largest))
        if first < 0:
            first = start + int(np.argwhere(spoilt)[0][0])
        bad += int(np.count_nonzero(spoilt))
    if bad:
        raise InputError(
            f"{what}: {bad} values are NaN, infinite or too large, the first in row {first}; remove or replace them"
        )
