"""Images changed at random: the kernels against each other and against other libraries, and the layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_on_host.outcomes import bodies, outcomes
from cuda_on_host.runtime import HostRuntime
from laws import FLOATS, check_kernel

import fastnn
import fastnn_kernels.numpy as numpy_set
from fastnn import engines, ops
from fastnn import random as stream
from fastnn.callbacks import Checkpoint
from fastnn.errors import InputError, InputTypeError, MissingError, TracingError
from fastnn_kernels.contract import AFFINE, TRANSFORMS, control_points
from fastnn_kernels.cuda.lowering import Ahead, Number, Request

KEY = (0x12345678, 0x9ABCDEF0)
EVERYTHING = TRANSFORMS | {
    "rotation": (-0.5, 0.5), "zoom": (0.7, 1.5), "shift_rows": (-3.0, 2.0), "shift_columns": (-40.0, 9.0), "shear": (-0.1, 0.2),
    "flip_rows": (-1.0, 1.0), "flip_columns": (-3.0, 1.0), "contrast": (0.5, 2.0), "brightness": (-0.3, 0.1),
}  # fmt: skip
SHAPES = [
    (5, 28, 28, 1, 7), (3, 31, 33, 3, 5), (2, 1, 7, 1, 0), (0, 4, 4, 1, 2), (33, 8, 5, 2, 1), (1, 1, 1, 1, 0), (2, 0, 3, 1, 0),
    (2, 17, 4, 3, 40), (31, 2, 3, 0, 2),
]  # fmt: skip
"""Images, height, width, channels, spacing of the control points."""


def row_length(height: int, width: int, spacing: int) -> int:
    return AFFINE + (2 * control_points(height, spacing) * control_points(width, spacing) if spacing else 0)


def draw(images: int, size: tuple[int, int], dtype: str = "float64", columns: int = AFFINE, step: int = 3, **ranges: Any):
    """Transforms by the definition."""
    transforms = np.full((images, columns), np.nan, dtype)
    given = tuple((TRANSFORMS | ranges).values())
    numpy_set.draw_transforms(np.array(step), transforms, key=KEY, size=size, ranges=given, pivot=0.5, amplitude=2.0)
    return transforms


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("images", "height", "width", "channels", "spacing"), SHAPES)
def test_every_set_has_the_same_bits(images: int, height: int, width: int, channels: int, spacing: int, dtype: str) -> None:
    shape, columns = (images, height, width, channels), row_length(height, width, spacing)
    attributes = {"key": KEY, "size": (height, width), "ranges": tuple(EVERYTHING.values()), "pivot": 0.3, "amplitude": 2.5}
    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    for step in (0, 2**32 - 1, 2**40 + 3):
        rows = ((images, columns), dtype)
        (drawn,) = check_kernel("draw_transforms", [np.array(step)], [rows], tolerance=64, parts=range(1, 8), **attributes)
        transforms = np.empty_like(drawn)
        numpy_set.draw_transforms(np.array(step), transforms, **attributes)
        assert drawn.tobytes() == transforms.tobytes()
        for _, outcome in outcomes("draw_transforms", [np.array(step), np.full_like(drawn, np.nan)], attributes):
            assert outcome.tobytes() == transforms.tobytes()
    for edge in (False, True):
        how = {"spacing": spacing, "fill": 0.25, "edge": edge}
        inputs, parts = [x, transforms], range(1, 8)
        (found,) = check_kernel("transform_images", inputs, [(shape, dtype)], tolerance=2000, parts=parts, cancels=True, **how)
        y = np.full_like(x, np.nan)
        numpy_set.transform_images(x, transforms, y, **how)
        assert found.tobytes() == y.tobytes()
        for *_, outcome in outcomes("transform_images", [*inputs, np.full_like(x, np.nan)], how):
            assert outcome.tobytes() == y.tobytes()


def test_kernels_in_16_bits() -> None:
    """Computed in float32, rounded once."""
    bfloat16 = np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    x = np.random.default_rng(3).normal(size=(3, 9, 7, 2)).astype(np.float32)
    transforms, how = draw(3, (9, 7), "float32", **EVERYTHING), {"spacing": 0, "fill": 0.0, "edge": True}
    expected = np.empty_like(x)
    numpy_set.transform_images(x, transforms, expected, **how)
    for *_, y in outcomes("transform_images", [x, transforms, np.ones(x.shape, bfloat16)], how):
        assert y.tobytes() == expected.astype(bfloat16).tobytes()


def test_steps_ahead_of_the_control_block(monkeypatch: pytest.MonkeyPatch) -> None:
    attributes = {"key": KEY, "size": (5, 6), "ranges": tuple(EVERYTHING.values()), "pivot": 0.0, "amplitude": 2.0}
    arrays = [np.array(5), np.empty((3, 50), np.float32)]
    (body,) = bodies("draw_transforms", arrays, attributes)
    assert [argument for argument in body.arguments if isinstance(argument, Ahead)] == [Ahead(1, 0)]
    monkeypatch.setattr(Request, "ahead", lambda call, name, unit=1: Number("i64", 3 * unit))
    expected = np.empty_like(arrays[1])
    numpy_set.draw_transforms(np.array(8), expected, **attributes)
    for _, found in outcomes("draw_transforms", arrays, attributes):
        assert found.tobytes() == expected.tobytes()


# --- what is drawn ----------------------------------------------------------------------------------------------------


def test_sines_and_cosines() -> None:
    turns = np.linspace(-0.5, 0.5, 20001)
    sine, cosine = numpy_set.augment.sine_and_cosine(turns)
    np.testing.assert_allclose(sine, np.sin(2 * np.pi * turns), rtol=0, atol=4e-16)
    np.testing.assert_allclose(cosine, np.cos(2 * np.pi * turns), rtol=0, atol=4e-16)
    assert numpy_set.augment.sine_and_cosine(np.array([0.0, 0.25, -0.25, 0.5]))[1].tolist() == [1.0, 0.0, 0.0, -1.0]


def matrices(height: float, width: float, **given: Any) -> np.ndarray:
    """The inverse of zoom, rotation, shear, flip and shift about the middle, for (n,) values each, by numpy.linalg."""
    n = len(next(iter(given.values())))
    value = {name: np.full(n, TRANSFORMS[name][0]) for name in TRANSFORMS} | given
    angle, shear = 2 * np.pi * value["rotation"], np.tan(2 * np.pi * value["shear"])
    zero, one = np.zeros(n), np.ones(n)
    rotate = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]).transpose(2, 0, 1)
    slant = np.array([[one, zero], [shear, one]]).transpose(2, 0, 1)
    flip = np.array([[np.sign(value["flip_rows"]), zero], [zero, np.sign(value["flip_columns"])]]).transpose(2, 0, 1)
    forward = value["zoom"][:, None, None] * (rotate @ slant @ flip)
    middle = np.array([(height - 1) / 2, (width - 1) / 2])
    shift = np.stack([value["shift_rows"], value["shift_columns"]], axis=1)
    inverse = np.linalg.inv(forward)
    return np.concatenate([inverse, (middle - (inverse @ (middle + shift)[..., None])[..., 0])[..., None]], axis=2)


def test_numbers_are_those_of_the_stream() -> None:
    """Words of the stream, ranges and matrices put together in the plainest way."""
    height, width, spacing, images = 9, 7, 4, 10
    columns = row_length(height, width, spacing)
    blocks = -(-(12 + columns - AFFINE) // 4)
    uniforms = stream.uniform(KEY, 3, (images, 4 * blocks), np.float64)
    expected = {name: low + (high - low) * uniforms[:, k] for k, (name, (low, high)) in enumerate(EVERYTHING.items())}
    found = draw(images, (height, width), columns=columns, **EVERYTHING)
    gain = expected.pop("contrast")
    np.testing.assert_allclose(found[:, 6], gain, rtol=1e-15)
    np.testing.assert_allclose(found[:, 7], 0.5 - 0.5 * gain + expected.pop("brightness"), rtol=0, atol=1e-15)
    np.testing.assert_allclose(found[:, :6].reshape(-1, 2, 3), matrices(height, width, **expected), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found[:, AFFINE:], 2 * (2 * uniforms[:, 12 : 12 + columns - AFFINE] - 1), rtol=1e-15)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_numbers_are_uniform_in_their_range(name: str) -> None:
    """Extremes, mean and variance over 10,000 images; and images, steps and numbers do not go together."""
    low, high = EVERYTHING[name]
    rows = draw(10_000, (8, 6), **{name: (low, high)})
    m00, m01, m02, m10, _, m12, gain, offset = rows.T
    values = {
        "rotation": np.arctan2(m01, m00) / (2 * np.pi),
        "zoom": 1 / m00,
        "shift_rows": -m02,
        "shift_columns": -m12,
        "shear": np.arctan(-m10) / (2 * np.pi),
        "contrast": gain,
        "brightness": offset,
    }
    if name in ("flip_rows", "flip_columns"):
        flipped = (m00 if name == "flip_rows" else rows[:, 4]) == -1
        share = -low / (high - low)
        assert abs(flipped.mean() - share) < 4 * np.sqrt(share * (1 - share) / 10_000)
        return
    value = values[name]
    assert low - 1e-12 <= value.min() < low + 0.001 * (high - low)
    assert high - 0.001 * (high - low) < value.max() <= high + 1e-12
    assert abs(value.mean() - (low + high) / 2) < 4 * (high - low) / np.sqrt(12 * 10_000)
    assert abs(value.std() - (high - low) / np.sqrt(12)) < 0.02 * (high - low) / np.sqrt(12)
    assert abs(np.corrcoef(value[1:], value[:-1])[0, 1]) < 0.05
    others = draw(10_000, (8, 6), step=4, **{name: (low, high)})
    assert not (rows == others).all(axis=1).any()


def test_numbers_do_not_depend_on_each_other() -> None:
    rows = draw(
        10_000, (8, 6), **{name: EVERYTHING[name] for name in ("shift_rows", "shift_columns", "contrast", "brightness")}
    )
    brightness = rows[:, 7] - (0.5 - 0.5 * rows[:, 6])
    together = np.corrcoef([rows[:, 2], rows[:, 5], rows[:, 6], brightness])
    assert np.abs(together - np.eye(4)).max() < 0.05


# --- each transform alone ---------------------------------------------------------------------------------------------


def images(channels: int = 0, n: int = 6, height: int = 12, width: int = 9, dtype: str = "float64") -> np.ndarray:
    shape = (n, height, width, channels) if channels else (n, height, width)
    return np.random.default_rng(7).normal(size=shape).astype(dtype)


@pytest.mark.parametrize("channels", [0, 1, 3])
def test_flips_are_exact(channels: int) -> None:
    for dtype in FLOATS:
        x = images(channels, dtype=dtype)
        np.testing.assert_array_equal(ops.augment(x, KEY, 0, flip_columns=(-1, -1)), np.flip(x, 2))
        np.testing.assert_array_equal(ops.augment(x, KEY, 0, flip_rows=(-1, -1)), np.flip(x, 1))
        np.testing.assert_array_equal(ops.augment(x, KEY, 0, flip_rows=(-1, -1), flip_columns=(-1, -1)), np.flip(x, (1, 2)))
        some = ops.augment(x, KEY, 5, flip_columns=(-1, 1))
        assert {(a == b).all() for a, b in zip(some, x, strict=True)} == {True, False}
        for a, b in zip(some, x, strict=True):
            assert (a == b).all() or (a == np.flip(b, 1)).all()


def test_what_changes_nothing() -> None:
    for dtype in FLOATS:
        x = images(2, dtype=dtype)
        for fill in (5.0, "edge"):
            np.testing.assert_array_equal(ops.augment(x, KEY, 1, fill=fill), x)


def test_whole_shifts_and_turns_are_exact() -> None:
    x = images()
    shifted = ops.augment(x, KEY, 0, shift_rows=(2, 2), shift_columns=(-3, -3), fill=9.0)
    np.testing.assert_array_equal(shifted[:, 2:, :-3], x[:, :-2, 3:])
    assert (shifted[:, :2] == 9).all()
    assert (shifted[:, :, -3:] == 9).all()
    clamped = ops.augment(x, KEY, 0, shift_rows=(2, 2), fill="edge")
    np.testing.assert_array_equal(clamped, x[:, [0, 0, *range(10)]])
    square = images(height=8, width=8)
    np.testing.assert_array_equal(ops.augment(square, KEY, 0, rotation=(0.25, 0.25)), np.rot90(square, -1, axes=(2, 1)))
    np.testing.assert_array_equal(ops.augment(square, KEY, 0, rotation=(0.5, 0.5)), np.flip(square, (1, 2)))


@pytest.mark.parametrize("fill", [0.0, 0.7, "edge"])
@pytest.mark.parametrize("channels", [0, 3])
@pytest.mark.parametrize("name", ["rotation", "zoom", "shift_rows", "shift_columns", "shear", "all"])
def test_affine_maps_against_scipy(name: str, channels: int, fill: float | str) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    x = images(channels)
    chosen = EVERYTHING if name == "all" else {name: EVERYTHING[name]}
    ranges = {name: pair for name, pair in chosen.items() if name not in ("contrast", "brightness")}
    found = ops.augment(x, KEY, 3, fill=fill, **ranges)
    mode, value = ("nearest", 0.0) if fill == "edge" else ("grid-constant", fill)
    for image, y, row in zip(x, found, draw(len(x), x.shape[1:3], **ranges), strict=True):
        matrix = row[:6].reshape(2, 3)
        for of, result in zip(np.moveaxis(np.atleast_3d(image), 2, 0), np.moveaxis(np.atleast_3d(y), 2, 0), strict=True):
            expected = ndimage.affine_transform(of, matrix[:, :2], matrix[:, 2], order=1, mode=mode, cval=value)
            np.testing.assert_allclose(result, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("smoothness", [1, 3, 5, 40])
def test_distortion_against_scipy(smoothness: int) -> None:
    """The displacements are SciPy's B-splines of the control points, and what they find is SciPy's interpolation."""
    interpolate, ndimage = pytest.importorskip("scipy.interpolate"), pytest.importorskip("scipy.ndimage")
    x = images()
    _, height, width = x.shape
    found = ops.augment(x, KEY, 3, distortion=2.0, smoothness=smoothness)
    rows, columns = control_points(height, smoothness), control_points(width, smoothness)
    points = draw(len(x), (height, width), columns=AFFINE + 2 * rows * columns)[:, AFFINE:].reshape(-1, rows, columns, 2)
    assert 1 < np.abs(points).max() <= 2

    def spline(values: np.ndarray, length: int, axis: int) -> np.ndarray:
        knots = np.arange(-3.0, values.shape[axis] + 1)
        return interpolate.BSpline(knots, np.moveaxis(values, axis, 0), 3)(np.arange(length) / smoothness)

    for image, y, grid in zip(x, found, points, strict=True):
        field = np.moveaxis(spline(spline(grid, height, 0), width, 1), 0, 1)
        assert np.abs(field).max() <= 2
        places = np.mgrid[:height, :width] + np.moveaxis(field, 2, 0)
        expected = ndimage.map_coordinates(image, places, order=1, mode="grid-constant")
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-11)


def test_contrast_and_brightness() -> None:
    x = images(3)
    found = ops.augment(x, KEY, 2, pivot=0.5, contrast=(0.5, 2.0), brightness=(-0.2, 0.3))
    rows = draw(len(x), x.shape[1:3], step=2, contrast=(0.5, 2.0), brightness=(-0.2, 0.3))
    gain = rows[:, 6].reshape(-1, 1, 1, 1)
    brightness = rows[:, 7].reshape(-1, 1, 1, 1) - 0.5 * (1 - gain)
    np.testing.assert_allclose(found, (x - 0.5) * gain + 0.5 + brightness, rtol=0, atol=1e-14)
    np.testing.assert_allclose(ops.augment(x, KEY, 2, brightness=(0.25, 0.25)), x + 0.25, rtol=1e-15)


def test_a_transform_depends_on_its_place_step_and_key_alone() -> None:
    x = np.repeat(images(n=1, dtype="float32"), 40, axis=0)
    ranges = {"rotation": (-0.1, 0.1), "shift_rows": (-2.0, 2.0)}
    whole = ops.augment(x, KEY, 3, distortion=2.0, **ranges)
    assert ops.augment(x[:17], KEY, 3, distortion=2.0, **ranges).tobytes() == whole[:17].tobytes()
    assert len({y.tobytes() for y in whole}) == 40
    for key, step in ((KEY, 4), (KEY, 3 + 2**32), (KEY[::-1], 3)):
        assert not (ops.augment(x, key, step, distortion=2.0, **ranges) == whole).all(axis=(1, 2)).any()


# --- the layer --------------------------------------------------------------------------------------------------------

STRONG: dict[str, Any] = {
    "horizontal_flip": True, "rotation": 20, "zoom": 0.2, "shift": (0.1, 0.2), "shear": 5, "distortion": 2.0, "smoothness": 3,
    "brightness": 0.1, "contrast": (0.8, 1.1), "fill": "edge",
}  # fmt: skip


def data(n: int = 70, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    return rng.integers(0, 256, (n, *(shape or (9, 8)))).astype(np.uint8), rng.integers(0, 3, n)


def model(layer: fastnn.Layer | None = None, dtype: str = "float32") -> fastnn.Sequential:
    layers = [layer or fastnn.Augment(**STRONG), fastnn.Flatten(), fastnn.Dense(7, activation="tanh"), fastnn.Dense(3)]
    return fastnn.Sequential(layers, seed=4, dtype=dtype, input_scale=1 / 255)


def trained(made: fastnn.Sequential, x: np.ndarray, y: np.ndarray, **options: Any) -> dict[str, bytes]:
    made.fit(x, y, **{"batch_size": 16, "epochs": 3, "verbose": 0, **options})
    return {name: weight.tobytes() for name, weight in made.weights.items()}


def test_a_step_trains_on_changed_images() -> None:
    """One step of gradient descent from weights of zero: the weights are those images' mean gradient, by NumPy."""
    x, y = data(16)
    layer = fastnn.Augment(**STRONG)
    made = fastnn.Sequential([layer, fastnn.Flatten(), fastnn.Dense(3, weight_init="zeros")], seed=4, dtype="float64")
    made.fit(x / 255, y, batch_size=16, epochs=1, optimizer=fastnn.SGD(1.0), verbose=0)
    order = stream.permutation(stream.key(4, stream.SHUFFLE), 0, 16)
    seen = layer.examples(x[order] / 255, seed=4).reshape(16, -1)
    expected = seen.T @ (np.eye(3)[y[order]] - 1 / 3) / 16
    np.testing.assert_allclose(made.weights["2.weight"], expected, rtol=1e-12, atol=1e-14)


