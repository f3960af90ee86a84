"""What layers with weights, a bias and an activation have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, Self

from fastnn import initializers
from fastnn.errors import InputError
from fastnn.layers.base import Layer, Parameter, check_training
from fastnn.ops.activations import check_activation


class Weighted(Layer):
    """A layer with weights (..., I, O), a bias (O,) and an activation, and the options that they have; see `Dense`."""

    def __init__(
        self,
        activation: str | None,
        use_bias: bool | None,
        weight_init: Any,
        bias_init: Any,
        alpha: float | None,
        l2: float | None,
        l1: float | None,
        learning_rate_factor: float,
        trainable: bool,
    ) -> None:
        if activation is not None:
            check_activation(activation, alpha)
        check_training(type(self).__name__, l2, l1, learning_rate_factor, trainable)
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

    def arrays(self, shape: tuple[int, ...]) -> Mapping[str, Parameter]:
        """The weights of this shape, and the bias if there is one."""
        factor = self.learning_rate_factor
        parameters = {"weight": Parameter(shape, self.weight_init, True, self.l2, self.l1, factor)}
        if self.use_bias:
            parameters["bias"] = Parameter(shape[-1:], self.bias_init, learning_rate_factor=factor)
        return parameters

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

    def _shown(self) -> list[str]:
        """The arguments that are not the default, of those that all such layers have."""
        shown = [f"activation={self.activation!r}"] if self.activation else []
        shown += [f"use_bias={self.use_bias}"] if self.use_bias is False else []
        shown += [f"{name}={value}" for name in ("l2", "l1") if (value := getattr(self, name)) is not None]
        shown += [f"learning_rate_factor={self.learning_rate_factor}"] if self.learning_rate_factor != 1 else []
        return shown


def as_count(owner: str, name: str, value: Any) -> int:
    """An integer >= 1. Raises InputError."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise InputError(f"{owner}: expected {name}, an integer >= 1, got {value!r}")
    return int(value)


def _initializer(choice: Any) -> initializers.Initializer:
    """An initializer, its name, or what `config` wrote of it."""
    return initializers.Initializer.from_config(choice) if isinstance(choice, dict) else initializers.by_name(choice)


def _next_activation(following: Sequence[Layer]) -> str | None:
    """The activation that the outputs of a linear layer meet next."""
    next_one = next((layer for layer in following if not layer.keeps_activation), None)
    return None if next_one is None or next_one.has_parameters else next_one.final_activation
