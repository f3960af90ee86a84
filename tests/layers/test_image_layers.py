"""Layers of convolutional networks in models: what they compute, what training, files and descriptions make of them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fastnn
from fastnn import initializers, ops
from fastnn.errors import InputError, InputTypeError
from fastnn.network import programs
from fastnn.program.differentiate import RULES
from fastnn.program.passes.fuse import drop_unread

if TYPE_CHECKING:
    from cuda_on_host.runtime import HostRuntime

N, SIDE, CLASSES = 75, 10, 4


def examples(dtype: str = "float32", channels: int = 1, n: int = N) -> tuple[np.ndarray, np.ndarray]:
    """Images with a bright patch whose place is the label."""
    rng = np.random.default_rng(4)
    y = rng.integers(0, CLASSES, n)
    X = rng.uniform(0, 1, (n, SIDE, SIDE, channels))
    for image, label in zip(X, y, strict=True):
        image[5 * (label // 2) + 1 :][:3, 5 * (label % 2) + 1 :][:, :3] += 1.5
    return X.astype(dtype), y


def network(dtype: str = "float32", channels: bool = True, **first: Any) -> fastnn.Sequential:
    layers = [
        fastnn.Conv2D(6, 3, **{"activation": "relu", **first}), fastnn.MaxPool2D(2),
        fastnn.Conv2D(8, 3, padding="same"), fastnn.BatchNorm(), fastnn.Activation("relu"),
        fastnn.Dropout(0.2, channels=channels), fastnn.MeanPool2D(2, padding="same"), fastnn.Flatten(), fastnn.Dense(CLASSES),
    ]  # fmt: skip
    return fastnn.Sequential(layers, seed=3, dtype=dtype)


def trained(model: fastnn.Sequential, X: Any = None, y: Any = None, **options: Any) -> fastnn.Sequential:
    images, labels = examples(model.dtype.name)
    model.fit(
        images if X is None else X, labels if y is None else y,
        **{"batch_size": 16, "epochs": 2, "verbose": 0, "device": "cpu", **options},
    )  # fmt: skip
    return model


def bits(model: fastnn.Sequential) -> dict[str, bytes]:
    state = model.optimizer_state
    slots = {} if state is None else {f"slot {name}": value.tobytes() for name, value in state.slots.items()}
    return {name: value.tobytes() for name, value in model.weights.items()} | slots


POOLS = (fastnn.L2Pool2D, fastnn.MaxPool2D, fastnn.MeanPool2D)


# --- what they compute --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {}, {"padding": "same"}, {"strides": (2, 1), "padding": ((1, 0), (1, 1))}, {"dilation": 2}, {"groups": 2},
        {"groups": 2, "use_bias": False, "activation": "leaky_relu", "alpha": 0.2},
    ],
)  # fmt: skip
def test_a_convolution_is_that_of_pytorch(options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(3, 9, 8, 4))
    model = fastnn.Sequential(
        [fastnn.Conv2D(6, (3, 2), bias_init=initializers.Normal(0.5), **options)], seed=0, dtype="float64"
    )
    y, weights = model.build(x.shape[1:])(x), model.weights
    padding = {"same": (0, 1, 1, 1), "valid": (0, 0, 0, 0)}.get(str(options.get("padding", "valid")), (1, 1, 1, 0))
    expected = torch.nn.functional.conv2d(
        torch.nn.functional.pad(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), padding),
        torch.from_numpy(weights["0.weight"].transpose(3, 2, 0, 1).copy()),
        torch.from_numpy(weights["0.bias"]) if "0.bias" in weights else None,
        options.get("strides", 1), 0, options.get("dilation", 1), options.get("groups", 1),
    )  # fmt: skip
    if options.get("activation"):
        expected = torch.nn.functional.leaky_relu(expected, 0.2)
    np.testing.assert_allclose(y, expected.numpy().transpose(0, 2, 3, 1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("device", ["numpy", "cpu", "cuda"])
@pytest.mark.parametrize("pooled", [False, True])
def test_padding_beyond_the_windows_is_that_of_pytorch(device: str, pooled: bool, cuda_host: HostRuntime) -> None:
    """Outputs, and the gradients of weights and of images, which are those of the weights of the layer in front."""
    torch = pytest.importorskip("torch")
    x, y = np.random.default_rng(0).normal(size=(6, 5, 4, 3)), np.array([0, 1, 1, 0, 1, 0])
    layers = [
        fastnn.Conv2D(4, 1, padding=1, bias_init=initializers.Normal(0.5)), fastnn.Conv2D(5, (3, 2), padding=(4, 2)),
        *([fastnn.MaxPool2D(2)] if pooled else []), fastnn.Flatten(), fastnn.Dense(2),
    ]  # fmt: skip
    model = fastnn.Sequential(layers, seed=0, dtype="float64").build(x.shape[1:])
    before = model.weights
    arrays = {name: torch.tensor(value, requires_grad=True) for name, value in before.items()}
    last = len(layers) - 1
    z = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    for index, padding in ((0, 1), (1, (4, 2))):
        z = torch.nn.functional.conv2d(z, arrays[f"{index}.weight"].permute(3, 2, 0, 1), arrays[f"{index}.bias"], 1, padding)
    z = torch.nn.functional.max_pool2d(z, 2) if pooled else z
    logits = z.permute(0, 2, 3, 1).reshape(6, -1) @ arrays[f"{last}.weight"] + arrays[f"{last}.bias"]
    np.testing.assert_allclose(model.to(device)(x), logits.detach().numpy(), rtol=1e-11, atol=1e-12)
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(y)).backward()
    model.fit(x, y, optimizer=fastnn.SGD(1.0), batch_size=6, epochs=1, device=device, verbose=0)
    for name, value in model.weights.items():
        np.testing.assert_allclose(before[name] - value, arrays[name].grad.numpy(), rtol=1e-9, atol=1e-12, err_msg=name)


def test_poolings_are_those_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(1).normal(size=(3, 9, 8, 4))
    images = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    pools = {
        fastnn.MaxPool2D: torch.nn.functional.max_pool2d,
        fastnn.MeanPool2D: torch.nn.functional.avg_pool2d,
        fastnn.L2Pool2D: lambda images, *of: torch.nn.functional.lp_pool2d(images, 2.0, *of),
    }
    for (layer, theirs), of in itertools.product(pools.items(), [(2,), ((3, 2), (1, 2)), (3, 2)]):
        y = fastnn.Sequential([layer(*of)], seed=0, dtype="float64").build(x.shape[1:])(x)
        np.testing.assert_allclose(y, theirs(images, *of).numpy().transpose(0, 2, 3, 1), rtol=1e-12)
    y = fastnn.Sequential([fastnn.GlobalMeanPool2D()], seed=0, dtype="float64").build(x.shape[1:])(x)
    np.testing.assert_allclose(y, x.mean((1, 2)), rtol=1e-12)


def test_channels_are_normalized_over_examples_and_pixels_as_in_pytorch() -> None:
    torch = pytest.importorskip("torch")
    X, y = examples("float64", channels=3)
    layers = [fastnn.BatchNorm(momentum=0.9), fastnn.GlobalMeanPool2D(), fastnn.Dense(CLASSES)]
    model = fastnn.Sequential(layers, seed=0, dtype="float64").build(X.shape[1:])
    weights = {"0.gamma": np.array([1.0, 2, 3]), "0.beta": np.array([0.1, 0.2, 0.3])}
    model.set_weights({**model.weights, **weights})
    norm = torch.nn.BatchNorm2d(3, momentum=0.1, dtype=torch.float64)
    norm.weight.data, norm.bias.data = (torch.from_numpy(weights[name]) for name in ("0.gamma", "0.beta"))
    images = torch.from_numpy(X.transpose(0, 3, 1, 2).copy())
    norm(images)
    model.fit(X, y, optimizer=fastnn.SGD(1e-30), batch_size=N, epochs=1, shuffle=False, verbose=0)
    np.testing.assert_allclose(model.weights["0.running_mean"], norm.running_mean.numpy(), rtol=1e-12)
    np.testing.assert_allclose(model.weights["0.running_variance"], norm.running_var.numpy(), rtol=1e-12)
    first = fastnn.Sequential([fastnn.BatchNorm()], seed=0, dtype="float64").build(X.shape[1:])
    first.set_weights({name: value for name, value in model.weights.items() if name.startswith("0.")})
    np.testing.assert_allclose(first(X), norm.eval()(images).detach().numpy().transpose(0, 2, 3, 1), rtol=1e-10)


@pytest.mark.parametrize("pool", [*POOLS, fastnn.GlobalMeanPool2D])
def test_images_without_channels_are_images_of_one(pool: Any) -> None:
    """(B, H, W) has the bits of (B, H, W, 1), and stays without."""
    X, _ = examples()
    alone, with_axis = (fastnn.Sequential([pool()], seed=0).build(shape)(x) for shape, x in (
        ((SIDE, SIDE), X[..., 0]), ((SIDE, SIDE, 1), X),
    ))  # fmt: skip
    assert alone.tobytes() == with_axis.tobytes()
    assert alone.shape == ((N, 1) if pool is fastnn.GlobalMeanPool2D else (N, SIDE // 2, SIDE // 2))
    models = [trained(network(), x) for x in (X, X[..., 0])]
    assert bits(models[0]) == bits(models[1])


def test_the_initial_weights_go_by_what_a_pixel_meets() -> None:
    """He: a deviation of sqrt(2 / (KH KW C / groups)); Glorot of a linear layer: 6 / (fan in + fan out)."""
    conv = fastnn.Sequential([fastnn.Conv2D(64, 5, activation="relu", groups=2)], seed=0, dtype="float64").build((9, 9, 32))
    assert conv.weights["0.weight"].shape == (5, 5, 16, 64)
    assert conv.weights["0.weight"].std() == pytest.approx(np.sqrt(2 / (25 * 16)), rel=0.02)
    linear = fastnn.Sequential([fastnn.Conv2D(64, 5)], seed=0, dtype="float64").build((9, 9, 32))
    limit = np.sqrt(6 / (25 * 32 + 25 * 64))
    assert 0.999 * limit < np.abs(linear.weights["0.weight"]).max() < limit


# --- descriptions and files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (fastnn.Conv2D(20, 5), "Conv2D(20, 5)"),
        (fastnn.Conv2D(20, (5, 3), (2, 2), "same"), "Conv2D(20, (5, 3), strides=2, padding='same')"),
        (
            fastnn.Conv2D(8, 3, padding=1, dilation=(1, 2), groups=4),
            "Conv2D(8, 3, padding=((1, 1), (1, 1)), dilation=(1, 2), groups=4)",
        ),
        (
            fastnn.Conv2D(8, 3, activation="relu", use_bias=False, l2=0.1, l1=0.2, learning_rate_factor=0.5, trainable=False),
            "Conv2D(8, 3, activation='relu', use_bias=False, l2=0.1, l1=0.2, learning_rate_factor=0.5, trainable=False)",
        ),
        (fastnn.MaxPool2D(), "MaxPool2D(2)"),
        (fastnn.MaxPool2D((3, 2), 1, "same"), "MaxPool2D((3, 2), strides=(1, 1), padding='same')"),
        (fastnn.MeanPool2D(3, padding=1), "MeanPool2D(3, padding=((1, 1), (1, 1)))"),
        (fastnn.L2Pool2D(2), "L2Pool2D(2)"),
        (fastnn.GlobalMeanPool2D(), "GlobalMeanPool2D()"),
        (fastnn.Dropout(0.5, channels=True), "Dropout(0.5, channels=True)"),
    ],
)  # fmt: skip
def test_they_are_written_as_they_are_made(layer: fastnn.Layer, text: str) -> None:
    assert repr(layer) == text
    again = eval(text, {name: getattr(fastnn, name) for name in fastnn.layers.BUILT_IN})
    assert again.config() == layer.config()


def test_saved_and_loaded(tmp_path: Path) -> None:
    X, _ = examples()
    layers = [
        fastnn.Conv2D(
            6, (3, 2), 1, ((1, 0), (0, 1)), weight_init="he_normal", activation="elu", alpha=0.5, l2=0.1, trainable=False
        ),
        fastnn.MaxPool2D((3, 2), (1, 2), "same"), fastnn.L2Pool2D(2), fastnn.Conv2D(4, 2, dilation=2, groups=2, padding=1),
        fastnn.BatchNorm(), fastnn.Dropout(0.3, channels=True), fastnn.MeanPool2D(2, padding=1), fastnn.GlobalMeanPool2D(),
        fastnn.Dense(CLASSES),
    ]  # fmt: skip
    model = trained(fastnn.Sequential(layers, seed=2))
    model.save(tmp_path / "model.safetensors", optimizer=True)
    loaded = fastnn.load(tmp_path / "model.safetensors")
    assert repr(loaded) == repr(model)
    assert [layer.config() for layer in loaded.layers] == [layer.config() for layer in model.layers]
    assert bits(loaded) == bits(model)
    assert loaded.predict_proba(X).tobytes() == model.predict_proba(X).tobytes()
    assert bits(trained(loaded)) == bits(trained(model))


def test_the_summary_counts_outputs_numbers_and_operations() -> None:
    model = fastnn.Sequential(
        [fastnn.Conv2D(20, 5, activation="relu"), fastnn.MaxPool2D(2), fastnn.Flatten(), fastnn.Dense(10)], seed=0
    ).build((28, 28))
    rows = [row.split() for row in str(model.summary()).splitlines()]
    shown = {" ".join(row[:2]): row for row in rows if row and row[0].isdecimal()}
    assert shown["0 Conv2D(20,"][-7:] == ["24", "x", "24", "x", "20", "520", "0"]
    assert shown["1 MaxPool2D(2)"][-7:] == ["12", "x", "12", "x", "20", "0", "0"]
    assert shown["3 Dense(10)"][-3:] == ["10", "28,810", "0"]
    assert str(model.program(32, device="cpu")).count("conv2d") >= 2
    multiplied = 2 * (24 * 24 * 20 * 25 + 2880 * 10)
    work = int(str(model.summary()).rpartition("work: ")[2].split()[0].replace(",", ""))
    assert multiplied < work < 1.2 * multiplied
    text = str(model.program(32, loss="softmax_cross_entropy", device="cpu").explain())
    for call in ("conv2d_max_pool+relu", "conv2d_max_pool_backward_we", "add_leaves"):
        assert call in text
    assert "conv2d_backward_input" not in text, "nobody asks for the gradient of the images"


# --- what is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: fastnn.Conv2D(0, 3), "Conv2D: expected filters, an integer >= 1, got 0"),
        (lambda: fastnn.Conv2D(True, 3), "Conv2D: expected filters, an integer >= 1, got True"),
        (lambda: fastnn.Conv2D(8, (3,)), r"Conv2D: kernel_size: expected an integer >= 1, or a pair"),  # type: ignore[arg-type]
        (lambda: fastnn.Conv2D(8, 3, strides=0), "Conv2D: strides: expected"),
        (lambda: fastnn.Conv2D(8, 3, padding="full"), 'Conv2D: padding: expected "valid", "same"'),
        (lambda: fastnn.Conv2D(8, 3, dilation=1.5), "Conv2D: dilation: expected"),  # type: ignore[arg-type]
        (lambda: fastnn.Conv2D(8, 3, groups=3), "Conv2D: groups: expected a divisor of the 8 filters, got 3"),
        (lambda: fastnn.Conv2D(8, 3, groups=0), "Conv2D: expected groups, an integer >= 1, got 0"),
        (lambda: fastnn.Conv2D(8, 3, activation="rellu"), "did you mean 'relu'"),
        (lambda: fastnn.Conv2D(8, 3, l2=-1), "Conv2D: l2"),
        (lambda: fastnn.Conv2D(8, 3, learning_rate_factor=0), "Conv2D: learning_rate_factor: expected a number above 0"),
        (lambda: fastnn.MaxPool2D(0), "MaxPool2D: size: expected"),
        (lambda: fastnn.MeanPool2D(2, strides="2"), "MeanPool2D: strides: expected"),
        (lambda: fastnn.L2Pool2D(2, padding=-1), "L2Pool2D: padding: expected"),
        (lambda: fastnn.Dropout(0.5, channels=1), "Dropout: channels: expected True or False, got 1"),  # type: ignore[arg-type]
    ],
)
def test_bad_arguments_are_told(wrong: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        wrong()


@pytest.mark.parametrize(
    ("layers", "shape", "says"),
    [
        ([fastnn.Conv2D(8, 3)], 784, r"Conv2D: .* or \(B, H, W\), got \(B, 784\); make images of rows, X.reshape"),
        ([fastnn.Conv2D(8, 3)], (4, 5, 6, 7), r"Conv2D: expected images .*, got \(B, 4, 5, 6, 7\)"),
        ([fastnn.Conv2D(8, 7)], (6, 9, 3), "Conv2D: windows of 7 x 7 pixels do not fit into images of 6 x 9"),
        ([fastnn.Conv2D(8, 3, dilation=4)], (6, 9, 3), "Conv2D: windows of 9 x 9 pixels do not fit into images of 6 x 9"),
        ([fastnn.Conv2D(8, 3, groups=4)], (6, 9, 3), "Conv2D: groups: expected a divisor of the 3 channels of the inputs"),
        ([fastnn.Conv2D(8, 3), fastnn.MaxPool2D(5)], (6, 9, 3), "MaxPool2D: windows of 5 x 5 pixels do not fit"),
        ([fastnn.MaxPool2D(2)], 784, r"MaxPool2D: expected images \(B, H, W, C\) or \(B, H, W\), got \(B, 784\)"),
        ([fastnn.GlobalMeanPool2D()], 784, r"GlobalMeanPool2D: expected images .*, got \(B, 784\)"),
        ([fastnn.MaxPool2D((2, 128), padding="same")], (28, 200), "at most 255 pixels"),
        ([fastnn.Dropout(0.1, channels=True)], (6, 9), r"Dropout: channels: expected images \(B, H, W, C\), got \(B, 6, 9\)"),
        ([fastnn.BatchNorm()], (6, 9), r"BatchNorm: expected inputs \(B, O\) or images \(B, H, W, C\), got"),
        ([fastnn.Conv2D(8, 3), fastnn.Dense(2)], (6, 9, 3), r"put fastnn\.Flatten\(\) in front"),
    ],
)  # fmt: skip
def test_inputs_that_do_not_fit_are_told_when_the_model_is_built(layers: list[fastnn.Layer], shape: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        fastnn.Sequential(layers, seed=0).build(shape)


def test_images_of_another_size_are_told() -> None:
    model = trained(network())
    for wrong in (np.zeros((3, 11, 10, 1), "float32"), np.zeros((3, 100), "float32"), np.zeros((3, 10, 10, 3), "float32")):
        with pytest.raises(InputError, match="10, 10"):
            model.predict(wrong)
    with pytest.raises(InputTypeError):
        model.predict(np.full((3, 10, 10, 1), "a"))


# --- inputs -------------------------------------------------------------------------------------------------------------


def test_however_images_lie_in_memory_the_bits_are_the_same(tmp_path: Path) -> None:
    X, _ = examples(channels=3)
    expected = bits(trained(network(), X))
    reversed_twice, fortran, read_only = X[::-1].copy()[::-1], np.asfortranarray(X), X.copy()
    read_only.setflags(write=False)
    np.save(tmp_path / "X.npy", X)
    wider = np.zeros((N, SIDE, SIDE + 3, 5), "float32")
    wider[:, :, :SIDE, 1:4] = X
    for images in (reversed_twice, fortran, read_only, np.load(tmp_path / "X.npy", mmap_mode="r"), wider[:, :, :SIDE, 1:4]):
        assert bits(trained(network(), images)) == expected
    model = trained(network(), X)
    assert model.predict_proba(fortran).tobytes() == model.predict_proba(X).tobytes()
    assert model.predict_proba(wider[:, :, :SIDE, 1:4]).tobytes() == model.predict_proba(X).tobytes()


def test_bytes_are_scaled() -> None:
    X = np.random.default_rng(0).integers(0, 256, (N, SIDE, SIDE)).astype("uint8")
    layers = network().layers
    scaled = trained(fastnn.Sequential(layers, seed=3, input_scale=1 / 255), X)
    floats = trained(fastnn.Sequential(layers, seed=3), X.astype("float32") * np.float32(1 / 255))
    for name, value in scaled.weights.items():
        np.testing.assert_allclose(value, floats.weights[name], rtol=2e-4, atol=2e-5)
    assert scaled(X).shape == (N, CLASSES)


@pytest.mark.parametrize("rows", [0, 1, 33])
def test_so_many_rows_are_answered_as_they_are_among_others(rows: int) -> None:
    X, y = examples()
    model = trained(network())
    assert model.predict(X[:rows]).shape == (rows,)
    assert model.predict_proba(X[:rows]).tobytes() == model.predict_proba(X)[:rows].tobytes()
    if rows:
        assert np.isfinite(model.evaluate(X[:rows], y[:rows])["loss"])
    else:
        with pytest.raises(InputError):
            model.evaluate(X[:rows], y[:rows])


# --- training -----------------------------------------------------------------------------------------------------------


GRADIENTS: dict[str, list[fastnn.Layer]] = {
    "conv": [fastnn.Conv2D(3, 3, activation="tanh"), fastnn.Flatten()],
    "conv, strides, dilation, groups": [
        fastnn.Conv2D(4, (3, 2), (2, 1), "same", activation="sigmoid"), fastnn.Conv2D(4, 2, dilation=2, groups=2),
        fastnn.Flatten(),
    ],
    "max": [fastnn.Conv2D(3, 3, activation="tanh"), fastnn.MaxPool2D(2), fastnn.Flatten()],
    "mean": [fastnn.Conv2D(3, 3, activation="softplus"), fastnn.MeanPool2D((3, 2), 1, "same"), fastnn.Flatten()],
    "l2": [fastnn.Conv2D(3, 3, activation="gelu"), fastnn.L2Pool2D(3, 2), fastnn.Conv2D(3, 2), fastnn.GlobalMeanPool2D()],
    "norm and dropout": [
        fastnn.Conv2D(3, 3), fastnn.BatchNorm(), fastnn.Activation("tanh"), fastnn.Dropout(0.3, channels=True), fastnn.Flatten()
    ],
}  # fmt: skip


@pytest.mark.parametrize("case", GRADIENTS)
def test_gradients_are_those_of_finite_differences(case: str) -> None:
    X, y = examples("float64", channels=2, n=9)
    layers = [*GRADIENTS[case], fastnn.Dense(CLASSES)]
    model = fastnn.Sequential(layers, seed=1, dtype="float64").build(X.shape[1:])
    check = fastnn.check_gradients(model, X, y, dropout="frozen")
    assert check.passed, str(check)


def test_a_wrong_gradient_is_found_and_its_layer_named(monkeypatch: pytest.MonkeyPatch) -> None:
    right = RULES["max_pool2d"]
    monkeypatch.setitem(RULES, "max_pool2d", lambda call, *dy: [ops.multiply(dx, 1.01) for dx in right(call, *dy)])
    X, y = examples("float64", n=9)
    layers = [fastnn.Conv2D(3, 3, activation="tanh"), fastnn.MaxPool2D(2), fastnn.Flatten(), fastnn.Dense(CLASSES)]
    check = fastnn.check_gradients(fastnn.Sequential(layers, seed=1, dtype="float64").build(X.shape[1:]), X, y)
    assert not check.passed
    assert set(check.failed) == {"0.weight", "0.bias"}
    assert "layer 0, Conv2D, or behind it, up to layer 3, Dense" in " ".join(str(check).split())


def test_it_learns_where_the_patch_is() -> None:
    X, y = examples(n=400)
    model = trained(network(), X[:300], y[:300], epochs=20)
    assert model.evaluate(X[300:], y[300:])["accuracy"] > 0.9


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_the_number_of_threads_changes_no_bit(threads: int) -> None:
    assert bits(trained(network(), threads=1)) == bits(trained(network(), threads=threads))


def test_steps_follow_the_definition() -> None:
    """30 steps of the compiled kernels and of NumPy's."""
    models = [trained(network("float64"), epochs=6, device=device) for device in ("cpu", "numpy")]
    for name, value in models[0].weights.items():
        np.testing.assert_allclose(value, models[1].weights[name], rtol=1e-9, atol=1e-11, err_msg=name)


