"""Inference: the throughput of `predict` and `predict_proba` for many rows, and the latency of a single one.

Outputs are checked against a forward pass in float64, written here from the weights.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from laws import assert_close
from measuring import note, require
from scipy.special import expit, softmax

import fastnn
from fastnn import steps
from fastnn.benchmarks.grid import DEVICES, NETWORKS, Cell, make_task
from fastnn.benchmarks.peers.ours import Fastnn
from fastnn.engines import Instance, cores
from fastnn.model import PREDICT_ROWS

BATCHES = (1, 32, PREDICT_ROWS, 8 * PREDICT_ROWS)
"""A single row, a small batch, one that is played at once, and one that is played in eight blocks."""
TRAINED_ROWS = 256
TOLERANCE = 2e-5
"""Of probabilities: what rounding in float32 may leave after sums over 1024 inputs in five layers."""

ACTIVATIONS: dict[str | None, Callable[[np.ndarray], np.ndarray]] = {
    None: np.asarray,
    "relu": lambda z: np.maximum(z, 0),
    "sigmoid": expit,
    "tanh": np.tanh,
}


@functools.cache
def trained(network: str) -> fastnn.Sequential:
    """After a few steps, so that running means are not 0, and with what outputs mean."""
    contestant = Fastnn(make_task(Cell(network, 32), cores()))
    contestant.fit(order=lambda epoch: np.arange(TRAINED_ROWS))
    return contestant.model


def forward(model: fastnn.Sequential, X: np.ndarray) -> np.ndarray:
    """Probabilities (n, C), or (n, 1) of yes, in float64."""
    weights = {name: value.astype(np.float64) for name, value in model.weights.items()}
    x = X.astype(np.float64)
    for index, layer in enumerate(model.layers):
        own = {name.split(".")[1]: value for name, value in weights.items() if name.startswith(f"{index}.")}
        if isinstance(layer, fastnn.Dense):
            x = ACTIVATIONS[layer.activation](x @ own["weight"] + own.get("bias", 0.0))
        elif isinstance(layer, fastnn.BatchNorm):
            deviation = np.sqrt(own["running_variance"] + layer.epsilon)
            x = own["gamma"] * (x - own["running_mean"]) / deviation + own["beta"]
        elif isinstance(layer, fastnn.Activation):
            x = ACTIVATIONS[layer.name](x)
    probabilities: np.ndarray = expit(x) if x.shape[1] == 1 else softmax(x, axis=1)
    return probabilities


def check_classes(classes: np.ndarray, probabilities: np.ndarray) -> None:
    """Every class is the most probable one, but for rounding."""
    if probabilities.shape[1] == 1:
        probabilities = np.hstack([1 - probabilities, probabilities])
    chosen = np.take_along_axis(probabilities, classes.reshape(-1, 1), axis=1)[:, 0]
    assert (chosen >= probabilities.max(axis=1) - TOLERANCE).all()


@pytest.mark.benchmark(max_time=0.2, min_rounds=5)
@pytest.mark.parametrize("rows", BATCHES, ids=lambda rows: "single-row" if rows == 1 else f"{rows}-rows")
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("method", ["predict", "predict_proba"])
@pytest.mark.parametrize("device", [pytest.param(d, marks=[pytest.mark.gpu] * (d == "cuda")) for d in DEVICES])
def test_inference(benchmark: Any, device: str, method: str, network: str, rows: int) -> None:
    require(device)
    benchmark.group = f"inference: {network}, {rows} rows"
    model = trained(network)
    X = np.random.default_rng(3).random((rows, NETWORKS[network].sizes[0]), dtype=np.float32)
    call = getattr(model, method)
    outputs, expected = call(X), forward(model, X)
    if method == "predict":
        check_classes(outputs, expected)
    else:
        assert_close(outputs, expected, TOLERANCE, f"probabilities of {network}")
    benchmark(call, X)
    played = min(rows, PREDICT_ROWS)
    work = Instance(steps.prediction(model.network), played).work()
    note(
        benchmark, work, threads=cores(), repeats=rows // played, examples=rows, network=network, batch_size=rows,
        method=method,
    )  # fmt: skip
