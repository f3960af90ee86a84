"""What the units of a convolutional network look at: where in an image, and which images they answer most.

Source: Nielsen, Neural Networks and Deep Learning, chapter 6, "Local receptive fields"; Zeiler & Fergus 2014, Visualizing and
understanding convolutional networks, figure 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn import arrays
from fastnn.configurations import as_count, is_index
from fastnn.errors import InputError, InputTypeError
from fastnn.network.summary import summarize

if TYPE_CHECKING:
    from fastnn.layers import Layer
    from fastnn.ops.windows import Window
    from fastnn.sequential import Sequential

Field = tuple[slice, slice]
"""Rows and columns of an image: `image[field]`."""

BLOCK = 256
"""Images whose feature maps are in memory at a time."""


def receptive_field(model: Sequential, layer: int, unit: tuple[int, int] | None = None) -> Field:
    """The part of an image that a unit of a layer sees at inference, as slices of rows and columns: `image[field]`.

        rows, columns = fastnn.receptive_field(model, 1, (3, 4))    # behind 5 x 5 kernels and 2 x 2 pooling: 6 to 11, 8 to 13

    Along rows, and along columns, output r of a layer whose windows have K pixels is made of its inputs r stride - padding +
    i dilation, i = 0 ... K - 1, as far as these lie in the image. From `layer` down to the first one, that gives the pixels,
    and the slices are the smallest that hold them: nothing outside of them changes the unit. With dilation or strides there may
    be pixels between that it does not see.

    `layer`: its number in `model.layers`. `unit`: (row, column) of an output (H, W, C) of the layer; channels see the same.
    Without it, what all its units see together, which for a Dense layer is what each of them sees. Slices are empty where a
    unit sees padding alone. A layer of one's own that defines no `windows` is taken to look at all of its inputs. Raises
    InputError for a model of other inputs than images, and for a layer or unit that there is not, NotReadyError for a model
    without parameters.
    """
    shapes = _shapes(model, layer)
    if unit is None:
        sides = shapes[layer + 1][:2] if _is_image(shapes[layer + 1]) else None
        seen = None if sides is None else (np.arange(sides[0]), np.arange(sides[1]))
    else:
        row, column = _unit(unit, shapes[layer + 1], layer, model.layers[layer])
        seen = np.array([row]), np.array([column])
    for each, shape in zip(reversed(model.layers[: layer + 1]), reversed(shapes[: layer + 1]), strict=True):
        if not _is_image(shape):
            seen = None
            continue
        height, width = shape[:2]
        windows = None if seen is None else each.windows((height, width))
        if seen is None or windows is None:
            seen = np.arange(height), np.arange(width)
        else:
            (rows, columns), (along_rows, along_columns) = seen, windows
            seen = _inputs(rows, along_rows, height), _inputs(columns, along_columns, width)
    assert seen is not None
    if not len(seen[0]) or not len(seen[1]):
        return slice(0, 0), slice(0, 0)
    down, across = (slice(int(pixels[0]), int(pixels[-1]) + 1) for pixels in seen)
    return down, across


@dataclass(frozen=True, eq=False)
class MostActivating:
    """The k images that a unit, or a channel, answers most, the largest answer first.

    `indices` (k,): which images these are; `values` (k,): what the unit or the channel is there; `units` (k, 2): row and
    column at which the channel is largest, None for a layer without images; `fields`: what that unit sees of the image.
    """

    indices: np.ndarray
    values: np.ndarray
    units: np.ndarray | None
    fields: tuple[Field, ...]


def most_activating(
    model: Sequential, images: Any, layer: int, channel: int, count: int = 9, unit: tuple[int, int] | None = None
) -> MostActivating:
    """The `count` images on which a channel of a layer is largest, anywhere in its feature map, or at `unit`, at inference.

        found = fastnn.most_activating(model, X_test, layer=1, channel=4)
        patch = X_test[found.indices[0]][found.fields[0]]

    `images`: (n, H, W), (n, H, W, C), or rows of as many numbers, like those that the model was built for. `channel`: of
    outputs (H, W, C); of a layer with outputs (O,), such as Dense, the number of a unit. Of equal answers the first image and
    the first position count. Memory beyond the images: the feature maps of 256 of them. Raises InputError for images, layers,
    channels and units that do not fit, NotReadyError for a model without parameters.
    """
    shapes = _shapes(model, layer)
    outputs, owner, count = shapes[layer + 1], model.layers[layer], as_count("count", count)
    channels = outputs[2] if len(outputs) == 3 else outputs[0] if len(outputs) == 1 else 1
    if not is_index(channel, channels):
        raise InputError(f"channel: expected a number from 0 to {channels - 1}, got {channel!r}")
    place = None if unit is None else _unit(unit, outputs, layer, owner)
    given, features = arrays.to_host(images), model.network.features
    if given.ndim < 2 or not len(given) or math.prod(given.shape[1:]) != math.prod(features):
        raise InputError(f"expected images (n, {', '.join(map(str, features))}), n >= 1, got {given.shape}")
    front = front_of(model, layer)
    answers, places = np.empty(len(given), model.dtype), np.empty(len(given), np.int64)
    for start in range(0, len(given), BLOCK):
        rows = slice(start, start + BLOCK)
        block = given[rows]
        maps = front(block.reshape(len(block), *features)).reshape(len(block), -1, channels)[..., channel]
        if place is None:
            places[rows] = maps.argmax(axis=1)
        else:
            places[rows] = place[0] * outputs[1] + place[1]
        answers[rows] = np.take_along_axis(maps, places[rows, None], 1)[:, 0]
    best = np.argsort(-answers, kind="stable")[:count]
    if not _is_image(outputs):
        return MostActivating(best, answers[best], None, (receptive_field(model, layer),) * len(best))
    units = np.stack(np.unravel_index(places[best], outputs[:2]), axis=1)
    return MostActivating(
        best, answers[best], units, tuple(receptive_field(model, layer, (int(row), int(column))) for row, column in units)
    )


def front_of(model: Sequential, layer: int) -> Sequential:
    """The model up to and with that layer, with its parameters."""
    front = type(model)(model.layers[: layer + 1], seed=0, dtype=model.dtype, input_scale=model.input_scale)
    front.build(model.network.features)
    front.set_weights({name: values for name, values in model.weights.items() if int(name.partition(".")[0]) <= layer})
    return front


def layer_of(model: Any, number: Any) -> Layer:
    """The layer of this number of a model that has parameters. Raises InputError and InputTypeError."""
    from fastnn.sequential import as_model

    model = as_model(model)
    last = len(model.network.layers) - 1
    if not is_index(number, last + 1):
        raise InputError(f"layer: expected the number of a layer, from 0 to {last}, got {number!r}")
    layer: Layer = model.layers[number]
    return layer


def _shapes(model: Sequential, layer: int) -> list[tuple[int, ...]]:
    """The shapes of an example and of the outputs of each layer up to that one. Raises InputError where there are no images."""
    layer_of(model, layer)
    summary = summarize(model)
    if not _is_image(summary.features):
        raise InputError(
            f"expected a model of images (H, W) or (H, W, C), and this one takes inputs of shape {summary.features}"
        )
    return [summary.features, *(each.outputs for each in summary.layers[: layer + 1])]


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) in (2, 3)


def _unit(unit: Any, outputs: tuple[int, ...], number: int, layer: Layer) -> tuple[int, int]:
    """Row and column of a unit. Raises InputError and InputTypeError."""
    if not _is_image(outputs):
        raise InputError(f"unit: layer {number}, {type(layer).__name__}, makes {outputs} of an image, and no images")
    if not isinstance(unit, tuple | list) or len(unit) != 2 or not all(isinstance(each, int | np.integer) for each in unit):
        raise InputTypeError(f"unit: expected (row, column), got {unit!r}")
    row, column = (int(each) for each in unit)
    if not (0 <= row < outputs[0] and 0 <= column < outputs[1]):
        raise InputError(f"unit: the outputs of layer {number} are {outputs[0]} x {outputs[1]}, got {(row, column)}")
    return row, column


def _inputs(outputs: np.ndarray, window: Window, length: int) -> np.ndarray:
    """The pixels along an axis of so many that these outputs are made of, ascending."""
    taps = outputs[:, None] * window.stride - window.before + window.dilation * np.arange(window.size)
    return np.unique(taps[(taps >= 0) & (taps < length)])
