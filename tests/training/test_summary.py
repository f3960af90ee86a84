"""The summary of a model against counts made by hand."""

from __future__ import annotations

import numpy as np
import pytest

import fastnn
from fastnn.errors import NotReadyError


def test_counts_shapes_memory_and_work() -> None:
    layers = [
        fastnn.Flatten(), fastnn.Dense(128, use_bias=False), fastnn.BatchNorm(), fastnn.Activation("relu"), fastnn.Dropout(0.5),
        fastnn.Dense(10),
    ]  # fmt: skip
    model = fastnn.Sequential(layers, seed=0).build((28, 28))
    found = model.summary()
    assert [layer.outputs for layer in found.layers] == [(784,), (128,), (128,), (128,), (128,), (10,)]
    assert [layer.trained for layer in found.layers] == [0, 784 * 128, 256, 0, 0, 1290]
    assert [layer.fixed for layer in found.layers] == [0, 0, 256, 0, 0, 0]
    parameters = 784 * 128 + 256 + 1290
    assert (found.trained, found.fixed) == (parameters, 256) == (model.parameter_count, 256)
    assert found.model_bytes == 4 * (parameters + 256)
    assert found.training_bytes == 4 * (parameters + 256 + 3 * parameters), "gradients and the two arrays of Adam"
    products = 2 * (784 * 128 + 128 * 10)
    assert products <= found.operations <= products + 10 * (128 + 10)


def test_it_prints_within_80_columns_even_long_names() -> None:
    layer = fastnn.Dense(1_000_000, activation="leaky_relu", use_bias=False)
    model = fastnn.Sequential([layer, fastnn.Dense(3)], seed=0, dtype="float64").build(2)
    lines = str(model.summary()).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert any("2,000,000" in line for line in lines)
    assert any("40 MB in float64" in line for line in lines)


def test_memory_counts_the_optimizer_of_the_last_fit() -> None:
    X = np.zeros((8, 4), np.float32)
    model = fastnn.Sequential([fastnn.Dense(3)], seed=0)
    with pytest.raises(NotReadyError, match="build"):
        model.summary()
    model.fit(X, np.arange(8) % 3, optimizer=fastnn.SGD(0.1), epochs=1, batch_size=8, verbose=0, device="cpu")
    found = model.summary()
    assert (found.optimizer, found.model_bytes, found.training_bytes) == ("SGD", 60, 120)
    assert "120 B with SGD" in str(found)


def test_frozen_parameters_are_fixed() -> None:
    frozen = fastnn.Dense(4)
    frozen.trainable = False
    found = fastnn.Sequential([frozen, fastnn.Dense(3)], seed=0).build(2).summary()
    assert [(layer.trained, layer.fixed) for layer in found.layers] == [(0, 12), (15, 0)]
    assert (found.trained, found.fixed) == (15, 12)
