"""Batch normalisation."""

from __future__ import annotations

from collections.abc import Mapping

from fastnn import initializers, ops
from fastnn.configurations import as_number
from fastnn.errors import InputError
from fastnn.layers.base import Array, Layer, Parameter, Statistic


class BatchNorm(Layer):
    """y (B, O) = gamma (x - mean) / sqrt(variance + epsilon) + beta.

    Training uses mean and biased variance of the mini-batch; inference the running ones,
    running = momentum running + (1 - momentum) batch, of which the variance is the unbiased one. gamma starts at 1,
    beta at 0, the running mean at 0, the running variance at 1. Source: Ioffe & Szegedy 2015.
    """

    options = ("momentum", "epsilon")
    needs_two_rows = True

    def __init__(self, momentum: float = 0.9, epsilon: float = 1e-5) -> None:
        if not 0.0 <= as_number(momentum) < 1.0:
            raise InputError(f"BatchNorm: expected 0 <= momentum < 1, got {momentum}")
        if not 0.0 < as_number(epsilon) < float("inf"):
            raise InputError(f"BatchNorm: expected epsilon > 0, got {epsilon}")
        self.momentum = float(momentum)
        self.epsilon = float(epsilon)

    def parameters(self, shape: tuple[int, ...]) -> Mapping[str, Parameter]:
        if len(shape) != 1:
            raise InputError(f"BatchNorm: expected inputs (B, O), got {('B', *shape)}; put fastnn.Flatten() in front")
        return {"gamma": Parameter(shape, initializers.Constant(1.0)), "beta": Parameter(shape, initializers.Zeros())}

    def statistics(self, shape: tuple[int, ...]) -> Mapping[str, Statistic]:
        return {"running_mean": Statistic(shape, 0.0), "running_variance": Statistic(shape, 1.0)}

    def forward(self, x: Array, training: bool) -> Array:
        return ops.batch_norm(
            x, self.gamma, self.beta, self.running_mean, self.running_variance,
            training=training, momentum=self.momentum, epsilon=self.epsilon,
        )  # fmt: skip

    def __repr__(self) -> str:
        return "BatchNorm()" if (self.momentum, self.epsilon) == (0.9, 1e-5) else super().__repr__()