def test_a_run_that_is_continued_ends_with_the_same_bits(tmp_path: Path) -> None:
    writer = fastnn.callbacks.Checkpoint(tmp_path)
    trained(network(), callbacks=[writer])
    again = trained(network(), epochs=5, callbacks=[fastnn.callbacks.Checkpoint(tmp_path)], resume=True)
    assert bits(again) == bits(trained(network(), epochs=5))


def test_the_gradient_flows_through_all_of_it() -> None:
    flow = fastnn.GradientFlow(examples=40)
    model = trained(network(), callbacks=[flow])
    assert flow.layers == tuple(f"{index} {layer}" for index, layer in enumerate(model.layers))
    assert (flow.gradients > 1e-6).all()
    assert (flow.parameter_gradients[:, [0, 2, 3, 8]] > 1e-6).all()
    assert np.isnan(flow.parameter_gradients[:, 1]).all()


def test_one_image_at_a_time() -> None:
    X, y = examples(n=3)
    layers = [fastnn.Conv2D(3, 3), fastnn.MaxPool2D(2), fastnn.Flatten(), fastnn.Dense(CLASSES)]
    model = trained(fastnn.Sequential(layers, seed=0), X, y, batch_size=1, classes=range(CLASSES))
    assert model.counters.step == 6
    with pytest.raises(InputError, match="batch norm cannot be trained with mini-batches of one example"):
        trained(network(), X, y, batch_size=1)


