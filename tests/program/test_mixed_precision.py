"""bfloat16 products: what of a step becomes bfloat16, and that it computes what rounding at those places gives."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cuda_on_host import host

import fastnn
import fastnn_kernels.numpy as numpy_set
from fastnn import engines, ops
from fastnn.callbacks import Callback
from fastnn.data.prepared import DataLayout
from fastnn.layers import Layer
from fastnn.layers.base import Parameter
from fastnn.losses import as_loss
from fastnn.network.programs import TrainingStep, Update
from fastnn.program.passes.mixed_precision import PRODUCTS, mixed_precision
from fastnn.program.trace import Program, Symbol
from fastnn_kernels.contract import SCALARS, UPDATES

ml_dtypes = pytest.importorskip("ml_dtypes")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def rounded(x: np.ndarray) -> np.ndarray:
    return x.astype(BFLOAT16).astype(np.float64)


def step(layers: list[Layer], loss: Any = "softmax_cross_entropy", features: Any = 7, outputs: int = 5) -> Program:
    model = fastnn.Sequential(layers, seed=0).build(features)
    chosen = as_loss(loss)
    data = DataLayout("float32", "int64", ()) if chosen.accepts == "classes" else DataLayout("float32", "float32", (outputs,))
    return TrainingStep(chosen, data, None, Update.of(fastnn.Adam()), False).build(model.network)


def deep() -> list[Layer]:
    norm = [fastnn.Dense(6, use_bias=False), fastnn.BatchNorm(), fastnn.Activation("relu"), fastnn.Dropout(0.2)]
    return [*norm, fastnn.Dense(9, activation="tanh"), fastnn.Dense(5)]


class Filters(Layer):
    """A convolution with ReLU, and pooling behind it."""

    options = ("filters",)

    def __init__(self, filters: int) -> None:
        self.filters = filters

    def parameters(self, shape: tuple[int, ...]) -> dict[str, Parameter]:
        init = fastnn.initializers.Normal(0.3)
        return {"weight": Parameter((3, 2, shape[2], self.filters), init), "bias": Parameter((self.filters,), init)}

    def forward(self, x: Any, training: bool) -> Any:
        return ops.max_pool2d(ops.conv2d(x, self.weight, self.bias, padding="same", activation="relu"), 2)


def kinds(program: Program) -> dict[str, set[str]]:
    """The dtypes of what each kernel makes."""
    found: dict[str, set[str]] = {}
    for call in program.calls:
        found.setdefault(call.kernel, set()).update(symbol.dtype.name for symbol in call.outputs)
    return found


def test_products_read_bfloat16_and_nothing_else() -> None:
    program = mixed_precision(step(deep()))
    products = [call for call in program.calls if call.kernel in PRODUCTS]
    assert len(products) >= 8
    for call in products:
        assert [symbol.dtype for symbol in call.inputs[:2]] == [BFLOAT16, BFLOAT16], call.kernel
    low_precision = program.inputs["low_precision_weights"]
    weights = [symbol for call in products for symbol in call.inputs if symbol.root is low_precision]
    assert {tuple(w.shape) for w in weights} == {(7, 6), (6, 9), (9, 5), (9,)}  # the last is a bias beside a bfloat16 result
    assert all(symbol.root is not program.inputs["parameters"] for call in products for symbol in call.inputs[:2])


def test_sums_losses_logits_and_parameters_stay_float32() -> None:
    program = mixed_precision(step(deep()))
    by_kernel = {call.kernel: call for call in program.calls}
    assert program.inputs["parameters"].dtype == np.float32
    loss = by_kernel["softmax_cross_entropy_with_gradient"]
    assert loss.inputs[0].dtype == np.float32  # the logits
    assert loss.outputs[0].dtype == np.float32  # the losses
    assert loss.outputs[1].dtype == BFLOAT16  # their gradient, which products read
    weight = by_kernel["dense_backward_weight"]
    assert {symbol.dtype.name for symbol in weight.outputs} == {"float32"}
    norm = by_kernel["batch_norm"]
    assert [symbol.dtype.name for symbol in norm.outputs] == ["bfloat16", "float32", "float32"]
    assert kinds(program)["dropout"] == {"bfloat16"}
    update = by_kernel["adam"]
    assert [symbol.name for symbol in update.outputs] == ["low_precision_weights"]
    assert {symbol.dtype.name for symbol in update.updated} == {"float32"}


def test_layer_norm_hands_on_bfloat16_and_keeps_its_statistics(rng: np.random.Generator) -> None:
    """What it computes is the definition's of the rounded inputs, rounded."""
    program = mixed_precision(step([fastnn.Dense(6), fastnn.LayerNorm(), fastnn.Activation("relu"), fastnn.Dense(5)]))
    by_kernel = {call.kernel: call for call in program.calls}
    forward, backward = by_kernel["layer_norm"], by_kernel["layer_norm_backward"]
    assert [symbol.dtype.name for symbol in forward.inputs] == ["bfloat16", "float32", "float32"]
    assert [symbol.dtype.name for symbol in forward.outputs] == ["bfloat16", "float32", "float32"]
    assert [symbol.dtype.name for symbol in backward.inputs] == ["bfloat16", "bfloat16", *["float32"] * 4]
    assert [symbol.dtype.name for symbol in backward.outputs] == ["bfloat16", "float32", "float32"]
    x, dy = (rng.normal(size=(13, 6)).astype(BFLOAT16) for _ in range(2))
    gamma, beta = rng.normal(size=(2, 6)).astype(np.float32)
    rows, columns = np.zeros((2, 13), np.float32), np.zeros((2, 6), np.float32)
    y, dx = np.zeros_like(x), np.zeros_like(x)
    host.run("layer_norm", [x, gamma, beta, y, *rows], dict(forward.attributes))
    host.run("layer_norm_backward", [dy, x, gamma, beta, *rows, dx, *columns], dict(backward.attributes))
    wide = [array.astype(np.float64) for array in (dy, x, gamma, beta, y, *rows, dx, *columns)]
    numpy_set.layer_norm(*wide[1:4], *wide[4:7], **forward.attributes)
    numpy_set.layer_norm_backward(*wide[:4], *wide[5:7], *wide[7:], **backward.attributes)
    for made, expected in zip((y, *rows, dx, *columns), wide[4:], strict=True):
        exact = made.dtype == np.float32
        np.testing.assert_allclose(made.astype(np.float64), expected, rtol=1e-5 if exact else 2.0**-8, atol=1e-5)


