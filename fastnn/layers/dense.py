"""The dense (fully connected) layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastnn import ops
from fastnn.errors import InputError
from fastnn.layers.base import Parameter
from fastnn.layers.weighted import Weighted, as_count
from fastnn.ops.dispatch import Array


class Dense(Weighted):
    """y (B, O) = activation(x (B, I) @ weight (I, O) + bias (O,)), O = `units`.

    `activation`: a name of `ops.ACTIVATIONS`; `alpha`: its slope or scale for leaky_relu and elu. `use_bias`: None means
    yes, unless the layer is linear and batch norm follows directly, which would take the bias off again. `weight_init`,
    `bias_init`: an initializer or its name; by default He before the ReLU family, Glorot otherwise, and zero biases.

    `l2`, `l1`: of the weights, instead of those of `fit`; None for those. `learning_rate_factor`: what the learning rate
    of weights and biases is multiplied by. `trainable`: False for a layer that `fit` leaves as it is, see
    `Sequential.freeze`.
    """

    options = ("units", "activation", "use_bias", "weight_init", "bias_init", "alpha", "l2", "l1", "learning_rate_factor")
    records_alike = True
    vectorizes = True

    def __init__(
        self,
        units: int,
        activation: str | None = None,
        use_bias: bool | None = None,
        weight_init: Any = None,
        bias_init: Any = "zeros",
        alpha: float | None = None,
        *,
        l2: float | None = None,
        l1: float | None = None,
        learning_rate_factor: float = 1.0,
        trainable: bool = True,
    ) -> None:
        self.units: int = as_count("Dense", "units", units)
        super().__init__(
            activation, use_bias, weight_init, bias_init, alpha, l2, l1, learning_rate_factor, trainable
        )  # fmt: skip

    def parameters(self, shape: tuple[int, ...]) -> Mapping[str, Parameter]:
        if len(shape) != 1:
            raise InputError(f"Dense: expected inputs (B, I), got {('B', *shape)}; put fastnn.Flatten() in front")
        return self.arrays((shape[0], self.units))

    def forward(self, x: Array, training: bool) -> Array:
        return ops.dense(x, self.weight, self.bias if self.use_bias else None, self.activation, self.alpha)

    def forward_vectorized(self, x: Array, grouped: bool) -> Array:
        y = ops.grouped_dense(x, self.weight, self.bias if self.use_bias else None)
        return y if self.activation is None else ops.activate(y, self.activation, self.alpha)

    @property
    def final_activation(self) -> str | None:
        return self.activation

    def __repr__(self) -> str:
        return self._written([f"{self.units}", *self._shown()])
