"""Layer normalization in a model: its values, what training and files make of it, and what is fused with it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import ops
from fastnn.errors import InputError
from fastnn.network import programs
from fastnn.program.passes import fuse
from fastnn.program.passes.norm_dropout import merge_norm_dropout
from fastnn.program.trace import Program
from fastnn_kernels.contract import ACTIVATIONS_FROM_OUTPUT

N, FEATURES, CLASSES = 75, 7, 4


def network(activation: str = "relu", dtype: str = "float32", rate: float = 0.0, **options: Any) -> fastnn.Sequential:
    """Two times Dense-LayerNorm-Activation-Dropout."""
    layers: list[fastnn.Layer] = []
    for width in (36, 33):
        layers += [fastnn.Dense(width), fastnn.LayerNorm(**options), fastnn.Activation(activation)]
        layers += [fastnn.Dropout(rate)] if rate else []
    return fastnn.Sequential([*layers, fastnn.Dense(CLASSES)], seed=3, dtype=dtype)


def examples(dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    return rng.standard_normal((N, FEATURES)).astype(dtype), rng.integers(0, CLASSES, N)


def trained(model: fastnn.Sequential, device: str = "cpu", **options: Any) -> fastnn.Sequential:
    X, y = examples(model.dtype.name)
    model.fit(X, y, **{"batch_size": 16, "epochs": 2, "verbose": 0, "device": device, **options})
    return model


def test_a_row_is_normalized_by_itself() -> None:
    model = fastnn.Sequential([fastnn.LayerNorm(epsilon=1e-3)], seed=0, dtype="float64").build(5)
    rng = np.random.default_rng(0)
    x, gamma, beta = 3 * rng.standard_normal((4, 5)) + 7, rng.standard_normal(5), rng.standard_normal(5)
    normal = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(model(x), normal, rtol=1e-12)
    model.set_weights({"0.gamma": gamma, "0.beta": beta})
    np.testing.assert_allclose(model(x), gamma * normal + beta, rtol=1e-12)
    np.testing.assert_array_equal(model(x[1:2])[0], model(x)[1])
    np.testing.assert_allclose(ops.layer_norm(x, gamma, beta, epsilon=1e-3), gamma * normal + beta, rtol=1e-12)


def test_training_and_inference_compute_the_same_of_one_row_too() -> None:
    """The loss of a step without a rate is that of `evaluate`; batch norm cannot train on one row."""
    X, y = examples()
    for rows in (1, 31):
        model = network()
        history = model.fit(X[:rows], y[:rows], optimizer=fastnn.SGD(1e-30), batch_size=rows, epochs=1, verbose=0)
        assert model.evaluate(X[:rows], y[:rows])["loss"] == pytest.approx(history["loss"][0], rel=1e-6)


def test_the_bias_in_front_stays_and_matters() -> None:
    model = network().build(FEATURES)
    assert {"0.bias", "1.gamma", "1.beta"} <= set(model.weights)
    assert not any("running" in name for name in model.weights)
    X, _ = examples()
    before = model(X)
    model.set_weights({**model.weights, "0.bias": np.linspace(-1, 1, 36, dtype="float32")})
    assert np.abs(model(X) - before).max() > 0.01
    shifted = {**model.weights, "0.bias": model.weights["0.bias"] + 5}  # the same for every feature: nothing changes
    before = model(X)
    model.set_weights(shifted)
    np.testing.assert_allclose(model(X), before, atol=1e-5)


def test_the_weights_in_front_go_by_the_activation_behind() -> None:
    dense = network("relu").layers[0]
    assert isinstance(dense, fastnn.Dense)
    assert dense.weight_init == fastnn.initializers.He()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: fastnn.LayerNorm(epsilon=0), "LayerNorm: expected epsilon > 0, got 0"),
        (lambda: fastnn.LayerNorm(epsilon=float("nan")), "LayerNorm: expected epsilon > 0, got nan"),
        (lambda: fastnn.LayerNorm(learning_rate_factor=0), "LayerNorm: learning_rate_factor: expected a number above 0"),
        (lambda: fastnn.LayerNorm(trainable=None), "LayerNorm: trainable: expected True or False, got None"),  # type: ignore[arg-type]
        (
            lambda: fastnn.Sequential([fastnn.LayerNorm()], seed=0).build((4, 5)),
            r"LayerNorm: expected inputs \(B, O\), got \('B', 4, 5\); put fastnn\.Flatten\(\) in front",
        ),
    ],
)
def test_bad_arguments_are_told(wrong: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        wrong()


def test_the_number_of_features_is_not_taken_for_epsilon() -> None:
    """PyTorch's first argument is the shape."""
    with pytest.raises(TypeError, match="positional"):
        fastnn.LayerNorm(64)  # type: ignore[misc]


def test_it_is_written_as_it_was_made() -> None:
    assert repr(fastnn.LayerNorm()) == "LayerNorm()"
    assert repr(fastnn.LayerNorm(epsilon=1e-3)) == "LayerNorm(epsilon=0.001, learning_rate_factor=1.0)"
    assert repr(fastnn.LayerNorm(trainable=False)) == "LayerNorm(trainable=False)"
    assert "LayerNorm" in str(network().build(FEATURES).summary())


