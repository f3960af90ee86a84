"""What the layers for images take: (B, H, W, C), or (B, H, W) of one channel."""

from __future__ import annotations

from typing import Any

from fastnn import ops
from fastnn.errors import InputError
from fastnn.ops.dispatch import Array


def as_channels(owner: str, shape: tuple[Any, ...]) -> tuple[Any, Any, Any]:
    """(H, W, C) of examples (H, W, C), or (H, W) of one channel. Raises InputError for others."""
    if len(shape) not in (2, 3):
        written = ", ".join(map(str, ("B", *shape)))
        cure = "; make images of rows, X.reshape(-1, H, W), or of those of a data set, data.as_images()" * (len(shape) == 1)
        raise InputError(f"{owner}: expected images (B, H, W, C) or (B, H, W), got ({written}){cure}")
    height, width, *channels = shape
    return height, width, channels[0] if channels else 1


def as_images(owner: str, x: Array) -> Array:
    """x (B, H, W, C), or (B, H, W) as images of one channel. Raises InputError for others."""
    shape = as_channels(owner, tuple(x.shape[1:]))
    return x if len(x.shape) == 4 else ops.reshape(x, (x.shape[0], *shape))
