"""Convolutional networks on a GPU, simulated on the host: the same training as on a CPU, within rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import BatchNorm, Conv2D, Dense, Dropout, Flatten, GlobalMeanPool2D, L2Pool2D, MaxPool2D, MeanPool2D, Sequential

NETWORKS: dict[str, Any] = {
    "convolution and pooling": lambda: [Conv2D(5, 3, activation="relu"), MaxPool2D(2), Flatten(), Dense(3)],
    "strides, dilation, groups and padding": lambda: [
        Conv2D(4, 3, strides=2, padding="same", activation="tanh"), Conv2D(6, 2, dilation=2, padding=1, groups=2), Flatten(),
        Dense(3),
    ],
    "norm, dropout of channels and means": lambda: [
        Conv2D(4, 2), BatchNorm(), Dropout(0.3, channels=True), MeanPool2D((2, 1)), L2Pool2D(2), GlobalMeanPool2D(), Dense(3),
    ],
}  # fmt: skip


@pytest.mark.usefixtures("cuda_host")
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_gpu_trains_what_the_cpu_trains(name: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.random((22, 9, 8)).astype(dtype), rng.integers(0, 3, 22)
    found = {}
    for device in ("cpu", "cuda"):
        model = Sequential(NETWORKS[name](), seed=1, dtype=dtype)
        history = model.fit(X, y, batch_size=8, epochs=2, optimizer=fastnn.Momentum(0.05), device=device, verbose=0)
        found[device] = [*model.weights.values(), np.array(history["loss"]), model.predict_proba(X)]
    tolerance = 2e-5 if dtype == "float32" else 1e-12
    for ours, theirs in zip(found["cpu"], found["cuda"], strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=tolerance, atol=tolerance)
