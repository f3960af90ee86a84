"""`GradientFlow` and `activation_statistics` against the same quantities by hand; what they change, cost and warn of."""

from __future__ import annotations

import warnings
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fastnn
from fastnn.callbacks import Checkpoint
from fastnn.data import inputs
from fastnn.errors import InputError, InputTypeError, NotReadyError
from fastnn.inspection.gradient_flow import QUANTITIES, spread

if TYPE_CHECKING:
    from cuda_on_host.runtime import HostRuntime

N, FEATURES, CLASSES = 100, 6, 3


def data(dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.standard_normal((N, FEATURES)).astype(dtype), np.arange(N) % CLASSES


def network(dtype: str = "float32") -> fastnn.Sequential:
    """A layer of every kind that can be in the way."""
    layers = [
        fastnn.Dense(8), fastnn.BatchNorm(), fastnn.Activation("relu"), fastnn.Dropout(0.3), fastnn.Dense(5, activation="tanh"),
        fastnn.Dense(CLASSES, activation="softmax"),
    ]  # fmt: skip
    return fastnn.Sequential(layers, seed=3, dtype=dtype)


def small() -> fastnn.Sequential:
    return fastnn.Sequential([fastnn.Dense(5, activation="tanh"), fastnn.Dropout(0.3), fastnn.Dense(CLASSES)], seed=0)


def fit(model: fastnn.Sequential, *callbacks: Any, **options: Any) -> fastnn.Sequential:
    given: dict[str, Any] = {"epochs": 3, "batch_size": 25, "device": "cpu", "verbose": 0, **options}
    model.fit(*data(model.dtype.name), callbacks=callbacks, **given)
    return model


def rms(*arrays: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.concatenate([a.ravel() for a in arrays]) ** 2)))


def test_the_numbers_are_those_of_back_propagation_by_hand() -> None:
    """The four equations of back-propagation, Nielsen chapter 2, for two layers and the softmax cross-entropy."""
    X, y = data("float64")
    model = fastnn.Sequential([fastnn.Dense(5, activation="tanh"), fastnn.Dense(CLASSES)], seed=3, dtype="float64")
    model.build(FEATURES)
    flow, rows = fastnn.GradientFlow(examples=40), spread(N, 40)
    w = [model.weights]
    for epochs in (1, 2):
        twin = fastnn.Sequential(model.layers, seed=3, dtype="float64")
        w.append(fit(twin, epochs=epochs).weights)
    fit(model, flow, epochs=2)
    assert flow.steps.tolist() == [0, 4, 8]
    assert flow.layers == ("0 Dense(5, activation='tanh')", "1 Dense(3)")
    for record, now in enumerate(w):
        hidden = np.tanh(X[rows] @ now["0.weight"] + now["0.bias"])
        z = hidden @ now["1.weight"] + now["1.bias"]
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        dz = (p - np.eye(CLASSES)[y[rows]]) / 40
        dhidden = dz @ now["1.weight"].T
        dfirst = dhidden * (1 - hidden**2)
        np.testing.assert_allclose(flow.activations[record], [rms(hidden), rms(z)])
        np.testing.assert_allclose(flow.gradients[record], [rms(dhidden), rms(dz)])
        slopes = [rms(X[rows].T @ dfirst, dfirst.sum(0)), rms(hidden.T @ dz, dz.sum(0))]
        np.testing.assert_allclose(flow.parameter_gradients[record], slopes)
        for layer in (0, 1):
            both = [now[f"{layer}.{name}"] for name in ("weight", "bias")]
            np.testing.assert_allclose(flow.parameters[record, layer], rms(*both))
            if record:
                moved = [now[f"{layer}.{n}"] - w[record - 1][f"{layer}.{n}"] for n in ("weight", "bias")]
                np.testing.assert_allclose(flow.updates[record, layer], rms(*moved) / 4)
    assert np.isnan(flow.updates[0]).all()


@pytest.mark.parametrize("every", [None, 1, 3])
@pytest.mark.parametrize("weights", [None, np.linspace(0.5, 2.0, N)])
def test_the_training_is_the_same_to_the_last_bit(every: int | None, weights: Any) -> None:
    plain, watched = network(), network()
    flow = fastnn.GradientFlow(every)
    fit(plain, sample_weight=weights)
    fit(watched, flow, sample_weight=weights)
    assert all(np.array_equal(value, watched.weights[name]) for name, value in plain.weights.items())
    assert flow.steps.tolist() == {None: [0, 4, 8, 12], 1: list(range(13)), 3: [0, 3, 6, 9, 12]}[every]
    trained = [True, True, False, False, True, True]
    for quantity in QUANTITIES:
        found = getattr(flow, quantity)
        assert found.shape == (len(flow.steps), 6)
        known = np.isfinite(found)
        if quantity in ("activations", "gradients"):
            assert known.all()
            assert (found > 0).all()
        else:
            assert (known[1:] == trained).all()
    assert flow.activations[0, 1] == pytest.approx(1, abs=0.01), "batch norm standardizes the mini-batch"


