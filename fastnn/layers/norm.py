"""What the layers that normalize have in common: gamma and beta, a number for each feature."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from fastnn import initializers
from fastnn.configurations import as_number
from fastnn.errors import InputError
from fastnn.layers.base import Layer, Parameter, check_training


class Norm(Layer):
    """A layer with y (B, O) = gamma h + beta, h its normalized inputs; gamma starts at 1, beta at 0."""

    keeps_activation = True

    def __init__(self, epsilon: float, learning_rate_factor: float, trainable: bool) -> None:
        name = type(self).__name__
        if not 0.0 < as_number(epsilon) < float("inf"):
            raise InputError(f"{name}: expected epsilon > 0, got {epsilon}")
        check_training(name, learning_rate_factor=learning_rate_factor, trainable=trainable)
        self.epsilon = float(epsilon)
        self.learning_rate_factor: float = float(learning_rate_factor)
        self.trainable = trainable

    def parameters(self, shape: tuple[int, ...]) -> Mapping[str, Parameter]:
        if len(shape) != 1:
            name = type(self).__name__
            raise InputError(f"{name}: expected inputs (B, O), got {('B', *shape)}; put fastnn.Flatten() in front")
        initial = {"gamma": initializers.Constant(1.0), "beta": initializers.Zeros()}
        factor = self.learning_rate_factor
        return {name: Parameter(shape, values, learning_rate_factor=factor) for name, values in initial.items()}

    def __repr__(self) -> str:
        config, defaults = self.config(), inspect.signature(type(self)).parameters
        usual = all(value == defaults[name].default for name, value in config.items())
        return self._written([] if usual else [f"{name}={value!r}" for name, value in config.items()])
