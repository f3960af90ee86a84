"""Inputs of every form, good ones and ones with a single fault: refused in words, or learned from as the definition says.

What is accepted is compared with the mathematics in float64 on the same numbers. `FASTNN_EXAMPLES` sets how many are made by
the long search.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import fastnn
from fastnn.data.targets import Task
from fastnn.errors import DivergenceError, FastnnError
from fastnn.network.model import Before

# --- models ---------------------------------------------------------------------------------------------------------

NETWORKS: dict[str, Callable[[int], list[fastnn.Layer]]] = {
    "linear": lambda n: [fastnn.Dense(n)],
    "hidden": lambda n: [fastnn.Dense(4, activation="relu"), fastnn.Dense(n)],
    "normed": lambda n: [fastnn.Dense(4), fastnn.BatchNorm(), fastnn.Activation("tanh"), fastnn.Dense(n)],
    "dropped": lambda n: [fastnn.Dense(4, activation="tanh"), fastnn.Dropout(0.4), fastnn.Dense(n, use_bias=False)],
    "narrow": lambda n: [fastnn.Dense(1, activation="relu"), fastnn.BatchNorm(), fastnn.Dense(n)],
    "sigmoid": lambda n: [fastnn.Dense(3, activation="tanh"), fastnn.Dense(n, activation="sigmoid")],
    "softmax": lambda n: [fastnn.Dense(n), fastnn.Activation("softmax")],
}
RANDOM = ("normed", "dropped", "narrow")
"""Networks whose outputs in training are others than in inference."""

LINKS = {"softmax_cross_entropy": "softmax", "sigmoid_cross_entropy": "sigmoid"}


@cache
def kept(network: str, features: int, outputs: int, dtype: str) -> tuple[fastnn.Sequential, dict[str, np.ndarray], Before]:
    """A model, its initial weights, and the way back to before `build`; its programs are made once for all examples."""
    model = fastnn.Sequential(NETWORKS[network](outputs), seed=3, dtype=dtype)
    before = Before(model)
    return model, model.build(features).weights, before


def untrained(network: str, features: int, outputs: int, dtype: str) -> tuple[fastnn.Sequential, dict[str, np.ndarray]]:
    model, weights, before = kept(network, features, outputs, dtype)
    before.put_back()
    return model, weights


FUNCTIONS: dict[str | None, Callable[[np.ndarray], np.ndarray]] = {
    None: lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "sigmoid": lambda z: 0.5 * (1 + np.tanh(z / 2)),
    "softmax": lambda z: (e := np.exp(z - z.max(1, keepdims=True))) / e.sum(1, keepdims=True),
}


def outputs_of(
    model: fastnn.Sequential, weights: Mapping[str, np.ndarray], X: np.ndarray, link: str | None = None
) -> np.ndarray:
    """The outputs in float64, by the definition; without the last activation where it is the `link` of the loss."""
    a = X
    for index, layer in enumerate(model.layers):
        own = {name.split(".")[1]: w.astype(np.float64) for name, w in weights.items() if name.startswith(f"{index}.")}
        function = None
        if isinstance(layer, fastnn.Dense):
            a = a @ own["weight"] + own.get("bias", 0.0)
            function = layer.activation
        elif isinstance(layer, fastnn.BatchNorm):
            a = own["gamma"] * (a - own["running_mean"]) / np.sqrt(own["running_variance"] + layer.epsilon) + own["beta"]
        elif isinstance(layer, fastnn.Activation):
            function = layer.name
        if index < len(model.layers) - 1 or function != link:
            a = FUNCTIONS[function](a)
    return a


def losses_of(loss: str, z: np.ndarray, t: np.ndarray) -> np.ndarray:
    if loss == "softmax_cross_entropy":
        top = z.max(1, keepdims=True)
        return (t * (top + np.log(np.exp(z - top).sum(1, keepdims=True)) - z)).sum(1)
    if loss == "sigmoid_cross_entropy":
        return (np.maximum(z, 0) - t * z + np.log1p(np.exp(-np.abs(z)))).sum(1)
    return (0.5 if loss == "quadratic" else 1.0 / z.shape[1]) * ((z - t) ** 2).sum(1)


# --- examples -------------------------------------------------------------------------------------------------------


class Lent:
    """An array of another library."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.array if dtype is None else self.array.astype(dtype)


