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


def blobs(n: int = 300, classes: int = 3, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centers = 3 * rng.standard_normal((classes, 5))
    y = rng.integers(0, classes, n)
    return (centers[y] + rng.standard_normal((n, 5))).astype(dtype), y


def classifier(classes: int = 3, **options: Any) -> fastnn.Sequential:
    return fastnn.Sequential([fastnn.Dense(16, activation="relu"), fastnn.Dense(classes)], **{"seed": 0, **options})


INTERRUPT = """
import sys, signal
sys.path[:0] = {path!r}
import numpy as np, fastnn
from trainings import blobs, classifier
X, y = blobs(3000)
device, delay = sys.argv[1], float(sys.argv[2])
classifier().fit(X, y, epochs=1, batch_size=3, verbose=0, device=device, threads=2)
model = classifier()
def stop(*arguments): raise KeyboardInterrupt
signal.signal(signal.SIGALRM, stop)
class Timer(fastnn.callbacks.Callback):
    started = False
    def chunk_end(self, run, losses):
        if not self.started:
            self.started = True
            signal.setitimer(signal.ITIMER_REAL, delay)
try:
    model.fit(X, y, epochs=100_000, batch_size=3, verbose=0, device=device, threads=2, callbacks=[Timer()])
except KeyboardInterrupt:
    signal.setitimer(signal.ITIMER_REAL, 0)
steps = model.counters.step
assert model.optimizer_state.updates == steps > 0, steps
twin = classifier()
order = lambda epoch: fastnn.random.permutation(fastnn.random.key(0, fastnn.random.SHUFFLE), epoch, 3000)
whole, rest = divmod(steps, 1000)
twin.fit(X, y, epochs=whole, batch_size=3, verbose=0, device=device, order=order)
twin.fit(X, y, epochs=1, batch_size=3, verbose=0, device=device, order=lambda _: order(whole)[: 3 * rest]) if rest else None
assert all(np.array_equal(value, twin.weights[name]) for name, value in model.weights.items()), steps
print(steps)
"""
"""Interrupts a training after a delay, and compares the model with one that was given the same whole steps."""
