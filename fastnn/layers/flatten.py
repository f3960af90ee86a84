"""All axes of an example in one."""

from __future__ import annotations

from fastnn import ops
from fastnn.layers.base import Layer
from fastnn.ops.dispatch import Array


class Flatten(Layer):
    """(B, H, W, ...) -> (B, H * W * ...), in C order. Costs nothing."""

    records_alike = True
    vectorizes = True

    def forward(self, x: Array, training: bool) -> Array:
        return ops.reshape(x, (x.shape[0], -1))

    def forward_vectorized(self, x: Array, grouped: bool) -> Array:
        return ops.reshape(x, (x.shape[0], -1, x.shape[-1])) if grouped else self.forward(x, True)
