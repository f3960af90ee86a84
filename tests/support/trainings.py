"""Trainings whose bits are compared, and layers of a user's own."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

import fastnn
from fastnn import ops


def examples() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(8)
    return rng.standard_normal((331, 37)).astype("float32"), rng.integers(0, 10, 331)


def network(dtype: str = "float32") -> fastnn.Sequential:
    layers = [fastnn.Dense(65), fastnn.BatchNorm(), fastnn.Activation("relu"), fastnn.Dropout(0.3)]
    return fastnn.Sequential([*layers, fastnn.Dense(33, activation="tanh"), fastnn.Dense(10)], seed=11, dtype=dtype)


def run(dtype: str = "float32", **options: Any) -> fastnn.Sequential:
    X, y = examples()
    model = network(dtype)
    model.fit(X.astype(dtype), y, **{"batch_size": 32, "epochs": 3, "verbose": 0, "l2": 1e-4, **options})
    return model


def digest(model: fastnn.Sequential) -> str:
    content = b"".join(name.encode() + value.tobytes() for name, value in sorted(model.weights.items()))
    assert model.optimizer_state is not None
    return hashlib.sha256(content + b"".join(v.tobytes() for v in model.optimizer_state.slots.values())).hexdigest()


class Residual(fastnn.Layer):
    """x + relu(x W + b)."""

    def parameters(self, shape: tuple[int, ...]) -> dict[str, fastnn.Parameter]:
        (inputs,) = shape
        weight = fastnn.Parameter((inputs, inputs), fastnn.initializers.He(), regularized=True)
        return {"weight": weight, "bias": fastnn.Parameter((inputs,), fastnn.initializers.Normal(0.1))}

    def forward(self, x: Any, training: bool) -> Any:
        return x + ops.relu(x @ self.weight + self.bias)
