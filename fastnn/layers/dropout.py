"""Inverted dropout."""

from __future__ import annotations

from fastnn import ops
from fastnn.configurations import as_number
from fastnn.errors import InputError
from fastnn.layers.base import Layer
from fastnn.ops.dispatch import Array


class Dropout(Layer):
    """y = x / (1 - rate) for a share 1 - rate of the elements, drawn anew each step, else 0; y = x at inference.

    `rate` is the share that is dropped (the course notes' keep probability is 1 - rate). `channels`: channels of images
    (B, H, W, C) are dropped as a whole, since neighboring pixels say much the same. Source: Srivastava et al. 2014; for
    channels Tompson et al. 2015, Efficient object localization using convolutional networks, section 3.2. Raises InputError for
    a rate outside of [0, 1), and with `channels` for images (B, H, W).
    """

    options = ("rate", "channels")
    draws_random = True
    pixelwise = True
    keeps_activation = True

    def __init__(self, rate: float, channels: bool = False) -> None:
        if not 0.0 <= as_number(rate) < 1.0:
            raise InputError(f"Dropout: expected 0 <= rate < 1, got {rate}")
        if not isinstance(channels, bool):
            raise InputError(f"Dropout: channels: expected True or False, got {channels!r}")
        self.rate, self.channels = float(rate), channels

    def forward(self, x: Array, training: bool) -> Array:
        if self.channels and len(x.shape) == 3:  # the last axis of images (B, H, W) has columns
            written = ", ".join(map(str, ("B", *x.shape[1:])))
            raise InputError(f"Dropout: channels: expected images (B, H, W, C), got ({written})")
        return ops.dropout(x, self.rate, self.key, self.step, channels=self.channels) if training else x

    def __repr__(self) -> str:
        return f"Dropout({self.rate}{', channels=True' if self.channels else ''})"
