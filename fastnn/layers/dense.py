"""The dense (fully connected) layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, Self

from fastnn import initializers, ops
from fastnn.errors import InputError
from fastnn.layers.base import Layer, Parameter, check_training
from fastnn.ops.activations import check_activation
from fastnn.ops.dispatch import Array


class Dense(Layer):
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
        if isinstance(units, bool) or not isinstance(units, Integral) or units < 1:
            raise InputError(f"Dense: expected units, an integer >= 1, got {units!r}")
        if activation is not None:
            check_activation(activation, alpha)
        check_training("Dense", l2, l1, learning_rate_factor, trainable)
        self.units: int = int(units)
        self.activation: str | None = activation
        self.alpha: float | None = alpha
        self.use_bias: bool | None = use_bias
        self.weight_init: initializers.Initializer | None = None if weight_init is None else _initializer(weight_init)
        self.bias_init: initializers.Initializer = _initializer(bias_init)
        self.l2: float | None = None if l2 is None else float(l2)
        self.l1: float | None = None if l1 is None else float(l1)
        self.learning_rate_factor: float = float(learning_rate_factor)
        self.trainable = trainable

    def in_context(self, following: Sequence[Layer]) -> Self:
        linear = self.activation in (None, "identity")
        decided: dict[str, Any] = {}
        if self.use_bias is None:
            decided["use_bias"] = not (linear and bool(following) and following[0].cancels_bias)
        if self.weight_init is None:
            activation = self.activation if not linear else _next_activation(following)
            decided["weight_init"] = initializers.default_for(activation)
        return self.bound(decided)

    def parameters(self, shape: tuple[int, ...]) -> Mapping[str, Parameter]:
        if len(shape) != 1:
            raise InputError(f"Dense: expected inputs (B, I), got {('B', *shape)}; put fastnn.Flatten() in front")
        factor = self.learning_rate_factor
        parameters = {"weight": Parameter((shape[0], self.units), self.weight_init, True, self.l2, self.l1, factor)}
        if self.use_bias:
            parameters["bias"] = Parameter((self.units,), self.bias_init, learning_rate_factor=factor)
        return parameters

    def forward(self, x: Array, training: bool) -> Array:
        return ops.dense(x, self.weight, self.bias if self.use_bias else None, self.activation, self.alpha)

    def forward_vectorized(self, x: Array, grouped: bool) -> Array:
        y = ops.grouped_dense(x, self.weight, self.bias if self.use_bias else None)
        return y if self.activation is None else ops.activate(y, self.activation, self.alpha)

    @property
    def final_activation(self) -> str | None:
        return self.activation

    def without_activation(self) -> Self:
        return self.bound({"activation": None})

    def config(self) -> dict[str, Any]:
        config = super().config()
        for name in ("weight_init", "bias_init"):
            config[name] = None if config[name] is None else config[name].to_config()
        return config

    def __repr__(self) -> str:
        shown = [f"{self.units}"]
        shown += [f"activation={self.activation!r}"] if self.activation else []
        shown += [f"use_bias={self.use_bias}"] if self.use_bias is False else []
        shown += [f"{name}={value}" for name in ("l2", "l1") if (value := getattr(self, name)) is not None]
        shown += [f"learning_rate_factor={self.learning_rate_factor}"] if self.learning_rate_factor != 1 else []
        return self._written(shown)


def _initializer(choice: Any) -> initializers.Initializer:
    """An initializer, its name, or what `config` wrote of it."""
    return initializers.Initializer.from_config(choice) if isinstance(choice, dict) else initializers.by_name(choice)


def _next_activation(following: Sequence[Layer]) -> str | None:
    """The activation that the outputs of a linear layer meet next."""
    next_one = next((layer for layer in following if not layer.keeps_activation), None)
    return None if next_one is None or next_one.has_parameters else next_one.final_activation