def read_only(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


def named(a: np.ndarray) -> list[str]:
    return [f"column {i}" for i in range(a.shape[1])]


def native(a: np.ndarray) -> np.ndarray:
    return a.astype(a.dtype.newbyteorder("="))


FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "C": lambda a: a,
    "lists": lambda a: a.tolist(),
    "Fortran": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=0)[::2],
    "backwards": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "read-only": read_only,
    "masked": np.ma.MaskedArray,
    "lent": Lent,
    "pandas": lambda a: pd.DataFrame(native(a), columns=named(a)),
    "pandas columns": lambda a: pd.DataFrame({n: pd.array(native(a)[:, i]) for i, n in enumerate(named(a))}),
    "polars": lambda a: pl.DataFrame({n: np.ascontiguousarray(native(a)[:, i]) for i, n in enumerate(named(a))}),
    "csr": lambda a: sp.csr_array(native(a)),
    "csc": lambda a: sp.csc_matrix(native(a)),
    "coo": lambda a: sp.coo_array(native(a)),
}
NO_HALF = ("pandas columns", "polars", "csr", "csc", "coo")
"""Forms of libraries that know no float16."""

DTYPES = ("float32", "float64", "float16", ">f4", ">f8", "uint8", "int8", ">i4", "int64", "uint64", "bool")

CONTAINERS: dict[str, Callable[[np.ndarray], Any]] = {
    "array": lambda a: a,
    "list": lambda a: a.tolist(),
    "tuple": lambda a: tuple(a.tolist()),
    "objects": lambda a: a.astype(object),
    "read-only": read_only,
    "strided": lambda a: np.repeat(a, 2, axis=0)[::2],
    "pandas": lambda a: pd.Series(a) if a.ndim == 1 else pd.DataFrame(a, columns=named(a)),
    "polars": lambda a: pl.Series(a.tolist()) if a.ndim == 1 else pl.DataFrame(dict(zip(named(a), a.T.tolist(), strict=True))),
    "lent": Lent,
}

LABELS: dict[str, Callable[[int], np.ndarray]] = {
    "indices": np.arange,
    "small": lambda C: np.arange(C, dtype=np.int8),
    "unsigned": lambda C: np.arange(C, dtype=np.uint64),
    "shifted": lambda C: np.arange(C) * 7 - 3,
    "strings": lambda C: np.array(["no", "yes", "ätsch"][:C] if C > 1 else ["no"]),
    "truth": lambda C: np.arange(C) > 0,
}


@dataclass(frozen=True)
class Case:
    """What is given to `fit`, and the same numbers in float64."""

    network: str
    outputs: int
    dtype: str
    loss: str
    X: Any
    y: Any
    options: dict[str, Any]
    X64: np.ndarray
    t64: np.ndarray
    weights: np.ndarray
    classes: np.ndarray | None
    kind: str
    fault: str = ""


