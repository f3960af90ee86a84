"""What a layer is: forward mathematics in the vocabulary, and the parameters it needs."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from fastnn import ops
from fastnn.errors import MissingError
from fastnn.random import DROPOUT

Array = ops.Array


@dataclass(frozen=True)
class Parameter:
    """A trained array: its shape, its initial values (`initial(key, shape, dtype)`), and whether L1 and L2 act on it."""

    shape: tuple[int, ...]
    initial: Any
    regularized: bool = False


@dataclass(frozen=True)
class Statistic:
    """An array that the forward pass keeps but that is not trained: its shape and its first value."""

    shape: tuple[int, ...]
    initial: float | np.ndarray


class Layer:
    """One layer. A layer of your own defines `forward` and, where it has any, `parameters`:

        class Residual(fastnn.Layer):
            def parameters(self, shape):
                return {"weight": Parameter((shape[0], shape[0]), fastnn.initializers.He(), regularized=True)}

            def forward(self, x, training):
                return x + ops.relu(x @ self.weight)

    While a step is recorded, `forward` runs on a copy of the layer whose parameters, statistics, random `key` and `step`
    are attributes holding symbols; it returns a symbol and changes nothing. A layer object holds options only, no values.
    """

    options: ClassVar[tuple[str, ...]] = ()
    """Names of the constructor's arguments, for saving and printing."""
    needs_two_rows: ClassVar[bool] = False
    """Whether training on one row is impossible (batch statistics)."""
    random: ClassVar[bool] = False
    """Whether the layer draws random numbers while it trains."""
    purpose: ClassVar[int] = DROPOUT
    """What its `key` is for: a purpose of `fastnn.random`."""

    key: tuple[int, int]
    step: Array

    def parameters(self, shape: tuple[int, ...]) -> Mapping[str, Parameter]:
        """The trained arrays for inputs of `shape` (without the batch axis)."""
        return {}

    def statistics(self, shape: tuple[int, ...]) -> Mapping[str, Statistic]:
        """The arrays kept beside the trained ones."""
        return {}

    def forward(self, x: Array, training: bool) -> Array:
        """The outputs (B, ...) for inputs (B, ...)."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def in_context(self, following: Sequence[Layer]) -> Self:
        """The layer with the options that were left open decided by the layers that follow it."""
        return self

    def bound(self, values: Mapping[str, Any]) -> Self:
        """A copy whose parameters, statistics, `key` and `step` are the attributes given."""
        layer = copy.copy(self)
        vars(layer).update(values)
        return layer

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as plain values."""
        return {name: getattr(self, name) for name in self.options}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise MissingError(
            f"{type(self).__name__} has no {name!r} here: parameters exist only inside a model, while forward is recorded"
        )

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.config().items() if value is not None)
        return f"{type(self).__name__}({shown})"
