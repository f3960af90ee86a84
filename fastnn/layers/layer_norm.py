"""Layer normalization."""

from __future__ import annotations

from fastnn import ops
from fastnn.layers.norm import Norm
from fastnn.ops.dispatch import Array


class LayerNorm(Norm):
    """y (B, O) = gamma (x - mean) / sqrt(variance + epsilon) + beta, with mean and biased variance of each row.

        fastnn.Sequential([fastnn.Dense(64), fastnn.LayerNorm(), fastnn.Activation("relu"), fastnn.Dense(10)])

    An example is normalized by itself: training and inference compute the same, and mini-batches may have one row. gamma (O,)
    starts at 1, beta (O,) at 0. A bias of the Dense layer in front stays: it is another number for each feature, and changes
    what is normalized. `epsilon` is that of PyTorch by default; Keras has 1e-3. `learning_rate_factor`, `trainable`: as in
    `Dense`. Raises InputError for inputs that are not (B, O), and for epsilon <= 0. Source: Ba, Kiros & Hinton 2016, section 3.
    """

    options = ("epsilon", "learning_rate_factor")
    records_alike = True

    def __init__(self, *, epsilon: float = 1e-5, learning_rate_factor: float = 1.0, trainable: bool = True) -> None:
        super().__init__(epsilon, learning_rate_factor, trainable)

    def forward(self, x: Array, training: bool) -> Array:
        return ops.layer_norm(x, self.gamma, self.beta, epsilon=self.epsilon)