def test_views_of_views_are_bfloat16() -> None:
    """Images of one channel are reshaped three times on their way from `Augment` to a product."""
    program = mixed_precision(step([fastnn.Augment(rotation=10), fastnn.Flatten(), fastnn.Dense(5)], features=(4, 5)))
    kept = {call.operands[1] for call in program.calls if call.is_view} | {s for c in program.calls for s in c.inputs}
    assert all(symbol.dtype == symbol.root.dtype for symbol in kept)
    (product,) = [call for call in program.calls if call.kernel == "dense"]
    assert [symbol.dtype for symbol in product.inputs[:2]] == [BFLOAT16, BFLOAT16]


def test_images_are_changed_before_they_are_rounded(cuda_host: Any, rng: np.random.Generator) -> None:
    """One step on changed images is one on images that were changed before."""
    X, y = rng.normal(size=(13, 4, 5)).astype(np.float32), rng.integers(0, 3, 13)
    augment, flip = fastnn.Augment(horizontal_flip=True), fastnn.random.key(4, fastnn.random.AUGMENTATION, 0)
    changed = augment.bound({"key": flip, "step": 0}).forward(X, True)
    assert 0 < (changed != X).any(axis=(1, 2)).sum() < 13
    models = [
        fastnn.Sequential([*first, fastnn.Flatten(), fastnn.Dense(3)], seed=4) for first in ([augment], [fastnn.Flatten()])
    ]
    models[1].build((4, 5)).set_weights(dict(zip(models[1].weights, models[0].build((4, 5)).weights.values(), strict=True)))
    for model, images in zip(models, (X, changed), strict=True):
        model.fit(
            images, y, batch_size=13, epochs=1, optimizer=fastnn.SGD(0.5), order=lambda epoch: np.arange(13), device="cuda",
            precision="bf16", verbose=0,
        )  # fmt: skip
    for ours, theirs in zip(models[0].weights.values(), models[1].weights.values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_a_loss_of_the_user_s_own_computes_is_left_alone() -> None:
    def smooth_l1(outputs: Any, targets: Any) -> Any:
        error = ops.abs(outputs - targets)
        return ops.mean(ops.where(error < 1.0, 0.5 * error * error, error - 0.5), axis=1)

    program = mixed_precision(step([fastnn.Dense(6, activation="gelu"), fastnn.Dense(5)], smooth_l1))
    inner = [call for call in program.calls if call.kernel in ("subtract", "abs", "multiply", "where", "less")]
    read = {symbol for call in program.calls if call.kernel in PRODUCTS for symbol in call.inputs}
    for call in inner:
        for symbol in call.outputs:
            assert symbol.dtype != BFLOAT16 or symbol in read


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_one_step_is_that_of_numbers_rounded_at_the_same_places(
    activation: str, cuda_host: Any, rng: np.random.Generator
) -> None:
    X, y = rng.normal(size=(13, 7)).astype(np.float32), rng.integers(0, 5, 13)
    model = fastnn.Sequential([fastnn.Dense(9, activation=activation), fastnn.Dense(5)], seed=4).build(7)
    before = {name: w.astype(np.float64) for name, w in model.weights.items()}
    history = model.fit(
        X, y, batch_size=13, epochs=1, optimizer=fastnn.SGD(0.5), order=lambda epoch: np.arange(13), device="cuda",
        precision="bf16", verbose=0,
    )  # fmt: skip

    functions: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "relu": lambda z: np.maximum(z, 0), "sigmoid": lambda z: 1 / (1 + np.exp(-z))
    }  # fmt: skip
    x, w0, w1 = rounded(X), rounded(before["0.weight"]), rounded(before["1.weight"])
    h = rounded(functions[activation](x @ w0 + rounded(before["0.bias"])))
    z = h @ w1 + before["1.bias"]
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    dz = rounded((p - np.eye(5)[y]) / 13)
    slope = (h > 0) if activation == "relu" else h * (1 - h)
    dh = rounded((dz @ w1.T) * slope)
    gradients = {"0.weight": x.T @ dh, "0.bias": dh.sum(0), "1.weight": h.T @ dz, "1.bias": dz.sum(0)}
    assert history["loss"][0] == pytest.approx(-np.log(p[np.arange(13), y]).mean(), rel=1e-5)
    for name, weight in model.weights.items():
        assert weight.dtype == np.float32
        # A number within a rounding error of the middle between two of bfloat16 may go either way.
        np.testing.assert_allclose(weight, before[name] - 0.5 * gradients[name], atol=2e-4, err_msg=name)
    assert history.precision == "bf16"
    assert model.trained == fastnn.network.state.Trained("cuda:0", "bf16")