def test_saved_and_loaded(tmp_path: Path) -> None:
    model = trained(network(epsilon=1e-3, learning_rate_factor=0.5))
    model.save(tmp_path / "model.safetensors", optimizer=True)
    loaded = fastnn.load(tmp_path / "model.safetensors")
    assert repr(loaded) == repr(model)
    assert {name: value.tobytes() for name, value in loaded.weights.items()} == {
        name: value.tobytes() for name, value in model.weights.items()
    }
    assert trained(loaded).weights["0.weight"].tobytes() == trained(model).weights["0.weight"].tobytes()


def test_frozen_it_computes_the_same_and_keeps_its_numbers() -> None:
    X, _ = examples()
    model = trained(network())
    before, outputs = model.weights, model(X)
    model.freeze(1)
    np.testing.assert_array_equal(model(X), outputs)
    text = str(model.program(16, device="cpu"))
    assert "d 0.weight" in text
    assert "d 1.gamma" not in text
    trained(model)
    kept = {name for name, value in model.weights.items() if value.tobytes() == before[name].tobytes()}
    assert kept == {"1.gamma", "1.beta"}


def test_a_factor_of_its_learning_rate() -> None:
    X, y = examples("float64")
    moves = []
    for factor in (1.0, 0.25):
        model = network(dtype="float64", learning_rate_factor=factor).build(FEATURES)
        before = model.weights
        model.fit(X, y, optimizer=fastnn.SGD(0.1), batch_size=N, epochs=1, verbose=0)
        moves.append({name: value - before[name] for name, value in model.weights.items()})
    for name in ("1.gamma", "1.beta"):
        np.testing.assert_allclose(moves[1][name], 0.25 * moves[0][name], rtol=1e-6, atol=1e-15)
    np.testing.assert_allclose(moves[1]["0.weight"], moves[0]["0.weight"], rtol=1e-12)


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_its_gradients_are_those_of_finite_differences(activation: str) -> None:
    X, y = examples("float64")
    layers = [fastnn.Dense(6), fastnn.LayerNorm(), fastnn.Activation(activation), fastnn.Dense(CLASSES)]
    model = fastnn.Sequential(layers, seed=0, dtype="float64").build(FEATURES)
    assert fastnn.check_gradients(model, X[:9], y[:9]).passed


def test_the_gradient_flows_through_it() -> None:
    flow = fastnn.GradientFlow(examples=40)
    model = trained(network(), callbacks=[flow])
    assert flow.layers == tuple(f"{index} {layer}" for index, layer in enumerate(model.layers))
    assert (flow.gradients > 1e-6).all()
    assert (flow.parameter_gradients[:, [0, 1, 3, 4, 6]] > 1e-6).all()


@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_changes_no_bit(threads: int) -> None:
    alone, together = (trained(network(), threads=count).weights for count in (1, threads))
    assert {name: value.tobytes() for name, value in alone.items()} == {n: v.tobytes() for n, v in together.items()}


# --- fusion -------------------------------------------------------------------------------------------------------------


def kernels(program: Program) -> Counter[str]:
    return Counter(call.kernel for call in program.calls)


@pytest.mark.parametrize("activation", ACTIVATIONS_FROM_OUTPUT)
def test_what_a_step_is_made_of(activation: str) -> None:
    program = network(activation, rate=0.3).build(FEATURES).program(16, device="cpu").program
    found, on_gpu = kernels(program), kernels(merge_norm_dropout(program))
    assert (found["layer_norm"], found["layer_norm_backward"], found["dropout"]) == (2, 2, 4)
    assert activation not in found
    assert found[f"{activation}_backward"] == (0 if activation in fuse.COMPARED else 2)
    assert (on_gpu["layer_norm"], on_gpu["layer_norm_backward"], on_gpu["dropout"]) == (2, 2, 4)
    assert not on_gpu[f"{activation}_backward"]


@pytest.mark.parametrize("activation", ACTIVATIONS_FROM_OUTPUT)
def test_fusion_changes_no_bit(activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fused = trained(network(activation)).weights
    monkeypatch.setattr(programs, "fuse", fuse.drop_unread)
    for name, value in trained(network(activation)).weights.items():
        assert value.tobytes() == fused[name].tobytes(), name


@pytest.mark.parametrize("activation", ACTIVATIONS_FROM_OUTPUT)
def test_fusion_changes_no_bit_on_a_gpu(activation: str, cuda_host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastnn.engines import cuda

    fused = trained(network(activation), "cuda").weights
    monkeypatch.setattr(cuda, "merge_norm_dropout", lambda program: program)
    apart = trained(network(activation), "cuda").weights
    on_cpu = trained(network(activation)).weights
    for name, value in fused.items():
        assert value.tobytes() == apart[name].tobytes(), name
        np.testing.assert_allclose(value, on_cpu[name], rtol=0, atol=2e-3, err_msg=name)
