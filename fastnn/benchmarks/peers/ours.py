"""fastnn itself."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastnn
from fastnn.benchmarks.grid import LEARNING_RATE, Task
from fastnn.benchmarks.peers import Cannot, Contestant
from fastnn.errors import DeviceError
from fastnn.network.programs import Prediction


class Fastnn(Contestant):
    """One call of `fit` an epoch, on data that lie on the device: on a GPU as CuPy arrays."""

    def __init__(self, task: Task, device: str = "") -> None:
        super().__init__(task)
        self.device = device or task.cell.device
        self.precision = task.cell.precision if self.device == "cuda" else "float32"
        if self.precision not in fastnn.engines.PRECISIONS:
            raise Cannot(f"this version of fastnn has no {self.precision}")
        try:
            self.engine, _ = fastnn.engines.choose(self.device, self.precision)
        except DeviceError as error:
            raise Cannot(str(error)) from error
        if self.device == "cuda":
            _pool().free_all_blocks()  # so that the peak is this task's
        self.X, self.y = (self.engine.export(self.engine.to_device(array)) for array in (task.X, task.y))
        self.loss = "sigmoid_cross_entropy" if task.binary else "softmax_cross_entropy"
        self.optimizer = fastnn.Adam(LEARNING_RATE)
        self.model = build(task)
        self.step: Any = None
        if task.cell.inference:
            self.model.to(self.device)
        if task.probabilities:
            self._learn_classes()

    def _learn_classes(self) -> None:
        """`predict_proba` needs a loss and labels: those of a step on zeros, whose changes are undone."""
        before, classes = self.model.weights, max(2, self.task.network.sizes[-1])
        X = np.zeros((classes, *self.task.network.example), np.float32)
        self.model.partial_fit(X, np.arange(classes), loss=self.loss, optimizer=self.optimizer, device=self.device)
        self.model.set_weights(before)

    def fit(self, **options: Any) -> float:
        return self.fit_on(self.X, self.y, **options)

    def fit_on(self, X: Any, y: Any, **options: Any) -> float:
        history = self.model.fit(
            X, y, loss=self.loss, optimizer=self.optimizer, batch_size=self.task.cell.batch_size,
            epochs=1, device=self.device, precision=self.precision, verbose=0, **options,
        )  # fmt: skip
        return history["loss"][0]

    def losses(self, order: np.ndarray) -> list[float]:
        return [self.fit(order=lambda epoch, indices=indices: indices) for indices in order]

    def epoch(self) -> float:
        return self.fit()

    def short_fit(self, X: np.ndarray, y: np.ndarray) -> float:
        return self.fit_on(X, y)

    def partial_fit(self, x: np.ndarray, t: np.ndarray) -> float:
        if self.precision != "float32":
            raise Cannot("partial_fit has no other precision than float32")
        return self.model.partial_fit(x, t, loss=self.loss, optimizer=self.optimizer, device=self.device)["loss"]

    def training_step(self, x: np.ndarray, t: np.ndarray) -> float:
        if self.step is None:
            self.step = self.model.training_step(
                loss=self.loss, optimizer=self.optimizer, batch_size=self.task.cell.batch_size, device=self.device,
                precision=self.precision,
            )  # fmt: skip
        loss: float = self.step(x, t)
        return loss

    def predict(self, x: np.ndarray) -> np.ndarray:
        outputs: np.ndarray = self.model.predict_proba(x) if self.task.probabilities else self.model(x)
        return outputs

    def work(self) -> list[tuple[int, int]]:
        """Of the calls of the program that `fit` plays, or of all blocks of a prediction, by the kernel table."""
        if self.task.cell.inference:
            rows = self.task.cell.rows
            played = self.engine.rows_for(rows)
            return self.engine.instantiate(Prediction().build(self.model.network), played).work() * -(-rows // played)
        return self.model.program(
            self.task.cell.batch_size, loss=self.loss, optimizer=self.optimizer, device=self.device, precision=self.precision
        ).instance.work()

    def peak_bytes(self) -> int | None:
        """On a GPU what CuPy's pool holds, which gives nothing back while a task is trained."""
        return int(_pool().total_bytes()) if self.device == "cuda" else None


def _pool() -> Any:
    import cupy

    return cupy.get_default_memory_pool()


def build(task: Task) -> fastnn.Sequential:
    """The network with the task's initial weights."""
    network = task.network
    layers: list[fastnn.Layer] = []
    for each in network.image_layers:
        if each.filters:
            padding = "same" if each.same else "valid"
            layers.append(fastnn.Conv2D(each.filters, each.size, padding=padding, activation=network.activation))
        else:
            layers.append(fastnn.MaxPool2D(each.size))
    if network.image:
        layers.append(fastnn.Flatten())
    for units in network.sizes[1:-1]:
        if network.norm:
            layers += [fastnn.Dense(units, use_bias=False), fastnn.BatchNorm(), fastnn.Activation(network.activation)]
        else:
            layers.append(fastnn.Dense(units, activation=network.activation))
        if task.dropout:
            layers.append(fastnn.Dropout(task.dropout))
    layers.append(fastnn.Dense(network.sizes[-1]))
    model = fastnn.Sequential(layers, seed=0).build(network.example)
    values = {}
    weighted = [(i, layer) for i, layer in enumerate(model.layers) if isinstance(layer, fastnn.Dense | fastnn.Conv2D)]
    for (index, layer), (w, b) in zip(weighted, (*task.kernels, *task.weights), strict=True):
        values[f"{index}.weight"] = w
        if layer.use_bias:
            values[f"{index}.bias"] = b
    model.set_weights(values)
    return model
