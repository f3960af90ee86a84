"""Any task with labels of any type, in the containers of any library: what a model says is what was asked, in its own terms."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import fastnn
from fastnn.errors import InputTypeError

N = 24
NAMES = ("age", "income", "score")
LOSSES = {
    "classes": ("softmax_cross_entropy", "mean_squared_error"),
    "binary": ("sigmoid_cross_entropy", "mean_squared_error"),
    "values": ("mean_squared_error",),
    "multilabel": ("sigmoid_cross_entropy",),
}
INTEGERS = ("int8", "uint8", "int16", "int32", "int64", "uint64")
FLOATS = ("float32", "float64")
TYPES = {"classes": (*INTEGERS, *FLOATS, "str"), "binary": (*INTEGERS, *FLOATS, "str", "bool"), "values": (*FLOATS, "int64")}
INPUTS = {
    "numpy": lambda X: X,
    "lists": lambda X: X.tolist(),
    "pandas": lambda X: pd.DataFrame(X, columns=NAMES),
    "nullable": lambda X: pd.DataFrame(X, columns=NAMES).convert_dtypes(),
    "polars": lambda X: pl.DataFrame(dict(zip(NAMES, X.T, strict=True))),
    "torch": lambda X: pytest.importorskip("torch").tensor(X),
}
LABELS = {
    "numpy": lambda y: y,
    "lists": lambda y: y.tolist(),
    "pandas": pd.Series,
    "column": lambda y: pd.DataFrame({"y": y}),
    "polars": lambda y: pl.Series(y.tolist()) if y.dtype.kind == "U" else pl.Series(y),
    "torch": lambda y: y if y.dtype.kind == "U" else pytest.importorskip("torch").tensor(y),
}


def draw_labels(draw: Any, task: str, rng: np.random.Generator) -> np.ndarray:
    """Targets (n,) or (n, 2) of the task, all classes among them."""
    if task == "multilabel":
        return np.concatenate([np.array([[0, 1], [1, 1]]), rng.integers(0, 2, (N - 2, 2))])
    kind = draw(st.sampled_from(TYPES[task]))
    if task == "values":
        return rng.normal(3, 2, N).astype(kind)
    count = 2 if task == "binary" else 3
    names = {
        "str": np.array(["pear", "apple", "fig"][:count]),
        "bool": np.array([False, True]),
    }.get(kind)
    if names is None:
        first = draw(st.sampled_from((0, 1, 7)))
        names = (first + np.arange(count) * draw(st.sampled_from((1, 3)))).astype(kind)
    return names[np.concatenate([np.arange(count), rng.integers(0, count, N - count)])]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_answers_are_in_the_terms_of_the_question(data: st.DataObject) -> None:
    draw = data.draw
    task = draw(st.sampled_from(tuple(LOSSES)))
    loss = draw(st.sampled_from(LOSSES[task]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    X, y = rng.normal(50, 9, (N, 3)), draw_labels(draw, task, rng)
    assume(not (task == "classes" and loss == "mean_squared_error" and y.dtype.kind == "f"))  # refused: see test_targets
    library = draw(st.sampled_from(tuple(INPUTS)))
    inputs, labels = INPUTS[library](X), LABELS[draw(st.sampled_from(tuple(LABELS)))](y) if y.ndim == 1 else y
    outputs = {"classes": 3, "binary": 1, "values": 1, "multilabel": 2}[task]
    activation = {"mean_squared_error": {"classes": "softmax", "binary": "sigmoid"}.get(task)}.get(loss)
    standardizer = fastnn.Standardizer()
    model = fastnn.Sequential([standardizer.fit(inputs), fastnn.Dense(outputs, activation=activation)], seed=1)
    model.fit(inputs, labels, loss=loss, epochs=3, batch_size=8, verbose=0)
    answers = np.asarray(model.predict(inputs))

    # Of the shape and, where it has a dtype of its own, of the dtype of the question; and nothing that was not asked.
    flat = task != "values" or y.ndim > 1 or np.ndim(labels) == 1
    assert answers.shape == (y.shape if flat else (N, 1))
    if task in ("classes", "binary"):
        assert set(answers.tolist()) <= set(y.tolist())
        if not isinstance(labels, list):
            assert answers.dtype.kind == y.dtype.kind
            assert y.dtype.kind == "U" or answers.dtype == y.dtype

    # Every way to ask decides alike.
    scores = model.evaluate(inputs, labels)
    if task == "values":
        assert scores["loss"] == pytest.approx(float(np.mean((answers.reshape(-1) - y.astype(float)) ** 2)), rel=1e-4)
    else:
        assert scores["accuracy"] == pytest.approx(float(np.mean(answers == y)), abs=1e-6)
        shares = np.asarray(model.predict_proba(inputs))
        if task == "multilabel":
            assert ((shares > 0.5) == (answers == 1)).all()
        else:
            assert shares.shape == (N, len(model.classes_))
            assert (model.classes_[shares.argmax(1)] == answers).all()

    # Frames are taken by the names of their columns; what holds no numbers is named.
    if library in ("pandas", "nullable", "polars"):
        turned = inputs[list(NAMES[::-1])]
        np.testing.assert_array_equal(np.asarray(model.predict(turned)), answers)
        np.testing.assert_array_equal(standardizer.transform(turned), standardizer.transform(inputs))
        column = draw(st.sampled_from(NAMES))
        spoilt = spoil(inputs, column, draw(st.sampled_from(("text", "lists", "missing text", "dates"))))
        for use in (model.predict, standardizer.transform, lambda table: model.fit(table, labels, loss=loss, verbose=0)):
            with pytest.raises(InputTypeError, match=f"^X: the columns '{column}' hold "):
                use(spoilt)


def spoil(frame: Any, column: str, how: str) -> Any:
    """The frame with a column that holds no numbers."""
    values: dict[str, list[Any]] = {
        "text": ["red", "blue"], "lists": [[1.0, 2.0], [3.0, 4.0]], "missing text": [None, "red"],
        "dates": [date(2020, 1, 1), date(2021, 1, 1)],
    }  # fmt: skip
    cells = values[how] * (N // 2)
    if isinstance(frame, pl.DataFrame):
        return frame.with_columns(pl.Series(column, cells))
    if how == "missing text":
        cells = pd.array([pd.NA if cell is None else cell for cell in cells], dtype="string")
    return frame.assign(**{column: cells})
