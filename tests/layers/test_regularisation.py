"""L2, L1 and factors of the learning rate of single layers, against PyTorch's parameter groups and by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fastnn
from fastnn import errors, ops

if TYPE_CHECKING:
    from cuda_on_host.runtime import HostRuntime

N, FEATURES, CLASSES, BATCH = 24, 5, 3, 8
OPTIMIZERS: dict[str, tuple[fastnn.optimizers.Optimizer, Any, dict[str, Any]]] = {
    "sgd": (fastnn.SGD(0.1), lambda torch: torch.optim.SGD, {"lr": 0.1}),
    "nesterov": (
        fastnn.SGD(0.1, 0.9, True), lambda torch: torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    ),
    "rmsprop": (fastnn.RMSprop(0.05), lambda torch: torch.optim.RMSprop, {"lr": 0.05, "alpha": 0.9}),
    "adam": (fastnn.Adam(0.05), lambda torch: torch.optim.Adam, {"lr": 0.05}),
    "adamw": (fastnn.AdamW(0.05, weight_decay=0.2), lambda torch: torch.optim.AdamW, {"lr": 0.05}),
}  # fmt: skip
FACTORS = {"0": 0.1, "1": 1.0, "2": 3.0}
L2 = {"0": 0.3, "1": 0.05, "2": 0.0}
"""Of each layer; that of the second one comes from `fit`."""


def examples() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((N, FEATURES)), rng.integers(0, CLASSES, N)


def network() -> fastnn.Sequential:
    layers = [
        fastnn.Dense(6, activation="tanh", bias_init="normal", l2=L2["0"], learning_rate_factor=FACTORS["0"]),
        fastnn.Dense(4, activation="tanh", bias_init="normal"),
        fastnn.Dense(CLASSES, bias_init="normal", l2=L2["2"], learning_rate_factor=FACTORS["2"]),
    ]
    return fastnn.Sequential(layers, seed=2, dtype="float64").build(FEATURES)


def trained(model: fastnn.Sequential, **options: Any) -> dict[str, list[float]]:
    given: dict[str, Any] = {"batch_size": BATCH, "epochs": 4, "verbose": 0, "device": "cpu", **options}
    return model.fit(*examples(), order=lambda epoch: np.arange(N), **given)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_layers_are_the_parameter_groups_of_pytorch(optimizer: str) -> None:
    torch = pytest.importorskip("torch")
    ours, theirs, options = OPTIMIZERS[optimizer]
    model = network()
    w = {name: torch.tensor(value, requires_grad=True) for name, value in model.weights.items()}
    groups = []
    for name, parameter in w.items():
        layer, kind = name.split(".")
        weight = kind == "weight"
        decay = ours.weight_decay if optimizer == "adamw" else L2[layer]
        groups.append({"params": [parameter], "lr": options["lr"] * FACTORS[layer], "weight_decay": decay * weight})
    stepper = theirs(torch)(groups, **options)
    X, y = (torch.from_numpy(array) for array in examples())
    for _ in range(4):
        for first in range(0, N, BATCH):
            z = X[first : first + BATCH]
            for layer in "012":
                z = z @ w[f"{layer}.weight"] + w[f"{layer}.bias"]
                z = torch.tanh(z) if layer != "2" else z
            stepper.zero_grad()
            cost = torch.nn.functional.cross_entropy(z, y[first : first + BATCH])
            if optimizer == "adamw":
                cost = cost + sum(L2[layer] / 2 * (w[f"{layer}.weight"] ** 2).sum() for layer in "012")
            cost.backward()
            stepper.step()
    trained(model, optimizer=ours, l2=L2["1"])
    for name, value in model.weights.items():
        np.testing.assert_allclose(value, w[name].detach().numpy(), rtol=1e-10, atol=1e-11, err_msg=name)


def test_the_cost_by_hand() -> None:
    """One step down mean loss + penalties, of which the history gets those of what is trained."""
    layers = [fastnn.Dense(4, l2=0.2), fastnn.Dense(4, l1=0.1), fastnn.Dense(2, l2=0.0, l1=0.3)]
    X, y = examples()[0], np.random.default_rng(1).standard_normal((N, 2))
    for frozen in ((), (1,), (0, 1)):
        model = fastnn.Sequential(layers, seed=2, dtype="float64").build(FEATURES)
        model.freeze(*frozen) if frozen else model.unfreeze()
        w = model.weights
        activations = [X]
        for layer in "012":
            activations.append(activations[-1] @ w[f"{layer}.weight"] + w[f"{layer}.bias"])
        delta = (activations[3] - y) / N
        penalty, expected = 0.0, dict(w)
        for index, l2, l1 in ((2, 0.0, 0.3), (1, 0.05, 0.1), (0, 0.2, 0.02)):
            weight = w[f"{index}.weight"]
            if index not in frozen:
                penalty += l2 / 2 * (weight**2).sum() + l1 * np.abs(weight).sum()
                gradient = activations[index].T @ delta + l2 * weight + l1 * np.sign(weight)
                expected[f"{index}.weight"] = weight - 0.5 * gradient
                expected[f"{index}.bias"] = w[f"{index}.bias"] - 0.5 * delta.sum(0)
            delta = delta @ weight.T
        history = model.fit(
            X, y, loss="quadratic", optimizer=fastnn.SGD(0.5), batch_size="all", epochs=1, l2=0.05, l1=0.02, verbose=0
        )
        assert history["penalty"] == pytest.approx([penalty], rel=1e-13)
        for name, value in model.weights.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-12, atol=1e-13, err_msg=name)


def test_a_history_without_penalty() -> None:
    """0 instead of the number of `fit` is no penalty; neither is one of frozen weights."""
    for layers in ([fastnn.Dense(CLASSES, l2=0.0)], [fastnn.Dense(4, trainable=False), fastnn.Dense(CLASSES, l2=0)]):
        assert "penalty" not in trained(fastnn.Sequential(layers, seed=0, dtype="float64"), l2=0.1)
    assert "penalty" in trained(fastnn.Sequential([fastnn.Dense(CLASSES, l2=0.1)], seed=0, dtype="float64"))


def test_a_factor_of_1_and_the_numbers_of_fit_change_no_bit() -> None:
    """Segments of their own compute what one segment computes."""
    found = []
    for layers in (
        [fastnn.Dense(6), fastnn.BatchNorm(), fastnn.Dense(CLASSES)],
        [
            fastnn.Dense(6, l2=0.1, l1=0.01, learning_rate_factor=1.0), fastnn.BatchNorm(learning_rate_factor=1.0),
            fastnn.Dense(CLASSES, l1=0.01),
        ],
    ):  # fmt: skip
        model = fastnn.Sequential(layers, seed=0)
        history = trained(model, l2=0.1, l1=0.01, optimizer=fastnn.AdamW(0.01))
        found.append(({name: value.tobytes() for name, value in model.weights.items()}, dict(history)))
    assert found[0] == found[1]


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize(
    ("index", "name", "value"),
    [(0, "l2", 0.5), (0, "l1", None), (0, "learning_rate_factor", 2.0), (1, "learning_rate_factor", 2.0), (2, "rate", 0.5)],
)
def test_what_a_layer_was_made_with_does_not_change(index: int, name: str, value: Any, built: bool) -> None:
    """Neither in the model nor in the layer that it was made of: it would have no effect, or half of one."""
    layers = [fastnn.Dense(6), fastnn.BatchNorm(), fastnn.Dropout(0.2), fastnn.Dense(CLASSES)]
    model = fastnn.Sequential(layers, seed=0)
    if built:
        model.build(FEATURES)
    before = repr(model)
    for layer in (layers[index], model.layers[index]):
        with pytest.raises(errors.InputError, match=rf"{name}: the options of a layer do not change; .*set_weights"):
            setattr(layer, name, value)
    assert repr(model) == before


def test_a_model_of_other_layers_goes_on_with_the_weights() -> None:
    """The cure that the message names."""
    model = fastnn.Sequential([fastnn.Dense(6), fastnn.Dense(CLASSES)], seed=0).build(FEATURES)
    made = fastnn.Sequential([fastnn.Dense(6, l2=0.5), *model.layers[1:]], seed=1).build(FEATURES)
    made.set_weights(model.weights)
    assert all(np.array_equal(value, made.weights[name]) for name, value in model.weights.items())
    assert made.network.penalty_table()[1][0, 0] == 0.5


def test_a_factor_of_batch_norm() -> None:
    """Plain descent: the first step of gamma and beta is as much longer."""
    moved = []
    for factor in (1.0, 2.5):
        layers = [fastnn.Dense(6), fastnn.BatchNorm(learning_rate_factor=factor), fastnn.Dense(CLASSES)]
        model = fastnn.Sequential(layers, seed=0, dtype="float64").build(FEATURES)
        before = model.weights
        trained(model, optimizer=fastnn.SGD(0.1), batch_size=N, epochs=1)
        moved.append({name: value - before[name] for name, value in model.weights.items()})
    for name, expected in moved[0].items():
        factor = 2.5 if name in ("1.gamma", "1.beta") else 1.0
        np.testing.assert_allclose(moved[1][name], factor * expected, rtol=1e-10, atol=1e-15)


def test_on_a_gpu_made_of_the_host(cuda_host: HostRuntime) -> None:
    models = [network(), network()]
    histories = [
        trained(model, optimizer=fastnn.AdamW(0.01), l2=0.05, l1=0.01, device=device)
        for model, device in zip(models, ("cuda", "cpu"), strict=True)
    ]
    np.testing.assert_allclose(histories[0]["penalty"], histories[1]["penalty"], rtol=1e-12)
    for name, value in models[0].weights.items():
        np.testing.assert_allclose(value, models[1].weights[name], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("device", ["numpy", "cpu"])
@pytest.mark.parametrize(("dtype", "large"), [("float32", 1e20), ("float64", 1e200)])
def test_clipping_by_norm_where_the_square_of_the_norm_overflows(dtype: str, large: float, device: str) -> None:
    """One step of length 1 towards the target, however long the gradient is."""
    model = fastnn.Sequential([fastnn.Dense(1, use_bias=False)], seed=0, dtype=dtype).build(1)
    model.set_weights({"0.weight": np.zeros((1, 1), dtype)})
    X, t = np.full((1, 1), large, dtype), np.full((1, 1), -0.5, dtype)
    options: dict[str, Any] = {"epochs": 1, "batch_size": 1, "verbose": 0, "device": device}
    model.fit(X, t, loss="quadratic", optimizer=fastnn.SGD(1.0, clip_norm=1.0), **options)
    assert model.weights["0.weight"].tolist() == [[-1.0]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_norm_of_anything(dtype: str) -> None:
    """As extended precision finds it, from small numbers to those whose squares overflow; and of what has none."""
    rng = np.random.default_rng(3)
    largest = {"float32": 37, "float64": 307}[dtype]
    for exponent in (-largest // 3, 0, largest // 2 - 1, largest // 2 + 1, largest - 5):
        x = (rng.normal(size=9001) * 10.0**exponent).astype(dtype)
        exact = float(np.sqrt(np.sum((x.astype(np.longdouble)) ** 2)))
        assert float(ops.global_norm(x)) == pytest.approx(exact, rel=1e-6 if dtype == "float32" else 1e-14)
        clip = abs(float(x[0]))
        clipped = np.clip(x.astype(np.longdouble), -clip, clip)
        assert float(ops.global_norm(x, clip)) == pytest.approx(float(np.sqrt(np.sum(clipped**2))), rel=1e-6)
    assert float(ops.global_norm(np.array([1.0, np.inf], dtype))) == np.inf
    assert np.isnan(float(ops.global_norm(np.array([1.0, np.nan], dtype))))
    assert float(ops.global_norm(np.zeros(0, dtype))) == 0.0
