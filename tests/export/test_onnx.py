"""ONNX files beside the model that they were written of, in ONNX Runtime."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import ops
from fastnn.errors import FileError, InputError, InputTypeError, NotReadyError
from fastnn.export.onnx import TRANSLATIONS

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

rng = np.random.default_rng(4)
X = rng.standard_normal((37, 6)).astype(np.float32)
Y = rng.integers(0, 3, 37)
IMAGES = rng.standard_normal((9, 13, 14, 4)).astype(np.float32)


def session_of(model: fastnn.Sequential, **options: Any) -> Any:
    file = io.BytesIO()
    fastnn.to_onnx(model, file, **options)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 2  # warnings, such as of constants that nothing reads
    return onnxruntime.InferenceSession(file.getvalue(), settings, providers=["CPUExecutionProvider"])


def run(model: fastnn.Sequential, data: np.ndarray, **options: Any) -> dict[str, np.ndarray]:
    session = session_of(model, **options)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"X": data}), strict=True))


def close(found: np.ndarray, expected: Any) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def made(*layers: fastnn.Layer, dtype: str = "float32", features: Any = 6) -> fastnn.Sequential:
    """A built model whose weights, scales and statistics are not those of the beginning."""
    model = fastnn.Sequential(layers, seed=1, dtype=dtype).build(features)
    drawn = np.random.default_rng(5)
    for name, array in model.weights.items():
        if name.endswith(("bias", "beta", "running_mean")):
            model.set_weights({name: drawn.standard_normal(array.shape).astype(dtype)})
        elif name.endswith(("gamma", "running_variance")):
            model.set_weights({name: drawn.uniform(0.5, 2.0, array.shape).astype(dtype)})
    return model


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ops.ACTIVATIONS)
def test_every_activation(activation: str, dtype: str) -> None:
    model = made(fastnn.Dense(7, activation=activation), fastnn.Dense(3), dtype=dtype)
    data = 3 * X.astype(dtype)
    close(run(model, data)["outputs"], model(data))


ROWS = {
    "dense": [fastnn.Dense(33), fastnn.Dense(1, use_bias=False)],
    "batch norm": [fastnn.Dense(5), fastnn.BatchNorm(epsilon=0.1), fastnn.Activation("tanh"), fastnn.Dense(2)],
    "layer norm": [fastnn.LayerNorm(epsilon=0.1), fastnn.Dense(2)],
    "dropout": [fastnn.Dense(5), fastnn.Dropout(0.5), fastnn.Dense(2)],
    "standardizer": [fastnn.Standardizer().fit(X), fastnn.Dense(2)],
    "standardizer within": [fastnn.Dense(6), fastnn.Standardizer().fit(X), fastnn.Dense(2)],
    "one layer": [fastnn.Activation("relu")],
    "a layer that does nothing": [fastnn.Dropout(0.5)],
    "alpha": [fastnn.Dense(5, activation="leaky_relu", alpha=0.3), fastnn.Dense(4, activation="elu", alpha=2.0)],
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [1, 37])
@pytest.mark.parametrize("name", ROWS)
def test_every_layer_of_rows(name: str, rows: int, dtype: str) -> None:
    model = made(*ROWS[name], dtype=dtype)
    data = X[:rows].astype(dtype)
    close(run(model, data)["outputs"], model(data))


PICTURES = {
    "valid": [fastnn.Conv2D(3, 3, activation="relu")],
    "same": [fastnn.Conv2D(3, (2, 4), padding="same")],
    "numbers": [fastnn.Conv2D(3, (5, 1), padding=(2, 0))],
    "strides": [fastnn.Conv2D(3, 3, strides=(2, 3))],
    "strides and same": [fastnn.Conv2D(3, 4, strides=3, padding="same")],
    "dilation": [fastnn.Conv2D(3, (2, 3), dilation=(3, 2), padding="same")],
    "groups": [fastnn.Conv2D(6, 3, groups=2)],
    "depthwise": [fastnn.Conv2D(4, 3, groups=4, use_bias=False)],
    "max pool": [fastnn.MaxPool2D(3, strides=2)],
    "mean pool": [fastnn.MeanPool2D((2, 3))],
    "L2 pool": [fastnn.L2Pool2D(2, strides=1)],
    "means of channels": [fastnn.GlobalMeanPool2D()],
    "batch norm": [fastnn.BatchNorm()],
    "flatten": [fastnn.Flatten(), fastnn.Dense(3)],
    "channels dropped": [fastnn.Conv2D(3, 3), fastnn.Dropout(0.5, channels=True)],
    "a network": [
        fastnn.Conv2D(5, 3, padding="same"), fastnn.BatchNorm(), fastnn.Activation("relu"), fastnn.MaxPool2D(2),
        fastnn.Conv2D(7, 3, activation="tanh"), fastnn.Flatten(), fastnn.Dense(10, activation="relu"), fastnn.Dense(3),
    ],
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", PICTURES)
def test_every_layer_of_images(name: str, dtype: str) -> None:
    model = made(*PICTURES[name], dtype=dtype, features=(13, 14, 4))
    data = IMAGES.astype(dtype)
    close(run(model, data)["outputs"], model(data))


@pytest.mark.parametrize("padding", ["same", 1])
def test_pools_at_the_edge(padding: Any) -> None:
    for layer in (fastnn.MaxPool2D(3, strides=2, padding=padding), fastnn.MeanPool2D(3, strides=2, padding=padding)):
        model = made(layer, features=(13, 14, 4))
        close(run(model, IMAGES)["outputs"], model(IMAGES))


def test_images_without_channels_in_bytes() -> None:
    images = rng.integers(0, 256, (11, 9, 9), dtype=np.uint8)
    model = fastnn.Sequential([fastnn.Conv2D(2, 3), fastnn.Flatten(), fastnn.Dense(2)], seed=0, input_scale=1 / 255)
    model.fit(images, np.arange(11) % 2, epochs=1, batch_size="all", verbose=0)
    found = run(model, images, input_dtype="uint8")
    close(found["probabilities"], model.predict_proba(images))
    np.testing.assert_array_equal(found["label"], model.predict(images))


def test_large_values_are_standardized_in_float64() -> None:
    data = 1e8 + rng.standard_normal((30, 2))
    model = fastnn.Sequential([fastnn.Standardizer().fit(data), fastnn.Dense(3)], seed=0).build(2)
    found = run(model, data, input_dtype="float64")["outputs"]
    close(found, model(data))
    assert np.abs(found).max() > 0.1


# What the outputs are for.


@pytest.mark.parametrize("labels", [["a", "bc", "d"], [0, 1, 2], [7, 3, 5]])
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "softmax_focal"])
def test_classes(labels: list[Any], loss: str) -> None:
    model, y = made(fastnn.Dense(8, activation="relu"), fastnn.Dense(3)), np.array(labels)[Y]
    model.fit(X, y, loss=loss, epochs=3, batch_size="all", verbose=0)
    found = run(model, X)
    assert list(found) == ["label", "probabilities"]
    close(found["probabilities"], model.predict_proba(X))
    assert found["label"].tolist() == model.predict(X).tolist()
    metadata = session_of(model).get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == sorted(labels)
    assert (metadata["task"], metadata["loss"], metadata["fastnn_version"]) == ("classes", loss, fastnn.__version__)


@pytest.mark.parametrize(
    "y", [Y == 1, np.where(Y == 1, "yes", "no"), np.where(Y == 1, 1.0, -1.0)], ids=["bool", "str", "float"]
)
@pytest.mark.parametrize("last", [None, "sigmoid"])
def test_two_classes_by_one_output(y: np.ndarray, last: str | None) -> None:
    model = made(fastnn.Dense(8, activation="tanh"), fastnn.Dense(1, activation=last))
    model.fit(X, y, loss="quadratic" if last else "sigmoid_cross_entropy", epochs=2, batch_size="all", verbose=0)
    found = run(model, X)
    close(found["probabilities"], model.predict_proba(X))
    assert found["label"].tolist() == model.predict(X).tolist()


def test_several_yeses() -> None:
    y = np.stack([Y == 0, Y != 1], 1).astype(int)
    model = made(fastnn.Dense(2))
    model.fit(X, y, loss="sigmoid_cross_entropy", epochs=2, batch_size="all", verbose=0)
    found = run(model, X)
    close(found["probabilities"], model.predict_proba(X))
    np.testing.assert_array_equal(found["label"], model.predict(X))


@pytest.mark.parametrize(("loss", "y"), [("huber", X[:, 0]), ("poisson", np.abs(X[:, 0])), ("quadratic", X[:, :2])])
def test_numbers(loss: str, y: np.ndarray) -> None:
    model = made(fastnn.Dense(4, activation="relu"), fastnn.Dense(1 if y.ndim == 1 else 2))
    model.fit(X, y, loss=loss, epochs=2, batch_size="all", verbose=0)
    close(run(model, X)["values"], model.predict(X))


def test_names_of_columns() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcdef"))
    model = fastnn.Sequential([fastnn.Dense(3)], seed=0)
    model.fit(frame, Y, epochs=1, batch_size="all", verbose=0)
    assert json.loads(session_of(model).get_modelmeta().custom_metadata_map["feature_names"]) == list("abcdef")


@pytest.mark.parametrize("shape", [(6, 1), (4, 4, 1), (5, 4, 3)])
def test_standardized_images(shape: tuple[int, ...]) -> None:
    images = rng.standard_normal((20, *shape)).astype(np.float32)
    model = made(fastnn.Standardizer().fit(images), fastnn.Flatten(), fastnn.Dense(3), features=shape)
    close(run(model, images)["outputs"], model(images))


def test_labels_where_probabilities_are_rounded_to_the_same() -> None:
    many = made(fastnn.Dense(3))
    many.fit(X, Y, loss="sigmoid_cross_entropy", epochs=1, batch_size="all", verbose=0)
    for biases in ([20, 30, 0], [-30, -20, -40], [-90, -80, -100]):
        many.set_weights({"0.weight": np.zeros((6, 3), "f4"), "0.bias": np.array(biases, "f4")})
        np.testing.assert_array_equal(run(many, X)["label"], many.predict(X))
    one = made(fastnn.Dense(1))
    one.fit(X, Y == 1, loss="sigmoid_cross_entropy", epochs=1, batch_size="all", verbose=0)
    one.set_weights({"0.weight": np.zeros((6, 1), "f4"), "0.bias": np.array([1e-8], "f4")})
    np.testing.assert_array_equal(run(one, X)["label"], one.predict(X))


@pytest.mark.parametrize(("last", "outputs"), [(None, 3), ("tanh", 3), ("log_softmax", 3), ("tanh", 1)])
def test_classes_without_probabilities(last: str | None, outputs: int) -> None:
    model = made(fastnn.Dense(outputs, activation=last))
    if outputs == 1:
        model.build(6, loss="quadratic", classes=["no", "yes"])
    else:
        y = np.array(["a", "b", "c"])[Y]
        model.fit(X, y, loss="quadratic", epochs=1, batch_size="all", verbose=0)
    found = run(model, X)
    assert list(found) == ["label", "outputs"]
    assert found["label"].tolist() == model.predict(X).tolist()
    close(found["outputs"], model(X))


def test_names_that_the_standardizer_knows() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcdef"))
    model = fastnn.Sequential([fastnn.Standardizer().fit(frame), fastnn.Dense(3)], seed=0).build(6)
    assert json.loads(session_of(model).get_modelmeta().custom_metadata_map["feature_names"]) == list("abcdef")


# Layers of one's own.


def test_kernels_without_a_name_of_their_own() -> None:
    class Mine(fastnn.Layer):
        def parameters(self, shape: tuple[int, ...]) -> dict[str, Any]:
            return {"w": fastnn.Parameter((9, shape[-1] * 2), fastnn.initializers.He())}

        def forward(self, x: Any, training: bool) -> Any:
            return ops.conv2d(x, ops.reshape(self.w, (3, 3, x.shape[-1], 2)), None, padding="same")

    model = fastnn.Sequential([Mine(), Mine()], seed=0).build((5, 5, 2))
    images = rng.standard_normal((3, 5, 5, 2)).astype(np.float32)
    close(run(model, images)["outputs"], model(images))


@pytest.mark.parametrize("function", [lambda x: x > 0.0, lambda x: ops.argmax(x)])
def test_outputs_that_are_no_floats(function: Any) -> None:
    class Layer(fastnn.Layer):
        def forward(self, x: Any, training: bool) -> Any:
            return function(x)

    with pytest.raises(fastnn.FastnnError):
        run(fastnn.Sequential([Layer()], seed=0).build(6), X)


OWN = {
    "negative": lambda x: -x, "exp": ops.exp, "log": lambda x: ops.log(ops.abs(x) + 1.0),
    "sqrt": lambda x: ops.sqrt(ops.abs(x)),
    "sign": ops.sign, "subtract": lambda x: 1.0 - x, "divide": lambda x: x / (ops.abs(x) + 2.0),
    "power": lambda x: ops.abs(x) ** 1.5,
    "maximum": lambda x: ops.maximum(x, 0.5), "minimum": lambda x: ops.minimum(x, 0.5),
    "where": lambda x: ops.where(x > 0.3, x, 0.1 * x), "less": lambda x: ops.where(x < 0.3, x, -x),
    "less_equal": lambda x: ops.where(x <= 0.3, x, -x), "greater_equal": lambda x: ops.where(x >= 0.3, x, -x),
    "transpose": lambda x: ops.transpose(ops.reshape(x, (x.shape[0], 2, 3)), (0, 2, 1)),
    "concatenate": lambda x: ops.concatenate([x, x * 2.0], 1), "slice": lambda x: ops.slice(x, 1, 4, 1),
    "sum": lambda x: ops.reshape(ops.sum(x, 1), (x.shape[0], 1)), "max": lambda x: ops.reshape(ops.max(x, 1), (x.shape[0], 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_operations_of_a_layer_of_ones_own(name: str) -> None:
    function = OWN[name]

    class Layer(fastnn.Layer):
        def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
            return (1,)

        def forward(self, x: Any, training: bool) -> Any:
            y = function(x)
            return ops.reshape(ops.mean(y, tuple(range(1, len(y.shape)))), (x.shape[0], 1))

    model = fastnn.Sequential([Layer()], seed=0).build(6)
    close(run(model, X)["outputs"], model(X))


def test_what_has_no_counterpart_is_named() -> None:
    class Layer(fastnn.Layer):
        def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
            return (3,)

        def forward(self, x: Any, training: bool) -> Any:
            return ops.one_hot(ops.argmax(x), 3)

    assert "one_hot" not in TRANSLATIONS
    with pytest.raises(InputError, match="one_hot has no counterpart in ONNX"):
        run(fastnn.Sequential([Layer()], seed=0).build(3), X)


# Files.


def test_a_file_is_opened_without_fastnn(tmp_path: Path) -> None:
    model = made(fastnn.Dense(3))
    model.fit(X, Y, epochs=1, batch_size="all", verbose=0)
    fastnn.to_onnx(model, tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", X)
    code = """
