"""An activation as a layer of its own."""

from __future__ import annotations

from fastnn import ops
from fastnn.layers.base import Layer
from fastnn.ops.activations import check_activation
from fastnn.ops.dispatch import Array


class Activation(Layer):
    """y = activation(x), elementwise, or over the last axis for softmax and log_softmax; names in `ops.ACTIVATIONS`."""

    options = ("name", "alpha")
    records_alike = True
    pixelwise = True
    vectorizes = True

    def __init__(self, name: str, alpha: float | None = None) -> None:
        check_activation(name, alpha)
        self.name = name
        self.alpha = alpha

    def forward(self, x: Array, training: bool) -> Array:
        return ops.activate(x, self.name, self.alpha)

    @property
    def final_activation(self) -> str:
        return self.name

    def without_activation(self) -> None:
        return None

    def __repr__(self) -> str:
        return f"Activation({self.name!r})"
