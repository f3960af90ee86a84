"""Pictures of models, activations and searches: what is drawn is what was given, and what cannot be drawn is said."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

import fastnn
from fastnn import ops, plots
from fastnn.errors import InputError, InputTypeError, NotReadyError

pytest.importorskip("matplotlib")
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure

X = np.array([(0, 0), (0, 1), (1, 0), (1, 1)], "float32")


def own() -> Axes:
    return Figure().subplots()


def classifier(outputs: int, labels: Any = None) -> fastnn.Sequential:
    """A classifier of points, trained for a moment so that it knows its labels; its weights are set by the tests."""
    model = fastnn.Sequential([fastnn.Dense(outputs)], seed=0)
    y = np.arange(4) % max(2, outputs) if labels is None else labels
    model.fit(
        X, y, loss="sigmoid_cross_entropy" if outputs == 1 else "softmax_cross_entropy", epochs=1, batch_size=4, verbose=0
    )
    return model


def contours(axes: Axes) -> list[QuadContourSet]:
    return [c for c in axes.collections if isinstance(c, QuadContourSet)]


# --- costs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epochs", "steps"), [(1, 3), (2, 6), (30, 90)])
def test_mini_batches_lie_under_the_epochs_that_they_belong_to(epochs: int, steps: int) -> None:
    losses = np.linspace(2.0, 1.0, steps)
    axes = plots.cost_curves({"loss": losses.reshape(epochs, -1).mean(axis=1).tolist()}, steps=losses)
    bold, thin = axes.get_lines()
    assert list(bold.get_xdata()) == list(range(1, epochs + 1))
    assert np.allclose(thin.get_xdata(), np.arange(1, steps + 1) * epochs / steps)
    assert list(thin.get_ydata()) == list(losses)
    assert thin.get_linewidth() < bold.get_linewidth()
    assert (bold.get_marker() == "o") == (epochs <= 20)
    assert axes.get_xlabel() == "epoch"


def test_mini_batches_without_a_whole_epoch_are_counted() -> None:
    mine = own()
    assert plots.cost_curves({}, mine, steps=[3.0, 2.0]) is mine
    (line,) = mine.get_lines()
    assert (list(line.get_xdata()), mine.get_xlabel()) == ([1.0, 2.0], "mini-batch")
    assert plots.cost_curves({"loss": []}, steps=[]).get_xlabel() == "mini-batch"


@pytest.mark.parametrize("losses", [np.ones(5), np.ones((2, 3))])
def test_losses_that_are_not_those_of_the_epochs_are_refused(losses: np.ndarray) -> None:
    with pytest.raises(InputError, match="as many losses in each of 2 epochs"):
        plots.cost_curves({"loss": [1.0, 0.5]}, steps=losses)


def test_step_losses_are_those_of_the_history() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((70, 3)).astype("float32"), rng.integers(0, 2, 70)
    steps = fastnn.callbacks.StepLosses()
    model = fastnn.Sequential([fastnn.Dense(2)], seed=0, dtype="float64")
    history = model.fit(x, y, batch_size=16, epochs=3, callbacks=[steps], verbose=0)
    assert steps.losses.shape == (15,)
    mean = steps.losses.reshape(3, 5) @ np.array([16, 16, 16, 16, 6]) / 70
    assert np.allclose(mean, history["loss"], rtol=1e-12)
    single = fastnn.Sequential([fastnn.Dense(2)], seed=0, dtype="float64")
    whole = single.fit(x, y, batch_size="all", epochs=4, callbacks=[steps], verbose=0)
    assert steps.losses.tolist() == whole["loss"]


def test_step_losses_of_a_run_that_is_gone_on_with(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((70, 3)).astype("float32"), rng.integers(0, 2, 70)

    def run(epochs: int, *callbacks: Any, **options: Any) -> None:
        model = fastnn.Sequential([fastnn.Dense(2)], seed=0)
        model.fit(x, y, batch_size=16, epochs=epochs, callbacks=callbacks, verbose=0, **options)

    class Fault(fastnn.callbacks.Callback):
        every = 7

        def step_end(self, run: Any) -> None:
            raise RuntimeError("the power is off")

    whole, parts = fastnn.callbacks.StepLosses(), fastnn.callbacks.StepLosses()
    run(4, whole)
    with pytest.raises(RuntimeError, match="power"):
        run(4, fastnn.callbacks.StepLosses(), fastnn.callbacks.Checkpoint(tmp_path / "run"), Fault())
    run(4, parts, fastnn.callbacks.Checkpoint(tmp_path / "run"), resume=True)
    assert parts.losses.tolist() == whole.losses.tolist()


# --- a plane --------------------------------------------------------------------------------------------------------


def test_the_boundary_of_two_classes_is_where_the_probability_is_a_half() -> None:
    model = classifier(1)
    model.set_weights({"0.weight": np.array([[2.0], [0.0]], "float32"), "0.bias": np.array([-1.0], "float32")})
    mine = own()
    assert plots.decision_boundary(model, X, np.array([0, 0, 1, 1]), ax=mine) is mine
    filled, line = contours(mine)
    assert filled.levels.tolist() == np.linspace(0, 1, 11).tolist()
    assert line.levels.tolist() == [0.5]
    vertices = np.concatenate([path.vertices for path in line.get_paths()])
    assert np.allclose(vertices[:, 0], 0.5, atol=1e-3)
    drawn = [c.get_offsets() for c in mine.collections if not isinstance(c, QuadContourSet)]
    assert np.array_equal(np.concatenate(drawn), X)
    assert [text.get_text() for text in mine.get_legend().get_texts()] == ["0", "1"]
    assert (mine.get_xlabel(), mine.get_ylabel()) == ("x1", "x2")


def test_the_boundaries_of_three_classes_part_the_most_probable() -> None:
    model = classifier(3, np.array(["a", "b", "c", "c"]))
    weight = np.array([(-4.0, 0.0, 4.0), (0.0, 0.0, 0.0)], "float32")
    model.set_weights({"0.weight": weight, "0.bias": np.array([1.0, 0.0, -3.0], "float32")})  # a < 1/4 < b < 3/4 < c
    axes = plots.decision_boundary(model, X, np.array(["a", "b", "c", "c"]), resolution=101)
    _, *lines = contours(axes)
    assert len(lines) == 3
    crossed = [{round(float(x), 2) for path in line.get_paths() for x in path.vertices[:, 0]} for line in lines]
    assert crossed == [{0.25}, {0.25, 0.75}, {0.75}]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b", "c"]


def test_a_plane_of_one_class_has_no_line() -> None:
    model = classifier(1)
    model.set_weights({"0.weight": np.zeros((2, 1), "float32"), "0.bias": np.array([3.0], "float32")})
    assert len(contours(plots.decision_boundary(model, X[:1], [1]))) == 1


def test_what_has_no_boundary_is_an_error() -> None:
    model = classifier(1)
    with pytest.raises(InputTypeError, match="expected a Sequential, got int"):
        plots.decision_boundary(3, X, [0, 0, 1, 1])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="two features"):
        plots.decision_boundary(model, np.ones((4, 3)), [0, 0, 1, 1])
    with pytest.raises(InputError, match=r"expected X \(n, 2\) and y \(n,\)"):
        plots.decision_boundary(model, X, [0, 1])
    with pytest.raises(InputError, match="7"):
        plots.decision_boundary(model, X, [0, 0, 1, 7])
    with pytest.raises(InputError, match="resolution"):
        plots.decision_boundary(model, X, [0, 0, 1, 1], resolution=1)
    with pytest.raises(NotReadyError, match="call fit"):
        plots.decision_boundary(fastnn.Sequential([fastnn.Dense(1)]), X, [0, 0, 1, 1])
    with pytest.raises(NotReadyError, match="trained to classify"):
        plots.decision_boundary(fastnn.Sequential([fastnn.Dense(1)]).build(2), X, [0, 0, 1, 1])
    wide = fastnn.Sequential([fastnn.Dense(1)]).build(3)
    with pytest.raises(InputError, match=r"two features.*'n', 3"):
        plots.decision_boundary(wide, X, [0, 0, 1, 1])


# --- activations ----------------------------------------------------------------------------------------------------

Z = np.linspace(-3.0, 3.0, 601)


@pytest.mark.parametrize(
    ("name", "alpha", "value", "slope"),
    [
        ("step", None, Z > 0, 0 * Z),
        ("identity", None, Z, 0 * Z + 1),
        ("sigmoid", None, 1 / (1 + np.exp(-Z)), np.exp(-Z) / (1 + np.exp(-Z)) ** 2),
        ("tanh", None, np.tanh(Z), 1 / np.cosh(Z) ** 2),
        ("relu", None, np.maximum(Z, 0), Z > 0),
        ("leaky_relu", 0.2, np.where(Z > 0, Z, 0.2 * Z), np.where(Z > 0, 1, 0.2)),
        ("elu", None, np.where(Z > 0, Z, np.expm1(Z)), np.where(Z > 0, 1, np.exp(Z))),
        ("softplus", None, np.log1p(np.exp(Z)), 1 / (1 + np.exp(-Z))),
    ],
)
def test_activations_and_their_derivatives(name: str, alpha: float | None, value: np.ndarray, slope: np.ndarray) -> None:
    mine = own()
    assert plots.activation(name, alpha, reach=3.0, ax=mine) is mine
    solid, dashed = mine.get_lines()
    assert np.allclose(solid.get_xdata(), Z, atol=1e-12)
    away = np.abs(Z) > 1e-9
    assert np.allclose(solid.get_ydata()[away], value[away], atol=1e-12)
    assert np.allclose(dashed.get_ydata()[away], slope[away], atol=1e-12)
    assert (solid.get_linestyle(), dashed.get_linestyle(), solid.get_label()) == ("-", "--", name)
    assert mine.get_xlabel() == "z"


def test_several_activations_have_colors_of_their_own() -> None:
    lines = plots.activation(["sigmoid", "tanh", "leaky_relu"], 0.3).get_lines()
    assert len(lines) == 6
    assert len({line.get_color() for line in lines}) == 3
    assert lines[4].get_ydata()[0] == pytest.approx(-1.2)


def test_what_is_no_activation_is_an_error() -> None:
    with pytest.raises(InputError, match="did you mean 'sigmoid'"):
        plots.activation("sigmod")
    with pytest.raises(InputError, match="has no curve"):
        plots.activation(["relu", "softmax"])
    with pytest.raises(InputError, match="got none"):
        plots.activation([])
    with pytest.raises(InputError, match="reach"):
        plots.activation("relu", reach=0.0)


# --- over a training ------------------------------------------------------------------------------------------------


def flow(n: int) -> SimpleNamespace:
    values = 10.0 ** -np.arange(3) * np.ones((n, 3))
    return SimpleNamespace(
        steps=np.arange(n) * 5, layers=["0", "1", "2"], activations=values + 1, gradients=values, updates=0 * values
    )


@pytest.mark.parametrize("n", [0, 1, 40])
def test_gradient_flow_is_a_line_a_layer(n: int) -> None:
    mine, given = own(), flow(n)
    assert plots.gradient_flow(given, ax=mine) is mine
    lines = mine.get_lines()
    assert [line.get_label() for line in lines] == ["0", "1", "2"]
    for line, column in zip(lines, given.gradients.T, strict=True):
        assert list(line.get_ydata()) == list(column)
        assert list(line.get_xdata()) == list(given.steps)
    assert mine.get_yscale() == "log"
    assert "gradients" in mine.get_ylabel()
    assert plots.gradient_flow(given, "activations").get_lines()[0].get_ydata().tolist() == given.activations[:, 0].tolist()


def test_of_many_layers_the_first_and_the_last_are_named() -> None:
    many = SimpleNamespace(steps=np.arange(2), layers=[str(i) for i in range(20)], gradients=np.ones((2, 20)))
    legend = plots.gradient_flow(many).get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["0", "19"]


def test_gradient_flow_of_zeros_and_of_other_things() -> None:
    assert np.isnan(plots.gradient_flow(flow(2), "updates").get_lines()[0].get_ydata()).all()
    with pytest.raises(InputError, match="did you mean 'gradients'"):
        plots.gradient_flow(flow(2), "gradient")
    wrong = flow(2)
    wrong.gradients = np.ones((3, 2))
    with pytest.raises(InputError, match=r"expected shape \(2, 3\), got \(3, 2\)"):
        plots.gradient_flow(wrong)


def test_learning_rate_finder() -> None:
    rates = np.geomspace(1e-4, 1, 9)
    smoothed = np.array([2, 2, 1.8, 1.4, 1.0, 0.8, 1.5, 4, 900])
    result = SimpleNamespace(rates=rates, losses=smoothed + 0.1, smoothed=smoothed, suggestion=1e-2)
    mine = own()
    assert plots.learning_rate_finder(result, ax=mine) is mine
    thin, bold, upright = mine.get_lines()
    assert list(thin.get_ydata()) == list(result.losses)
    assert list(bold.get_ydata()) == list(smoothed)
    assert list(bold.get_xdata()) == list(rates)
    assert list(upright.get_xdata()) == [1e-2, 1e-2]
    assert mine.get_ylim()[1] < 3
    assert (mine.get_xscale(), mine.get_xlabel()) == ("log", "learning rate")
    result.suggestion = None
    assert len(plots.learning_rate_finder(result).get_lines()) == 2
    result.losses = result.losses[1:]
    with pytest.raises(InputError, match="of one shape"):
        plots.learning_rate_finder(result)


# --- weights, mistakes ----------------------------------------------------------------------------------------------


def test_confusion_matrix_counts_rows_of_the_true_class() -> None:
    mine = own()
    y, found = np.array(["a", "a", "b", "c", "c"]), np.array(["a", "b", "b", "a", "c"])
    assert plots.confusion_matrix(y, found, ax=mine) is mine
    assert [text.get_text() for text in mine.texts] == ["1", "1", "0", "0", "1", "0", "1", "0", "1"]
    assert mine.images[0].get_array()[0].tolist() == [0.5, 0.5, 0.0]
    assert (mine.get_xlabel(), mine.get_ylabel()) == ("predicted", "true")
    assert [label.get_text() for label in mine.get_yticklabels()] == ["a", "b", "c"]
    named = plots.confusion_matrix([1, 0], [1, 1], classes=[1, 0, 5])
    assert [text.get_text() for text in named.texts] == ["1", "0", "0", "1", "0", "0", "0", "0", "0"]
    with pytest.raises(InputError, match="expected labels"):
        plots.confusion_matrix([1, 0], [1])
    with pytest.raises(InputError):
        plots.confusion_matrix([1, 2], [1, 3], classes=[1, 2])


def test_weight_histograms_are_densities() -> None:
    model = fastnn.Sequential([fastnn.Dense(30, activation="relu"), fastnn.Dense(5)], seed=1).build(40)
    mine = own()
    assert plots.weight_histograms(model, bins=20, ax=mine) is mine
    first, second = mine.patches
    for patch, name in ((first, "0.weight"), (second, "1.weight")):
        values, edges, _ = patch.get_data()
        assert patch.get_label() == name
        assert (values * np.diff(edges)).sum() == pytest.approx(1.0)
        assert np.allclose(values, np.histogram(model.weights[name], edges, density=True)[0])
    with pytest.raises(NotReadyError):
        plots.weight_histograms(fastnn.Sequential([fastnn.Dense(3)]))
    with pytest.raises(InputError, match="bins: expected an integer >= 1, got 0"):
        plots.weight_histograms(model, bins=0)
    with pytest.raises(InputError, match="no weights"):
        plots.weight_histograms(fastnn.Sequential([fastnn.Activation("relu")]).build(3))


def image_classifier() -> tuple[fastnn.Sequential, np.ndarray, np.ndarray]:
    """Takes the brighter half of 2 x 2 images, upper (0) or lower (1)."""
    images = np.array([[[9, 0], [0, 0]], [[0, 0], [9, 9]], [[5, 0], [1, 0]], [[0, 3], [3, 9]]], "float32")
    model = fastnn.Sequential([fastnn.Dense(2)], seed=0)
    model.fit(images.reshape(4, 4), [0, 1, 0, 1], epochs=1, batch_size=4, verbose=0)
    weight = np.array([(1, 0), (1, 0), (0, 1), (0, 1)], "float32")
    model.set_weights({"0.weight": weight, "0.bias": np.zeros(2, "float32")})
    return model, images, np.array([1, 1, 1, 1])


def test_the_surest_mistakes_come_first() -> None:
    model, images, y = image_classifier()
    mine = own()
    assert plots.misclassified(model, images, y, ax=mine) is mine
    assert [text.get_text() for text in mine.texts] == ["1 > 0", "1 > 0"]
    assert [picture.get_array().tolist() for picture in mine.images] == [images[0].tolist(), images[2].tolist()]
    assert mine.get_title() == "2 of 4 wrong; true > predicted"
    one = plots.misclassified(model, images.reshape(4, 4), y, 1)
    assert [picture.get_array().tolist() for picture in one.images] == [images[0].tolist()]
    assert not plots.misclassified(model, images, [0, 1, 0, 1]).images
    with pytest.raises(InputError, match="count"):
        plots.misclassified(model, images, y, 0)
    with pytest.raises(InputError, match="expected images"):
        plots.misclassified(model, images[:, :1], y)
    with pytest.raises(NotReadyError):
        plots.misclassified(fastnn.Sequential([fastnn.Dense(2)]).build(4), images, y)


def test_weights_as_images() -> None:
    model, _, _ = image_classifier()
    axes = plots.weights_as_images(model)
    assert [picture.get_array().tolist() for picture in axes.images] == [[[1, 1], [0, 0]], [[0, 0], [1, 1]]]
    assert axes.images[0].get_clim()[0] == -axes.images[0].get_clim()[1]
    red, _, blue, _ = axes.images[0].to_rgba(-np.ones((1, 1)))[0, 0]
    assert red > blue
    assert axes.get_title() == "0.weight of 2 of 2 units; orange is below 0, violet above"
    assert plots.weights_as_images(model, shape=(1, 4), count=1).images[0].get_array().shape == (1, 4)
    with pytest.raises(InputError, match=r"no weights .* 'weight'; did you mean '0.weight'"):
        plots.weights_as_images(model, "weight")
    with pytest.raises(InputError, match=r"H W = 4, got \(3, 2\)"):
        plots.weights_as_images(model, shape=(3, 2))
    with pytest.raises(InputError, match="not square"):
        plots.weights_as_images(fastnn.Sequential([fastnn.Dense(2)]).build(3))


def convolutional(channels: int = 1) -> fastnn.Sequential:
    shape = (5, 4) if channels == 1 else (5, 4, channels)
    layers = [
        fastnn.Conv2D(6, (3, 2), activation="relu"), fastnn.MaxPool2D((3, 1)), fastnn.BatchNorm(), fastnn.Flatten(),
        fastnn.Dense(2),
    ]  # fmt: skip
    return fastnn.Sequential(layers, seed=0).build(shape)


@pytest.mark.parametrize("channels", [1, 3])
def test_filters(channels: int) -> None:
    model = convolutional(channels)
    kernels = model.weights["0.weight"]
    greatest = np.abs(kernels).max()
    axes = plots.filters(model, count=5)
    assert len(axes.images) == 5
    for index, picture in enumerate(axes.images):
        if channels == 1:
            np.testing.assert_array_equal(picture.get_array(), kernels[:, :, 0, index])
            assert picture.get_clim() == pytest.approx((-greatest, greatest))
        else:
            np.testing.assert_allclose(picture.get_array(), 0.5 + kernels[..., index] / (2 * greatest), rtol=1e-6)
    scale = "orange is below 0, violet above" if channels == 1 else "gray is 0"
    assert axes.get_title() == f"0 Conv2D: 5 of 6 filters; {scale}"
    mine = own()
    assert plots.filters(model, channel=channels - 1, ax=mine) is mine
    np.testing.assert_array_equal(mine.images[5].get_array(), kernels[:, :, channels - 1, 5])


def test_filters_that_cannot_be_drawn() -> None:
    for wrong, says in (
        (lambda: plots.filters(convolutional(), 1), r"layer 1 is a MaxPool2D; convolutions are \[0\]"),
        (lambda: plots.filters(classifier(1)), "layer 0 is a Dense; convolutions are none of the layers"),
        (lambda: plots.filters(convolutional(), 5), "layer: expected the number of a layer, from 0 to 4, got 5"),
        (lambda: plots.filters(convolutional(2)), "looks at 2 channels, too many for a picture; name one, as in channel=0"),
        (lambda: plots.filters(convolutional(2), channel=2), "channel: expected a number from 0 to 1, got 2"),
        (lambda: plots.filters(convolutional(), count=0), "count"),
    ):
        with pytest.raises(InputError, match=says):
            wrong()
    with pytest.raises(NotReadyError):
        plots.filters(fastnn.Sequential([fastnn.Conv2D(2, 2)]))


@pytest.mark.parametrize("channels", [1, 3])
def test_feature_maps(channels: int) -> None:
    model = convolutional(channels)
    image = np.random.default_rng(0).uniform(size=(5, 4, channels)).astype("float32")
    w, b = (model.weights[f"0.{name}"] for name in ("weight", "bias"))
    convolved = ops.conv2d(image[None], w, b, activation="relu")
    pooled = ops.max_pool2d(convolved, (3, 1))
    for layer, expected in ((0, convolved), (1, pooled), (2, pooled / np.sqrt(np.float32(1 + 1e-5)))):
        axes = plots.feature_maps(model, image, layer)
        assert len(axes.images) == 6
        for index, picture in enumerate(axes.images):
            np.testing.assert_allclose(picture.get_array(), expected[0, :, :, index], rtol=1e-5, atol=1e-7)
            assert picture.get_clim() == pytest.approx((expected.min(), expected.max()), rel=1e-5)
        assert axes.get_title().startswith(f"{layer} {type(model.layers[layer]).__name__}: 6 of 6 channels; ")
    assert len(plots.feature_maps(model, image.reshape(-1), 0, 2).images) == 2


def test_feature_maps_that_cannot_be_drawn() -> None:
    model = convolutional()
    for wrong, says in (
        (lambda: plots.feature_maps(model, np.zeros((5, 5))), r"expected an image \(5, 4\), got \(5, 5\)"),
        (lambda: plots.feature_maps(model, np.zeros((5, 4)), 3), r"layer 3, Flatten, makes \(18,\) of an image, and no images"),
        (lambda: plots.feature_maps(model, np.zeros((5, 4)), -1), "layer: expected the number of a layer, from 0 to 4, got -1"),
        (lambda: plots.feature_maps(model, np.zeros((5, 4)), "0"), "got '0'"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError, match=says):
            wrong()


def frames(axes: Axes) -> list[tuple[float, ...]]:
    """x, y, width and height of the frames within images, whose sides are 1."""
    white = [patch for patch in axes.patches if patch.get_edgecolor() == (1.0, 1.0, 1.0, 1.0)]
    return [tuple(round(number, 6) for number in patch.get_bbox().bounds) for patch in white]


@pytest.mark.parametrize("channels", [1, 3])
def test_receptive_field(channels: int) -> None:
    model = convolutional(channels)
    image = np.random.default_rng(0).uniform(size=model.network.features).astype("float32")
    mine = own()
    assert plots.receptive_field(model, image.reshape(-1), 0, (1, 2), ax=mine) is mine
    np.testing.assert_array_equal(mine.images[0].get_array(), image)
    assert frames(mine) == [(0.5, 0.2, 0.5, 0.6)]
    assert mine.get_title() == "0 Conv2D, unit (1, 2): rows 1 to 3 and columns 2 to 3"
    assert plots.receptive_field(model, image, 4).get_title() == "4 Dense, all units: rows 0 to 4 and columns 0 to 3"
    assert frames(plots.receptive_field(model, image, 1, (0, 1))) == [(0.25, 0, 0.5, 1)]


@pytest.mark.parametrize("channels", [1, 3])
def test_most_activating(channels: int) -> None:
    model = convolutional(channels)
    images = np.random.default_rng(0).uniform(size=(20, *model.network.features)).astype("float32")
    found = fastnn.most_activating(model, images, 0, 3, 4)
    axes = plots.most_activating(model, images.reshape(20, -1), 0, 3, 4)
    assert [text.get_text() for text in axes.texts] == [f"{value:.3g}" for value in found.values]
    assert axes.get_title() == "0 Conv2D, channel 3: the largest of 20 images"
    shown = [np.asarray(picture.get_array()) for picture in axes.images]
    for index, field, image, patch in zip(found.indices, found.fields, shown[::2], shown[1::2], strict=True):
        np.testing.assert_array_equal(image, images[index])
        np.testing.assert_array_equal(patch, images[index][field])
    for (x, y, wide, high), (rows, columns), image, patch in zip(
        frames(axes), found.fields, axes.images[::2], axes.images[1::2], strict=True
    ):
        left, _, _, upper = image.get_extent()
        assert (x - left, y - upper, wide, high) == pytest.approx((columns.start / 4, rows.start / 5, 2 / 4, 3 / 5), abs=1e-6)
        across, down = patch.get_extent()[1] - patch.get_extent()[0], patch.get_extent()[2] - patch.get_extent()[3]
        assert across / wide == pytest.approx(down / high), "pixels stay square"
        assert max(across, down) == pytest.approx(1.0)
    drawn_within(axes)


def test_most_activating_of_units_that_see_everything() -> None:
    model = convolutional()
    images = np.random.default_rng(0).uniform(size=(6, 5, 4)).astype("float32")
    mine = own()
    assert plots.most_activating(model, images, 4, 1, 9, ax=mine) is mine
    assert len(mine.images) == 6
    assert not mine.patches
    assert mine.get_title() == "4 Dense, unit 1: the largest of 6 images"
    at = plots.most_activating(model, images, 0, 1, 1, unit=(0, 2))
    assert at.get_title() == "0 Conv2D, channel 1 at (0, 2): the largest of 6 images"


def test_fields_that_cannot_be_drawn() -> None:
    two, images = convolutional(2), np.zeros((3, 5, 4, 2))
    for wrong, says in (
        (
            lambda: plots.receptive_field(convolutional(), np.zeros((5, 5)), 0, (0, 0)),
            r"expected an image \(5, 4\), got \(5, 5\)",
        ),
        (lambda: plots.receptive_field(two, images[0], 0, (0, 0)), r"expected images \(H, W\) or \(H, W, 3\), got \(5, 4, 2\)"),
        (lambda: plots.most_activating(two, images, 0, 0), r"expected images \(H, W\) or \(H, W, 3\), got \(5, 4, 2\)"),
        (lambda: plots.receptive_field(two, images[0], 0, (9, 9)), "unit: the outputs of layer 0 are 3 x 3"),
    ):
        with pytest.raises(InputError, match=says):
            wrong()


# --- searches -------------------------------------------------------------------------------------------------------


def test_optimizer_paths() -> None:
    paths = {"SGD": [(1.0, 0.0), (0.5, 0.5)], "Adam": [(1.0, 0.0)]}
    mine = own()
    assert plots.optimizer_paths(paths, lambda x, y: x * x - y * y, ax=mine) is mine
    lines = [line for line in mine.get_lines() if line.get_label() in paths]
    assert [line.get_xydata().tolist() for line in lines] == [[[1.0, 0.0], [0.5, 0.5]], [[1.0, 0.0]]]
    (levels,) = contours(mine)
    assert len(levels.levels) > 10
    for bad in ({}, {"a": [1.0]}, {"a": np.zeros((0, 2))}, {"a": [(np.nan, 0.0)]}):
        with pytest.raises(InputError, match="path"):
            plots.optimizer_paths(bad, lambda x, y: x)
    with pytest.raises(InputError, match="values of the shape"):
        plots.optimizer_paths(paths, lambda x, y: 1.0)


class Found:
    """Four trials over four parameters, one without a value."""

    names = ("rate", "beta", "units", "activation")
    scales: ClassVar[dict[str, str]] = {"rate": "log", "beta": "one minus log", "units": "linear", "activation": "choice"}
    columns: ClassVar[dict[str, list[Any]]] = {
        "rate": [1e-3, 1e-2, 1e-1, 1.0],
        "beta": [0.9, 0.99, 0.999, 0.5],
        "units": [8, 16, 32, 64],
        "activation": ["relu", "tanh", "relu", "elu"],
    }

    def __init__(self, *values: float, mode: str = "min") -> None:
        self.values, self.mode = values, mode

    def __getitem__(self, name: str) -> np.ndarray:
        return np.array(self.columns[name])


@pytest.mark.parametrize(("mode", "best"), [("min", 2), ("max", 0)])
def test_search_results_have_a_panel_a_parameter(mode: str, best: int) -> None:
    panels = plots.search_results(Found(0.5, np.nan, 0.2, 0.3, mode=mode))
    assert [axes.get_xlabel() for axes in panels] == ["rate", "1 - beta", "units", "activation"]
    assert [axes.get_xscale() for axes in panels] == ["log", "log", "linear", "linear"]
    for axes, points in zip(panels, ([1e-3, 1e-1, 1.0], [0.1, 0.001, 0.5], [8, 32, 64]), strict=False):
        every, one = axes.collections
        assert np.allclose(every.get_offsets(), list(zip(points, [0.5, 0.2, 0.3], strict=True)))
        chosen = {0: 0, 2: 1}[best]
        assert np.allclose(one.get_offsets(), [(points[chosen], [0.5, 0.2, 0.3][chosen])])
    assert [label.get_text() for label in panels[3].get_xticklabels()] == ["relu", "elu"]


def test_search_results_that_cannot_be_drawn() -> None:
    mine = list(Figure().subplots(1, 4))
    assert plots.search_results(Found(0.5, 0.1, 0.2, 0.3), ax=mine) == mine
    with pytest.raises(InputError, match="expected 4 axes"):
        plots.search_results(Found(0.5, 0.1, 0.2, 0.3), ax=mine[:2])
    with pytest.raises(InputError, match="no trial has a value"):
        plots.search_results(Found(*[np.nan] * 4))
    with pytest.raises(InputError, match="each of 1 trials"):
        plots.search_results(Found(1.0))


# --- awkward input --------------------------------------------------------------------------------------------------


def drawn_within(axes: Axes) -> None:
    """Assert that the frame and the legend lie within the figure, and that the frame has most of it."""
    figure = axes.figure.canvas.figure
    figure.draw_without_rendering()
    page = figure.bbox.padded(2)
    for part in (axes, axes.get_legend()):
        if part is not None:
            box = part.get_window_extent()
            assert page.contains(box.x0, box.y0)
            assert page.contains(box.x1, box.y1)
    assert axes.bbox.width > 0.35 * figure.bbox.width / len(figure.axes)
    assert axes.bbox.height > 0.4 * figure.bbox.height


def test_long_and_many_names_leave_room_for_what_is_drawn() -> None:
    long = [f"{i} Dense(5, activation='leaky_relu', alpha=0.013, weight_init=Normal(deviation=0.01))" for i in range(8)]
    drawn_within(plots.gradient_flow(SimpleNamespace(steps=[0, 1], layers=long, gradients=np.ones((2, 8)))))
    deep = fastnn.Sequential([fastnn.Dense(4) for _ in range(20)], seed=0).build(4)
    histograms = plots.weight_histograms(deep)
    drawn_within(histograms)
    assert [text.get_text() for text in histograms.get_legend().get_texts()] == ["0.weight", "19.weight"]
    assert len({tuple(patch.get_edgecolor()) for patch in histograms.patches}) == 20


@pytest.mark.parametrize("count", [5, 9, 60])
def test_no_two_classes_look_alike(count: int) -> None:
    model = fastnn.Sequential([fastnn.Dense(count)], seed=0)
    x = np.random.default_rng(0).normal(size=(2 * count, 2))
    y = np.arange(2 * count) % count
    model.fit(x, y, epochs=1, batch_size="all", verbose=0)
    axes = plots.decision_boundary(model, x, y, resolution=20)
    drawn_within(axes)
    handles = axes.get_legend_handles_labels()[0]
    looks = {(tuple(dots.get_facecolor()[0]), dots.get_paths()[0].vertices.tobytes()) for dots in handles}
    assert len(handles) == len(looks) == count


def test_what_cannot_be_parted_says_why() -> None:
    values = fastnn.Sequential([fastnn.Dense(1)], seed=0)
    values.fit(X, [0.5, 1.5, 2.5, 3.5], loss="mean_squared_error", epochs=1, batch_size=4, verbose=0)
    with pytest.raises(InputError, match="this one was trained for values"):
        plots.decision_boundary(values, X, [0, 0, 1, 1])
    with pytest.raises(InputError, match="X: 1 values are NaN or infinite, the first in row 2"):
        plots.decision_boundary(classifier(1), [(0, 1), (1, 1), (1, np.nan), (0, 0)], [0, 0, 1, 1])


def test_mistakes_of_a_yes_or_no_classifier() -> None:
    images = np.array([[[0.1]], [[0.9]], [[2.0]], [[-3.0]]], "float32")
    model = fastnn.Sequential([fastnn.Dense(1)], seed=0)
    names = np.array(["cat", "none"])
    model.fit(images.reshape(4, 1), names[[0, 1, 0, 1]], loss="sigmoid_cross_entropy", epochs=1, batch_size=4, verbose=0)
    model.set_weights({"0.weight": np.ones((1, 1), "float32"), "0.bias": np.zeros(1, "float32")})  # "none" where above 0
    axes = plots.misclassified(model, images, names[[1, 0, 1, 1]])
    assert [text.get_text() for text in axes.texts] == ["none > cat", "cat > none"]
    one = plots.misclassified(model, images, names[[1, 1, 1, 1]])
    assert one.get_xlim()[1] < 1.2
    assert one.get_title() == "1 of 4 wrong; true > predicted"


def test_tables_of_many_classes_can_be_read() -> None:
    many = np.arange(40).repeat(1000)
    axes = plots.confusion_matrix(many, many)
    cell = 72 * axes.bbox.height / axes.figure.dpi / 40
    assert [text.get_text() for text in axes.texts] == ["1000"] * 40
    assert all(4.0 <= text.get_fontsize() < cell for text in axes.texts)
    assert 4 * 0.6 * axes.texts[0].get_fontsize() <= cell
    small = plots.confusion_matrix(many, many, ax=own())
    assert not small.texts
    assert [beside.get_ylabel() for beside in small.figure.axes] == ["true", "share of the true class"]
    assert len(small.get_xticks()) <= 40
    named = plots.confusion_matrix(
        ["iris versicolor of the mountains", "iris setosa of the plain"], ["iris setosa of the plain"] * 2
    )
    named.figure.draw_without_rendering()
    first, second = (label.get_window_extent() for label in named.get_xticklabels())
    assert first.x1 < second.x0
    assert min(first.y0, second.y0) >= 0
    with pytest.raises(InputTypeError, match="y: expected labels of one type"):
        plots.confusion_matrix(np.array(["a", 1], object), np.array(["a", 1], object))
    for classes in ([], [1, 1, 2], [[1, 2]]):
        with pytest.raises(InputError, match="classes: expected"):
            plots.confusion_matrix([1, 2], [1, 2], classes=classes)


def test_columns_of_texts_are_labels_as_in_training() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=["length", "width"])
    y = pd.Series(["no", "yes", "no", "yes"], dtype=object)
    model = fastnn.Sequential([fastnn.Dense(1)], seed=0)
    model.fit(frame, y, loss="sigmoid_cross_entropy", epochs=1, batch_size=4, verbose=0)
    axes = plots.decision_boundary(model, frame, y)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("length", "width")
    assert [dots.get_offsets().tolist() for dots in axes.get_legend_handles_labels()[0]] == [X[::2].tolist(), X[1::2].tolist()]
    table = plots.confusion_matrix(y, pd.Series(["no", "no", "no", "yes"], dtype=object))
    assert [text.get_text() for text in table.texts] == ["2", "0", "1", "1"]
    wrong = plots.misclassified(model, X.reshape(4, 1, 2), y)
    right = model.predict(frame) == y.to_numpy()
    assert len(wrong.texts) == 4 - right.sum()


@pytest.mark.parametrize("count", [15, 40])
def test_long_names_stand_above_images_without_touching(count: int) -> None:
    model = fastnn.Sequential([fastnn.Dense(2)], seed=0)
    names = np.array(["iris setosa of the plain", "iris versicolor of the mountains"])
    rng = np.random.default_rng(0)
    many, y = rng.random((40, 2, 2)), names[np.arange(40) % 2]
    model.fit(many.reshape(40, 4), y, epochs=1, batch_size="all", verbose=0)
    axes = plots.misclassified(model, many, names[::-1][(model.predict(many.reshape(40, 4)) == names[1]).astype(int)], count)
    axes.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == count
    assert not any(a.overlaps(b) for a, b in itertools.combinations([*boxes, axes.title.get_window_extent()], 2))


def test_long_choices_stand_upright_beside_each_other() -> None:
    found = Found(0.5, 0.1, 0.2, 0.3)
    found.columns = {**Found.columns, "activation": ["leaky_relu", "hyperbolic tangent", "leaky_relu", "exponential linear"]}
    last = plots.search_results(found)[3]
    drawn_within(last)
    boxes = sorted((label.get_window_extent() for label in last.get_xticklabels()), key=lambda box: box.x0)
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_choices_that_begin_alike_stay_apart() -> None:
    found = Found(0.5, 0.1, 0.2, 0.3)
    alike = ["(128, 64, 32), relu", "(128, 64, 32), tanh"]
    found.columns = {**Found.columns, "activation": [*alike, *alike]}
    last = plots.search_results(found)[3]
    assert last.collections[0].get_offsets()[:, 0].tolist() == [0, 1, 0, 1]
    assert [label.get_text() for label in last.get_xticklabels()] == ["(128, 64, 32)…"] * 2


def test_whole_numbers_on_a_logarithmic_scale_are_written_out() -> None:
    found = Found(0.5, 0.1, 0.2, 0.3)
    found.scales = {**Found.scales, "units": "log"}
    found.columns = {**Found.columns, "units": [30, 45, 60, 120]}
    third = plots.search_results(found)[2]
    third.figure.draw_without_rendering()
    low, high = third.get_xlim()
    labels = [*third.get_xticklabels(), *third.get_xticklabels(minor=True)]
    written = [label.get_text() for label in labels if low <= label.get_position()[0] <= high]
    assert any(written)
    assert all(text.isdecimal() for text in written if text), "60, not 6 x 10^1"


def test_one_epoch_is_the_first_and_not_a_part_of_one() -> None:
    for axes, number in (
        (plots.cost_curves({"loss": [1.0], "val_loss": [1.2]}), 1),
        (plots.gradient_flow(SimpleNamespace(steps=[0], layers=["0"], gradients=[[1.0]])), 0),
        (plots.cost_curves({}, steps=[2.0]), 1),
    ):
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [number]
        assert all(line.get_marker() == "o" for line in axes.get_lines()), "a line of one point cannot be seen"


def test_a_cost_that_ran_away_hides_nothing() -> None:
    assert plots.cost_curves({"loss": [2.0, 1.0, np.nan], "val_loss": [2.0, 3.0, 1e30]}).get_yscale() == "log"
    assert plots.cost_curves({"loss": [2.0, 1.0]}, steps=[2.0, 2.0, 1.0, 1e9]).get_yscale() == "log"
    assert plots.cost_curves({"loss": [2.0, 1e-9]}).get_yscale() == "linear"
    assert plots.cost_curves({"loss": [np.nan, np.nan]}).get_yscale() == "linear"


def test_a_range_test_shows_its_lowest_losses_and_bears_nan() -> None:
    rates = np.geomspace(1e-4, 1, 5)
    result = SimpleNamespace(rates=rates, losses=[2, 1, 0.2, 1, 9], smoothed=np.array([2, 1.8, 1.2, 1.1, 4]), suggestion=None)
    assert plots.learning_rate_finder(result).get_ylim()[0] < 0.2
    result.losses = result.smoothed = np.full(5, np.nan)
    assert len(plots.learning_rate_finder(result).get_lines()) == 2


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (lambda: plots.cost_curves(None), "history: expected what fit returned.*NoneType"),
        (lambda: plots.cost_curves({"loss": ["high", "low"]}), "loss: expected numbers"),
        (lambda: plots.cost_curves({"loss": [1.0]}, steps="abc"), "steps: expected numbers"),
        (lambda: plots.cost_curves({"loss": [1.0]}, Figure()), "ax: expected axes .*Figure"),
        (lambda: plots.gradient_flow(None), "expected a GradientFlow"),
        (lambda: plots.learning_rate_finder(None), "expected what find_learning_rate returned"),
        (lambda: plots.search_results(None), "expected the results of a search"),
        (lambda: plots.optimizer_paths({"a": "abc"}, lambda x, y: x), "the path 'a': expected numbers"),
        (lambda: plots.activation(3), "expected names of activations, got int"),
        (lambda: plots.decision_boundary(classifier(1), [("a", "b")], [0]), "X: expected numbers"),
    ],
)
def test_what_is_of_another_kind_is_said(draw: Callable[[], Any], expected: str) -> None:
    with pytest.raises(InputTypeError, match=expected):
        draw()
    with pytest.raises(InputError, match="reach: expected a number above 0, got 'wide'"):
        plots.activation("relu", reach="wide")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"H W = 2, got 5"):
        plots.weights_as_images(classifier(1), shape=5)  # type: ignore[arg-type]


# --- all ------------------------------------------------------------------------------------------------------------


def test_a_figure_can_be_saved_and_other_things_not(tmp_path: Path) -> None:
    figure = Figure()
    figure.subplots(1, 2)
    plots.save(figure, tmp_path / "figure.png")
    plots.save(figure.axes[1], tmp_path / "axes.png")
    assert (tmp_path / "figure.png").read_bytes() == (tmp_path / "axes.png").read_bytes()
    with pytest.raises(InputTypeError, match="expected axes, a figure or a history, got int"):
        plots.save(3, tmp_path / "number.png")  # type: ignore[arg-type]
    assert not (tmp_path / "number.png").exists()


@pytest.mark.slow
def test_every_name_is_known_and_pyplot_is_not_imported() -> None:
    code = """
import sys
from fastnn import plots
assert not {"matplotlib", "numba"} & set(sys.modules)
assert all(callable(getattr(plots, name)) for name in plots.__all__ if name != "COLORS")
plots.confusion_matrix([0, 1], [1, 1])
plots.activation("relu")
plots.optimizer_paths({"a": [(0.0, 1.0)]}, lambda x, y: x + y)
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
