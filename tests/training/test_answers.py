"""A model answers alike however it is asked: `predict`, `predict_proba`, `evaluate` and validation read the same outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import fastnn
from fastnn import ops
from fastnn.losses import Loss


def squared_focal(outputs: Any, targets: Any) -> Any:
    """Of logits, which each say yes or no."""
    shares = ops.sigmoid(outputs)
    missed = ops.abs(targets - shares)
    return ops.sum(missed * missed * ops.softplus(outputs * (1.0 - 2.0 * targets)), axis=1)


def hinge(outputs: Any, targets: Any) -> Any:
    """Of logits of classes."""
    return ops.sum(ops.relu(1.0 - outputs * (2.0 * targets - 1.0)), axis=1)


SQUARED = Loss("squared_focal", squared_focal, link="sigmoid", accepts="both")
HINGE = Loss("hinge", hinge, link="softmax", accepts="both")
LOSSES: dict[str, Any] = {
    "softmax_cross_entropy": "softmax_cross_entropy", "sigmoid_cross_entropy": "sigmoid_cross_entropy",
    "quadratic": "quadratic", "squared_focal": SQUARED, "hinge": HINGE,
}  # fmt: skip
LINKS = {"softmax_cross_entropy": "softmax", "sigmoid_cross_entropy": "sigmoid", "squared_focal": "sigmoid", "hinge": "softmax"}


def fixed(bias: Any, activation: str | None, loss: Any, y: Any) -> fastnn.Sequential:
    """A model that was trained for `y`, and whose logits are `bias` whatever the inputs are."""
    bias = np.asarray(bias, np.float32)
    model = fastnn.Sequential([fastnn.Dense(len(bias), activation=activation)], seed=0)
    model.fit(np.zeros((len(y), 1)), y, loss=loss, optimizer=fastnn.SGD(0.0), batch_size="all", epochs=1, verbose=0)
    model.set_weights({"0.weight": np.zeros((1, len(bias)), np.float32), "0.bias": bias})
    return model


@pytest.mark.parametrize("loss", ["sigmoid_cross_entropy", SQUARED])
def test_sigmoids_that_are_all_one(loss: Any) -> None:
    """In float32 the sigmoids of 20, 30 and 40 are equal; the logits are not."""
    model = fixed([20, 30, 40], "sigmoid", loss, [0, 1, 2])
    assert model.predict([[1.0]]).tolist() == [2]
    assert model.evaluate([[1.0]], [2], loss=loss)["accuracy"] == 1.0


def test_shares_of_a_softmax_that_are_all_nothing() -> None:
    model = fixed([-200, 30, np.nextafter(np.float32(30), np.float32(31))], "softmax", "softmax_cross_entropy", [0, 1, 2])
    assert model.predict([[1.0]]).tolist() == [2]


def test_a_sigmoid_that_rounds_to_one_half() -> None:
    """The logit 1e-9 is a yes, though its sigmoid is 0.5 in float32."""
    model = fixed([1e-9], "sigmoid", "sigmoid_cross_entropy", [0, 1, 1])
    assert float(model([[1.0]])[0, 0]) == 0.5
    assert model.predict([[1.0]]).tolist() == [1]
    assert model.evaluate([[1.0]], [1])["accuracy"] == 1.0


def test_the_link_of_a_loss_of_ones_own() -> None:
    """It is known after `fit`, and kept with the model, whose loss may be a name only where it is read again."""
    y = [0, 1, 1, 0]
    model = fixed([0.2], None, SQUARED, y)  # a share of 0.55, which is yes
    assert model.predict([[1.0]]).tolist() == [1]
    assert model.predict_proba([[1.0]])[0, 1] == pytest.approx(1 / (1 + np.exp(-0.2)), rel=1e-6)
    assert model.evaluate([[1.0]], [1])["accuracy"] == 1.0


def test_the_link_is_kept_in_a_file(tmp_path: Path) -> None:
    fixed([0.2], None, SQUARED, [0, 1, 1, 0]).save(tmp_path / "m.safetensors")
    read = fastnn.load(tmp_path / "m.safetensors")
    assert read.task is not None
    assert (read.task.loss, read.task.link) == ("squared_focal", "sigmoid")
    assert read.predict([[1.0]]).tolist() == [1]
    assert read.predict_proba([[1.0]])[0, 1] > 0.5
    assert read.evaluate([[1.0]], [1], loss=SQUARED)["accuracy"] == 1.0


def test_validation_says_the_same() -> None:
    X, y = np.zeros((3, 1)), np.array([2, 2, 0])
    model = fixed([20, 30, 40], "sigmoid", "sigmoid_cross_entropy", [0, 1, 2])
    options: dict[str, Any] = {"optimizer": fastnn.SGD(0.0), "batch_size": "all", "epochs": 1, "verbose": 0}
    with pytest.warns(UserWarning, match="trained on other data"):
        history = model.fit(X, y, loss="sigmoid_cross_entropy", validation_data=(X, y), **options)
    found = model.predict(X)
    assert history["val_accuracy"][-1] == model.evaluate(X, y)["accuracy"] == pytest.approx((found == y).mean(), abs=1e-6)


logits = st.one_of(
    st.floats(-3, 3, width=32, allow_subnormal=False), st.sampled_from([-90.0, -20.0, -1e-9, 0.0, 1e-9, 17.0, 30.0, 40.0, 90.0])
)


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(sorted(LOSSES)),
    kind=st.sampled_from(["classes", "strings", "binary", "multilabel"]),
    final=st.booleans(),
    bias=hnp.arrays(np.float32, 3, elements=logits),
    data=st.data(),
)
def test_every_way_to_ask(name: str, kind: str, final: bool, bias: np.ndarray, data: st.DataObject) -> None:
    """The share of right answers by `predict` is the accuracy of `evaluate`, for each kind of task, label, link and loss."""
    link = LINKS.get(name)
    if kind in ("binary", "multilabel") and (link == "softmax" or (name == "quadratic" and not final)):
        return  # losses of classes, and outputs that are no shares
    if kind == "binary":
        bias = bias[:1]
    outputs = len(bias)
    labels: np.ndarray = np.arange(3)
    if kind == "strings":
        labels = np.array(["ash", "birch", "elm"])
    if kind == "multilabel":
        y = data.draw(hnp.arrays(np.int64, (6, outputs), elements=st.integers(0, 1)))
        y[0], y[1] = 0, 1
    elif kind == "binary":
        y = np.array([0, 1, 1, 0, 1, 1])
    else:
        y = labels[np.array([0, 1, 2, *data.draw(st.lists(st.integers(0, 2), min_size=3, max_size=3))])]
    final_activation = (link or "sigmoid") if final else None
    model = fixed(bias, final_activation, LOSSES[name], y)
    X = np.zeros((len(y), 1))
    predicted = model.predict(X)
    right = predicted == y
    accuracy = model.evaluate(X, y, loss=LOSSES[name])["accuracy"]
    assert accuracy == pytest.approx(right.mean(), abs=1e-6)
    if kind in ("classes", "strings") and (link is not None or not final):
        assert (predicted == labels[np.argmax(bias)]).all()
    elif link == "sigmoid":
        assert (predicted == (bias > 0)).all()


def root_mean_squared_error(outputs: Any, targets: Any) -> Any:
    """One number for all rows; the mean of those of blocks is another one."""
    return ops.sqrt(ops.mean((outputs - targets) * (outputs - targets)))


def spread(outputs: Any, targets: Any) -> Any:
    """The same of one-hot rows."""
    return ops.max(ops.abs(outputs - targets))


@pytest.mark.parametrize("rows", [1, 255, 256, 257, 512, 1000])
def test_a_loss_that_is_one_number(rows: int) -> None:
    """It is that of all rows, also where they are evaluated in blocks: errors of 10 in half of them, of 1 in the others."""
    X, t = np.zeros((rows, 1), np.float32), np.ones((rows, 1), np.float32)
    t[: rows // 2] = 10.0
    model = fastnn.Sequential([fastnn.Dense(1)], seed=0).build(1)
    model.set_weights({"0.weight": np.zeros((1, 1), np.float32)})
    expected = float(np.sqrt(np.mean(t.astype(np.float64) ** 2)))
    options: dict[str, Any] = {"optimizer": fastnn.SGD(0.0), "batch_size": "all", "epochs": 1, "verbose": 0}
    history = model.fit(X, t, loss=root_mean_squared_error, validation_data=(X, t), **options)
    assert history["loss"][0] == pytest.approx(expected, rel=1e-6)
    assert history["val_loss"][0] == pytest.approx(expected, rel=1e-6)
    assert model.evaluate(X, t)["loss"] == pytest.approx(expected, rel=1e-6)


def test_a_loss_of_classes_that_is_one_number() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(700, 2)).astype("float32"), np.arange(700) % 3
    model = fastnn.Sequential([fastnn.Dense(3)], seed=0)
    model.fit(X, y, loss=spread, optimizer=fastnn.SGD(0.01), epochs=1, verbose=0)
    found = model.evaluate(X, y)
    assert found["loss"] == pytest.approx(float(np.abs(model(X) - np.eye(3)[y]).max()), rel=1e-6)
    assert found["accuracy"] == pytest.approx((model.predict(X) == y).mean(), abs=1e-6)


@pytest.mark.parametrize("saved", [False, True])
def test_values_come_in_the_shape_that_they_had(saved: bool, tmp_path: Path) -> None:
    """Also after a journey through a file, so that p - y is of n numbers, and not of n times n."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 3)).astype("float32")
    y = X @ np.array([1.0, -2.0, 0.5], "float32")
    for target, shape in ((y, (50,)), (y[:, None], (50, 1)), (np.stack([y, -y], 1), (50, 2))):
        model = fastnn.Sequential([fastnn.Dense(1 if target.ndim == 1 else target.shape[1])], seed=0)
        model.fit(X, target, loss="mean_squared_error", optimizer=fastnn.Adam(0.1), epochs=60, batch_size=10, verbose=0)
        if saved:
            model.save(tmp_path / "m.safetensors")
            model = fastnn.load(tmp_path / "m.safetensors")
        assert model.predict(X).shape == shape
        assert ((model.predict(X) - target) ** 2).mean() < 1e-3


@pytest.mark.parametrize("labels", [[0, 1], [False, True], ["no", "yes"], [3, 7]])
def test_probabilities_of_one_yes_or_no_output(labels: list[Any]) -> None:
    """A column for each of the classes, as several outputs have, and as scikit-learn's classifiers answer."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2)).astype("float32")
    y = np.array(labels)[(X[:, 0] > 0).astype(int)]
    model = fastnn.Sequential([fastnn.Dense(1)], seed=0)
    model.fit(X, y, loss="sigmoid_cross_entropy", optimizer=fastnn.Adam(0.1), epochs=20, batch_size=10, verbose=0)
    shares = model.predict_proba(X)
    assert shares.shape == (60, 2)
    assert model.classes_.tolist() == labels
    np.testing.assert_allclose(shares[:, 1], 1 / (1 + np.exp(-model(X)[:, 0])), rtol=1e-5)
    np.testing.assert_array_equal(shares[:, 0], 1 - shares[:, 1])
    assert (model.classes_[shares.argmax(1)] == model.predict(X)).all()
