"""Examples: the user's arrays, checked once at the border and brought into the form in which programs read them.

What a program can read as it is (uint8, float32, float64, contiguous rows) is not copied.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np

from fastnn import arrays
from fastnn.data import inputs, targets
from fastnn.data.inputs import RowSource, SelectedRows
from fastnn.data.targets import Task
from fastnn.engines import AS_IT_IS, Engine, InputMap
from fastnn.engines.host import CPU
from fastnn.errors import InputError
from fastnn.losses import Loss

GLANCED_AT = 8
"""Examples by which data are told apart when a model is trained again."""


class Glance(NamedTuple):
    """Shapes and a few of the targets, and a few of the inputs, which are known of plain arrays of the host only."""

    targets: tuple[Any, ...]
    inputs: int | None

    def differs(self, other: Glance) -> bool:
        """Whether these are surely not the same data."""
        return self.targets != other.targets or (None not in (self.inputs, other.inputs) and self.inputs != other.inputs)


@dataclass(frozen=True)
class DataLayout:
    """What the arrays that a step reads look like: dtypes, shape of a target, whether examples have weights."""

    source: str
    target: str
    target_shape: tuple[int, ...]
    weighted: bool = False


@dataclass(frozen=True)
class Expected:
    """What a model expects of data: shape of an example, names of its columns, the dtype it computes in, shape of an output.

    `squashed`: outputs are those of a sigmoid in the last layer. `input_map`: what becomes of examples as they are read.
    """

    features: tuple[int, ...]
    feature_names: tuple[str, ...] | None
    dtype: np.dtype[Any]
    outputs: tuple[int, ...]
    squashed: bool
    input_map: InputMap = AS_IT_IS

    @property
    def columns(self) -> int:
        """How many outputs an example has; InputError where they are not (B, O)."""
        if len(self.outputs) != 1:
            raise InputError(f"losses need outputs (B, O), and the model's have the shape {('B', *self.outputs)}")
        return self.outputs[0]


@dataclass
class PreparedData:
    """Checked data in the form in which a program reads it; `kind` is the task's."""

    X: Any
    """An array of the host or of a GPU, or `fastnn.data.inputs.RowSource`."""
    y: np.ndarray
    weights: np.ndarray | None
    kind: str
    classes: np.ndarray | None = None
    flat: bool = False
    input_map: InputMap = AS_IT_IS
    whole: PreparedData | None = None
    """The examples of which these are some, and no copy; None where these are all."""
    rows: np.ndarray | None = None
    """Which of them these are, int64 (n,)."""
    there: dict[str, Any] = field(default_factory=dict)
    """Of targets and weights, those that the user gave on a device as programs read them: they need not be brought back."""

    @classmethod
    def concatenate(cls, parts: Sequence[PreparedData]) -> PreparedData:
        """Examples of the host that are alike, one after another."""
        first = parts[0]
        weights = None if first.weights is None else np.concatenate([part.weights for part in parts])
        X, y = (np.concatenate([getattr(part, name) for part in parts]) for name in ("X", "y"))
        return cls(X, y, weights, first.kind, first.classes, first.flat, first.input_map)

    @property
    def on_host(self) -> bool:
        """Whether the inputs are a plain array of the host."""
        return isinstance(self.X, np.ndarray)

    def task(self, loss: Loss, known: Task | None = None) -> Task:
        """What a model that is trained on these is trained for: `known`, where that is the same with the same classes."""
        of_known = None if known is None else (known.loss, known.kind, known.link, known.flat)
        if known is not None and known.classes is self.classes and of_known == (loss.name, self.kind, loss.link, self.flat):
            return known
        return Task(loss.name, self.kind, self.classes, loss.link, self.flat)

    def labels(self, task: Task) -> np.ndarray:
        """The targets as the user wrote them: labels, 0/1, or values."""
        if self.kind == "classes":
            return targets.decode(task, self.y if self.y.ndim == 1 else self.y.argmax(axis=1))
        if self.kind == "values":
            return self.y
        decided = self.y.astype(np.int64)
        return targets.decode(task, decided[:, 0]) if self.kind == "binary" else decided

    @cached_property
    def layout(self) -> DataLayout:
        return _layout(self.X.dtype, self.y.dtype, self.y.shape[1:], self.weights is not None)

    def glance(self) -> Glance:
        """What tells data apart, but for their weights, at no cost."""
        count = min(len(self.y), GLANCED_AT)
        last, intervals = len(self.y) - 1, max(1, count - 1)
        rows = [index * last // intervals for index in range(count)]  # evenly from the first to the last
        X, y = (zlib.crc32(a.take(rows, 0).data) if isinstance(a, np.ndarray) else None for a in (self.X, self.y))
        return Glance((self.X.shape, self.y.shape, y), X)

    def part(self, rows: np.ndarray, weights: np.ndarray | None) -> PreparedData:
        """The examples of these rows, whose inputs are read where they lie; with these weights (n,), which are its own."""
        X = SelectedRows(self.X, rows)
        return PreparedData(X, self.y[rows], weights, self.kind, self.classes, self.flat, self.input_map, self, rows)

    def placed(self, engine: Engine) -> dict[str, Any]:
        """The arrays by name, each where `engine` reads it if it lies there; of all examples where these are some of them."""
        of_all = self if self.whole is None else self.whole
        lying = {name: array for name, array in of_all.there.items() if engine.adopts(array)}
        return {name: lying.get(name, getattr(of_all, name)) for name in self.arrays()}

    def arrays(self) -> dict[str, np.ndarray | RowSource]:
        """The arrays by name, all but the inputs on the host."""
        of_all = {"X": self.X, "y": self.y}
        return of_all if self.weights is None else {**of_all, "weights": self.weights}


@cache
def _layout(source: np.dtype[Any], target: np.dtype[Any], target_shape: tuple[int, ...], weighted: bool) -> DataLayout:
    """Made once for arrays that are alike: names of dtypes take NumPy longer than anything that is done with them."""
    return DataLayout(source.name, target.name, target_shape, weighted)


def prepare(
    expected: Expected,
    X: Any,
    y: Any,
    loss: Loss,
    sample_weight: Any,
    class_weight: Mapping[Any, float] | str | None,
    what: str = "",
    known: Task | None = None,
    classes: Any = None,
    part: bool = False,
) -> PreparedData:
    """Check data and bring it into the form a program reads, without copying what it can read as it is.

    `known`: the task whose labels these are; `classes`: the labels in the order of the outputs; `part`: these are some of the
    examples only, which may all be of one class.
    """
    checked = inputs.read(X, expected.features, f"{what}X", expected.feature_names)
    rows = inputs.readable(checked, expected.dtype, f"{what}X", expected.input_map)
    n = len(rows)
    if n == 0:
        raise InputError(f"{what}X: expected at least one example, got none")
    outputs, dtype = expected.columns, expected.dtype
    labels, given_weights = _on_host(y), _on_host(sample_weight)  # once: what there is of labels is found on the host
    read = targets.read(labels, n, outputs, loss, expected.squashed, dtype, f"{what}y", classes, known, part)
    weights = targets.weights(read, n, given_weights, class_weight, dtype, outputs, what)
    there = {}
    if labels is not y and np.may_share_memory(labels, read.values):  # they were not converted
        there["y"] = _lying(y, read.values)
    if weights is not None and given_weights is not sample_weight and class_weight is None:
        there["weights"] = _lying(sample_weight, weights)
    there = {name: array for name, array in there.items() if array is not None}
    return PreparedData(rows, read.values, weights, read.kind, read.classes, read.flat, expected.input_map, there=there)


def are_indexed(expected: Expected, X: Any, y: Any) -> bool:
    """Whether X are surely finite rows in the dtype of the model or bytes, and y class indices (n,), int64, of its outputs."""
    if type(X) is not np.ndarray or type(y) is not np.ndarray or X.shape[1:] != expected.features or not len(X):
        return False
    return bool(
        y.dtype == np.int64
        and y.shape == X.shape[:1]
        and np.maximum.reduce(y.view(np.uint64)) < expected.columns  # a negative one is large there
        and (X.dtype == np.uint8 or (X.dtype == expected.dtype and not CPU.count_nonfinite(X)[0]))
    )


def prepare_indexed(expected: Expected, X: Any, y: Any, loss: Loss, known: Task | None) -> PreparedData | None:
    """What `prepare` makes of rows that a program reads where they lie and of the class indices that are the labels of `known`,
    in less time; None where it has to look more closely."""
    if known is None or known.kind != "classes" or loss.of_numbers or expected.input_map.offset is not None:
        return None
    if not known.indices or not are_indexed(expected, X, y) or expected.columns < 2:
        return None
    if X.nbytes >= inputs.LARGE_BYTES or not (y.flags.c_contiguous and y.flags.aligned and inputs.is_readable(X)):
        return None
    return PreparedData(X, y, None, "classes", known.classes, input_map=expected.input_map)


def _on_host(array: Any) -> Any:
    """What lies on a device as an array of the host; everything else as it is."""
    return array if arrays.on_host(array) else arrays.to_host(array)


def _lying(given: Any, values: np.ndarray) -> Any:
    """What a user gave on a device, which has the elements `values`, in their shape; None where it is not of their dtype."""
    if str(given.dtype).rpartition(".")[2] != values.dtype.name:
        return None
    given = given.detach() if hasattr(given, "detach") else given
    if tuple(given.shape) == values.shape:
        return given
    return given.reshape(values.shape) if hasattr(given, "reshape") else None


def prepare_validation(expected: Expected, data: Sequence[Any], loss: Loss, training: PreparedData) -> PreparedData:
    """Validation data (X, y) or (X, y, weights), checked for a model that is trained on `training`."""
    X, y, *weights = data
    known = training.task(loss)
    return prepare(expected, X, y, loss, weights[0] if weights else None, None, "validation ", known, part=True)


def hold_back(
    expected: Expected,
    whole: PreparedData,
    training: np.ndarray,
    validation: np.ndarray,
    sample_weight: Any,
    class_weight: Mapping[Any, float] | str | None,
) -> tuple[PreparedData, PreparedData]:
    """The rows to train on and those to validate with, of examples that were checked with their `sample_weight`.

    The weight of an example goes with it; class weights are of the training alone, and "balanced" by its rows.
    """
    given = None if sample_weight is None else arrays.to_host(sample_weight)

    def weights_of(rows: np.ndarray, by_class: Any, what: str = "") -> np.ndarray | None:
        part = targets.Targets(whole.y[rows], whole.kind, whole.classes)
        each = None if given is None else given[rows]
        return targets.weights(part, len(rows), each, by_class, expected.dtype, expected.columns, what)

    weights, validation_weights = weights_of(training, class_weight), weights_of(validation, None, "validation ")
    if weights is not None:
        whole.there.pop("weights", None)
        whole.weights = np.ones(len(whole.y), expected.dtype)
        whole.weights[training] = weights
        if validation_weights is not None:
            whole.weights[validation] = validation_weights
    return whole.part(training, weights), whole.part(validation, validation_weights)
