"""JAX: one jitted function an epoch, a scan over its shuffled mini-batches, with state given away and reused.

With convolutions on the CPU it is one a step instead: XLA computes those in a loop many times as slowly.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastnn.benchmarks.grid import LEARNING_RATE, Task
from fastnn.benchmarks.peers import Cannot, Contestant

ACTIVATIONS: dict[str, Any] = {"tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid, "relu": jax.nn.relu}
PRECISIONS = {"float32": "float32", "tf32": "tensorfloat32", "bf16": "bfloat16"}
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
MOMENTUM, VARIANCE_EPSILON = 0.9, 1e-5


class Scan(Contestant):
    """Its state: parameters p, statistics of batch norm s, Adam's moments m and v, its step t, a random key."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        if task.cell.device == "cuda" and jax.default_backend() != "gpu":
            raise Cannot("this JAX was installed without CUDA, or its CUDA finds no driver")
        jax.config.update("jax_default_matmul_precision", PRECISIONS[task.cell.precision])
        self.X, self.y = jnp.asarray(task.X), jnp.asarray(task.y)
        self.looping = bool(task.network.image_layers) and task.cell.device == "cpu"
        p: dict[str, Any] = {}
        s: dict[str, Any] = {}
        for i, (w, b) in enumerate(task.weights):
            p[f"w{i}"] = jnp.asarray(w)
            if i == len(task.weights) - 1 or not task.network.norm:
                p[f"b{i}"] = jnp.asarray(b)
            else:
                p[f"gamma{i}"], p[f"beta{i}"] = jnp.ones(w.shape[1]), jnp.zeros(w.shape[1])
                s[f"mean{i}"], s[f"variance{i}"] = jnp.zeros(w.shape[1]), jnp.ones(w.shape[1])
        for i, (w, b) in enumerate(task.kernels):
            p[f"kernel{i}"], p[f"bias{i}"] = jnp.asarray(w), jnp.asarray(b)
        m, v = jax.tree.map(jnp.zeros_like, p), jax.tree.map(jnp.zeros_like, p)
        self.state: Any = (p, s, m, v, jnp.zeros(()), jax.random.key(0))
        self.train_order = jax.jit(self._train_order, donate_argnums=0)
        self.train_epoch = jax.jit(self._train_epoch, donate_argnums=0)
        self.infer = jax.jit(self._infer)
        self.train_batch = jax.jit(self._train_batch, donate_argnums=0)
        self.train_index = jax.jit(self._train_index, donate_argnums=0)
        self.shuffle = jax.jit(jax.random.permutation, static_argnums=1)

    def losses(self, order: np.ndarray) -> list[float]:
        if self.looping:
            return [float(self.step(self.X, self.y, index)) for index in order]
        self.state, losses = self.train_order(self.state, self.X, self.y, jnp.asarray(order))
        return [float(loss) for loss in losses]

    def epoch(self) -> float:
        return self.short_fit(self.X, self.y)

    def step(self, X: Any, y: Any, index: Any) -> Any:
        """Train on these rows; the loss, which nobody waits for."""
        self.state, loss = self.train_index(self.state, X, y, index)
        return loss

    def short_fit(self, X: Any, y: Any) -> float:
        if self.looping:
            X, y = jnp.asarray(X), jnp.asarray(y)
            *rest, key = self.state
            key, drawn = jax.random.split(key)
            self.state = (*rest, key)
            order, batch = np.asarray(self.shuffle(drawn, len(X))), self.task.cell.batch_size
            return float(sum(self.step(X, y, order[start : start + batch]) for start in range(0, len(order), batch)))
        self.state, total = self.train_epoch(self.state, X, y)
        return float(total)

    def partial_fit(self, x: Any, t: Any) -> float:
        self.state, loss = self.train_batch(self.state, x, t)
        return float(loss)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.infer(self.state[0], self.state[1], x))

    def peak_bytes(self) -> int | None:
        if self.task.cell.device == "cpu":
            return None
        return int((jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)) or None

    def _infer(self, p: Any, s: Any, x: Any) -> Any:
        z, _ = self._forward(p, s, x, None)
        if not self.task.probabilities:
            return z
        return jax.nn.sigmoid(z) if self.task.binary else jax.nn.softmax(z)

    def _forward(self, p: Any, s: Any, x: Any, key: Any) -> tuple[Any, Any]:
        """Logits and statistics; without a key in inference mode."""
        network, last = self.task.network, len(self.task.weights) - 1
        dropout = 0.0 if key is None else self.task.dropout
        s = dict(s)
        if network.image_layers:
            x = self._images(p, x)
        for i in range(last):
            x = x @ p[f"w{i}"]
            if network.norm and key is None:
                deviation = jnp.sqrt(s[f"variance{i}"] + VARIANCE_EPSILON)
                x = p[f"gamma{i}"] * (x - s[f"mean{i}"]) / deviation + p[f"beta{i}"]
            elif network.norm:
                rows = x.shape[0]
                mean, variance = x.mean(0), x.var(0)
                s[f"mean{i}"] = MOMENTUM * s[f"mean{i}"] + (1 - MOMENTUM) * mean
                s[f"variance{i}"] = MOMENTUM * s[f"variance{i}"] + (1 - MOMENTUM) * variance * rows / max(rows - 1, 1)
                x = p[f"gamma{i}"] * (x - mean) * jax.lax.rsqrt(variance + VARIANCE_EPSILON) + p[f"beta{i}"]
            else:
                x = x + p[f"b{i}"]
            x = ACTIVATIONS[network.activation](x)
            if dropout:
                keep = jax.random.bernoulli(jax.random.fold_in(key, i), 1 - dropout, x.shape)
                x = jnp.where(keep, x / (1 - dropout), 0.0)
        return x @ p[f"w{last}"] + p[f"b{last}"], s

    def _images(self, p: Any, x: Any) -> Any:
        """Convolutions and pooling, flattened. Maxima over a reshaped array are faster than `lax.reduce_window` on a CPU."""
        i = 0
        for layer in self.task.network.image_layers:
            if layer.filters:
                layout = ("NHWC", "HWIO", "NHWC")
                x = jax.lax.conv_general_dilated(x, p[f"kernel{i}"], (1, 1), layer.padding, dimension_numbers=layout)
                x = ACTIVATIONS[self.task.network.activation](x + p[f"bias{i}"])
                i += 1
            else:
                (high, wide), (rows, columns, channels) = layer.size, layer.images
                x = x[:, : rows * high, : columns * wide].reshape(-1, rows, high, columns, wide, channels).max((2, 4))
        return x.reshape(x.shape[0], -1)

    def _cost(self, p: Any, s: Any, x: Any, t: Any, key: Any) -> tuple[Any, Any]:
        z, s = self._forward(p, s, x, key)
        if self.task.binary:
            return (jnp.maximum(z, 0) - z * t + jnp.log1p(jnp.exp(-jnp.abs(z)))).mean(), s
        return -jnp.take_along_axis(jax.nn.log_softmax(z), t[:, None], 1).mean(), s

    def _train_index(self, state: Any, X: Any, y: Any, index: Any) -> tuple[Any, Any]:
        return self._train_batch(state, X[index], y[index])

    def _train_batch(self, state: Any, x: Any, y: Any) -> tuple[Any, Any]:
        p, s, m, v, t, key = state
        key, drawn = jax.random.split(key)
        (loss, s), g = jax.value_and_grad(self._cost, has_aux=True)(p, s, x, y, drawn)
        t = t + 1
        m = jax.tree.map(lambda a, b: BETA1 * a + (1 - BETA1) * b, m, g)
        v = jax.tree.map(lambda a, b: BETA2 * a + (1 - BETA2) * b * b, v, g)
        correct1, correct2 = 1 / (1 - BETA1**t), 1 / (1 - BETA2**t)
        p = jax.tree.map(
            lambda w, a, b: w - LEARNING_RATE * (a * correct1) / (jnp.sqrt(b * correct2) + EPSILON), p, m, v
        )  # fmt: skip
        return (p, s, m, v, t, key), loss

    def _train_order(self, state: Any, X: Any, y: Any, order: Any) -> tuple[Any, Any]:
        return jax.lax.scan(lambda carry, index: self._train_index(carry, X, y, index), state, order)

    def _train_epoch(self, state: Any, X: Any, y: Any) -> tuple[Any, Any]:
        *rest, key = state
        key, drawn = jax.random.split(key)
        rows, batch = X.shape[0], self.task.cell.batch_size
        order, whole = jax.random.permutation(drawn, rows), rows // batch * batch
        state, losses = self._train_order((*rest, key), X, y, order[:whole].reshape(-1, batch))
        total = losses.sum()
        if whole < rows:
            state, loss = self._train_index(state, X, y, order[whole:])
            total = total + loss
        return state, total