import sys
import numpy, onnxruntime
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
print(session.run(["label"], {"X": numpy.load("x.npy")})[0].tolist(), "fastnn" in sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert out.strip() == f"{model.predict(X).tolist()} False"


def test_dtypes_that_are_chosen() -> None:
    model = made(fastnn.Dense(3, activation="tanh"), dtype="float64")
    found = run(model, X, dtype="float32")["outputs"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, model(X.astype(np.float64)), rtol=1e-5, atol=1e-5)
    integers = rng.integers(-5, 5, (4, 6))
    close(run(model, integers, input_dtype="int64")["outputs"], model(integers.astype(np.float64)))


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match="no parameters yet"):
        fastnn.to_onnx(fastnn.Sequential([fastnn.Dense(2)]), tmp_path / "a.onnx")
    for path in (None, 3, b"a.onnx"):
        with pytest.raises(InputTypeError, match="expected a path or a binary file object"):
            fastnn.to_onnx(made(fastnn.Dense(2)), path)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastnn.export.onnx.MOST_BYTES", 50)
        with pytest.raises(InputError, match="the file would have 56 bytes"):
            fastnn.to_onnx(made(fastnn.Dense(2)), tmp_path / "a.onnx")
    with pytest.raises(InputTypeError, match="expected a Sequential"):
        fastnn.to_onnx(object(), tmp_path / "a.onnx")  # type: ignore[arg-type]
    model = made(fastnn.Dense(2))
    for options in ({"dtype": "float16"}, {"input_dtype": "bool"}):
        with pytest.raises(InputError, match=r"dtype: expected"):
            fastnn.to_onnx(model, tmp_path / "a.onnx", **options)
    with pytest.raises(FileError, match="there is no folder"):
        fastnn.to_onnx(model, tmp_path / "none" / "a.onnx")
    assert not list(tmp_path.iterdir())