def test_inference_leaves_images_alone() -> None:
    x, y = data()
    augmented, plain = model(), fastnn.Sequential(model().layers[1:], seed=0, input_scale=1 / 255)
    assert trained(augmented, x, y) != trained(model(fastnn.Augment()), x, y)
    trained(plain, x, y)
    plain.set_weights({f"{int(name[0]) - 1}{name[1:]}": weight for name, weight in augmented.weights.items()})
    np.testing.assert_array_equal(augmented(x), plain(x))
    np.testing.assert_array_equal(augmented.predict(x), plain.predict(x))
    assert augmented.evaluate(x, y) == plain.evaluate(x, y)


@pytest.mark.parametrize("dtype", FLOATS)
def test_engines_agree(dtype: str, cuda_host: HostRuntime) -> None:
    """The images that a step sees have the same bits on every engine, recorded or computed at once."""
    from fastnn.program.shapes import B
    from fastnn.program.trace import Trace

    x = np.random.default_rng(0).random((33, 9, 8, 2)).astype(dtype)
    layer = fastnn.Augment(**STRONG)
    expected = layer.examples(x, seed=1, step=6)
    for device in ("numpy", "cpu", "cuda"):
        trace = Trace(dtype)
        symbols = trace.input("x", (B, 9, 8, 2)), trace.input("step", (), "int64")
        values = {"key": stream.key(1, stream.AUGMENTATION), "step": symbols[1]}
        program = trace.program({"y": layer.bound(values).forward(symbols[0], True)})
        instance = engines.instantiate(program, 33, device)
        instance.bind(x=instance.engine.to_device(x), step=instance.engine.to_device(np.array(6)))
        instance.play()
        (found,) = instance.engine.read(instance.output("y"))
        assert found.tobytes() == expected.tobytes(), device


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 5, 6, 7])
def test_threads_do_not_change_bits(threads: int) -> None:
    x, y = data()
    assert trained(model(), x, y, threads=threads) == trained(model(), x, y, threads=1)