@st.composite
def cases(draw: Any) -> Case:
    network, dtype = draw(st.sampled_from(list(NETWORKS))), draw(st.sampled_from(["float32", "float32", "float64"]))
    norm = network in ("normed", "narrow")
    n, features = draw(st.sampled_from([2, 3, 7, 12] if norm else [1, 2, 3, 7, 12])), draw(st.sampled_from([1, 3]))
    kind = draw(st.sampled_from(["classes", "binary", "multilabel", "values"]))
    outputs = {"classes": draw(st.sampled_from([2, 3])), "binary": 1, "multilabel": 3}.get(kind) or draw(
        st.sampled_from([1, 2])
    )
    if network == "softmax" and kind != "classes":
        network = "linear"
    losses = {
        "classes": ["softmax_cross_entropy", "quadratic", "mean_squared_error"],
        "binary": ["sigmoid_cross_entropy"] + ["quadratic"] * (network == "sigmoid"),
        "multilabel": ["sigmoid_cross_entropy"],
        "values": ["quadratic", "mean_squared_error"],
    }[kind]
    if network == "sigmoid" and kind == "classes":
        losses = losses[1:]
    loss = draw(st.sampled_from(losses))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))

    form, source = draw(st.sampled_from(list(FORMS))), np.dtype(draw(st.sampled_from(DTYPES)))
    if source == np.float16 and form in NO_HALF:
        source = np.dtype(np.float32)
    X = rng.standard_normal((n, features))
    X = X > 0 if source.kind == "b" else rng.integers(0, 9, X.shape).astype(source) if source.kind in "iu" else X.astype(source)
    if form in ("csr", "csc", "coo"):
        X = X * (rng.random(X.shape) > 0.4).astype(X.dtype)

    classes = None
    options: dict[str, Any] = {}
    if kind in ("classes", "binary"):
        C = max(2, outputs)
        known = LABELS[draw(st.sampled_from([name for name in LABELS if C == 2 or name != "truth"]))](C)
        index = rng.permutation(np.arange(n) % C)
        rows = draw(st.sampled_from(["labels", "labels", "one-hot", "shares"])) if kind == "classes" else "labels"
        if rows == "shares" and loss != "softmax_cross_entropy":
            rows = "one-hot"
        t = np.eye(C)[index] if kind == "classes" else index[:, None].astype(float)
        if rows == "labels":
            y, classes = known[index], known
            if n < C or draw(st.booleans()):
                options["classes"] = known.tolist()
        else:
            classes = np.arange(C)
            if rows == "shares":
                t = (t + rng.random(t.shape)).round(3)
                t /= t.sum(1, keepdims=True)
                y = t
            else:
                y = t.astype(draw(st.sampled_from(["int64", "uint8", "bool"])))
            if len(set(index.tolist())) == 1:
                options["classes"] = classes.tolist()
    elif kind == "multilabel":
        t = (rng.random((n, outputs)) > 0.5).astype(float)
        y = t.astype(draw(st.sampled_from(["float32", "int64", "bool"])))
    else:
        t = (0.3 + 0.4 * rng.random((n, outputs))).astype(draw(st.sampled_from(["float32", "float64", "float16"])))
        if draw(st.booleans()) and network != "sigmoid":
            t = rng.integers(2, 9, t.shape)
        y, t = (t[:, 0] if outputs == 1 and draw(st.booleans()) else t), t.astype(float)
    container = draw(st.sampled_from(list(CONTAINERS)))

    weights = np.ones(n)
    weighted = draw(st.sampled_from(["", "", "floats", "integers", "balanced", "some are 0"]))
    if weighted == "balanced" and classes is not None:
        index = t.argmax(1) if kind == "classes" else t[:, 0].astype(int)
        counts = np.bincount(index, minlength=2)
        weights = n / (np.count_nonzero(counts) * counts[index])
        options["class_weight"] = "balanced"
    elif weighted in ("floats", "integers", "some are 0"):
        weights = rng.integers(1, 4, n).astype(np.float64 if weighted != "integers" else np.int32)
        if weighted == "some are 0":
            weights[1:] *= rng.integers(0, 2, n - 1)
        holder = draw(st.sampled_from([lambda w: w, lambda w: w.astype("f4"), lambda w: w.tolist(), pd.Series, pl.Series]))
        options["sample_weight"] = holder(weights)

    options["batch_size"] = draw(st.sampled_from([2, 5, "all", "auto", np.int64(2), n + 1] + [1] * (not norm)))
    options["optimizer"] = draw(st.sampled_from(["sgd", "adam", fastnn.RMSprop(0.01), fastnn.Momentum(0.01)]))
    options["l2"] = draw(st.sampled_from([0.0, 0.1]))
    case = Case(
        network, outputs, dtype, loss, FORMS[form](X), CONTAINERS[container](y), options, X.astype(np.float64), t,
        weights.astype(np.float64), classes, kind,
    )  # fmt: skip
    event(f"{kind}, {loss}")
    return broken(draw, case, X, y, rng) if draw(st.integers(0, 2)) == 0 else case


