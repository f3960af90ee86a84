"""Inverted dropout."""

from __future__ import annotations

from fastnn import ops
from fastnn.configurations import as_number
from fastnn.errors import InputError
from fastnn.layers.base import Layer
from fastnn.ops.dispatch import Array


class Dropout(Layer):
    """y = x / (1 - rate) for a share 1 - rate of the elements, drawn anew each step, else 0; y = x at inference.

    `rate` is the share that is dropped (the course notes' keep probability is 1 - rate). Source: Srivastava et al. 2014.
    """

    options = ("rate",)
    draws_random = True
    keeps_activation = True

    def __init__(self, rate: float) -> None:
        if not 0.0 <= as_number(rate) < 1.0:
            raise InputError(f"Dropout: expected 0 <= rate < 1, got {rate}")
        self.rate = float(rate)

    def forward(self, x: Array, training: bool) -> Array:
        return ops.dropout(x, self.rate, self.key, self.step) if training else x

    def __repr__(self) -> str:
        return f"Dropout({self.rate})"