def test_flat_inputs_are_the_same_as_images() -> None:
    x, y = data()
    flat = model(fastnn.Augment(**STRONG, shape=(9, 8)))
    assert trained(flat, x.reshape(70, -1), y) == trained(model(), x, y)
    x, y = data(70, 5, 4, 3)
    flat = model(fastnn.Augment(**STRONG, shape=(5, 4, 3)))
    assert trained(flat, x.reshape(70, -1), y) == trained(model(), x, y)


def test_saved_and_loaded(tmp_path: Path) -> None:
    x, y = data()
    made = model()
    trained(made, x, y)
    made.save(tmp_path / "model.fastnn", optimizer=True)
    again = fastnn.load(tmp_path / "model.fastnn")
    assert repr(again.layers[0]) == repr(made.layers[0])
    assert again.layers[0].config() == made.layers[0].config()
    assert trained(again, x, y) == trained(made, x, y)


def test_a_resumed_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    x, y = data()
    expected = trained(model(), x, y, epochs=4)
    trained(model(), x, y, epochs=2, callbacks=[Checkpoint(tmp_path)])
    assert trained(model(), x, y, epochs=4, callbacks=[Checkpoint(tmp_path)], resume=True) == expected


def test_keys_are_of_their_own_purpose() -> None:
    assert fastnn.Augment.purpose == stream.AUGMENTATION != fastnn.Dropout.purpose == stream.DROPOUT
    made = fastnn.Sequential([fastnn.Augment(shape=(2, 2)), fastnn.Dropout(0.5), fastnn.Dense(1)], seed=9).build(4)
    expected = [stream.key(9, purpose, index) for index, purpose in enumerate((stream.AUGMENTATION, stream.DROPOUT))]
    assert list(made.network.keys[:2]) == expected