FAULTS: dict[str, Callable[[np.ndarray, np.ndarray, int, np.random.Generator], dict[str, Any]]] = {
    "X: NaN": lambda X, y, n, rng: {"X": spoilt(X, np.nan, rng)},
    "X: infinite": lambda X, y, n, rng: {"X": spoilt(X, -np.inf, rng)},
    "X: NaN in a frame": lambda X, y, n, rng: {"X": pd.DataFrame(spoilt(X, np.nan, rng), columns=named(X))},
    "X: null in a frame": lambda X, y, n, rng: {"X": pl.DataFrame({m: [None] + [1.0] * (n - 1) for m in named(X)})},
    "X: NA in a frame": lambda X, y, n, rng: {
        "X": pd.DataFrame({m: pd.array([None] + [1] * (n - 1), "Int64") for m in named(X)})
    },
    "X: NaN in a sparse matrix": lambda X, y, n, rng: {"X": sp.csr_array(spoilt(X, np.nan, rng))},
    "X: strings in a frame": lambda X, y, n, rng: {"X": pd.DataFrame({m: ["a"] * n for m in named(X)})},
    "X: dates in a frame": lambda X, y, n, rng: {"X": pd.DataFrame({m: pd.date_range("2020", periods=n) for m in named(X)})},
    "X: categories in a frame": lambda X, y, n, rng: {
        "X": pl.DataFrame({m: pl.Series(["a"] * n).cast(pl.Categorical) for m in named(X)})
    },
    "X: one name twice": lambda X, y, n, rng: {"X": pd.DataFrame(np.zeros((n, 2)), columns=["a", "a"])},
    "X: numbers for names": lambda X, y, n, rng: {"X": pd.DataFrame(np.zeros((n, 2)))},
    "X: masked": lambda X, y, n, rng: {"X": np.ma.MaskedArray(X, np.ones(X.shape, bool))},
    "X: one axis": lambda X, y, n, rng: {"X": X[:, 0]},
    "X: three axes": lambda X, y, n, rng: {"X": X[:, :, None]},
    "X: no axis": lambda X, y, n, rng: {"X": np.float32(3)},
    "X: no rows": lambda X, y, n, rng: {"X": X[:0]},
    "X: no columns": lambda X, y, n, rng: {"X": X[:, :0]},
    "X: objects": lambda X, y, n, rng: {"X": X.astype(object)},
    "X: complex": lambda X, y, n, rng: {"X": X.astype(complex)},
    "X: complex and sparse": lambda X, y, n, rng: {"X": sp.csr_array(X.astype(complex))},
    "X: strings": lambda X, y, n, rng: {"X": X.astype(str)},
    "X: dates": lambda X, y, n, rng: {"X": X.astype("int64").astype("M8[s]")},
    "X: a ragged list": lambda X, y, n, rng: {"X": [*X[:-1].tolist(), []]},
    "X: a list with a text": lambda X, y, n, rng: {"X": [*X[:-1].tolist(), ["a"] * X.shape[1]]},
    "X: a Series": lambda X, y, n, rng: {"X": pd.Series(X[:, 0])},
    "X: a LazyFrame": lambda X, y, n, rng: {"X": pl.LazyFrame({"a": [1.0] * n})},
    "X: anything": lambda X, y, n, rng: {"X": object()},
    "X: a row more": lambda X, y, n, rng: {"X": np.concatenate([X, X[:1]])},
    "y: one less": lambda X, y, n, rng: {"y": y[:-1]},
    "y: none": lambda X, y, n, rng: {"y": None},
    "y: a label is None": lambda X, y, n, rng: {"y": [None, *y[1:].tolist()]},
    "y: NaN": lambda X, y, n, rng: {"y": [*y[:-1].tolist(), np.full(y.shape[1:], np.nan).tolist()]},
    "y: NA": lambda X, y, n, rng: {"y": pd.Series([pd.NA] * n)},
    "y: complex": lambda X, y, n, rng: {"y": np.zeros(n, complex)},
    "y: dates": lambda X, y, n, rng: {"y": pd.Series(pd.date_range("2020", periods=n))},
    "y: bytes": lambda X, y, n, rng: {"y": np.full(n, b"a")},
    "y: too wide": lambda X, y, n, rng: {"y": np.ones((n, 5))},
    "y: three axes": lambda X, y, n, rng: {"y": np.ones((n, 1, 1))},
    "y: sparse": lambda X, y, n, rng: {"y": sp.csr_array(np.eye(n))},
    "y: anything": lambda X, y, n, rng: {"y": [object()] * n},
    "y: two types": lambda X, y, n, rng: {"y": [1, "a", *([1] * (n - 2))] if n > 1 else [object()]},
    "y: huge": lambda X, y, n, rng: {"y": [2**80] * n},
    **{
        f"sample_weight: {name}": lambda X, y, n, rng, make=make: {"sample_weight": make(n)}
        for name, make in {
            "negative": lambda n: -np.ones(n),
            "NaN": lambda n: np.full(n, np.nan),
            "none": np.zeros,
            "one less": lambda n: np.ones(n - 1),
            "a column": lambda n: np.ones((n, 1)),
            "strings": lambda n: ["a"] * n,
            "complex": lambda n: np.ones(n, complex),
            "ragged": lambda n: [[1.0], *([1.0] * n)],
            "NA": lambda n: pd.array([None] * n, "Float64"),
            "anything": lambda n: object(),
        }.items()
    },
    **{
        f"{name}={re.sub(' at 0x[0-9a-f]+', f' {number}', repr(value))}": (
            lambda X, y, n, rng, name=name, value=value: {name: value}
        )
        for name, values in {
            "batch_size": (0, -1, 1.5, True, "x", None, np.float64(2), (2,)),
            "epochs": (-1, 0.5, None, "x"),
            "l2": (-1.0, np.nan, np.inf, "x", None),
            "l1": (-1.0, [1.0]),
            "loss": ("x", 3, None, []),
            "optimizer": ("x", 3, []),
            "device": ("x", 3, None, []),
            "precision": ("x", 3, None),
            "threads": (0, -1, 1.5, "x"),
            "metrics": (["x"], [3], 3, "x"),
            "classes": ([0], [0, 0], [None, 1], [0, 1, 2, 3, 4], object(), 3),
            "class_weight": ("x", 3, {"unheard of": 1.0}, {0: "x"}, {0: None}),
            "validation_data": (3, (), (np.zeros((3, 9)), np.zeros(3)), (None, None)),
            "callbacks": (3, [3], None),
            "shard_rows": (0, "x"),
            "order": (3, lambda epoch: [99], lambda epoch: [[0]], lambda epoch: [], lambda epoch: None, lambda epoch: ["a"]),
            "resume": ("no such file", 3),
            "steps_per_epoch": (3, 0),
        }.items()
        for number, value in enumerate(values)
    },
}  # fmt: skip
LATE = ("order",)
"""Faults that are found when the model has been built."""