def test_the_gpu_finds_what_the_cpu_finds(cuda_host: HostRuntime) -> None:
    flows = []
    for device in ("cpu", "cuda"):
        flows.append(fastnn.GradientFlow(every=2, examples=32))
        watched = fit(small(), flows[-1], epochs=1, device=device)
    plain = fit(small(), epochs=1, device="cuda")
    assert all(np.array_equal(value, watched.weights[name]) for name, value in plain.weights.items())
    assert flows[1].steps.tolist() == [0, 2, 4]
    for quantity in QUANTITIES:
        np.testing.assert_allclose(getattr(flows[1], quantity), getattr(flows[0], quantity), rtol=1e-4, atol=1e-7)
    X, _ = data()
    model = small().build(FEATURES)
    on_cpu = fastnn.activation_statistics(model, X)
    on_gpu = fastnn.activation_statistics(model.to("cuda"), X)
    np.testing.assert_allclose(on_gpu.std, on_cpu.std, rtol=1e-5)


@pytest.mark.parametrize(("n", "count"), [(1, 1), (7, 7), (100, 1), (100, 99), (60000, 256), (10**15, 256)])
def test_examples_are_taken_from_everywhere(n: int, count: int) -> None:
    """One out of each stretch; all rows where all are wanted; whatever the order of the data is."""
    rows = spread(n, count)
    assert rows.dtype == np.int64
    bounds = [i * n // count for i in range(count + 1)]
    assert all(low <= row < high for low, row, high in zip(bounds[:-1], rows.tolist(), bounds[1:], strict=True))
    if count == 256:
        for labels in (rows * 10 // n, rows % 10, rows // 234 % 10):
            assert (np.abs(np.bincount(labels, minlength=10) - 25.6) < 11).all(), "each of ten classes, sorted or in turns"


def test_data_sorted_by_class_is_measured_as_mixed_data_is() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((3000, FEATURES)).astype(np.float32), np.arange(3000) % CLASSES
    X[np.arange(3000), y] += 20.0
    found = []
    for order in (np.arange(3000), np.argsort(y, kind="stable")):
        flow = fastnn.GradientFlow(examples=150)
        model = fastnn.Sequential([fastnn.Dense(CLASSES, weight_init="zeros")], seed=0)
        model.fit(X[order], y[order], callbacks=[flow], epochs=0, verbose=0, device="cpu")
        found.append(flow.parameter_gradients[0, 0])
    assert found[1] == pytest.approx(found[0], rel=0.1)


@pytest.mark.parametrize("kind", ["sparse", "map", "float16 map", "GPU"])
def test_wherever_the_examples_lie(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda_host: HostRuntime) -> None:
    """The records are those of a plain array, and no more rows than wanted are looked at for them."""
    X, y = (data()[0] * 64).round().astype(np.float16), data()[1]
    given: Any = X.astype(np.float32)
    device = "cuda" if kind == "GPU" else "cpu"
    options: dict[str, Any] = {"epochs": 1, "batch_size": 25, "verbose": 0, "device": device}
    plain, flow = fastnn.GradientFlow(examples=40), fastnn.GradientFlow(examples=40)
    small().fit(given, y, callbacks=[plain], **options)
    if kind == "sparse":
        given = pytest.importorskip("scipy.sparse").csr_matrix(given)
    elif kind == "GPU":
        given = fastnn.engines.by_name("cuda").to_device(given)
    else:
        monkeypatch.setattr(inputs, "LARGE_BYTES", 1)
        (X if kind == "float16 map" else given).tofile(tmp_path / "X")
        given = np.memmap(tmp_path / "X", "float16" if kind == "float16 map" else "float32", "r", shape=X.shape)
    taken = []
    for rows in (inputs.SparseRows, inputs.MappedRows):

        def noted(self: Any, at: np.ndarray, out: np.ndarray, take: Any = rows.take) -> None:
            taken.append(len(at))
            take(self, at, out)

        monkeypatch.setattr(rows, "take", noted)
    small().fit(given, y, callbacks=[flow], **options)
    for quantity in QUANTITIES:
        np.testing.assert_array_equal(getattr(flow, quantity), getattr(plain, quantity))
    assert taken.count(40) == (kind != "GPU"), "once a run"


@pytest.mark.parametrize("every", [None, 3])
def test_a_run_that_is_gone_on_with_ends_with_the_same_records(every: int | None, tmp_path: Path) -> None:
    whole = fastnn.GradientFlow(every)
    fit(network(), whole, epochs=4)
    fit(network(), fastnn.GradientFlow(every), Checkpoint(tmp_path), epochs=2)
    rest = fastnn.GradientFlow(every)
    model = network()
    fit(model, rest, epochs=4, resume=tmp_path)
    assert rest.steps.tolist() == whole.steps.tolist()
    for quantity in QUANTITIES:
        np.testing.assert_array_equal(getattr(rest, quantity), getattr(whole, quantity))
    fit(model, rest, epochs=1)
    assert rest.steps.tolist()[0] == 0, "a run of its own begins afresh"


def test_iterables_values_and_a_loss_of_ones_own() -> None:
    X, _ = data()
    batches = [(X[start : start + 20], X[start : start + 20, :2]) for start in range(0, N, 20)]
    flow = fastnn.GradientFlow()
    model = fastnn.Sequential([fastnn.Flatten(), fastnn.Dense(4), fastnn.Dense(2)], seed=0)
    model.fit(
        batches, loss=lambda a, t: fastnn.ops.sum((a - t) * (a - t), 1), callbacks=[flow], epochs=2, verbose=0, device="cpu"
    )
    assert flow.steps.tolist() == [0, 5, 10]
    np.testing.assert_allclose(flow.activations[:, 0], rms(X[:20]), rtol=1e-6)


def test_a_network_of_nothing_but_what_the_loss_contains() -> None:
    flow = fastnn.GradientFlow()
    fit(fastnn.Sequential([fastnn.Flatten(), fastnn.Activation("softmax")], seed=0), flow, classes=range(FEATURES), epochs=1)
    fit(fastnn.Sequential([fastnn.Activation("softmax")], seed=0), flow, classes=range(FEATURES), epochs=1)
    np.testing.assert_allclose(flow.activations, rms(data()[0]), rtol=1e-6)
    assert np.isnan(flow.parameters).all()


def deep(activation: str, layers: int = 10, weights: Any = None, **options: Any) -> fastnn.Sequential:
    hidden = [fastnn.Dense(30, activation=activation, weight_init=weights) for _ in range(layers)]
    return fastnn.Sequential([*hidden, fastnn.Dense(CLASSES)], seed=0, **options)


def test_deep_sigmoid_networks_vanish_and_wild_weights_explode() -> None:
    """Nielsen, chapter 5: the derivative of the sigmoid is a quarter at most."""
    flow = fastnn.GradientFlow()
    with pytest.warns(
        UserWarning, match=r"gradients vanish: after step 0, dC/da of layer 0 Dense.* of layer 10 .*He's"
    ) as caught:
        fit(deep("sigmoid"), flow)
    assert len(caught) == 1, "once a run"
    assert caught[0].filename == __file__
    ratios = flow.gradients[0, :-2] / flow.gradients[0, 1:-1]
    assert (ratios < 0.5).all()
    assert 0 < flow.gradients[0, 0] < 1e-6
    with pytest.warns(UserWarning, match=r"gradients explode: .*clip_norm"):
        fit(deep("relu", weights=fastnn.initializers.Normal(1.0)), fastnn.GradientFlow(), epochs=1, optimizer=fastnn.SGD(1e-30))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(deep("relu"), fastnn.GradientFlow())
        fit(deep("sigmoid"), fastnn.GradientFlow(vanishing=0.0))


def test_gradients_whose_squares_underflow_are_seen() -> None:
    flow = fastnn.GradientFlow(vanishing=0.0)
    with np.errstate(all="ignore"):
        fit(deep("sigmoid", 9, fastnn.initializers.Normal(1e-3)), flow, epochs=1)
    assert 0 < flow.gradients[0, 0] < 1e-23


@pytest.mark.parametrize(("name", "kept"), [("he", True), ("normal", False), ("lecun", False)])
def test_he_keeps_the_activations_of_20_relu_layers_alike(name: str, kept: bool) -> None:
    """He et al. 2015, section 2.2: the second moment of what enters each layer is that of what enters the first."""
    X = np.random.default_rng(0).standard_normal((400, 200)).astype(np.float32)
    hidden = [fastnn.Dense(200, activation="relu", weight_init=name) for _ in range(20)]
    model = fastnn.Sequential(hidden, seed=1)
    found = fastnn.activation_statistics(model, X)
    assert not model.built
    variances = found.std**2
    ratio = variances[-1] / variances[0]
    assert (0.5 < ratio < 2.0) == kept
    if name == "normal":
        assert ratio > 1e20, "each layer multiplies the variance by half of its inputs"
    if kept:
        assert (found.rms**2 > 0.5).all()
        assert (found.rms**2 < 2.0).all()


def test_statistics_are_those_of_numpy() -> None:
    X, _ = data("float64")
    model = fastnn.Sequential([fastnn.Dense(8, activation="relu"), fastnn.Dense(2)], seed=0, dtype="float64").build(FEATURES)
    found = fastnn.activation_statistics(model, X)
    w = model.weights
    hidden = np.maximum(X @ w["0.weight"] + w["0.bias"], 0)
    for index, a in enumerate((hidden, hidden @ w["1.weight"] + w["1.bias"])):
        np.testing.assert_allclose(found.mean[index], a.mean())
        np.testing.assert_allclose(found.std[index], a.std())
        np.testing.assert_allclose(found.rms[index], rms(a))
        np.testing.assert_allclose(found.zero_fraction[index], (a == 0).mean())
    assert all(len(line) <= 80 for line in str(found).splitlines())
    with pytest.raises(InputError, match="at least one example"):
        fastnn.activation_statistics(model, X[:0])
    with pytest.raises(InputError, match="X"):
        fastnn.activation_statistics(model, X[:, :2])
    with pytest.raises(InputTypeError, match="expected a Sequential, got NoneType"):
        fastnn.activation_statistics(None, X)


def test_statistics_in_training_change_nothing() -> None:
    X, _ = data()
    model = network().build(FEATURES)
    before = model.weights
    training, inference = (fastnn.activation_statistics(model, X, training=mode) for mode in (True, False))
    assert training.std[1] == pytest.approx(1, abs=0.01)
    assert abs(inference.std[1] - 1) > 0.1, "the running ones are those before any step"
    assert training.zero_fraction[3] > inference.zero_fraction[3] + 0.1, "dropout takes its share"
    assert all(np.array_equal(value, before[name]) for name, value in model.weights.items())


def test_zero_weights_stay_symmetric_and_small_random_ones_do_not() -> None:
    X, y = data()
    for start, alike in (("zeros", True), (fastnn.initializers.Normal(0.01), False)):
        layers = [fastnn.Dense(4, activation="tanh", weight_init=start), fastnn.Dense(CLASSES, weight_init=start)]
        model = fastnn.Sequential(layers, seed=0)
        model.fit(X, y, epochs=20, batch_size=25, optimizer=fastnn.SGD(0.5), verbose=0, device="cpu")
        columns = model.weights["0.weight"].T
        assert bool((columns == columns[0]).all()) == alike


def test_the_table_and_what_is_refused() -> None:
    flow = fastnn.GradientFlow()
    with pytest.raises(NotReadyError, match="callbacks"):
        flow.table()
    assert flow.steps.shape == (0,)
    assert flow.gradients.shape == (0, 0)
    assert "nothing" in str(flow)
    fit(network(), flow)
    lines = flow.table(0).splitlines()
    assert len(lines) == 8
    assert "after step 0" in lines[0]
    assert all(len(line) <= 80 for line in lines)
    assert "after step 12" in str(flow)
    with pytest.raises(InputError, match="record: expected less than 4"):
        flow.table(4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"every": 0}, "every: expected an integer >= 1, got 0"),
        ({"every": True}, "every"),
        ({"examples": 0}, "examples"),
        ({"examples": None}, "examples"),
        ({"vanishing": 2.0, "exploding": 1.0}, "0 <= vanishing < exploding"),
        ({"vanishing": float("nan")}, "0 <= vanishing < exploding"),
    ],
)
def test_bad_numbers_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fastnn.GradientFlow(**wrong)


