"""Batch normalization."""

from __future__ import annotations

from collections.abc import Mapping

from fastnn import ops
from fastnn.configurations import as_number
from fastnn.errors import InputError
from fastnn.layers.base import Statistic
from fastnn.layers.norm import Norm
from fastnn.ops.dispatch import Array


class BatchNorm(Norm):
    """y (B, O) = gamma (x - mean) / sqrt(variance + epsilon) + beta, or of images (B, H, W, C) for each of their channels.

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
    records_alike = True
    of_images = True
    pixelwise = True

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
        super().__init__(epsilon, learning_rate_factor, trainable)
        self.momentum = float(momentum)

    def statistics(self, shape: tuple[int, ...]) -> Mapping[str, Statistic]:
        numbers = self.features(shape)
        return {"running_mean": Statistic(numbers, 0.0), "running_variance": Statistic(numbers, 1.0)}

    def forward(self, x: Array, training: bool) -> Array:
        rows = x if len(x.shape) == 2 else ops.reshape(x, (-1, x.shape[-1]))
        y = ops.batch_norm(
            rows, self.gamma, self.beta, self.running_mean, self.running_variance,
            training=training and self.trainable, momentum=self.momentum, epsilon=self.epsilon,
        )  # fmt: skip
        return y if rows is x else ops.reshape(y, x.shape)