def spoilt(X: np.ndarray, value: float, rng: np.random.Generator) -> np.ndarray:
    X = X.astype(X.dtype.newbyteorder("=") if X.dtype.kind == "f" and X.dtype.itemsize > 2 else np.float32)
    X[rng.integers(len(X)), rng.integers(X.shape[1])] = value
    return X


def broken(draw: Any, case: Case, X: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> Case:
    fault = draw(st.sampled_from(sorted(FAULTS)))
    changes = FAULTS[fault](X, y, len(X), rng)
    arguments = {name: changes.pop(name) for name in ("X", "y") if name in changes}
    return replace(case, **arguments, options={**case.options, **changes}, fault=fault)


def held(value: Any) -> Any:
    """What an argument holds, to be compared."""
    if isinstance(value, Lent):
        value = value.array
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        mask = np.ma.getmaskarray(value).tobytes() if isinstance(value, np.ma.MaskedArray) else b""
        return value.dtype.str, value.shape, value.strides, np.asarray(value).tobytes(), mask
    if sp.issparse(value):
        return value.format, {name: held(a) for name, a in vars(value).items() if isinstance(a, np.ndarray)}
    if isinstance(value, pd.DataFrame | pl.DataFrame):
        columns = [value.iloc[:, i] if isinstance(value, pd.DataFrame) else value.to_series(i) for i in range(value.shape[1])]
        return [(column.name, *held(column)) for column in columns]
    if isinstance(value, pd.Series | pl.Series):
        return str(value.dtype), repr(value.to_list())
    return repr(value)


# --- the law --------------------------------------------------------------------------------------------------------


def refused(case: Case, model: fastnn.Sequential, error: FastnnError) -> None:
    """What `fit` refused had a fault, changed nothing, and is refused by predictions too."""
    assert case.fault or isinstance(error, DivergenceError), f"refused good input: {error!r}"
    assert "\n" not in str(error), str(error)
    if case.fault.startswith(LATE) or not case.fault:
        return
    assert not model.built
    assert model.task is None
    if case.fault.startswith("X: ") and case.fault not in ("X: no rows", "X: a row more"):
        model.build(case.X64.shape[1])
        model.task = Task("quadratic", "values")
        for use in (model, model.predict):
            with pytest.raises(FastnnError):
                use(case.X)


def check(case: Case) -> None:
    features = case.X64.shape[1]
    model, initial = untrained(case.network, features, case.outputs, case.dtype)
    options = {"loss": case.loss, "epochs": 1, "device": "cpu", "verbose": 0, **case.options}
    before = held(case.X), held(case.y), held(options.get("sample_weight"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            history = model.fit(case.X, case.y, **options)
        except FastnnError as error:
            return refused(case, model, error)
        finally:
            said = [(w.category, str(w.message)) for w in caught]
            assert (held(case.X), held(case.y), held(options.get("sample_weight"))) == before, "arguments were changed"
            known = [(UserWarning, text) for _, text in said if text.endswith("is used")]
            assert said == known[:1], said
        assert not case.fault, "bad input was accepted"
        scores = model.evaluate(case.X, case.y, sample_weight=options.get("sample_weight"))
        found, raw = model.predict(case.X), model(case.X)
    # `class_weight` is for training alone.
    scored = case.weights if "sample_weight" in options else np.ones(len(case.X64))
    link = LINKS.get(case.loss)
    size = 1.0 + float(np.abs(case.X64).max())
    tolerance = (2e-5 if case.dtype == "float32" else 1e-12) * size
    now = model.weights
    z, a = outputs_of(model, now, case.X64, link), outputs_of(model, now, case.X64)
    scale = max(1.0, float(np.abs(a).max()))
    np.testing.assert_allclose(np.asarray(raw, np.float64), a, rtol=0, atol=tolerance * scale, err_msg="outputs")
    expected = float(np.average(losses_of(case.loss, z, case.t64), weights=scored))
    assert scores["loss"] == pytest.approx(expected, rel=tolerance * 10, abs=tolerance * scale), "loss of evaluation"
    if case.network not in RANDOM and options["batch_size"] in ("all", "auto", len(case.X64) + 1):
        first = losses_of(case.loss, outputs_of(model, initial, case.X64, link), case.t64)
        start = float(np.average(first, weights=case.weights))
        assert history["loss"][0] == pytest.approx(start, rel=tolerance * 10, abs=tolerance * scale), "loss of training"
    assert model.task is not None
    assert model.task.kind == case.kind
    if case.kind == "classes":
        right, margin = z.argmax(1), np.sort(z, 1)
        clear = margin[:, -1] - margin[:, -2] > 2 * tolerance * scale
        assert case.classes is not None
        assert np.asarray(found)[clear].tolist() == case.classes[right][clear].tolist(), "labels"
        right_ones = np.average(right == case.t64.argmax(1), weights=scored)
        assert not clear.all() or scores["accuracy"] == pytest.approx(right_ones, abs=1e-5)
    elif case.kind in ("binary", "multilabel"):
        border = 0.0 if link == "sigmoid" else 0.5
        yes, clear = z > border, np.abs(z - border) > 2 * tolerance * scale
        index = yes[:, 0].astype(int) if case.kind == "binary" else yes.astype(int)
        labels = index if case.classes is None else case.classes[index]
        if clear.all():
            assert np.asarray(found).tolist() == labels.tolist(), "labels"
    else:
        wanted = a[:, 0] if np.asarray(case.y).ndim == 1 else a
        assert found.shape == wanted.shape, "of the shape that y had"
        np.testing.assert_allclose(np.asarray(found, np.float64), wanted, rtol=0, atol=tolerance * scale, err_msg="predictions")


HEALTH = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=120, deadline=None, suppress_health_check=HEALTH, derandomize=True, database=None)
@given(cases())
def test_inputs_of_many_forms(case: Case) -> None:
    check(case)


@pytest.mark.slow
@settings(
    max_examples=int(os.environ.get("FASTNN_EXAMPLES", "800")), deadline=None, suppress_health_check=HEALTH, database=None
)
@given(cases())
def test_inputs_of_all_forms(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("fault", sorted(FAULTS))
@pytest.mark.parametrize("kind", ["classes", "values"])
def test_each_fault_is_refused(fault: str, kind: str) -> None:
    rng = np.random.default_rng(0)
    X, n = rng.standard_normal((7, 3)).astype("f4"), 7
    outputs, loss = (3, "softmax_cross_entropy") if kind == "classes" else (2, "quadratic")
    y = np.arange(n) % 3 if kind == "classes" else rng.random((n, 2))
    changes = FAULTS[fault](X, y, n, rng)
    options = {"batch_size": 2, "optimizer": "sgd", **{k: v for k, v in changes.items() if k not in ("X", "y")}}
    check(Case("hidden", outputs, "float32", loss, changes.get("X", X), changes.get("y", y), options, X.astype("f8"), y,
               np.ones(n), None, kind, fault))  # fmt: skip
