"""Inputs brought to mean 0 and deviation 1 by the numbers of the training set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np

from fastnn import arrays, frames, ops
from fastnn.errors import InputError, InputTypeError, NotReadyError, warn
from fastnn.layers.base import Layer, Statistic
from fastnn.ops.dispatch import Array

BLOCK = 1 << 20
"""Elements that are looked at in one go."""


class Standardizer(Layer):
    """y (B, ...) = (x - mean) / deviation, element by element of an example, by the numbers found in the training inputs.

        standardizer = fastnn.Standardizer().fit(X_train)
        model = fastnn.Sequential([standardizer, fastnn.Dense(10)])     # a saved model carries the numbers
        Z = standardizer.transform(X_dev)                               # or by hand, the same numbers for every set

    `mean`, `deviation`: float64 arrays with a number for each element of an example (in C order, where it has several axes).
    The deviation is the one of all examples (divided by n), and counts as 1 where an element never changes. They are not
    trained. As the first layer of a model it computes (x - mean) (1 / deviation) in float64 while examples are read, and rounds
    once to the dtype of the model: large values close to each other, such as times in seconds, stay apart. Behind other layers
    it computes in that dtype. Inputs are multiplied by the model's `input_scale` before: leave that at 1. Source: LeCun et al.
    1998, Efficient BackProp, section 4.3.
    """

    options = ("mean", "deviation", "feature_names")
    pixelwise = True

    mean: np.ndarray | None
    deviation: np.ndarray | None
    feature_names: tuple[str, ...] | None
    """The columns of the frame that was fitted: those of other frames are found by these names, by `transform` and by a model
    that has the layer first."""
    offset: Array
    scale: Array

    def __init__(self, mean: Any = None, deviation: Any = None, feature_names: Sequence[str] | None = None) -> None:
        if (mean is None) != (deviation is None):
            raise InputError("Standardizer: expected mean and deviation, or neither")
        self.mean = None if mean is None else _numbers("mean", mean)
        self.deviation = None if deviation is None else _numbers("deviation", deviation)
        if self.mean is not None and self.deviation is not None:
            if self.mean.shape != self.deviation.shape:
                raise InputError(f"Standardizer: {self.mean.size} means and {self.deviation.size} deviations: expected as many")
            if not self.deviation.min() > 0:
                raise InputError(f"Standardizer: deviation: expected numbers above 0, got {self.deviation.min():g}")
        self.feature_names = None if feature_names is None else tuple(feature_names)
        if self.feature_names is not None and (self.mean is None or len(self.feature_names) != self.mean.size):
            raise InputError(f"Standardizer: feature_names: expected one for each mean, got {list(self.feature_names)}")

    def fit(self, X: Any) -> Self:
        """Learn mean and deviation of the examples X (n, ...), n >= 1, of any real dtype; returns the standardizer itself.

        X is read in blocks, twice, and never copied whole. One warning names the elements that never change. Raises
        InputError for NaN and infinite values, and if it is fitted already: models that have it would change.
        """
        if self.mean is not None:
            raise InputError("Standardizer: it is fitted already; make a new one, Standardizer().fit(X)")
        x, names = _examples(X, None)
        if not x.size:
            raise InputError(f"Standardizer: expected examples to learn from, got shape {x.shape}")
        n, features = len(x), math.prod(x.shape[1:])
        # Differences from the first example are small where values are not, and exactly 0 where they never change.
        first = x[0].reshape(features).astype(np.float64)
        total = np.zeros(features)
        with np.errstate(over="ignore", invalid="ignore"):
            for start, block in _blocks(x):
                if not np.isfinite(block).all():
                    row, column = np.argwhere(~np.isfinite(block))[0].tolist()
                    raise InputError(
                        f"Standardizer: X is {block[row, column]} in row {start + row}, column {_column_name(names, column)}; "
                        "remove or replace such values"
                    )
                total += (block - first).sum(axis=0)
            mean = first + total / n
            squares, rest = np.zeros(features), np.zeros(features)
            for _, block in _blocks(x):
                block -= mean
                rest += block.sum(axis=0)
                squares += np.square(block, out=block).sum(axis=0)
            variance = (squares - rest * rest / n) / n  # `rest` would be 0 if the mean were not rounded
        if not np.isfinite(variance).all():
            column = int(np.flatnonzero(~np.isfinite(variance))[0])
            raise InputError(f"Standardizer: the values of column {_column_name(names, column)} are too large to be squared")
        deviation = np.sqrt(np.maximum(variance, 0.0))
        constant = np.flatnonzero(deviation == 0).tolist()
        if constant:
            shown = ", ".join(_column_name(names, column) for column in constant[:5]) + ", ..." * (len(constant) > 5)
            many = f"{len(constant)} columns that never change" if len(constant) > 1 else "a column that never changes"
            warn(f"Standardizer: {many} ({shown}): the deviation counts as 1")
            deviation[constant] = 1.0
        statistics = {"mean": _numbers("mean", mean), "deviation": _numbers("deviation", deviation), "feature_names": names}
        vars(self).update(statistics)  # options of a layer do not change otherwise
        return self

    def transform(self, X: Any) -> np.ndarray:
        """(X - mean) / deviation of examples (n, ...), computed in float64: of X's dtype if that is a floating-point one, else
        float32."""
        mean, deviation = self._mean_and_deviation()
        return self._map(X, lambda block: (block - mean) / deviation)

    def inverse(self, Z: Any) -> np.ndarray:
        """Z deviation + mean: what `transform` made Z of, up to rounding."""
        mean, deviation = self._mean_and_deviation()
        return self._map(Z, lambda block: block * deviation + mean)

    def statistics(self, shape: tuple[int, ...]) -> Mapping[str, Statistic]:
        mean, deviation = self._mean_and_deviation(math.prod(shape))
        return {"offset": Statistic(mean.shape, mean), "scale": Statistic(mean.shape, 1.0 / deviation)}

    def input_map(self) -> tuple[np.ndarray, np.ndarray] | None:
        mean, deviation = self._mean_and_deviation()
        return mean, 1.0 / deviation

    def forward(self, x: Array, training: bool) -> Array:
        if len(x.shape) == 2:
            return (x - self.offset) * self.scale
        rows = ops.reshape(x, (x.shape[0], -1))
        return ops.reshape((rows - self.offset) * self.scale, x.shape)

    def config(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.options}
        return {name: None if value is None else np.asarray(value).tolist() for name, value in values.items()}

    def __repr__(self) -> str:
        return "Standardizer()" if self.mean is None else f"Standardizer({self.mean.size} features)"

    def _mean_and_deviation(self, features: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        if self.mean is None or self.deviation is None:
            raise NotReadyError("the Standardizer knows no mean yet; use Standardizer().fit(X_train)")
        if features is not None and self.mean.size != features:
            raise InputError(f"Standardizer: expected {self.mean.size} features, as in fit, got {features}")
        return self.mean, self.deviation

    def _map(self, X: Any, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        x, _ = _examples(X, self.feature_names)
        self._mean_and_deviation(math.prod(x.shape[1:]))
        result = np.empty(x.shape, x.dtype.newbyteorder("=") if x.dtype.kind == "f" else np.float32)
        rows = result.reshape(len(x), -1) if x.size else result
        for start, block in _blocks(x):
            rows[start : start + len(block)] = function(block)
        return result


def _numbers(name: str, values: Any) -> np.ndarray:
    """A read-only copy: a layer's options do not change."""
    try:
        numbers = np.array(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputTypeError(f"Standardizer: {name}: expected numbers, got {values!r}") from error
    if numbers.ndim != 1 or not numbers.size or not np.isfinite(numbers).all():
        raise InputError(f"Standardizer: {name}: expected a finite number for each feature, got {values!r}")
    numbers.flags.writeable = False
    return numbers


def _examples(X: Any, feature_names: Sequence[str] | None) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """The examples as an array of numbers, those of a frame by name, and the names of its columns."""
    if frames.is_frame(X):
        numbers, names = frames.read(X, "X", feature_names, "standardizer")
        return numbers if isinstance(numbers, np.ndarray) else numbers.toarray(), names
    if hasattr(X, "tocsr"):
        raise InputTypeError(f"Standardizer: expected an array, got {type(X).__name__}; convert it with .toarray()")
    x = arrays.to_host(X)
    if x.dtype.kind not in "fiub":
        raise InputTypeError(f"Standardizer: expected numbers, got dtype {x.dtype}")
    if x.ndim < 2:
        raise InputError(f"Standardizer: expected shape (n, features), got {x.shape}; use .reshape(-1, 1) for one feature")
    return x, None


def _blocks(x: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of examples with their first row, as float64 copies (rows, features)."""
    rows = max(1, BLOCK // max(1, math.prod(x.shape[1:])))
    for start in range(0, len(x) if x.size else 0, rows):
        block = x[start : start + rows]
        yield start, block.astype(np.float64).reshape(len(block), -1)


def _column_name(names: Sequence[str] | None, column: int) -> str:
    return str(column) if names is None else repr(names[column])