@pytest.mark.parametrize("length", [1, 2, 1000])
def test_the_length_of_a_chunk_changes_no_bit(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = bits(trained(network()))
    monkeypatch.setattr(programs, "LOG_ROWS", length)
    monkeypatch.setattr(fastnn.training.chunks, "LOG_ROWS", length)
    assert bits(trained(network())) == expected


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", None])
def test_fusion_changes_no_bit(activation: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    fused = trained(network(activation=activation))
    monkeypatch.setattr(programs, "fuse", drop_unread)
    assert bits(trained(network(activation=activation))) == bits(fused)


def test_frozen_it_computes_the_same_and_keeps_its_numbers() -> None:
    X, _ = examples()
    model = trained(network())
    before, outputs = model.weights, model(X)
    model.freeze(0)
    np.testing.assert_array_equal(model(X), outputs)
    text = str(model.program(16, device="cpu"))
    assert "d 2.weight" in text
    assert "d 0.weight" not in text
    trained(model)
    kept = {name for name, value in model.weights.items() if value.tobytes() == before[name].tobytes()}
    assert kept == {"0.weight", "0.bias"}
    trained(model.unfreeze(0))
    assert model.weights["0.weight"].tobytes() != before["0.weight"].tobytes()


def test_penalties_and_rates_of_its_own() -> None:
    """One step of SGD: w - factor rate (g + l2 w + l1 sign w), the bias without penalty."""
    X, y = examples("float64")
    moves = {}
    for name, options in {"plain": {}, "l2": {"l2": 0.5}, "l1": {"l1": 0.5}, "factor": {"learning_rate_factor": 0.25}}.items():
        model = fastnn.Sequential(
            [fastnn.Conv2D(3, 3, activation="tanh", **options), fastnn.Flatten(), fastnn.Dense(CLASSES)],
            seed=0,
            dtype="float64",
        ).build(X.shape[1:])
        start = model.weights
        model.fit(X, y, optimizer=fastnn.SGD(0.1), batch_size=N, epochs=1, verbose=0)
        moves[name] = {each: value - start[each] for each, value in model.weights.items()}
    plain, w = moves["plain"], start["0.weight"]
    np.testing.assert_allclose(moves["l2"]["0.weight"], plain["0.weight"] - 0.1 * 0.5 * w, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(moves["l1"]["0.weight"], plain["0.weight"] - 0.1 * 0.5 * np.sign(w), rtol=1e-7, atol=1e-12)
    for each in ("0.weight", "0.bias"):
        np.testing.assert_allclose(moves["factor"][each], 0.25 * plain[each], rtol=1e-9, atol=1e-15)
    for name in ("l2", "l1"):
        np.testing.assert_allclose(moves[name]["0.bias"], plain["0.bias"], rtol=1e-12)


def test_weights_of_examples_and_classes_are_copies_of_them() -> None:
    """A weight of two says what the row twice says."""
    X, y = examples("float64")
    layers = [fastnn.Conv2D(3, 3, activation="tanh"), fastnn.MaxPool2D(2), fastnn.Flatten(), fastnn.Dense(CLASSES)]
    weights = np.where(np.arange(N) % 3 == 0, 2.0, 1.0)
    twice = np.repeat(np.arange(N), weights.astype(int))
    step = {"optimizer": fastnn.SGD(0.1), "epochs": 3, "shuffle": False, "batch_size": "all"}
    weighted, repeated, classed, by_hand = (
        trained(fastnn.Sequential(layers, seed=0, dtype="float64"), images, labels, **step, **more)
        for images, labels, more in (
            (X, y, {"sample_weight": weights}), (X[twice], y[twice], {}), (X, y, {"class_weight": {1: 3.0}}),
            (X, y, {"sample_weight": np.where(y == 1, 3.0, 1.0)}),
        )
    )  # fmt: skip
    for name, value in weighted.weights.items():
        np.testing.assert_allclose(value, repeated.weights[name], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(classed.weights[name], by_hand.weights[name], rtol=1e-9, atol=1e-12)


def test_validation_early_stopping_and_the_best_weights() -> None:
    X, y = examples()
    stopping = fastnn.callbacks.EarlyStopping("val_loss", patience=1)
    model = network()
    history = model.fit(
        X, y, validation_split=0.2, epochs=50, batch_size=16, optimizer=fastnn.Adam(0.05), callbacks=[stopping], verbose=0
    )
    assert history.validation_rows == 15
    assert stopping.stopped
    assert stopping.best == min(history["val_loss"])


def test_one_step_at_a_time() -> None:
    """`training_step` and `partial_fit` have the bits of `fit`; the gradient of the images is that of differences."""
    X, y = examples()
    expected = trained(network(channels=False), shuffle=False, epochs=1, batch_size=25)
    stepped, partly = network(channels=False), network(channels=False)
    step = stepped.build(X.shape[1:]).training_step(loss="softmax_cross_entropy", batch_size=25)
    for first in range(0, N, 25):
        step(X[first : first + 25], y[first : first + 25])
        partly.partial_fit(X[first : first + 25], y[first : first + 25], classes=range(CLASSES))
    assert {k: v.tobytes() for k, v in stepped.weights.items()} == {k: v.tobytes() for k, v in expected.weights.items()}
    assert {k: v.tobytes() for k, v in partly.weights.items()} == {k: v.tobytes() for k, v in expected.weights.items()}


def test_the_gradient_of_the_images() -> None:
    X, y = examples("float64", n=5)
    layers = [fastnn.Conv2D(3, 3, activation="tanh"), fastnn.L2Pool2D(2), fastnn.Flatten(), fastnn.Dense(CLASSES)]

    model = fastnn.Sequential(layers, seed=0, dtype="float64").build(X.shape[1:])
    step = model.training_step(loss="softmax_cross_entropy", optimizer=fastnn.SGD(0.0), batch_size=5, input_gradients=True)
    gradient = step(X, y)[1].copy()
    for spot in ((0, 3, 4, 0), (4, 0, 0, 0), (2, 9, 9, 0)):
        sides = []
        for shift in (1e-5, -1e-5):
            moved = X.copy()
            moved[spot] += shift
            sides.append(step(moved, y)[0])
        assert gradient[spot] == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-5, abs=1e-9)


def test_behind_layers_that_prepare_images() -> None:
    X, y = examples(n=200)
    standardizer = fastnn.Standardizer().fit(100 + 5 * X)
    first = trained(fastnn.Sequential([standardizer, *network().layers], seed=3), 100 + 5 * X, y, epochs=8)
    assert first.evaluate(100 + 5 * X, y)["accuracy"] > 0.8
    augmented = fastnn.Sequential([fastnn.Augment(shift=0.05, rotation=5), *network().layers], seed=3)
    assert trained(augmented, X, y, epochs=8).evaluate(X, y)["accuracy"] > 0.8
    assert bits(trained(augmented.clone(), X, y, threads=1)) == bits(trained(augmented.clone(), X, y, threads=2))
