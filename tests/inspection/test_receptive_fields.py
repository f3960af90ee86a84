"""Receptive fields against what NaN in a single pixel reaches, and the most activating images against a look at all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import ops
from fastnn.errors import InputError, InputTypeError, NotReadyError

NETWORKS: dict[str, tuple[tuple[int, ...], list[Any]]] = {
    "Nielsen's": ((12, 11), [fastnn.Conv2D(3, 5, activation="tanh"), fastnn.MaxPool2D(2), fastnn.Flatten(), fastnn.Dense(4)]),
    "padding": (
        (7, 8, 2),
        [
            fastnn.Standardizer(np.zeros(112), np.ones(112)), fastnn.Conv2D(2, (3, 2), padding="same"), fastnn.BatchNorm(),
            fastnn.Activation("tanh"), fastnn.Dropout(0.5), fastnn.MeanPool2D(3, strides=2, padding=1),
            fastnn.Conv2D(2, 3, padding=((2, 0), (1, 2))), fastnn.L2Pool2D(2, padding="same"),
        ],
    ),
    "dilation and strides": (
        (13, 14, 2),
        [
            fastnn.Augment(shift=0.1), fastnn.Conv2D(2, (3, 2), dilation=(3, 4), padding=2), fastnn.MaxPool2D((1, 2), 3),
            fastnn.Conv2D(4, 2, strides=(1, 2), groups=2, dilation=2, padding=1), fastnn.GlobalMeanPool2D(), fastnn.Dense(2),
        ],
    ),
    "padding alone": ((4, 5, 1), [fastnn.Conv2D(2, 2, padding=3), fastnn.Conv2D(2, (1, 3), strides=2, padding=(2, 4))]),
    "a rest of pixels": ((7, 9), [fastnn.MaxPool2D((2, 4)), fastnn.MaxPool2D(2), fastnn.Flatten(), fastnn.Dense(2)]),
}  # fmt: skip


def outputs_of(model: fastnn.Sequential, x: np.ndarray) -> list[np.ndarray]:
    """Of every layer, computed one after another at inference."""
    each = []
    for index, layer in enumerate(model.layers):
        arrays = {name.partition(".")[2]: values for name, values in model.weights.items() if name.startswith(f"{index}.")}
        x = layer.bound(arrays).forward(x, False)
        each.append(np.asarray(x))
    return each


def bounds(seen: np.ndarray) -> tuple[slice, slice]:
    """The smallest rows and columns with everything that is seen, (H, W)."""
    sides = (np.flatnonzero(seen.any(axis=axis)) for axis in (1, 0))
    rows, columns = (slice(int(side[0]), int(side[-1]) + 1) if len(side) else slice(0, 0) for side in sides)
    return rows, columns


@pytest.mark.parametrize("name", NETWORKS)
def test_a_unit_sees_what_nan_reaches_it_from(name: str) -> None:
    shape, layers = NETWORKS[name]
    model = fastnn.Sequential(layers, seed=0).build(shape)
    height, width = shape[:2]
    x = np.random.default_rng(0).uniform(0.5, 1.0, (height * width, *shape)).astype("float32")
    x.reshape(height * width, height * width, -1)[np.arange(height * width), np.arange(height * width)] = np.nan
    for index, outputs in enumerate(outputs_of(model, x)):
        reached = np.isnan(outputs).reshape(height, width, *outputs.shape[1:])
        if outputs.ndim < 3:
            assert fastnn.receptive_field(model, index) == bounds(reached.any(axis=2)), index
            assert reached[bounds(reached.any(axis=2))].any()
            continue
        units = reached.any(axis=4) if outputs.ndim == 4 else reached
        for unit in np.ndindex(*units.shape[2:]):
            assert fastnn.receptive_field(model, index, unit) == bounds(units[:, :, *unit]), (index, unit)
        assert fastnn.receptive_field(model, index) == bounds(units.any(axis=(2, 3))), index


def test_fields_that_are_known() -> None:
    nielsen = fastnn.Sequential([fastnn.Conv2D(20, 5), fastnn.MaxPool2D(2)], seed=0).build((28, 28))
    assert fastnn.receptive_field(nielsen, 0, (0, 0)) == (slice(0, 5), slice(0, 5))
    assert fastnn.receptive_field(nielsen, 1, (3, 4)) == (slice(6, 12), slice(8, 14))
    # VGG-16: Araujo, Norris & Sim 2019, Computing receptive fields of convolutional neural networks, table 1: 212, stride 32.
    layers: list[Any] = []
    for convolutions in (2, 2, 3, 3, 3):
        layers += [fastnn.Conv2D(1, 3, padding=1) for _ in range(convolutions)] + [fastnn.MaxPool2D(2)]
    vgg = fastnn.Sequential(layers, seed=0).build((448, 448))
    fields = [fastnn.receptive_field(vgg, len(layers) - 1, (7, column)) for column in (6, 7)]
    assert [field[1].stop - field[1].start for field in fields] == [212, 212]
    assert fields[1][1].start - fields[0][1].start == 32
    assert fields[0][0] == fields[1][0] == fields[1][1]


def mean_of(x: Any) -> Any:
    return ops.reshape(ops.mean(x, (1, 2)), (x.shape[0], 1, 1, x.shape[3]))


class Centered(fastnn.Layer):
    """Each channel less its mean over the image."""

    def forward(self, x: Any, training: bool) -> Any:
        return x - mean_of(x)


class OwnConv2D(fastnn.Conv2D):
    def forward(self, x: Any, training: bool) -> Any:
        return super().forward(x * mean_of(x), training)


def test_a_layer_that_does_not_say_looks_at_everything() -> None:
    for layer in (Centered(), OwnConv2D(2, 3)):
        model = fastnn.Sequential([layer], seed=0).build((6, 7, 1))
        assert fastnn.receptive_field(model, 0, (0, 1)) == (slice(0, 6), slice(0, 7))


def example(count: int) -> tuple[fastnn.Sequential, np.ndarray]:
    layers = [fastnn.Conv2D(3, 3, activation="tanh"), fastnn.MaxPool2D(2), fastnn.Flatten(), fastnn.Dense(5)]
    model = fastnn.Sequential(layers, seed=0, input_scale=1 / 255).build((8, 7))
    return model, np.random.default_rng(0).integers(0, 256, (count, 8, 7)).astype(np.uint8)


@pytest.mark.parametrize("count", [1, 5, 600])
def test_the_most_activating_images(count: int) -> None:
    model, images = example(count)
    outputs = outputs_of(model, images.astype("float32") / np.float32(255))
    for layer, channel in ((0, 2), (1, 0)):
        maps = outputs[layer][..., channel]
        found = fastnn.most_activating(model, images, layer, channel, 7)
        expected = sorted(range(count), key=lambda index: -maps[index].max())[:7]
        assert found.indices.tolist() == expected
        np.testing.assert_allclose(found.values, [maps[index].max() for index in expected], rtol=1e-5)
        assert found.units is not None
        for index, unit, field in zip(expected, found.units.tolist(), found.fields, strict=True):
            assert tuple(unit) == np.unravel_index(maps[index].argmax(), maps[index].shape)
            assert field == fastnn.receptive_field(model, layer, tuple(unit))
        at = fastnn.most_activating(model, images, layer, channel, 7, unit=(2, 1))
        assert at.indices.tolist() == sorted(range(count), key=lambda index: -maps[index, 2, 1])[:7]
        assert at.units is not None
        assert at.units.tolist() == [[2, 1]] * min(7, count)
    dense = fastnn.most_activating(model, images.reshape(count, 56), 3, 4, 2)
    assert dense.indices.tolist() == sorted(range(count), key=lambda index: -outputs[3][index, 4])[:2]
    assert dense.units is None
    assert dense.fields == (fastnn.receptive_field(model, 3),) * min(2, count)


def test_the_patch_alone_makes_the_answer() -> None:
    model, images = example(300)
    found = fastnn.most_activating(model, images, 1, 1, 3)
    assert found.units is not None
    for index, value, unit, field in zip(found.indices, found.values, found.units, found.fields, strict=True):
        alone = np.full_like(images[:1], 77)
        alone[0][field] = images[index][field]
        pooled = outputs_of(model, alone.astype("float32") / np.float32(255))[1]
        assert pooled[0, unit[0], unit[1], 1] == pytest.approx(value, rel=1e-5)


def test_of_equal_answers_the_first_counts() -> None:
    model, images = example(4)
    found = fastnn.most_activating(model, np.zeros_like(images), 0, 0, 3)
    assert found.indices.tolist() == [0, 1, 2]
    assert found.units is not None
    assert found.units.tolist() == [[0, 0]] * 3


def test_numbers_may_be_those_of_numpy() -> None:
    model, images = example(3)
    layer, channel, unit = np.int64(0), np.int32(1), (np.int64(2), np.int64(3))
    assert fastnn.receptive_field(model, layer, unit) == fastnn.receptive_field(model, 0, (2, 3))  # type: ignore[arg-type]
    found, same = fastnn.most_activating(model, images, layer, channel), fastnn.most_activating(model, images, 0, 1)  # type: ignore[arg-type]
    assert found.indices.tolist() == same.indices.tolist()


def test_what_cannot_be_looked_at_is_said() -> None:
    model, images = example(3)
    rows = fastnn.Sequential([fastnn.Dense(2)], seed=0).build(56)
    for wrong, error, says in (
        (lambda: fastnn.receptive_field(model, 4), InputError, "layer: expected the number of a layer, from 0 to 3, got 4"),
        (lambda: fastnn.receptive_field(model, True), InputError, "from 0 to 3, got True"),
        (lambda: fastnn.receptive_field(model, 0, (6, 0)), InputError, r"unit: the outputs of layer 0 are 6 x 5, got \(6, 0\)"),
        (lambda: fastnn.receptive_field(model, 0, (0, -1)), InputError, "unit: the outputs"),
        (lambda: fastnn.receptive_field(model, 0, 3), InputTypeError, r"unit: expected \(row, column\), got 3"),  # type: ignore[arg-type]
        (
            lambda: fastnn.receptive_field(model, 3, (0, 0)),
            InputError,
            r"unit: layer 3, Dense, makes \(5,\) of an image, and no",
        ),
        (lambda: fastnn.receptive_field(rows, 0), InputError, r"expected a model of images .* takes inputs of shape \(56,\)"),
        (lambda: fastnn.receptive_field("m", 0), InputTypeError, "model: expected a Sequential, got str"),  # type: ignore[arg-type]
        (lambda: fastnn.most_activating(model, images, 0, 3), InputError, "channel: expected a number from 0 to 2, got 3"),
        (lambda: fastnn.most_activating(model, images, 3, 5), InputError, "channel: expected a number from 0 to 4, got 5"),
        (lambda: fastnn.most_activating(model, images, 0, 0, 0), InputError, "count: expected an integer >= 1, got 0"),
        (
            lambda: fastnn.most_activating(model, images[0], 0, 0),
            InputError,
            r"expected images \(n, 8, 7\), n >= 1, got \(8, 7\)",
        ),
        (lambda: fastnn.most_activating(model, images[:0], 0, 0), InputError, r"n >= 1, got \(0, 8, 7\)"),
        (lambda: fastnn.most_activating(model, images, 3, 0, unit=(0, 0)), InputError, "unit: layer 3, Dense"),
    ):
        with pytest.raises(error, match=says):
            wrong()
    with pytest.raises(NotReadyError):
        fastnn.receptive_field(fastnn.Sequential([fastnn.Conv2D(2, 2)]), 0)
