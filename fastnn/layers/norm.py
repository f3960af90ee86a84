"""What the layers that normalize have in common: gamma and beta, a number for each feature."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import ClassVar

from fastnn import initializers
from fastnn.configurations import as_number
from fastnn.errors import InputError
from fastnn.layers.base import Layer, Parameter, check_training


class Norm(Layer):
    """A layer with y (B, O) = gamma h + beta, h its normalized inputs; gamma starts at 1, beta at 0."""

    keeps_activation = True
    of_images: ClassVar[bool] = False
    """Whether the channels of images may be normalized, over examples and pixels."""

    def __init__(self, epsilon: float, learning_rate_factor: float, trainable: bool) -> None:
        name = type(self).__name__
        if not 0.0 < as_number(epsilon) < float("inf"):
            raise InputError(f"{name}: expected epsilon > 0, got {epsilon}")
        check_training(name, learning_rate_factor=learning_rate_factor, trainable=trainable)
        self.epsilon = float(epsilon)
        self.learning_rate_factor: float = float(learning_rate_factor)
        self.trainable = trainable

    def parameters(self, shape: tuple[int, ...]) -> Mapping[str, Parameter]:
        initial = {"gamma": initializers.Constant(1.0), "beta": initializers.Zeros()}
        numbers, factor = self.features(shape), self.learning_rate_factor
        return {name: Parameter(numbers, values, learning_rate_factor=factor) for name, values in initial.items()}

    def features(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(O,) of examples of this shape. Raises InputError for others than vectors and, `of_images`, images."""
        if len(shape) != 1 and not (self.of_images and len(shape) == 3):
            name, images = type(self).__name__, " or images (B, H, W, C)" if self.of_images else ""
            raise InputError(f"{name}: expected inputs (B, O){images}, got {('B', *shape)}; put fastnn.Flatten() in front")
        return shape[-1:]

    def __repr__(self) -> str:
        config, defaults = self.config(), inspect.signature(type(self)).parameters
        usual = all(value == defaults[name].default for name, value in config.items())
        return self._written([] if usual else [f"{name}={value!r}" for name, value in config.items()])