@pytest.mark.slow
def test_a_record_an_epoch_costs_less_than_2_percent_of_mnist(mnist: Path) -> None:
    found = fastnn.datasets.load("mnist")
    flow = fastnn.GradientFlow()
    model = fastnn.Sequential([fastnn.Dense(128, activation="relu"), fastnn.Dense(10)], seed=0, input_scale=found.scale)
    spent: list[float] = []
    record = flow._record

    def timed(run: Any) -> None:
        started = perf_counter()
        record(run)
        spent.append(perf_counter() - started)

    flow._record = timed  # type: ignore[method-assign]
    started = perf_counter()
    model.fit(found.X_train, found.y_train, epochs=5, callbacks=[flow], verbose=0, device="cpu")
    assert sorted(spent)[len(spent) // 2] * 5 < 0.02 * (perf_counter() - started)


# --- layers that no gradient reaches --------------------------------------------------------------------------------

Dense, Activation = fastnn.Dense, fastnn.Activation


class Gate(fastnn.Layer):
    """(x w) step(x v), which no gradient of v passes, or x w + step(x w)."""

    def __init__(self, skip: bool = False) -> None:
        self.skip = skip

    def parameters(self, shape: tuple[int, ...]) -> dict[str, fastnn.Parameter]:
        return {name: fastnn.Parameter((shape[0], 4), fastnn.initializers.Normal()) for name in ("w", "v")}

    def forward(self, x: Any, training: bool) -> Any:
        z = x @ self.w
        return z + fastnn.ops.step(z) if self.skip else z * fastnn.ops.step(x @ self.v)


@pytest.mark.parametrize(
    ("layers", "cut", "stopping"),
    [
        ([Dense(4), Dense(CLASSES, activation="step")], [0, 1], [1]),
        ([Dense(4, activation="step"), Dense(CLASSES)], [0], [0]),
        ([Dense(4), fastnn.BatchNorm(), Activation("step"), fastnn.Dropout(0.1), Dense(CLASSES)], [0, 1], [2]),
        ([Activation("step"), Dense(4, activation="step"), Activation("step"), Dense(CLASSES)], [1], [1, 2]),
        (
            [Dense(4, activation="step", trainable=False), Dense(4), Activation("step"), Dense(CLASSES, activation="softmax")],
            [1],
            [2],
        ),
        ([Dense(4), Gate(), Activation("step"), Dense(CLASSES)], [0, 1], [1, 2]),
    ],
)
@pytest.mark.parametrize("batches", [False, True])
def test_layers_that_no_gradient_reaches_are_named(layers: Any, cut: list[int], stopping: list[int], batches: bool) -> None:
    """Once, where `fit` is called; they stay as they are, and all others change."""
    X, y = data()
    model = fastnn.Sequential(layers, seed=0).build(FEATURES)
    before = model.weights
    given: tuple[Any, ...] = ([(X[:50], y[:50]), (X[50:], y[50:])],) if batches else (X, y)
    with pytest.warns(UserWarning, match="no gradient passes") as caught:
        model.fit(*given, loss="quadratic", batch_size=50, epochs=2, verbose=0, device="cpu", optimizer=fastnn.SGD(0.1))
    named = [", ".join(f"{index} {model.layers[index]!r}" for index in numbers) for numbers in (cut, stopping)]
    says = f"these layers do not learn: {named[0]}; train with sigmoid instead of step in: {named[1]}"
    assert [(warning.filename, str(warning.message).partition(" and ")[2]) for warning in caught] == [(__file__, says)]
    still = {*cut, *model.network.frozen}
    for place in model.network.parameters:
        assert np.array_equal(model.weights[place.name], before[place.name]) == (place.layer in still), place.name


@pytest.mark.parametrize(
    "layers",
    [
        [Activation("step"), Dense(CLASSES)],
        [Dense(4, activation="step", trainable=False), Dense(CLASSES)],
        [Gate(), Dense(CLASSES)],
        [Dense(4), Gate(skip=True), Dense(CLASSES)],
        [Dense(4, activation="sigmoid"), Dense(CLASSES)],
    ],
)
def test_networks_that_learn_are_not_warned_of(layers: Any) -> None:
    """Warnings are errors here."""
    model = fastnn.Sequential(layers, seed=0)
    fit(model, epochs=1)
    before = model.weights
    fit(model, epochs=1)
    moved = {name.split(".")[0] for name, value in model.weights.items() if not np.array_equal(value, before[name])}
    trainable = {str(i) for i, layer in enumerate(model.layers) if layer.has_parameters and layer.trainable}
    assert moved == trainable


def test_single_steps_are_not_warned_of() -> None:
    X, y = data()
    model = fastnn.Sequential([Dense(4, activation="step"), Dense(CLASSES)], seed=0)
    model.partial_fit(X, y, device="cpu")
    assert "cut_off" not in vars(model.network)
    with pytest.warns(UserWarning, match="do not learn"):
        fit(model)
    assert model.network.cut_off == ((0,), (0,))
    model.layers[0].trainable = False
    fit(model)