def test_convolutions_and_pooling_read_and_hand_on_bfloat16() -> None:
    """But what is summed: the leaves of gradients, and these."""
    program = mixed_precision(step([Filters(4), Filters(3), fastnn.Flatten(), fastnn.Dense(5)], features=(8, 6, 2)))
    made = kinds(program)
    for kernel in ("conv2d", "conv2d_backward_input", "max_pool2d_backward"):
        assert made[kernel] == {"bfloat16"}, kernel
    assert made["max_pool2d"] == {"bfloat16", "uint8"}
    assert made["conv2d_backward_weight"] == made["add_leaves"] == {"float32"}
    low_precision = program.inputs["low_precision_weights"]
    for call in program.calls:
        if call.kernel.startswith("conv2d"):
            assert [symbol.dtype for symbol in call.inputs[:2]] == [BFLOAT16, BFLOAT16], call.kernel
        if call.kernel == "conv2d":
            assert all(symbol.root is low_precision for symbol in call.inputs[1:])


def test_one_step_of_convolutions_is_that_of_numbers_rounded_at_the_same_places(
    cuda_host: Any, rng: np.random.Generator
) -> None:
    X, y = rng.normal(size=(13, 8, 6, 2)).astype(np.float32), rng.integers(0, 5, 13)
    model = fastnn.Sequential([Filters(4), Filters(3), fastnn.Flatten(), fastnn.Dense(5)], seed=4).build((8, 6, 2))
    before = {name: w.astype(np.float64) for name, w in model.weights.items()}
    history = model.fit(
        X, y, batch_size=13, epochs=1, optimizer=fastnn.SGD(0.5), order=lambda epoch: np.arange(13), device="cuda",
        precision="bf16", verbose=0,
    )  # fmt: skip

    laid: dict[str, Any] = {"strides": (1, 1), "padding": (1, 0), "dilation": (1, 1), "groups": 1}
    pooled: dict[str, Any] = {"size": (2, 2), "strides": (2, 2), "padding": (0, 0)}
    low = {name: rounded(w) for name, w in before.items()}

    def forward(x: np.ndarray, layer: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        w, b = low[f"{layer}.weight"], low[f"{layer}.bias"]
        z = np.zeros((*x.shape[:3], len(b)))
        numpy_set.conv2d(x, w, b, z, **laid, activation="relu")
        h, (rows, columns) = rounded(z), (x.shape[1] // 2, x.shape[2] // 2)
        p = np.zeros((13, rows, columns, len(b)))
        places = np.zeros(p.shape, np.uint8)
        numpy_set.max_pool2d(h, p, places, **pooled)
        return h, p, places

    def backward(dp: np.ndarray, layer: int, x: np.ndarray, h: np.ndarray, places: np.ndarray) -> np.ndarray:
        w, b = low[f"{layer}.weight"], low[f"{layer}.bias"]
        dh, dx, leaves = np.zeros_like(h), np.zeros_like(x), np.zeros((4, w.size + b.size))
        numpy_set.max_pool2d_backward(dp, places, dh, **pooled)
        dz = dh * (h > 0)
        numpy_set.conv2d_backward_input(dz, w, dx, **laid)
        numpy_set.conv2d_backward_weight(x, dz, leaves, size=w.shape[:2], **laid)
        gradients[f"{layer}.weight"], gradients[f"{layer}.bias"] = np.zeros_like(w), np.zeros_like(b)
        numpy_set.add_leaves(leaves, gradients[f"{layer}.weight"], gradients[f"{layer}.bias"])
        return rounded(dx)

    gradients: dict[str, np.ndarray] = {}
    x = rounded(X)
    h0, p0, places0 = forward(x, 0)
    h1, p1, places1 = forward(p0, 1)
    flat = p1.reshape(13, -1)
    z = flat @ low["3.weight"] + before["3.bias"]
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    dz = rounded((p - np.eye(5)[y]) / 13)
    gradients |= {"3.weight": flat.T @ dz, "3.bias": dz.sum(0)}
    dp1 = rounded(dz @ low["3.weight"].T).reshape(p1.shape)
    backward(backward(dp1, 1, p0, h1, places1), 0, x, h0, places0)
    assert history["loss"][0] == pytest.approx(-np.log(p[np.arange(13), y]).mean(), rel=1e-5)
    for name, weight in model.weights.items():
        # As above, a number near the middle between two of bfloat16 may go either way.
        np.testing.assert_allclose(weight, before[name] - 0.5 * gradients[name], atol=2e-4, err_msg=name)


@pytest.mark.parametrize("kernel", UPDATES)
@pytest.mark.parametrize("size", [0, 1, 33, 1009])
def test_low_precision_weights_are_the_rounded_parameters(kernel: str, size: int, rng: np.random.Generator) -> None:
    named = [fastnn.optimizers.by_name(name, ema=ema) for name in fastnn.optimizers.NAMES for ema in (None, 0.9)]
    classical = [fastnn.SGD(momentum=0.9, ema=ema) for ema in (None, 0.9)]
    optimizers = {optimizer.update_kernel: optimizer for optimizer in (*classical, *named)}
    state = [np.abs(rng.normal(size=size)).astype(np.float32) for _ in UPDATES[kernel].slots]
    arrays = [
        rng.normal(size=size).astype(np.float32), np.zeros((), np.float32),
        np.ones((1, len(SCALARS)), np.float32), np.zeros((), np.int64),
        np.array([0, size // 3, size // 2, size]), np.array([[0.1, 0, 0, 1], [0, 0.1, 0, 2], [0, 0, 0, 0]], np.float32),
        rng.normal(size=size).astype(np.float32), *state, np.zeros(size, BFLOAT16),
    ]  # fmt: skip
    without = [array.copy() for array in arrays[:-1]]
    attributes = optimizers[kernel].attributes()
    host.run(kernel, arrays, attributes)
    host.run(kernel, without, attributes)
    assert arrays[6].tobytes() == without[6].tobytes()
    assert arrays[-1].tobytes() == arrays[6].astype(BFLOAT16).tobytes()


def test_rounding_is_to_nearest_even_and_keeps_nan_and_infinity() -> None:
    odd = [0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0x3F808000, 0x3F818000]
    bits = np.concatenate([np.arange(0, 2**32, 65521, np.uint64), odd])
    x = bits.astype(np.uint32).view(np.float32)
    y = np.zeros(x.shape, BFLOAT16)
    host.run("identity", [x, y], {})
    with np.errstate(invalid="ignore"):
        expected = x.astype(BFLOAT16)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
    known = ~np.isnan(x)
    np.testing.assert_array_equal(y.view(np.uint16)[known], expected.view(np.uint16)[known])


@pytest.mark.parametrize("norm", [fastnn.BatchNorm, fastnn.LayerNorm])
def test_it_learns_and_goes_on_in_other_precisions(norm: type[Layer], cuda_host: Any) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    X = (rng.normal(size=(300, 6)) + 2 * np.eye(3, 6)[y]).astype(np.float32)
    model = fastnn.Sequential([fastnn.Dense(16, activation="relu"), norm(), fastnn.Dense(3)], seed=1)
    options: dict[str, Any] = {"batch_size": 50, "optimizer": fastnn.Adam(0.02), "device": "cuda", "verbose": 0}
    model.fit(X, y, epochs=10, precision="bf16", **options)
    assert model.evaluate(X, y)["accuracy"] > 0.9
    losses = model.fit(X, y, epochs=3, precision="float32", **options)["loss"]
    assert losses[-1] < 0.3
    assert model.counters.step == 13 * 6


def test_the_average_is_that_of_the_float32_weights(cuda_host: Any) -> None:
    """Not of the low-precision weights, which products read."""

    class Average(Callback):
        every = 1

        def step_end(self, run: Any) -> None:
            for name, w in run.model.weights.items():
                average[name] += np.float32(1 - 0.8) * (w - average[name])

    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(53, 6)).astype(np.float32), rng.integers(0, 3, 53)
    model = fastnn.Sequential([fastnn.Dense(16, activation="relu"), fastnn.Dense(3)], seed=1).build(6)
    average, options = model.weights, {"batch_size": 13, "epochs": 3, "precision": "bf16", "device": "cuda", "verbose": 0}
    alone, once = copy.copy(model), copy.copy(model)
    model.fit(X, y, optimizer=fastnn.Adam(0.02, ema=0.8), callbacks=[Average()], **options)
    state = model.optimizer_state
    assert state is not None
    for name, array in state["average"].items():
        np.testing.assert_allclose(array, average[name], rtol=1e-6, atol=1e-7)
        assert (array != rounded(array)).any()
    once.fit(X, y, optimizer=fastnn.Adam(0.02, ema=0.8), **options)
    alone.fit(X, y, optimizer=fastnn.Adam(0.02), **options)
    for name, weight in model.weights.items():
        assert weight.tobytes() == alone.weights[name].tobytes() == once.weights[name].tobytes()


def test_only_float32_models_on_a_gpu_have_other_precisions(cuda_host: Any) -> None:
    X, y = np.zeros((8, 3)), np.arange(8) % 2
    wide = fastnn.Sequential([fastnn.Dense(2)], dtype="float64")
    with pytest.raises(fastnn.errors.InputError, match="float64"):
        wide.fit(X, y, device="cuda", precision="bf16", verbose=0)
    model = fastnn.Sequential([fastnn.Dense(2)])
    with pytest.raises(fastnn.errors.DeviceError, match="needs a GPU"):
        model.fit(X, y, device="cpu", precision="tf32", verbose=0)
    with pytest.raises(fastnn.errors.InputError, match="did you mean 'bf16'"):
        model.fit(X, y, device="cuda", precision="bf61", verbose=0)
    assert not model.built


def test_explain_shows_what_is_bfloat16(cuda_host: Any) -> None:
    model = fastnn.Sequential([fastnn.Dense(9, activation="relu"), fastnn.Dense(5)], seed=4).build(7)
    text = str(model.program(13, device="cuda", precision="bf16"))
    assert "%0 (B, 7) bfloat16 = gather_rows" in text
    assert "low_precision_weights (122,) bfloat16 = adam" in text
    assert "bfloat16" not in str(model.program(13, device="cuda"))
    assert set(engines.PRECISIONS) == {"float32", "tf32", "bf16"}
    assert isinstance(model.program(13, device="cuda", precision="bf16").program.inputs["low_precision_weights"], Symbol)
