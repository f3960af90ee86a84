"""`check_gradients` on every layer, activation, loss and penalty, on code of a user's own, and on planted mistakes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from trainings import Residual

import fastnn
from fastnn import ops
from fastnn.errors import InputError, InputTypeError
from fastnn.inspection.gradient_check import GradientCheck
from fastnn.program import differentiate
from fastnn_kernels.contract import ACTIVATIONS_FROM_INPUT, ACTIVATIONS_FROM_OUTPUT

N, FEATURES, OUTPUTS = 9, 4, 3
LABELS = np.array([0, 2, 1, 1, 0, 2, 2, 1, 0])


def targets(loss: str) -> np.ndarray:
    rng = np.random.default_rng(1)
    if fastnn.losses.LOSSES[loss].accepts == "classes":
        return LABELS
    if fastnn.losses.LOSSES[loss].link == "sigmoid":
        return (rng.random((N, OUTPUTS)) < 0.5).astype(int)
    if loss == "poisson":
        return rng.poisson(2.0, (N, OUTPUTS))
    return rng.standard_normal((N, OUTPUTS))


def X() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((N, FEATURES))


def test_inputs_are_scaled_as_in_a_training() -> None:
    """The gradient is that of the first step of fit, for images of 0 to 255 too."""
    images = np.random.default_rng(0).integers(0, 256, (N, FEATURES), np.uint8)
    model = fastnn.Sequential([fastnn.Dense(OUTPUTS)], seed=2, dtype="float64", input_scale=1 / 255).build(FEATURES)
    before, found = model.weights, fastnn.check_gradients(model, images, LABELS)
    assert found.passed
    model.fit(images, LABELS, optimizer=fastnn.SGD(1.0), batch_size="all", epochs=1, verbose=0)
    for name, value in model.weights.items():
        np.testing.assert_allclose(found.analytic[name], before[name] - value, atol=1e-12)


ACTIVATIONS = ("identity", *ACTIVATIONS_FROM_OUTPUT, *ACTIVATIONS_FROM_INPUT, "softmax", "log_softmax")
PENALTIES: tuple[dict[str, float], ...] = ({}, {"l2": 0.1}, {"l1": 0.05}, {"l2": 0.1, "l1": 0.05})


@pytest.mark.parametrize("second", range(len(fastnn.losses.LOSSES)), ids=list(fastnn.losses.LOSSES))
@pytest.mark.parametrize("first", range(len(ACTIVATIONS)), ids=ACTIVATIONS)
def test_every_activation_loss_and_penalty(first: int, second: int) -> None:
    """Every activation with every loss, and each of both with every penalty, by turns: penalties are added to a gradient."""
    activation, loss = ACTIVATIONS[first], list(fastnn.losses.LOSSES)[second]
    penalties = PENALTIES[(first + second) % len(PENALTIES)]
    model = fastnn.Sequential([fastnn.Dense(5, activation=activation), fastnn.Dense(OUTPUTS)], seed=2, dtype="float64")
    result = fastnn.check_gradients(model, X(), targets(loss), loss=loss, **penalties)
    assert result.passed, str(result)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", fastnn.losses.LOSSES)
@pytest.mark.parametrize(
    "layers",
    [
        [fastnn.Dense(5), fastnn.BatchNorm(), fastnn.Activation("tanh")],
        [fastnn.Dense(5, use_bias=True), fastnn.BatchNorm(), fastnn.Activation("sigmoid"), fastnn.Dense(4, activation="gelu")],
        [fastnn.Dense(5, activation="tanh"), fastnn.Dropout(0.0)],
        [fastnn.Activation("silu"), fastnn.Dense(3, use_bias=False)],
        [fastnn.Dense(6, activation="elu", alpha=0.5, bias_init="normal"), fastnn.Dense(6, activation="leaky_relu", alpha=0.2)],
    ],
    ids=["batch norm", "batch norm with bias", "dropout 0", "activation", "alpha"],
)
def test_every_layer_and_loss(layers: list[Any], loss: str, weighted: bool) -> None:
    model = fastnn.Sequential([*layers, fastnn.Dense(OUTPUTS)], seed=2, dtype="float64")
    weights = np.random.default_rng(5).random(N) if weighted else None
    result = fastnn.check_gradients(model, X(), targets(loss), loss=loss, sample_weight=weights)
    assert result.passed, str(result)


@pytest.mark.parametrize(("activation", "loss"), [("softmax", "softmax_cross_entropy"), ("sigmoid", "sigmoid_cross_entropy")])
def test_a_final_activation_that_the_loss_absorbs(activation: str, loss: str) -> None:
    for last in ([fastnn.Dense(OUTPUTS, activation=activation)], [fastnn.Dense(OUTPUTS), fastnn.Activation(activation)]):
        model = fastnn.Sequential(last, seed=2, dtype="float64")
        assert fastnn.check_gradients(model, X(), targets(loss), loss=loss).passed


def test_flatten_and_batch_norm_in_inference_mode() -> None:
    images = X().reshape(N, 2, 2)
    model = fastnn.Sequential([fastnn.Flatten(), fastnn.Dense(5), fastnn.BatchNorm(), fastnn.Dense(3)], seed=1, dtype="float64")
    assert fastnn.check_gradients(model, images, LABELS).passed
    assert fastnn.check_gradients(model, images, LABELS, training=False).passed


def smooth_l1(outputs: Any, targets: Any) -> Any:
    """Quadratic near 0, linear beyond 1."""
    d = outputs - targets
    return ops.sum(ops.where(ops.abs(d) < 1.0, 0.5 * d * d, ops.abs(d) - 0.5), 1)


def test_a_loss_and_a_layer_of_ones_own_are_checked_and_played() -> None:
    rng = np.random.default_rng(3)
    values = 2 * rng.standard_normal((N, OUTPUTS))
    model = fastnn.Sequential([fastnn.Dense(6), Residual(), fastnn.Dense(OUTPUTS)], seed=1, dtype="float64")
    assert fastnn.check_gradients(model, X(), values, loss=smooth_l1, l2=0.01).passed
    program = str(model.build(FEATURES).program(8, loss=smooth_l1))
    assert "where(" in program
    assert program.count("dense(") == 3, "the product and the bias of the user's layer are fused like the library's own"
    by_cpu = fastnn.Sequential(model.layers, seed=1, dtype="float64")
    by_definition = fastnn.Sequential(model.layers, seed=1, dtype="float64")
    data = rng.standard_normal((100, FEATURES))
    wanted = np.stack([data[:, 0], data[:, 1] * data[:, 2], data.sum(1)], 1)
    options: dict[str, Any] = {"loss": smooth_l1, "optimizer": fastnn.Adam(0.01), "batch_size": 16, "epochs": 30, "verbose": 0}
    options["order"] = lambda epoch: np.random.default_rng(epoch).permutation(100)
    history = by_cpu.fit(data, wanted, device="cpu", **options)
    by_definition.fit(data, wanted, device="numpy", **options)
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    for name, value in by_cpu.weights.items():
        np.testing.assert_allclose(value, by_definition.weights[name], rtol=1e-11, atol=1e-13)


def too_large(kernel: str, monkeypatch: pytest.MonkeyPatch, output: int | None = None) -> None:
    """Plant a mistake: the backward rule returns gradients, or one of them, that are 1 % too large."""
    right = differentiate.RULES[kernel]

    def wrong(call: Any, *gradients: Any) -> Any:
        found = enumerate(right(call, *gradients))
        return [g if g is None or output not in (None, index) else ops.multiply(g, 1.01) for index, g in found]

    monkeypatch.setitem(differentiate.RULES, kernel, wrong)


@pytest.mark.parametrize("kernel", ["tanh", "add", "matmul", "softmax_cross_entropy", "batch_norm"])
def test_a_planted_mistake_is_found(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    too_large(kernel, monkeypatch)
    layers = [fastnn.Dense(5), fastnn.BatchNorm(), fastnn.Activation("tanh"), fastnn.Dense(OUTPUTS)]
    model = fastnn.Sequential(layers, seed=2, dtype="float64")
    result = fastnn.check_gradients(model, X(), LABELS)
    assert not result.passed
    assert "DO NOT AGREE" in str(result)


@pytest.mark.parametrize("activation", [*ACTIVATIONS_FROM_OUTPUT, *ACTIVATIONS_FROM_INPUT, "softmax", "log_softmax"])
def test_a_mistake_in_an_activation_is_laid_to_the_layer_in_front_of_it(
    activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    too_large(activation, monkeypatch)
    layers = [fastnn.Dense(4, bias_init="normal"), fastnn.Dense(5, activation=activation), fastnn.Dense(OUTPUTS)]
    result = fastnn.check_gradients(fastnn.Sequential(layers, seed=2, dtype="float64"), X(), LABELS)
    assert result.failed == ("0.weight", "0.bias", "1.weight", "1.bias")
    assert "mistake lies in layer 1, Dense, or behind it, up to layer 2, Dense" in " ".join(str(result).split())


@pytest.mark.parametrize(
    ("kernel", "output", "failed"),
    [
        ("matmul", 0, {"0.weight", "1.gamma", "1.beta"}),  # the bias in front of batch norm has the gradient 0, right or wrong
        ("matmul", 1, {"0.weight", "4.weight"}),
        ("add", 1, {"4.bias"}),
        ("batch_norm", 0, {"0.weight"}),
        ("batch_norm", 1, {"1.gamma"}),
        ("batch_norm", 2, {"1.beta"}),
        ("dropout", None, {"0.weight", "1.gamma", "1.beta"}),
    ],
)
def test_the_parameters_that_a_mistake_spoils_are_named(
    kernel: str, output: int | None, failed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    too_large(kernel, monkeypatch, output)
    layers = [
        fastnn.Dense(5, use_bias=True),
        fastnn.BatchNorm(),
        fastnn.Activation("tanh"),
        fastnn.Dropout(0.3),
        fastnn.Dense(OUTPUTS),
    ]
    result = fastnn.check_gradients(fastnn.Sequential(layers, seed=2, dtype="float64"), X(), LABELS, dropout="frozen")
    assert set(result.failed) == failed, str(result)
    assert result.worst(1)[0].name in failed


KERNELS = {
    "quadratic": "squared_error", "mean_squared_error": "squared_error", "mean_absolute_error": "abs", "huber": "abs",
    "quantile": "maximum", "poisson": "exp", "focal": "softplus", "softmax_focal": "log_softmax",
}  # fmt: skip
"""By loss, a kernel of it whose mistakes reach all gradients."""


@pytest.mark.parametrize("loss", fastnn.losses.LOSSES)
def test_a_mistake_in_a_loss_spoils_everything(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    too_large(KERNELS.get(loss, loss), monkeypatch)
    model = fastnn.Sequential([fastnn.Dense(5, activation="tanh"), fastnn.Dense(OUTPUTS)], seed=2, dtype="float64")
    result = fastnn.check_gradients(model, X(), targets(loss), loss=loss)
    assert result.failed == ("0.weight", "0.bias", "1.weight", "1.bias")
    assert "mistake lies in layer 1, Dense, or behind it, up to the loss" in " ".join(str(result).split())


def test_the_report_names_the_element_that_is_wrong() -> None:
    analytic = {"0.weight": np.full((2, 3), 0.5), "2.weight": np.ones((4, 5)), "2.bias": np.ones(5)}
    numeric = {name: value.copy() for name, value in analytic.items()}
    analytic["2.weight"][3, 4] = 0.123
    numeric["2.weight"][3, 4] = 0.125
    result = GradientCheck(tuple(analytic), analytic, numeric, 1e-9, ("Dense", "Activation", "Dense"))
    assert not result.passed
    assert result.failed == ("2.weight",)
    assert result.worst(1) == (("2.weight", (3, 4), 0.123, 0.125),)
    assert "layer 2, Dense: weight[3, 4]: 0.123 analytic, 0.125 numeric" in str(result)
    assert "0.weight" not in str(result)
    assert all(len(line) <= 80 for line in str(result).splitlines())
    numeric["2.weight"][3, 4] = np.nan
    assert GradientCheck(tuple(analytic), analytic, numeric, 1e-9, ("Dense", "Activation", "Dense")).failed == ("2.weight",)


def test_where_only_a_direction_fails_the_report_speaks_of_kinks() -> None:
    same = {"0.weight": np.ones((2, 3))}
    result = GradientCheck(("0.weight",), same, same, 1e-3, ("Dense",))
    assert not result.passed
    assert "kink" in str(result)
    assert str(GradientCheck(("0.weight",), same, same, 1e-9, ("Dense",))).startswith("gradients agree")


def test_a_standardizer_has_no_gradients_to_check() -> None:
    standardizer = fastnn.Standardizer().fit(5 + 3 * X())
    model = fastnn.Sequential([standardizer, fastnn.Dense(OUTPUTS)], seed=2, dtype="float64")
    result = fastnn.check_gradients(model, 5 + 3 * X(), LABELS)
    assert result.passed
    assert set(result.names) == {"1.weight", "1.bias"}


def test_a_float32_model_is_checked_on_a_copy_and_left_alone() -> None:
    model = fastnn.Sequential([fastnn.Dense(5), fastnn.BatchNorm(), fastnn.Dense(3)], seed=0).build(FEATURES)
    before = model.weights
    assert fastnn.check_gradients(model, X(), LABELS).passed
    assert all(np.array_equal(value, before[name]) for name, value in model.weights.items())
    assert model.dtype == np.dtype("float32")


def test_dropout_is_refused_with_the_cure() -> None:
    model = fastnn.Sequential([fastnn.Dense(5), fastnn.Dropout(0.5), fastnn.Dense(3)], seed=0)
    with pytest.raises(InputError, match=r"layer 1.*dropout='frozen'.*training=False"):
        fastnn.check_gradients(model, X(), LABELS)
    assert fastnn.check_gradients(model, X(), LABELS, training=False).passed
    with pytest.raises(InputError, match=r"dropout: unknown 'frosen'; did you mean 'frozen'\?"):
        fastnn.check_gradients(model, X(), LABELS, dropout="frosen")


def test_augmented_images_are_refused_with_a_cure_that_works() -> None:
    images = np.random.default_rng(3).random((6, 4, 3))
    augment = fastnn.Augment(rotation=20, shift=0.2)
    model = fastnn.Sequential([augment, fastnn.Flatten(), fastnn.Dense(3)], seed=0, dtype="float64")
    with pytest.raises(
        InputError, match=r"layer 0 \(Augment\(.*draws other numbers.*dropout='frozen'.*or check a model without it"
    ):
        fastnn.check_gradients(model, images, LABELS[:6])
    assert fastnn.check_gradients(model, images, LABELS[:6], dropout="frozen").passed
    assert fastnn.check_gradients(model, images, LABELS[:6], training=False).passed
    assert fastnn.check_gradients(fastnn.Sequential(model.layers[1:], dtype="float64"), images, LABELS[:6]).passed


@pytest.mark.parametrize("fused", [True, False])
def test_frozen_dropout_is_checked_exactly_with_some_units_off(fused: bool) -> None:
    layers = [fastnn.Dropout(0.2), fastnn.Dense(6, activation="tanh"), fastnn.Dropout(0.5), fastnn.Dense(3)]
    model = fastnn.Sequential(layers, seed=4, dtype="float64")
    result = fastnn.check_gradients(model, X(), LABELS, dropout="frozen", l2=0.1, fused=fused)
    assert result.passed, str(result)
    whole = fastnn.check_gradients(model, X(), LABELS, training=False, l2=0.1)
    assert np.abs(result.analytic["1.weight"] - whole.analytic["1.weight"]).max() > 1e-3, "the units that are off count"
    again = fastnn.check_gradients(model, X(), LABELS, dropout="frozen", l2=0.1, fused=fused)
    assert all(np.array_equal(again.analytic[name], result.analytic[name]) for name in result.names)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"model": None}, InputTypeError, "model: expected a Sequential, got NoneType"),
        ({"X": [["high", "low"]] * 8}, InputTypeError, "X: expected numbers, got list"),
        ({"l2": -1.0}, InputError, r"l2: expected a number >= 0, got -1\.0"),
        ({"l1": "much"}, InputError, "l1: expected a number >= 0, got 'much'"),
        ({"directions": 1.5}, InputError, "directions: expected an integer >= 0"),
        ({"dropout": "off"}, InputError, "dropout: unknown 'off'"),
    ],
)
def test_bad_input(given: dict[str, Any], error: type[Exception], message: str) -> None:
    model = fastnn.Sequential([fastnn.Dense(3)], seed=0)
    with pytest.raises(error, match=message):
        fastnn.check_gradients(**{"model": model, "X": X(), "y": LABELS} | given)
    assert not model.built
