"""Operations with random numbers of their own: dropout and augmentation of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fastnn.arrays import to_device
from fastnn.configurations import as_number
from fastnn.errors import InputError, InputTypeError, TracingError, nearest
from fastnn.ops.algebra import multiply, reshape, where
from fastnn.ops.dispatch import Array, apply
from fastnn.program.differentiate import backward
from fastnn.program.shapes import broadcast_shapes, describe
from fastnn.program.trace import Call, Symbol, constant, floats
from fastnn_kernels.contract import AFFINE, TRANSFORMS, control_points

__all__ = ["augment", "dropout"]


def dropout(
    x: Array,
    rate: float,
    key: tuple[int, int] | None = None,
    step: Array | int | None = None,
    *,
    mask: Array | None = None,
    channels: bool = False,
) -> Array:
    """Inverted dropout: y = x / (1 - rate) where the element is kept, else 0. 0 <= rate < 1.

    Kept is what has a uniform number >= rate. These numbers are those of `fastnn.random` for `key` and `step` (a number, or a
    0-d int64 symbol) and the element `row * O + column`; the same ones are drawn again in the backward pass. Or kept is what
    is True in `mask`, bool, of the shape of x or broadcast to it, such as one row for all examples: then nothing is drawn. With
    `channels`, each channel of an example of x (B, ..., C) is kept or dropped as a whole, by the element `row * C + channel`.

        a = ops.dropout(a, 0.2, mask=D1 < 0.8)    # the masks of an exercise
        drawn = fastnn.random.uniform(key, step, a.shape) >= rate    # the mask of dropout(a, rate, key, step)

    The gradient is that of the kept elements, times 1 / (1 - rate). InputError unless either key and step or a mask come.
    Source: Srivastava et al. 2014, section 10 (inverted form); for channels Tompson et al. 2015, section 3.2.
    """
    dtype = floats("dropout", x)
    if not 0.0 <= rate < 1.0:
        raise InputError(f"dropout: expected 0 <= rate < 1, got {rate}")
    if mask is not None:
        if key is not None or step is not None:
            raise InputError("dropout: expected key and step, or a mask, got both")
        if channels:
            raise InputError("dropout: channels is for a mask that is drawn; give one of shape (B, 1, ..., C) instead")
        return _dropout_by_mask(x, rate, mask)
    if key is None or step is None:
        raise InputError("dropout: expected key and step, or a mask, got neither")
    if rate == 0.0:
        return x
    if isinstance(x, Symbol) != isinstance(step, Symbol):
        raise TracingError("dropout: x and step must both be symbols, or both be values")
    if not isinstance(step, Symbol):
        step = np.asarray(step, np.int64)
    if channels:
        if len(x.shape) < 2:
            raise InputError(f"dropout: channels: expected x (B, ..., C), got shape {describe(tuple(x.shape))}")
        shape = (x.shape[0], x.shape[-1])
        ones = constant(x, 1.0, shape) if isinstance(x, Symbol) else to_device(np.ones(shape, dtype), x)
        drawn = dropout(ones, rate, key, step)
        return multiply(x, reshape(drawn, (shape[0], *(1,) * (len(x.shape) - 2), shape[1])))
    return apply("dropout", (x, step), [(tuple(x.shape), dtype)], {"rate": float(rate), "key": (int(key[0]), int(key[1]))})


def _dropout_by_mask(x: Array, rate: float, mask: Array) -> Array:
    if getattr(mask, "dtype", None) != np.bool_:
        got = getattr(mask, "dtype", type(mask).__name__)
        raise InputTypeError(f"dropout: expected a bool mask, True where an element is kept, got {got}; use mask.astype(bool)")
    if broadcast_shapes("dropout", tuple(x.shape), tuple(mask.shape)) != tuple(x.shape):
        raise InputError(
            f"dropout: expected a mask that is broadcast to {describe(tuple(x.shape))}, got {describe(tuple(mask.shape))}"
        )
    return where(mask, multiply(x, 1.0 / (1.0 - rate)), 0.0)


@backward("dropout")
def _dropout_backward(call: Call, dy: Symbol) -> tuple[Symbol, None]:
    return apply("dropout", (dy, call.inputs[1]), [(dy.shape, dy.dtype)], call.attributes), None


def augment(
    x: Array,
    key: tuple[int, int],
    step: Array | int,
    *,
    pivot: float = 0.0,
    distortion: float = 0.0,
    smoothness: int = 7,
    fill: float | str = 0.0,
    **ranges: tuple[float, float],
) -> Array:
    """Images x (B, H, W) or (B, H, W, C), each changed by a transform of its own, drawn for `key` and `step`.

    `ranges`: (low, high) of what is drawn uniformly for each image: `rotation` and `shear` (turns, about the middle), `zoom` (a
    factor), `shift_rows` and `shift_columns` (pixels), `flip_rows` and `flip_columns` (flipped where the number is below 0),
    `contrast` (a factor g) and `brightness` (a number b): of a value v that was found between the pixels of x, bilinearly,
    becomes g (v - pivot) + pivot + b. What is not named changes nothing. `distortion`: pixels that no place is displaced beyond
    along an axis, by a smooth field: uniform cubic B-splines of random control points every `smoothness` pixels. `fill`: the
    value outside the images, or "edge" for that of the nearest pixel. The random numbers are those of `fastnn.random`; `step`
    is a number, or a 0-d int64 symbol. There is no gradient of x. Source: Simard, Steinkraus & Platt 2003, section 2.
    """
    dtype = floats("augment", x)
    shape = tuple(x.shape)
    if len(shape) not in (3, 4):
        raise InputError(f"augment: expected images (B, H, W) or (B, H, W, C), got shape {describe(shape)}")
    check_augmentation("augment", ranges, pivot, distortion, smoothness, fill)
    if isinstance(x, Symbol) != isinstance(step, Symbol):
        raise TracingError("augment: x and step must both be symbols, or both be values")
    if not isinstance(step, Symbol):
        step = to_device(np.asarray(step, np.int64), x)
    images = reshape(x, (*shape, 1)) if len(shape) == 3 else x
    spacing = int(smoothness) if distortion else 0
    points = control_points(shape[1], spacing) * control_points(shape[2], spacing) if spacing else 0
    drawn = {
        "key": (int(key[0]), int(key[1])),
        "size": shape[1:3],
        "ranges": tuple(tuple(map(float, ranges.get(name, nothing))) for name, nothing in TRANSFORMS.items()),
        "pivot": float(pivot),
        "amplitude": float(distortion),
    }
    transforms = apply("draw_transforms", (step,), [((shape[0], AFFINE + 2 * points), dtype)], drawn)
    outside = {"fill": 0.0, "edge": True} if isinstance(fill, str) else {"fill": float(fill), "edge": False}
    y = apply("transform_images", (images, transforms), [(tuple(images.shape), dtype)], {"spacing": spacing, **outside})
    return reshape(y, shape) if len(shape) == 3 else y


LIMITS = {"rotation": (-0.5, 0.5), "shear": (-0.24, 0.24), "zoom": (0.01, 100.0)}
"""Where ranges of `augment` have to lie: a shear of a quarter turn, and a zoom by 0, leave nothing to be seen."""


def check_augmentation(
    name: str, ranges: Mapping[str, tuple[float, float]], pivot: float, distortion: float, smoothness: int, fill: float | str
) -> None:
    """InputError unless these are options of `augment`."""
    for what, bounds in ranges.items():
        if what not in TRANSFORMS:
            raise InputError(f"{name}: no range is called {what!r}{nearest(what, TRANSFORMS)}")
        low, high = LIMITS.get(what, (-1e6, 1e6))
        pair = [as_number(number) for number in bounds] if isinstance(bounds, Sequence) else []
        if len(pair) != 2 or not low <= pair[0] <= pair[1] <= high:
            raise InputError(f"{name}: {what}: expected {low:g} <= low <= high <= {high:g}, got {bounds!r}")
    if not np.isfinite(as_number(pivot)):
        raise InputError(f"{name}: pivot: expected a finite number, got {pivot!r}")
    if not 0.0 <= as_number(distortion) <= 1e6:
        raise InputError(f"{name}: distortion: expected pixels, a number >= 0, got {distortion!r}")
    if not isinstance(smoothness, int | np.integer) or isinstance(smoothness, bool) or not 1 <= smoothness < 2**31:
        raise InputError(f"{name}: smoothness: expected an integer of pixels >= 1, got {smoothness!r}")
    if fill != "edge" and not np.isfinite(as_number(fill)):
        raise InputError(f'{name}: fill: expected a finite number or "edge", got {fill!r}')


@backward("draw_transforms")
def _draw_transforms_backward(call: Call, dy: Symbol) -> tuple[None]:
    return (None,)


@backward("transform_images")
def _transform_images_backward(call: Call, dy: Symbol) -> Sequence[Symbol | None]:
    raise TracingError("augment has no derivative; put it in front of every layer with parameters")
