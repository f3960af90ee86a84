"""Images changed at random while training: flips, rotation, zoom, shift, shear, distortion, brightness and contrast."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastnn import arrays, ops
from fastnn.configurations import as_number
from fastnn.errors import InputError
from fastnn.layers.base import Layer
from fastnn.ops.dispatch import Array
from fastnn.ops.randomized import check_augmentation
from fastnn.program.trace import FLOATS
from fastnn.random import AUGMENTATION, key


class Augment(Layer):
    """Images (B, H, W) or (B, H, W, C), each changed anew in each step of training; as they are at inference.

        model = fastnn.Sequential(
            [fastnn.Augment(rotation=10, zoom=0.1, shift=0.1, distortion=3), fastnn.Flatten(), fastnn.Dense(10)]
        )

    An image is flipped, sheared, rotated and zoomed about its middle, shifted and distorted, and its values are changed. Each
    number is drawn uniformly, for every example and step on its own:

    - `horizontal_flip`, `vertical_flip`: columns, or rows, in reverse for half of the images.
    - `rotation`: degrees, up to so many (<= 180) either way. `shear`: the same (<= 85), of the columns against the rows.
    - `zoom`: a factor, (low, high), or d for (1 - d, 1 + d); above 1 what is seen grows.
    - `shift`: share of the height and of the width, up to so much either way, or a pair (of the height, of the width).
    - `distortion`: pixels that nothing moves beyond along an axis (about 0.3 of them on average), by a smooth field that bends
      over `smoothness` pixels.
    - `contrast`: a factor g like `zoom`; `brightness`: b up to so much either way. A value v becomes g (v - pivot) + pivot + b,
      which is not cut off at the ends of a range.
    - `fill`: the value outside an image, or "edge" for that of the nearest pixel.
    - `shape`: (H, W) or (H, W, C) where images come in rows (B, H * W * C).

    Values lie between pixels by bilinear interpolation. There is no gradient of the images: the layer stands in front of every
    layer with parameters. Source: Simard, Steinkraus & Platt 2003, Best practices for convolutional neural networks applied to
    visual document analysis, section 2.
    """

    options = (
        "horizontal_flip", "vertical_flip", "rotation", "zoom", "shift", "shear", "distortion", "smoothness", "brightness",
        "contrast", "pivot", "fill", "shape",
    )  # fmt: skip
    draws_random = True
    pixelwise = True
    purpose = AUGMENTATION

    def __init__(
        self,
        horizontal_flip: bool = False,
        vertical_flip: bool = False,
        rotation: float = 0.0,
        zoom: float | Sequence[float] = 0.0,
        shift: float | Sequence[float] = 0.0,
        shear: float = 0.0,
        distortion: float = 0.0,
        smoothness: int = 7,
        brightness: float = 0.0,
        contrast: float | Sequence[float] = 0.0,
        pivot: float = 0.5,
        fill: float | str = 0.0,
        shape: Sequence[int] | None = None,
    ) -> None:
        for name, value in (("horizontal_flip", horizontal_flip), ("vertical_flip", vertical_flip)):
            if not isinstance(value, bool):
                raise InputError(f"Augment: {name}: expected True or False, got {value!r}")
        self.horizontal_flip, self.vertical_flip = horizontal_flip, vertical_flip
        self.rotation = _number("rotation", rotation, 180.0)
        self.shear = _number("shear", shear, 85.0)
        self.brightness = _number("brightness", brightness)
        self.zoom = _factors("zoom", zoom, 0.01)
        self.contrast = _factors("contrast", contrast, 0.0)
        pair = shift if isinstance(shift, Sequence) and len(shift) == 2 else (shift, shift)
        self.shift = (_number("shift", pair[0], 1.0), _number("shift", pair[1], 1.0))
        check_augmentation("Augment", {}, pivot, distortion, smoothness, fill)
        self.distortion, self.smoothness, self.pivot = float(distortion), int(smoothness), float(pivot)
        self.fill = fill if isinstance(fill, str) else float(fill)
        self.shape = None if shape is None else _shape(shape)

    def forward(self, x: Array, training: bool) -> Array:
        images = self._images(x)
        if not training:
            return x
        height, width = images.shape[1:3]
        flips = {"flip_rows": self.vertical_flip, "flip_columns": self.horizontal_flip}
        around = {
            "rotation": self.rotation / 360.0,
            "shear": self.shear / 360.0,
            "shift_rows": self.shift[0] * height,
            "shift_columns": self.shift[1] * width,
            "brightness": self.brightness,
        }
        ranges = {name: (-most, most) for name, most in around.items()}
        ranges |= {name: (-1.0, 1.0) for name, flip in flips.items() if flip}
        ranges |= {"zoom": self.zoom, "contrast": self.contrast}
        y = ops.augment(
            images, self.key, self.step, pivot=self.pivot, distortion=self.distortion, smoothness=self.smoothness,
            fill=self.fill, **ranges,
        )  # fmt: skip
        return y if images is x else ops.reshape(y, x.shape)

    def examples(self, X: Array, seed: int = 0, step: int = 0) -> Array:
        """X (n, ...) as float32, or float64 where it is that, changed as in one step of training: to be looked at."""
        x = X if arrays.kind(X) else arrays.to_host(X)
        x = x if x.dtype in FLOATS else x.astype(np.float32)
        return self.bound({"key": key(seed, self.purpose), "step": int(step)}).forward(x, True)

    def __repr__(self) -> str:
        usual = type(self)().config()
        return f"Augment({', '.join(f'{name}={value!r}' for name, value in self.config().items() if value != usual[name])})"

    def _images(self, x: Array) -> Array:
        """x in the shape of images; InputError where it has another one."""
        if self.shape is not None:
            if math.prod(x.shape[1:]) != math.prod(self.shape):
                raise InputError(f"Augment: shape {self.shape} does not fit examples of shape {tuple(x.shape[1:])}")
            return ops.reshape(x, (x.shape[0], *self.shape))
        if len(x.shape) not in (3, 4):
            raise InputError(
                f"Augment: expected images (H, W) or (H, W, C), got examples of shape {tuple(x.shape[1:])}; "
                "say their shape, e.g. Augment(..., shape=(28, 28))"
            )
        return x


def _number(name: str, value: Any, most: float = 1e6) -> float:
    if not 0.0 <= as_number(value) <= most:
        raise InputError(f"Augment: {name}: expected a number from 0 to {most:g}, got {value!r}")
    return float(value)


def _factors(name: str, value: Any, least: float) -> tuple[float, float]:
    low, high = value if isinstance(value, Sequence) and len(value) == 2 else (1.0 - as_number(value), 1.0 + as_number(value))
    if not least <= as_number(low) <= as_number(high) <= 100.0:
        raise InputError(
            f"Augment: {name}: expected a number d >= 0, for (1 - d, 1 + d), or {least:g} <= low <= high <= 100, got {value!r}"
        )
    return float(low), float(high)


def _shape(shape: Any) -> tuple[int, ...]:
    dimensions = tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else ()
    if len(dimensions) not in (2, 3) or not all(isinstance(d, int) and not isinstance(d, bool) and d >= 1 for d in dimensions):
        raise InputError(f"Augment: shape: expected (H, W) or (H, W, C), integers >= 1, got {shape!r}")
    return dimensions
