"""scikit-learn's MLPClassifier."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier

from fastnn.benchmarks.grid import LEARNING_RATE, Task
from fastnn.benchmarks.peers import Cannot, Contestant

EPSILON = 1e-8
ACTIVATIONS = {"tanh": "tanh", "sigmoid": "logistic", "relu": "relu"}


class Classifier(Contestant):
    """One call of `partial_fit` an epoch: it shuffles, and continues where it was, as `fit` does between epochs."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        network = task.network
        if network.image_layers:
            raise Cannot("MLPClassifier has no convolutions")
        if network.norm or network.dropout:
            raise Cannot("MLPClassifier has no batch norm and no dropout")
        if task.cell.method == "model":
            raise Cannot("MLPClassifier answers with probabilities or classes, not with logits")
        self.y = task.y.ravel().astype(np.int64)
        classes = np.arange(max(2, network.sizes[-1]))
        self.model: Any = MLPClassifier(
            network.sizes[1:-1], activation=ACTIVATIONS[network.activation], solver="adam", alpha=0.0,
            batch_size=task.cell.batch_size, learning_rate_init=LEARNING_RATE, random_state=0,
        )  # fmt: skip
        # The first call makes the arrays; then they get the task's weights, and Adam is begun anew.
        self.model.set_params(batch_size=1).partial_fit(task.X[:1], self.y[:1], classes=classes)
        self.model.set_params(batch_size=task.cell.batch_size)
        for coefficients, intercepts, (w, b) in zip(self.model.coefs_, self.model.intercepts_, task.weights, strict=True):
            if coefficients.dtype != w.dtype:
                raise Cannot(f"this MLPClassifier computes in {coefficients.dtype}")
            coefficients[...], intercepts[...] = w, b
        del self.model._optimizer

    def losses(self, order: np.ndarray) -> list[float]:
        """With epsilon made smaller by the bias correction of the second moment.

        This Adam applies the correction to the learning rate alone, so that its epsilon means something else in the first
        steps: with the default the losses of `wide` differ by a hundredth.
        """
        self.model.set_params(shuffle=False)
        losses = []
        for step, index in enumerate(order, 1):
            epsilon = EPSILON * math.sqrt(1 - self.model.beta_2**step)
            if step == 1:
                self.model.set_params(epsilon=epsilon)
            else:
                self.model._optimizer.epsilon = epsilon
            self.model.partial_fit(self.task.X[index], self.y[index])
            losses.append(float(self.model.loss_))
        return losses

    def epoch(self) -> float:
        return self.short_fit(self.task.X, self.y)

    def predict(self, x: np.ndarray) -> np.ndarray:
        probabilities: np.ndarray = self.model.predict_proba(x)
        return probabilities

    def host_data(self) -> tuple[np.ndarray, np.ndarray]:
        return self.task.X, self.y

    def short_fit(self, X: np.ndarray, y: np.ndarray) -> float:
        self.model.partial_fit(X, y)
        return float(self.model.loss_)

    def partial_fit(self, x: np.ndarray, t: np.ndarray) -> float:
        return self.short_fit(x, t)
