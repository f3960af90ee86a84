"""`build(features, loss=..., classes=...)` says what a model is for before any `fit`: it answers as one that was trained."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trainings import blobs

import fastnn
from fastnn import ops
from fastnn.errors import FastnnError, InputError, NotReadyError
from fastnn.losses import Loss
from fastnn.tuning import train_together

N = 60
SPECIES = ["setosa", "versicolor", "virginica"]
TASKS: dict[str, tuple[int, Any, str, Any]] = {
    "indices": (3, None, "softmax_cross_entropy", lambda X, labels: labels),
    "strings": (3, SPECIES, "softmax_cross_entropy", lambda X, labels: np.array(SPECIES)[labels]),
    "integers": (3, [7, 3, 5], "softmax_cross_entropy", lambda X, labels: np.array([7, 3, 5])[labels]),
    "yes or no": (1, None, "sigmoid_cross_entropy", lambda X, labels: (labels > 0).astype(int)),
    "booleans": (1, [False, True], "sigmoid_cross_entropy", lambda X, labels: labels > 0),
    "no, yes": (1, ["no", "yes"], "sigmoid_cross_entropy", lambda X, labels: np.array(["no", "yes"])[labels % 2]),
    "yeses": (3, None, "sigmoid_cross_entropy", lambda X, labels: (X[:, :3] > 0).astype(int)),
    "classes of sigmoids": (3, [0, 1, 2], "sigmoid_cross_entropy", lambda X, labels: labels),
    "a number": (1, None, "mean_squared_error", lambda X, labels: X[:, 0]),
    "numbers": (3, None, "quadratic", lambda X, labels: X[:, :3]),
    "classes by squares": (3, SPECIES, "mean_squared_error", lambda X, labels: np.array(SPECIES)[labels]),
}


def network(outputs: int, activation: str | None = None) -> fastnn.Sequential:
    return fastnn.Sequential([fastnn.Dense(8, activation="tanh"), fastnn.Dense(outputs, activation=activation)], seed=1)


def same(first: Any, second: Any) -> bool:
    return first.dtype == second.dtype and first.shape == second.shape and bool((first == second).all())


@pytest.mark.parametrize("way", ["there", "saved", "pickled"])
@pytest.mark.parametrize("name", TASKS)
def test_it_answers_as_the_model_that_was_trained(name: str, way: str, tmp_path: Path) -> None:
    outputs, classes, loss, target = TASKS[name]
    X, labels = blobs(N)
    y = target(X, labels)
    trained, model = network(outputs), network(outputs)
    trained.fit(X, y, loss=loss, classes=classes, epochs=2, batch_size=20, verbose=0)
    assert model.build(X.shape[1], loss=loss, classes=classes) is model
    model.set_weights(trained.weights)
    if way == "saved":
        model.save(tmp_path / "m.safetensors")
        model = fastnn.load(tmp_path / "m.safetensors")
    if way == "pickled":
        model = pickle.loads(pickle.dumps(model))
    assert model.task == trained.task
    assert same(model.predict(X), trained.predict(X))
    assert model.evaluate(X, y) == trained.evaluate(X, y)
    if trained.task is not None and trained.task.classes is not None:
        assert same(model.classes_, trained.classes_)
    if loss.endswith("entropy"):
        assert same(model.predict_proba(X), trained.predict_proba(X))


def test_it_may_be_said_after_the_weights() -> None:
    X, _ = blobs(N)
    model = network(3).build(X.shape[1])
    weights = model.weights
    predictions = model.build(X.shape[1], loss="softmax_cross_entropy", classes=SPECIES).predict(X)
    assert set(predictions) <= set(SPECIES)
    assert all((model.weights[name] == weights[name]).all() for name in weights)
    model.build(X.shape[1], loss="mean_squared_error")
    assert model.predict(X).shape == (N, 3)


def squared(outputs: Any, targets: Any) -> Any:
    return ops.squared_error(outputs, targets, 3.0)


def test_a_loss_of_ones_own() -> None:
    X, _ = blobs(N)
    model = network(2).build(X.shape[1], loss=squared)
    assert model.predict(X).shape == (N, 2)
    assert model.evaluate(X, X[:, :2])["loss"] > 0
    own = Loss("own", squared, "sigmoid", "both")
    assert set(network(1).build(X.shape[1], loss=own).predict(X)) <= {0, 1}


def test_an_activation_in_the_last_layer_counts_as_in_fit() -> None:
    X, labels = blobs(N)
    y = labels > 0
    trained, model = network(1, "sigmoid"), network(1, "sigmoid")
    trained.fit(X, y, loss="quadratic", epochs=1, batch_size=20, verbose=0)
    model.build(X.shape[1], loss="quadratic", classes=[False, True]).set_weights(trained.weights)
    assert same(model.predict(X), trained.predict(X))


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "mean_squared_error"])
def test_a_fit_finds_its_own_labels_where_none_were_said(loss: str) -> None:
    X, labels = blobs(N)
    model = network(3).build(X.shape[1], loss="softmax_cross_entropy")
    model.fit(X, np.array(SPECIES)[labels], loss=loss, epochs=1, batch_size=20, verbose=0)
    assert model.classes_.tolist() == SPECIES


def test_a_fit_keeps_the_classes_that_were_said() -> None:
    X, labels = blobs(N)
    y = np.array(SPECIES)[labels % 2]
    model = network(3).build(X.shape[1], loss="softmax_cross_entropy", classes=SPECIES[::-1])
    model.fit(X, y, epochs=1, batch_size=20, verbose=0)
    assert model.classes_.tolist() == SPECIES[::-1]
    other = network(3).build(X.shape[1], loss="softmax_cross_entropy", classes=SPECIES)
    with pytest.raises(InputError, match="expected the labels 'setosa', 'versicolor', 'virginica', got 'x'"):
        other.fit(X, ["x"] * N, epochs=1, verbose=0)
    models = [network(3).build(X.shape[1], loss="softmax_cross_entropy", classes=SPECIES[::-1]) for _ in range(4)]
    train_together(models, X, y, epochs=1, batch_size=20)
    assert [each.classes_.tolist() for each in models] == [SPECIES[::-1]] * 4


@pytest.mark.parametrize("method", ["predict", "predict_proba"])
@pytest.mark.parametrize("built", [False, True])
def test_what_cannot_answer_yet_names_the_way(method: str, built: bool) -> None:
    model = network(3).build(5) if built else network(3)
    says = re.escape("call fit first, load a model, or say it by build(features, loss=..., classes=[...])")
    with pytest.raises(NotReadyError, match=says):
        getattr(model, method)(blobs(N)[0])
    with pytest.raises(NotReadyError, match=says):
        _ = model.classes_


@pytest.mark.parametrize(
    ("outputs", "arguments", "says"),
    [
        (3, {"classes": SPECIES}, "build: classes are those of a loss; give loss= too"),
        (3, {"loss": "softmax_cross_entropy", "classes": ["a", "b"]}, "classes: expected 3 labels, got 2"),
        (3, {"loss": "softmax_cross_entropy", "classes": ["a", "b", "a"]}, "expected different labels, got 'a' twice"),
        (3, {"loss": "softmax_cross_entropy", "classes": 3}, "classes: expected a list of at least two labels"),
        (1, {"loss": "sigmoid_cross_entropy", "classes": ["a"]}, "classes: expected a list of at least two labels"),
        (1, {"loss": "softmax_cross_entropy"}, "softmax_cross_entropy compares classes and needs at least two outputs"),
        (3, {"loss": "sofmax_cross_entropy"}, "no loss is called 'sofmax_cross_entropy'; did you mean 'softmax"),
        (3, {"loss": 3}, "expected the name of a loss"),
        (3, {"input_shape": 3}, "build has no 'input_shape'"),
    ],
)
def test_what_does_not_fit_changes_nothing(outputs: int, arguments: dict[str, Any], says: str) -> None:
    model = network(outputs)
    with pytest.raises(FastnnError, match=re.escape(says)):
        model.build(5, **arguments)
    assert not model.built
    assert (model.task, model.loss) == (None, None)


def test_outputs_of_several_axes_have_no_task() -> None:
    model = fastnn.Sequential([fastnn.Activation("tanh")], seed=0)
    with pytest.raises(InputError, match=r"losses need outputs \(B, O\)"):
        model.build((2, 3), loss="mean_squared_error")


def test_a_model_that_is_being_trained_keeps_its_task() -> None:
    class Build(fastnn.callbacks.Callback):
        def epoch_end(self, run: Any, epoch: int, values: Any) -> None:
            run.model.build(5, loss="mean_squared_error")

    model = network(3)
    with pytest.raises(NotReadyError, match="build: the model is being trained"):
        model.fit(*blobs(N), epochs=2, batch_size=20, callbacks=[Build()], verbose=0)
    assert model.task is not None
    assert model.task.kind == "classes"