def test_a_gradient_of_images_is_refused() -> None:
    x, y = data()
    behind = [fastnn.Flatten(), fastnn.Dense(16), fastnn.Augment(shape=(4, 4)), fastnn.Dense(3)]
    with pytest.raises(TracingError, match="in front of every layer with parameters"):
        trained(fastnn.Sequential(behind, seed=0), x, y)
    scaled = model(fastnn.Standardizer().fit(x))
    scaled = fastnn.Sequential([*scaled.layers[:1], fastnn.Augment(rotation=5), *scaled.layers[1:]], seed=0)
    trained(scaled, x, y, epochs=1)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"horizontal_flip": 1}, "horizontal_flip"), ({"vertical_flip": "y"}, "vertical_flip"), ({"rotation": -1}, "rotation"),
        ({"rotation": 181}, "180"), ({"rotation": (1, 2)}, "rotation"), ({"zoom": 1.0}, "zoom"), ({"zoom": (1.2, 0.8)}, "zoom"),
        ({"zoom": (0.5, 1.0, 2.0)}, "zoom"), ({"zoom": "a"}, "zoom"), ({"zoom": -0.1}, "zoom"), ({"shift": 1.5}, "shift"),
        ({"shift": (0.1, "a")}, "shift"), ({"shift": (0.1, 0.1, 0.1)}, "shift"), ({"shear": 90}, "shear"),
        ({"distortion": -1}, "distortion"), ({"distortion": float("nan")}, "distortion"), ({"smoothness": 0}, "smoothness"),
        ({"smoothness": 2.5}, "smoothness"), ({"brightness": float("inf")}, "brightness"), ({"contrast": (-1, 1)}, "contrast"),
        ({"contrast": True}, "contrast"), ({"pivot": None}, "pivot"), ({"fill": "reflect"}, "edge"), ({"fill": np.nan}, "fill"),
        ({"shape": 28}, "shape"), ({"shape": (28,)}, "shape"), ({"shape": (28, 0)}, "shape"), ({"shape": (4.0, 4)}, "shape"),
        ({"shape": "ab"}, "shape"),
    ],
)  # fmt: skip
def test_wrong_options(options: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        fastnn.Augment(**options)


def test_wrong_inputs() -> None:
    with pytest.raises(InputError, match=r"shape=\(28, 28\)"):
        model().build(72)
    with pytest.raises(InputError, match="does not fit"):
        model(fastnn.Augment(shape=(4, 4))).build(72)
    with pytest.raises(InputError, match=r"\(B, H, W\)"):
        ops.augment(np.ones((3, 4)), KEY, 0)
    with pytest.raises(InputTypeError, match="uint8"):
        ops.augment(np.ones((3, 4, 4), np.uint8), KEY, 0)
    with pytest.raises(InputError, match="zoom"):
        ops.augment(np.ones((3, 4, 4)), KEY, 0, zom=(1, 1))
    for ranges in ({"zoom": (0, 1)}, {"zoom": 1}, {"shear": (0, 0.25)}, {"rotation": (0, 0.6)}, {"shift_rows": (2, 1)},
                   {"contrast": (0, float("nan"))}):  # fmt: skip
        with pytest.raises(InputError, match=next(iter(ranges))):
            ops.augment(np.ones((3, 4, 4)), KEY, 0, **ranges)
    with pytest.raises(MissingError, match="key"):
        fastnn.Augment().forward(np.ones((3, 4, 4)), True)


def test_printed() -> None:
    assert repr(fastnn.Augment()) == "Augment()"
    assert repr(fastnn.Augment(rotation=10, zoom=(0.9, 1.2))) == "Augment(rotation=10.0, zoom=(0.9, 1.2))"
