"""Batch normalization."""

from __future__ import annotations

from collections.abc import Mapping

from fastnn import initializers, ops
from fastnn.configurations import as_number
from fastnn.errors import InputError
from fastnn.layers.base import Layer, Parameter, Statistic, check_training
from fastnn.ops.dispatch import Array


class BatchNorm(Layer):
    """y (B, O) = gamma (x - mean) / sqrt(variance + epsilon) + beta.

    Training uses mean and biased variance of the mini-batch; inference the running ones,
    running = momentum running + (1 - momentum) batch, of which the variance is the unbiased one. gamma starts at 1,
    beta at 0, the running mean at 0, the running variance at 1. Source: Ioffe & Szegedy 2015.

    `learning_rate_factor`, `trainable`: as in `Dense`. A frozen layer computes as in inference while the others train: it
    uses the running statistics and keeps them, as Keras documents for its BatchNormalization. The linear Dense layer in front
    has no bias then either, unless it asks for one (`use_bias=True`): which arrays a model has does not depend on what is
    frozen, so that weights fit whether it is or not.
    """

    options = ("momentum", "epsilon", "learning_rate_factor")
    needs_two_rows = True
    cancels_bias = True
    keeps_activation = True
    records_alike = True

    def __init__(
        self,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        *,
        learning_rate_factor: float = 1.0,
        trainable: bool = True,
    ) -> None:
        if not 0.0 <= as_number(momentum) < 1.0:
            raise InputError(f"BatchNorm: expected 0 <= momentum < 1, got {momentum}")
        if not 0.0 < as_number(epsilon) < float("inf"):
            raise InputError(f"BatchNorm: expected epsilon > 0, got {epsilon}")
        check_training("BatchNorm", learning_rate_factor=learning_rate_factor, trainable=trainable)
        self.momentum = float(momentum)
        self.epsilon = float(epsilon)
        self.learning_rate_factor: float = float(learning_rate_factor)
        self.trainable = trainable

    def parameters(self, shape: tuple[int, ...]) -> Mapping[str, Parameter]:
        if len(shape) != 1:
            raise InputError(f"BatchNorm: expected inputs (B, O), got {('B', *shape)}; put fastnn.Flatten() in front")
        initial = {"gamma": initializers.Constant(1.0), "beta": initializers.Zeros()}
        factor = self.learning_rate_factor
        return {name: Parameter(shape, values, learning_rate_factor=factor) for name, values in initial.items()}

    def statistics(self, shape: tuple[int, ...]) -> Mapping[str, Statistic]:
        return {"running_mean": Statistic(shape, 0.0), "running_variance": Statistic(shape, 1.0)}

    def forward(self, x: Array, training: bool) -> Array:
        return ops.batch_norm(
            x, self.gamma, self.beta, self.running_mean, self.running_variance,
            training=training and self.trainable, momentum=self.momentum, epsilon=self.epsilon,
        )  # fmt: skip

    def __repr__(self) -> str:
        usual = {"momentum": 0.9, "epsilon": 1e-5, "learning_rate_factor": 1.0}
        return self._written([] if self.config() == usual else [f"{name}={value!r}" for name, value in self.config().items()])
