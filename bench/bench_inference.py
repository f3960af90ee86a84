"""Inference: the throughput of `predict` and `predict_proba` for many rows, and the latency of a single one.

Outputs are checked against a forward pass in float64, written here from the weights. On a GPU the inputs
lie there, the outputs are read back, and events time the call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from laws import assert_close
from measuring import DeviceTime, note, require
from scipy.special import expit, softmax

import fastnn
from fastnn import arrays, engines
from fastnn.benchmarks.grid import NETWORKS, Cell, make_task
from fastnn.benchmarks.peers.ours import Fastnn
from fastnn.engines import CPU, Engine, cores
from fastnn.network.programs import Prediction

BATCHES = (1, 32, CPU.block_rows, 8 * CPU.block_rows)
"""A single row, a small batch, one that the CPU plays at once, and one that it plays in eight blocks."""
TRAINED_ROWS = 256
IMAGE_ROWS = 2**10
"""The most of a network with convolutions."""
CHECKED_ROWS = 2**8
"""Of its outputs."""
TOLERANCE = 2e-5
"""Of probabilities: what rounding in float32 may leave after sums over 1024 inputs in five layers."""

ACTIVATIONS: dict[str | None, Callable[[np.ndarray], np.ndarray]] = {
    None: np.asarray,
    "relu": lambda z: np.maximum(z, 0),
    "sigmoid": expit,
    "tanh": np.tanh,
}


@functools.cache
def trained(network: str, device: str) -> fastnn.Sequential:
    """After a few steps, so that running means are not 0, and with what outputs mean."""
    contestant = Fastnn(make_task(Cell(network, 32, device), cores()))
    contestant.fit(order=lambda epoch: np.arange(TRAINED_ROWS))
    return contestant.model


def forward(model: fastnn.Sequential, X: np.ndarray) -> np.ndarray:
    """Probabilities (n, C), or (n, 1) of yes, in float64."""
    weights = {name: value.astype(np.float64) for name, value in model.weights.items()}
    x = X.astype(np.float64)
    for index, layer in enumerate(model.layers):
        own = {name.split(".")[1]: value for name, value in weights.items() if name.startswith(f"{index}.")}
        if isinstance(layer, fastnn.Conv2D):
            taps = _windows(x, own["weight"].shape[:2], 1, layer.padding == "same")
            x = ACTIVATIONS[layer.activation](np.tensordot(taps, own["weight"], ([4, 5, 3], [0, 1, 2])) + own["bias"])
        elif isinstance(layer, fastnn.MaxPool2D):
            x = _windows(x, layer.size, layer.size[0], False).max(axis=(4, 5))
        elif isinstance(layer, fastnn.Flatten):
            x = x.reshape(len(x), -1)
        elif isinstance(layer, fastnn.Dense):
            x = ACTIVATIONS[layer.activation](x @ own["weight"] + own.get("bias", 0.0))
        elif isinstance(layer, fastnn.BatchNorm):
            deviation = np.sqrt(own["running_variance"] + layer.epsilon)
            x = own["gamma"] * (x - own["running_mean"]) / deviation + own["beta"]
        elif isinstance(layer, fastnn.Activation):
            x = ACTIVATIONS[layer.name](x)
    probabilities: np.ndarray = np.hstack([expit(-x), expit(x)]) if x.shape[1] == 1 else softmax(x, axis=1)
    return probabilities


def _windows(x: np.ndarray, size: tuple[int, ...], stride: int, same: bool) -> np.ndarray:
    """(B, OH, OW, C, KH, KW) of images x (B, H, W, C)."""
    if same:
        x = np.pad(x, [(0, 0), *(((length - 1) // 2, length // 2) for length in size), (0, 0)])
    windows: np.ndarray = np.lib.stride_tricks.sliding_window_view(x, size[:2], axis=(1, 2))[:, ::stride, ::stride]
    return windows


def check_classes(classes: np.ndarray, probabilities: np.ndarray) -> None:
    """Every class is the most probable one, but for rounding."""
    chosen = np.take_along_axis(probabilities, classes.reshape(-1, 1).astype(np.int64), axis=1)[:, 0]
    assert (chosen >= probabilities.max(axis=1) - TOLERANCE).all()


def run(benchmark: Any, engine: Engine, device: str, method: str, network: str, rows: int) -> None:
    """Check one method for some rows, and time it."""
    benchmark.group = f"inference: {network}, {rows} rows"
    model = trained(network, device)
    images = bool(NETWORKS[network].image_layers)
    if images and rows > IMAGE_ROWS:
        pytest.skip(f"convolutions infer at most {IMAGE_ROWS} rows")
    X = np.random.default_rng(3).random((rows, *NETWORKS[network].example), dtype=np.float32)
    given = engine.export(engine.to_device(X))

    def call() -> np.ndarray:
        return arrays.to_host(getattr(model, method)(given))

    checked = np.unique(np.linspace(0, rows - 1, CHECKED_ROWS if images else rows, dtype=np.int64))
    outputs, expected = call()[checked], forward(model, X[checked])
    if method == "predict":
        check_classes(outputs, expected)
    else:
        assert_close(outputs, expected, TOLERANCE, f"probabilities of {network}")
    benchmark(call)
    played = engine.rows_for(rows)
    work = engine.instantiate(Prediction().build(model.network), played).work()
    note(
        benchmark, work, threads=cores(), device=device, repeats=-(-rows // played), examples=rows, network=network,
        batch_size=rows, method=method,
    )  # fmt: skip


def cases(test: Any) -> Any:
    """Both methods, every network and every number of rows."""
    for names, values in (("method", ("predict", "predict_proba")), ("network", NETWORKS)):
        test = pytest.mark.parametrize(names, values)(test)
    names = ["single-row" if rows == 1 else f"{rows}-rows" for rows in BATCHES]
    return pytest.mark.parametrize("rows", BATCHES, ids=names)(test)


@cases
@pytest.mark.benchmark(max_time=0.2, min_rounds=5)
def test_inference(benchmark: Any, method: str, network: str, rows: int) -> None:
    run(benchmark, engines.CPU, "cpu", method, network, rows)


@cases
@pytest.mark.gpu
@pytest.mark.benchmark(max_time=0.2, min_rounds=5, timer=DeviceTime())
def test_inference_on_a_gpu(benchmark: Any, method: str, network: str, rows: int) -> None:
    require("cuda")
    run(benchmark, engines.gpu(), "cuda", method, network, rows)
