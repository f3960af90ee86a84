"""Pooling of images: the largest, the mean and the Euclidean norm of windows of pixels."""

from __future__ import annotations

from typing import Any

from fastnn.errors import InputError
from fastnn.ops.dispatch import Array, apply
from fastnn.ops.windows import Padding, as_padding, as_pair, check_images, lay_windows
from fastnn.program.differentiate import backward
from fastnn.program.shapes import Shape
from fastnn.program.trace import Call, Symbol, floats

__all__ = ["l2_pool2d", "max_pool2d", "mean_pool2d"]

MOST_PLACES = 255
"""Pixels of a window of `max_pool2d`, which one of them is the largest is kept in a byte."""


def max_pool2d(x: Array, size: int | tuple[int, int] = 2, *, strides: Any = None, padding: Padding = "valid") -> Array:
    """y (B, OH, OW, C) = the largest pixel of each window of x (B, H, W, C), channel by channel.

    `size`: pixels of a window, a number or (rows, columns), 255 at most; `strides`: from a window to the next one, by default
    the size. `padding`: "valid" for windows inside the image, OH = (H - rows) // stride + 1, where a rest of pixels is in none;
    "same" for OH = ceil(H / stride); or numbers: of pixels on all sides, of (rows, columns), or of ((above, below),
    (left, right)). What lies outside the image counts for nothing. The gradient goes to the first of the largest pixels; NaN is
    the largest. Raises InputError where a window does not fit, and where padding is as long as one. Source: Nielsen, Neural
    Networks and Deep Learning, chapter 6.

        ops.max_pool2d(images, 2)    # (B, 24, 24, 20) -> (B, 12, 12, 20)
    """
    shape, attributes = _laid("max_pool2d", x, size, strides, padding)
    if attributes["size"][0] * attributes["size"][1] > MOST_PLACES:
        raise InputError(
            f"max_pool2d: a window has at most {MOST_PLACES} pixels, got {attributes['size']}; use ops.max(x, (1, 2))"
        )
    y, _ = apply("max_pool2d", (x,), [(shape, x.dtype), (shape, "uint8")], attributes)
    return y


def mean_pool2d(x: Array, size: int | tuple[int, int] = 2, *, strides: Any = None, padding: Padding = "valid") -> Array:
    """y (B, OH, OW, C) = the mean of the pixels of each window of x (B, H, W, C) that lie in the image.

    Arguments and errors are those of `max_pool2d`. Source: LeCun et al. 1998, Gradient-based learning applied to document
    recognition, section II.A.

        ops.mean_pool2d(images, 2)
    """
    shape, attributes = _laid("mean_pool2d", x, size, strides, padding)
    return apply("mean_pool2d", (x,), [(shape, x.dtype)], attributes)


def l2_pool2d(x: Array, size: int | tuple[int, int] = 2, *, strides: Any = None, padding: Padding = "valid") -> Array:
    """y (B, OH, OW, C) = the square root of the sum of the squares of the pixels of each window of x (B, H, W, C).

    The gradient is dy x / y, and 0 where y is 0. Arguments and errors are those of `max_pool2d`. Source: Nielsen, Neural
    Networks and Deep Learning, chapter 6.

        ops.l2_pool2d(images, 2)
    """
    shape, attributes = _laid("l2_pool2d", x, size, strides, padding)
    return apply("l2_pool2d", (x,), [(shape, x.dtype)], attributes)


def _laid(name: str, x: Array, size: Any, strides: Any, padding: Padding) -> tuple[Shape, dict[str, Any]]:
    """The shape of the outputs, and the attributes of the kernel."""
    floats(name, x)
    check_images(name, x)
    pixels = as_pair(name, "size", size)
    steps = pixels if strides is None else as_pair(name, "strides", strides)
    (rows, columns), before = lay_windows(name, x.shape[1:3], pixels, steps, as_padding(name, padding), touching=True)
    return (x.shape[0], rows, columns, x.shape[3]), {"size": pixels, "strides": steps, "padding": before}


@backward("max_pool2d")
def _max_pool2d_backward(call: Call, dy: Symbol, dplaces: None) -> tuple[Symbol]:
    (x,), (_, places) = call.inputs, call.outputs
    return (apply("max_pool2d_backward", (dy, places), [(x.shape, x.dtype)], call.attributes),)


@backward("mean_pool2d")
def _mean_pool2d_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    (x,) = call.inputs
    return (apply("mean_pool2d_backward", (dy,), [(x.shape, x.dtype)], call.attributes),)


@backward("l2_pool2d")
def _l2_pool2d_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    (x,), (y,) = call.inputs, call.outputs
    return (apply("l2_pool2d_backward", (dy, x, y), [(x.shape, x.dtype)], call.attributes),)
