"""`validation_data=(X, y, weights)`: loss and metrics are weighted as those of `evaluate(sample_weight=weights)`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trainings import blobs, classifier, digest

from fastnn import ops
from fastnn.callbacks import Checkpoint, EarlyStopping
from fastnn.errors import InputError
from fastnn.metrics import METRICS, Metric

N = 300
OPTIONS: dict[str, Any] = {"epochs": 2, "batch_size": 32, "verbose": 0}
WEIGHTS = np.random.default_rng(1).uniform(0, 2, N)
TASKS: dict[str, tuple[int, str, list[str]]] = {
    "classes": (3, "softmax_cross_entropy", ["f1", "log_loss", "balanced_accuracy"]),
    "yes or no": (1, "sigmoid_cross_entropy", ["precision", "auc", "brier"]),
    "yeses": (2, "sigmoid_cross_entropy", ["f1"]),
    "values": (2, "mean_squared_error", ["mse", "rmse"]),
}


def targets(task: str) -> tuple[np.ndarray, np.ndarray]:
    X, labels = blobs(N)
    return X, {"classes": labels, "yes or no": labels == 1, "yeses": X[:, :2] > 0, "values": X[:, :2]}[task]


@pytest.mark.parametrize("device", ["cpu", "numpy"])
@pytest.mark.parametrize("task", TASKS)
def test_they_weight_what_evaluate_weights(task: str, device: str) -> None:
    outputs, loss, metrics = TASKS[task]
    X, y = targets(task)
    options = {**OPTIONS, "loss": loss, "device": device}
    model, plain = classifier(outputs), classifier(outputs)
    history = model.fit(X, y, validation_data=(X, y, WEIGHTS), metrics=metrics, **options)
    unweighted = plain.fit(X, y, validation_data=(X, y), metrics=metrics, **options)
    expected = model.evaluate(X, y, sample_weight=WEIGHTS, metrics=metrics)
    assert {name: history[f"val_{name}"][-1] for name in expected} == expected
    assert digest(model) == digest(plain)
    assert history["loss"] == unweighted["loss"]
    assert history["val_loss"] != unweighted["val_loss"]


@pytest.mark.parametrize("weights", [np.ones(N), np.ones(N, int), [1] * N, np.full(N, True)])
def test_equal_weights_change_nothing(weights: Any) -> None:
    X, y = blobs(N)
    history = classifier().fit(X, y, validation_data=[X, y, weights], **OPTIONS)
    expected = classifier().fit(X, y, validation_data=(X, y), **OPTIONS)
    np.testing.assert_allclose(history["val_loss"], expected["val_loss"], rtol=1e-6)


def test_none_are_no_weights() -> None:
    X, y = blobs(N)
    expected = classifier().fit(X, y, validation_data=(X, y), **OPTIONS)
    assert dict(classifier().fit(X, y, validation_data=(X, y, None), **OPTIONS)) == dict(expected)


def test_rows_of_weight_0_do_not_count() -> None:
    X, y = blobs(N)
    weights = (np.arange(N) < 200).astype(float)
    history = classifier().fit(X, y, validation_data=(X, y, weights), **OPTIONS)
    expected = classifier().fit(X, y, validation_data=(X[:200], y[:200]), **OPTIONS)
    np.testing.assert_allclose(history["val_loss"], expected["val_loss"], rtol=1e-6)


def test_with_iterables_of_mini_batches_and_early_stopping() -> None:
    X, y = blobs(N)
    model, stopping = classifier(), EarlyStopping("val_loss", restore_best=False)
    history = model.fit([(X, y)], epochs=2, validation_data=(X, y, WEIGHTS), callbacks=[stopping], verbose=0)
    assert history["val_loss"][-1] == model.evaluate(X, y, sample_weight=WEIGHTS)["loss"]
    assert stopping.best in history["val_loss"]


def test_other_weights_are_other_validation_data_on_resume(tmp_path: Path) -> None:
    X, y = blobs(N)
    classifier().fit(X, y, validation_data=(X, y, WEIGHTS), callbacks=[Checkpoint(tmp_path)], **OPTIONS)
    with pytest.warns(UserWarning, match="resume: continues with other validation data"):
        classifier().fit(X, y, validation_data=(X, y, WEIGHTS + 1), resume=tmp_path, **{**OPTIONS, "epochs": 3})


def largest(y: np.ndarray, predictions: np.ndarray) -> float:
    return float((y != predictions).max())


def one_number(outputs: Any, targets: Any) -> Any:
    return ops.max(ops.abs(outputs - targets))


def test_metrics_and_losses_that_take_none_are_refused_before_the_first_step() -> None:
    X, y = blobs(N)
    model = classifier()
    for options in ({"validation_data": (X, y, WEIGHTS)}, {"validation_split": 0.2, "sample_weight": WEIGHTS}):
        with pytest.raises(InputError, match="the metric largest takes no weights, and the examples have some"):
            model.fit(X, y, metrics=[largest], **options, **OPTIONS)
    with pytest.raises(InputError, match="the loss one_number returns one number; weights need one loss an example"):
        model.fit(X, y, loss=one_number, validation_data=(X, y, WEIGHTS), **OPTIONS)
    assert not model.built


def test_metrics_of_outputs_are_averaged_by_them() -> None:
    X, y = blobs(N)
    model = classifier()
    metric = Metric("error", ops.softmax_cross_entropy, takes="outputs")
    history = model.fit(X, y, validation_data=(X, y, WEIGHTS), metrics=[metric], **OPTIONS)
    assert history["val_error"][-1] == pytest.approx(history["val_loss"][-1], rel=1e-5)


def test_every_metric_of_the_library_takes_weights() -> None:
    assert all("weights" in metric.extras for metric in METRICS.values())
