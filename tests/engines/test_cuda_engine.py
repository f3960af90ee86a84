"""The CUDA engine on a GPU made of the host: what it computes, what it keeps where, and what it gives back."""

from __future__ import annotations

import copy
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from cuda_on_host import host
from cuda_on_host.runtime import Foreign, HostRuntime
from hosts import Hosts
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from laws import by_turns

import fastnn
import fastnn.data.orders
import fastnn.training.chunks
import fastnn.training.trainer
from fastnn import engines, errors, ops, random
from fastnn.callbacks import Callback
from fastnn.data import feeds
from fastnn.datasets import split
from fastnn.engines import cuda
from fastnn.engines.cuda import CudaEngine
from fastnn.network.state import State
from fastnn_kernels.cuda.player import Player

N, FEATURES, CLASSES, BATCH = 75, 7, 3, 16
"""Five mini-batches an epoch, the last one of 11 examples."""


def examples(dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    y = rng.integers(0, CLASSES, N)
    centers = rng.standard_normal((CLASSES, FEATURES))
    return (centers[y] + rng.standard_normal((N, FEATURES))).astype(dtype), y


def network(
    dtype: str = "float32", norm: type[fastnn.Layer] | None = None, dropout: float = 0.0, last: int = CLASSES
) -> fastnn.Sequential:
    layers = [fastnn.Dense(9), norm(), fastnn.Activation("relu")] if norm else [fastnn.Dense(9, activation="tanh")]
    layers += [fastnn.Dropout(dropout)] if dropout else []
    return fastnn.Sequential([*layers, fastnn.Dense(last)], seed=3, dtype=dtype)


def trained(device: str, model: fastnn.Sequential | None = None, **options: Any) -> fastnn.Sequential:
    """A model after one epoch, or what the options say."""
    model = network() if model is None else model
    X, y = examples(model.dtype.name)
    given = {"X": X, "y": y, "batch_size": BATCH, "epochs": 1, "verbose": 0, "device": device, **options}
    model.fit(**given)
    return model


def everything(model: fastnn.Sequential) -> dict[str, np.ndarray]:
    """Parameters, statistics and the optimizer's arrays, and the counts."""
    state = model.optimizer_state
    assert state is not None
    counts = {"counts": np.array([model.counters.step, model.counters.epoch, state.updates])}
    return model.weights | {name: values.copy() for name, values in state.slots.items()} | counts


def same_bits(a: fastnn.Sequential, b: fastnn.Sequential) -> bool:
    first, second = everything(a), everything(b)
    return first.keys() == second.keys() and all(first[name].tobytes() == second[name].tobytes() for name in first)


def distance(a: fastnn.Sequential, b: fastnn.Sequential) -> float:
    """The largest difference of two weights, relative to the second one or to 1."""
    return max(
        float((np.abs(value - b.weights[name]) / np.maximum(1.0, np.abs(b.weights[name]))).max())
        for name, value in a.weights.items()
    )


# --- the same training ------------------------------------------------------------------------------------------------


def pseudo_huber(outputs: Any, targets: Any) -> Any:
    """The mean over the outputs of sqrt(1 + d^2) - 1."""
    difference = outputs - targets
    return ops.mean(ops.sqrt(difference * difference + 1.0) - 1.0)


class Residual(fastnn.Layer):
    """x + relu(x W)."""

    def parameters(self, shape: tuple[int, ...]) -> dict[str, fastnn.Parameter]:
        return {"weight": fastnn.Parameter((shape[0], shape[0]), fastnn.initializers.He(), regularized=True)}

    def forward(self, x: Any, training: bool) -> Any:
        return x + ops.relu(x @ self.weight)


def values(dtype: str = "float32") -> np.ndarray:
    """Two targets an example."""
    X, _ = examples(dtype)
    return np.stack([X[:, 0] * X[:, 1], X[:, 2]], axis=1)


SMOOTH = {"l2": 1e-3, "optimizer": fastnn.SGD(0.05, momentum=0.9)}
CASES: dict[str, tuple[Callable[[str], fastnn.Sequential], dict[str, Any]]] = {
    "sgd": (network, {"optimizer": fastnn.SGD(0.1)}),
    "nesterov, l2 and l1": (
        network, {"optimizer": fastnn.SGD(0.05, momentum=0.9, nesterov=True), "l2": 1e-3, "l1": 1e-4},
    ),
    "averaged momentum, clipped by value": (network, {"optimizer": fastnn.Momentum(0.3, clip_value=0.01)}),
    "rmsprop": (network, {"optimizer": fastnn.RMSprop(0.001)}),
    "adagrad": (network, {"optimizer": fastnn.Adagrad(0.05)}),
    "nadam": (network, {"optimizer": fastnn.NAdam(0.002)}),
    "adam, clipped by norm": (network, {"optimizer": fastnn.Adam(0.002, clip_norm=0.5)}),
    "adam, epsilon inside": (network, {"optimizer": fastnn.Adam(0.002, epsilon=1e-6, epsilon_inside=True)}),
    "adam, averaged": (network, {"optimizer": fastnn.Adam(0.002, clip_norm=0.5, ema=0.9)}),
    "adamw, cosine": (
        network, {"optimizer": fastnn.AdamW(fastnn.schedules.Cosine(0.002), weight_decay=0.05)},
    ),
    "batch norm": (lambda dtype: network(dtype, norm=fastnn.BatchNorm), SMOOTH),
    "layer norm": (lambda dtype: network(dtype, norm=fastnn.LayerNorm), SMOOTH),
    "dropout": (lambda dtype: network(dtype, dropout=0.3), SMOOTH),
    "weights": (network, {**SMOOTH, "sample_weight": np.linspace(0.0, 2.0, N), "class_weight": "balanced"}),
    "one-hot": (network, {**SMOOTH, "y": np.eye(CLASSES)[examples()[1]]}),
    "yes or no": (
        lambda dtype: network(dtype, last=1), {**SMOOTH, "y": examples()[1] > 0, "loss": "sigmoid_cross_entropy"},
    ),
    "values": (lambda dtype: network(dtype, last=2), {**SMOOTH, "y": values(), "loss": "mean_squared_error"}),
    "values with outliers": (
        lambda dtype: network(dtype, last=2), {**SMOOTH, "y": values(), "loss": "huber:delta=0.5"},
    ),
    "counts": (lambda dtype: network(dtype, last=1), {**SMOOTH, "y": examples()[1], "loss": "poisson"}),
    "rare yeses": (lambda dtype: network(dtype, last=1), {**SMOOTH, "y": examples()[1] > 1, "loss": "focal"}),
    "rare classes": (network, {**SMOOTH, "loss": "softmax_focal"}),
    "a loss of one's own": (lambda dtype: network(dtype, last=2), {**SMOOTH, "y": values(), "loss": pseudo_huber}),
    "a layer of one's own": (
        lambda dtype: fastnn.Sequential([Residual(), fastnn.Dense(CLASSES)], seed=3, dtype=dtype), SMOOTH,
    ),
    "smoothed labels": (network, {**SMOOTH, "label_smoothing": 0.2, "shuffle": False}),
    "smoothed yeses": (
        lambda dtype: network(dtype, last=1),
        {**SMOOTH, "y": examples()[1] > 0, "loss": "sigmoid_cross_entropy", "label_smoothing": 0.2, "validation_split": 0.3},
    ),
    "a short order": (network, {**SMOOTH, "order": lambda epoch: np.arange(N)[epoch % 3 :: 2]}),
}  # fmt: skip


def worked(runtime: HostRuntime) -> int:
    """How many graphs, or nodes on their own, a GPU was given."""
    return runtime.asked.count("launch") + runtime.asked.count("run")


@pytest.mark.parametrize("steps", [25, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CASES)
def test_steps_follow_the_cpu(case: str, steps: int, cuda_host: HostRuntime) -> None:
    make, options = CASES[case]
    models = [trained(device, make("float32"), epochs=steps // 5, **options) for device in ("cuda", "cpu")]
    assert distance(*models) < 1e-5
    assert models[0].counters == models[1].counters
    assert models[0].device == "cuda:0"
    assert worked(cuda_host)


@pytest.mark.parametrize("case", ["adam, clipped by norm", "batch norm", "layer norm", "dropout", "a loss of one's own"])
def test_20_steps_follow_the_cpu_in_float64(case: str, cuda_host: HostRuntime) -> None:
    make, options = CASES[case]
    assert distance(*(trained(device, make("float64"), epochs=4, **options) for device in ("cuda", "cpu"))) < 1e-11


def test_the_history_is_that_of_the_cpu(cuda_host: HostRuntime) -> None:
    X, y = examples()
    found = {}
    for device in ("cuda", "cpu"):
        model = network(dropout=0.2)
        found[device] = model.fit(
            X, y, validation_data=(X[:20], y[:20]), batch_size=BATCH, epochs=3, l2=1e-3, verbose=0, device=device
        )
        assert model.evaluate(X[:20], y[:20])["loss"] == pytest.approx(found[device]["val_loss"][-1], rel=1e-6)
    assert list(found["cuda"]) == list(found["cpu"])
    for name, column in found["cuda"].items():
        assert column == pytest.approx(found["cpu"][name], rel=1e-5), name
    assert (found["cuda"].device, found["cuda"].reason) == ("cuda:0", "as asked")


def test_values_are_evaluated_as_on_the_cpu(cuda_host: HostRuntime) -> None:
    model = trained("cuda", network(last=2), y=values(), loss="mean_squared_error")
    on_gpu = model.evaluate(examples()[0], values())
    assert model.to("cpu").evaluate(examples()[0], values()) == pytest.approx(on_gpu, rel=1e-5)


def test_bytes_are_scaled_where_they_are_gathered(cuda_host: HostRuntime) -> None:
    X = np.random.default_rng(0).integers(0, 256, (N, FEATURES)).astype("uint8")
    models = []
    for device in ("cuda", "cpu"):
        model = fastnn.Sequential([fastnn.Dense(CLASSES)], seed=3, input_scale=1 / 255)
        models.append(trained(device, model, X=X))
    assert distance(*models) < 1e-6
    assert np.allclose(models[0](X), models[1](X), atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 1000, 5003])
def test_orders_are_the_same_bits(n: int, cuda_host: HostRuntime) -> None:
    key = random.key(3, random.SHUFFLE)
    for device in ("cuda", "cpu"):
        engine = engines.by_name(device)
        run = fastnn.data.orders.shuffle_program(n, key, engine)
        run.bind(order=engine.empty((n,), np.int64))
        for epoch in (0, 1, 2**40):
            engine.write(run.bound["epoch"], epoch)
            run.play()
            assert np.array_equal(engine.read(run.bound["order"])[0], random.permutation(key, epoch, n))


def test_masks_and_initial_weights_are_the_same_bits(cuda_host: HostRuntime) -> None:
    """Inputs are small integers, and kept ones are doubled: the sums that become the weights are exact in any order."""
    X = np.random.default_rng(0).integers(-8, 8, (N, 6)).astype("float32")
    models = []
    for device in ("cuda", "cpu"):
        model = fastnn.Sequential([fastnn.Dropout(0.5), fastnn.Dense(2, weight_init="zeros")], seed=5)
        models.append(trained(device, model, X=X, y=np.zeros((N, 2)), loss=plain_sum, optimizer=fastnn.SGD(2.0**-10), epochs=3))
    assert models[0].weights["1.weight"].any()
    assert same_bits(*models)
    assert same_bits(*(trained(device, noisy(), epochs=0) for device in ("cuda", "cpu")))


def plain_sum(outputs: Any, targets: Any) -> Any:
    """A loss whose gradient is 1 everywhere."""
    return ops.sum(outputs - targets)


# --- the same bits ------------------------------------------------------------------------------------------------------

NOISY: dict[str, Any] = {"epochs": 3, "l2": 1e-3, "optimizer": fastnn.Adam(clip_norm=1.0)}


def noisy() -> fastnn.Sequential:
    return network(norm=fastnn.BatchNorm, dropout=0.3)


@pytest.mark.parametrize("length", [1, 2, 3, 1000])
def test_chunks_change_no_bit(length: int, cuda_host: HostRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = trained("cuda", noisy(), **NOISY)
    monkeypatch.setattr(fastnn.training.chunks, "LOG_ROWS", length)
    assert same_bits(trained("cuda", noisy(), **NOISY), expected)


def test_the_length_of_the_first_chunk_changes_no_bit(cuda_host: HostRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = trained("cuda", noisy(), **NOISY)
    monkeypatch.setattr(fastnn.training.chunks, "CHUNK_SECONDS", 1e-9)
    assert same_bits(trained("cuda", noisy(), **NOISY), expected)


def test_graphs_change_no_bit(cuda_hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTNN_CUDA_CAPTURE", raising=False)
    runtime = cuda_hosts.install()
    expected = trained("cuda", noisy(), **NOISY)
    assert "launch" in runtime.asked
    monkeypatch.setenv("FASTNN_CUDA_CAPTURE", "0")
    runtime = cuda_hosts.install()
    assert same_bits(trained("cuda", noisy(), **NOISY), expected)
    assert "launch" not in runtime.asked
    assert "capture" not in runtime.asked
    assert engines.gpu(0, capture=True) is not engines.gpu(0)


@pytest.mark.parametrize("runs", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_every_run_gives_the_same_bits(runs: int, cuda_host: HostRuntime) -> None:
    """The threads of a kernel come in another order each time."""
    options = NOISY | {"epochs": 2}
    expected = trained("cuda", noisy(), **options)
    assert all(same_bits(trained("cuda", noisy(), **options), expected) for _ in range(runs))


def test_two_fits_are_one(cuda_host: HostRuntime) -> None:
    expected = trained("cuda", noisy(), **NOISY | {"epochs": 4})
    assert same_bits(trained("cuda", trained("cuda", noisy(), **NOISY), **NOISY | {"epochs": 1}), expected)


def test_a_training_goes_on_wherever(cuda_host: HostRuntime) -> None:
    """On the CPU, then on the GPU, then on the CPU, with the optimizer's state, shuffles and masks of one run."""
    model = noisy()
    for device in ("cpu", "cuda", "cpu", "cuda:0"):
        trained(device, model, **NOISY)
    whole = trained("cpu", noisy(), **NOISY | {"epochs": 12})
    assert distance(model, whole) < 1e-5
    assert model.counters == whole.counters
    assert model.optimizer_state is not None
    assert whole.optimizer_state is not None
    for name, slot in model.optimizer_state.slots.items():
        assert np.allclose(slot, whole.optimizer_state.slots[name], rtol=1e-4, atol=1e-6), name


def test_two_gpus(cuda_hosts: Hosts) -> None:
    first, second = cuda_hosts.install(0), cuda_hosts.install(1)
    model = noisy()
    for device in ("cuda:0", "cuda:1", "cuda:0"):
        trained(device, model, **NOISY)
    assert same_bits(model, trained("cuda", noisy(), **NOISY | {"epochs": 9}))
    assert worked(first) > worked(second) > 0


# --- where values are -----------------------------------------------------------------------------------------------------


def uploads(runtime: HostRuntime, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that will hold the bytes of everything that goes to the GPU."""
    sizes: list[int] = []
    upload = runtime.upload

    def note(address: int, array: np.ndarray, stream: Any) -> None:
        sizes.append(array.nbytes)
        upload(address, array, stream)

    monkeypatch.setattr(runtime, "upload", note)
    return sizes


def test_a_second_fit_uploads_data_alone(cuda_host: HostRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = fastnn.Sequential([fastnn.Dense(301), fastnn.Dense(CLASSES)], seed=3)
    trained("cuda", wide)
    cuda_host.asked.clear()
    sizes = uploads(cuda_host, monkeypatch)
    X, y = examples()
    trained("cuda", wide)
    parameters = 4 * wide.parameter_count
    assert parameters > X.nbytes + y.nbytes
    assert max(sizes) == X.nbytes
    assert sum(sizes) < X.nbytes + y.nbytes + 1000, "and control blocks and tables of learning rates"
    wide.predict(X)
    sizes.clear()
    wide.predict(X)
    assert sum(sizes) == X.nbytes
    wide.set_weights(wide.weights)
    sizes.clear()
    wide.predict(X)
    assert sum(sizes) >= X.nbytes + parameters, "what the host has changed"


def test_predictions_are_those_of_the_cpu_at_any_number_of_rows(cuda_host: HostRuntime) -> None:
    model = trained("cuda", noisy(), **NOISY)
    X = np.random.default_rng(9).standard_normal((200, FEATURES)).astype("float32")
    twin = copy.deepcopy(model).to("cpu")
    for rows in (0, 1, 2, 31, 32, 33, 64, 65, 127, 200):
        outputs = model(X[:rows])
        assert isinstance(outputs, np.ndarray)
        assert np.allclose(outputs, twin(X[:rows]), atol=1e-6)
        assert np.array_equal(model.predict(X[:rows]), twin.predict(X[:rows]))
        assert np.allclose(model.predict_proba(X[:rows]), twin.predict_proba(X[:rows]), atol=1e-6)


def test_predictions_go_block_by_block(cuda_host: HostRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained("cuda")
    X = np.random.default_rng(9).standard_normal((77, FEATURES)).astype("float32")
    expected = model(X)
    monkeypatch.setattr(CudaEngine, "block_rows", 32)
    assert np.array_equal(model(X), expected)
    assert np.array_equal(model(X[:64]), expected[:64])


def test_the_device_of_predictions_can_be_changed(cuda_host: HostRuntime) -> None:
    model = trained("cpu")
    X, _ = examples()
    expected = model(X)
    cuda_host.asked.clear()
    assert model.device == "cpu"
    assert np.allclose(model.to("cuda")(X), expected, atol=1e-6)
    assert worked(cuda_host)
    assert model.device == "cuda:0"
    cuda_host.asked.clear()
    assert np.array_equal(model.to("cpu")(X), expected)
    assert cuda_host.asked == []
    assert model.to("auto").device == "cuda:0"
    with pytest.raises(errors.DeviceError, match="no cuda:1"):
        model.to("cuda:1")
    assert model.device == "cuda:0"


def test_a_file_written_after_training_on_a_gpu_is_read_anywhere(cuda_host: HostRuntime, tmp_path: Path) -> None:
    model = trained("cuda", noisy(), **NOISY)
    X, _ = examples()
    model.save(tmp_path / "model.safetensors")
    loaded = fastnn.load(tmp_path / "model.safetensors")
    assert loaded.device == "cpu"
    assert all(np.array_equal(value, loaded.weights[name]) for name, value in model.weights.items())
    assert np.allclose(loaded(X), model(X), atol=1e-6)
    assert np.array_equal(loaded.to("cuda")(X), model(X))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_hold_arrays_of_the_host_alone(copied: Callable[[Any], Any], cuda_host: HostRuntime) -> None:
    model = trained("cuda", noisy(), **NOISY)
    held = dict(cuda_host.held)
    cuda_host.asked.clear()
    twin = copied(model)
    assert "allocate" not in cuda_host.asked
    assert cuda_host.held == held
    assert same_bits(twin, model)
    trained("cuda", twin, **NOISY)
    assert same_bits(twin, trained("cuda", model, **NOISY)), "both continue alike, each with arrays of its own"


def test_weights_set_between_fits_are_those_that_are_trained(cuda_host: HostRuntime) -> None:
    models = {}
    for device in ("cuda", "cpu"):
        model = models[device] = trained(device, noisy(), **NOISY)
        start = noisy().build(FEATURES).weights
        model.set_weights(start)
        state = model.optimizer_state
        assert state is not None
        for slot in state.slots.values():
            slot[...] = 0.5
        trained(device, model, **NOISY)
    assert distance(models["cuda"], models["cpu"]) < 1e-5


def test_a_snapshot_undoes_what_came_after_it(cuda_host: HostRuntime) -> None:
    """On the GPU, on the host, and after the values have gone from one to the other."""
    model = trained("cuda", noisy(), **NOISY)
    expected = everything(model)
    trained("cuda", model, **NOISY)  # arrays are latest on the GPU
    on_gpu, values_there = model.snapshot(), trained("cuda", copy.deepcopy(model), epochs=0)
    trained("cpu", model, **NOISY)
    model.restore(on_gpu)
    assert same_bits(model, values_there)
    on_host = model.snapshot()
    trained("cuda", model, **NOISY)
    model.restore(on_host)
    assert same_bits(model, values_there)
    assert model.counters.step == 2 * expected["counts"][0]


def test_a_snapshot_of_a_gpu_is_pickled_and_copied(cuda_host: HostRuntime) -> None:
    model = trained("cuda", noisy(), **NOISY)
    snapshot, expected = model.snapshot(), everything(copy.deepcopy(model))
    for again in (pickle.loads(pickle.dumps(snapshot)), copy.deepcopy(snapshot)):
        trained("cuda", model, **NOISY)
        model.restore(again)
        found = everything(model)
        assert all(np.array_equal(found[name], values) for name, values in expected.items())


def test_a_snapshot_of_one_gpu_is_restored_beside_another(cuda_hosts: Hosts) -> None:
    cuda_hosts.install(0)
    cuda_hosts.install(1)
    model = trained("cuda:0", noisy(), **NOISY)
    before = model.snapshot()
    expected = everything(copy.deepcopy(model))
    trained("cuda:1", model, **NOISY)
    model.restore(before)
    found = everything(model)
    assert all(np.array_equal(found[name], values) for name, values in expected.items())


def test_a_callback_may_set_weights(cuda_host: HostRuntime) -> None:
    """Between two epochs, and between two chunks."""
    start = network().build(FEATURES).weights

    class Back(Callback):
        def epoch_end(self, run: Any, epoch: int, values: Any) -> None:
            if epoch == 1:
                run.model.set_weights(start)

    models = [trained(device, callbacks=[Back()], epochs=3, optimizer=fastnn.SGD(0.1)) for device in ("cuda", "cpu")]
    assert distance(*models) < 1e-6


def test_orders_of_the_host_lie_where_they_lay(cuda_host: HostRuntime) -> None:
    """So that no epoch needs graphs of its own."""
    model = trained("cuda", epochs=2, order=lambda epoch: np.arange(N))
    cuda_host.asked.clear()
    seen: list[int] = []

    class Count(Callback):
        def epoch_end(self, run: Any, epoch: int, values: Any) -> None:
            seen.append(cuda_host.asked.count("capture"))

    X, y = examples()
    options = {"validation_data": (X, y), "callbacks": [Count()]}
    trained("cuda", model, epochs=6, order=lambda epoch: np.roll(np.arange(N), epoch), **options)
    assert seen[1:] == [seen[1]] * 5


class Journeys(RuleBasedStateMachine):
    """Values that go from the host to GPUs and back, beside a plain dict of what they are."""

    OPTIMIZERS: ClassVar[dict[str | None, tuple[str, ...]]] = {
        None: (), "SGD": (), "Momentum": ("velocity",), "RMSprop": ("square",), "Adam": ("mean", "square"),
    }  # fmt: skip
    NAMES = ("parameters", "statistics", "velocity", "mean", "square")
    DEVICES = ("cpu", "cuda:0", "cuda:1")

    def __init__(self) -> None:
        super().__init__()
        self.engines = {"cpu": engines.CPU, **{f"cuda:{n}": CudaEngine(HostRuntime(ordinal=n)) for n in (0, 1)}}
        self.state = State(np.float64)
        self.state.add(parameters=3, statistics=0)
        self.latest = {"parameters": np.zeros(3), "statistics": np.zeros(0)}
        self.optimizer: str | None = None
        self.progress: tuple[int, int, int] = (0, 0, 0)
        self.fetched, self.fetched_progress = dict(self.latest), self.progress
        self.where = "cpu"  # the latest values are
        self.count = 0

    def fetch(self) -> None:
        """What the host knows from now on."""
        self.fetched, self.fetched_progress, self.where = dict(self.latest), self.progress, "cpu"

    def fresh(self, name: str) -> np.ndarray:
        self.count += 1
        return np.full(self.latest[name].shape, float(self.count))

    @rule(size=st.integers(0, 4))
    def set(self, size: int) -> None:
        self.count += 1
        self.latest["statistics"] = np.full(size, float(self.count))
        self.state.add(statistics=size)["statistics"][...] = self.latest["statistics"]
        self.fetch()

    @rule(optimizer=st.sampled_from(list(OPTIMIZERS)), keeps=st.booleans())
    def start(self, optimizer: str | None, keeps: bool) -> None:
        slots = self.OPTIMIZERS[optimizer]
        kept = [name for name in slots if name in self.latest] if keeps else []
        self.state.start_optimizer(optimizer, slots, 7, kept)
        values = {name: self.latest[name] if name in kept else np.zeros(3) for name in slots}
        self.latest = {name: self.latest[name] for name in ("parameters", "statistics")} | values
        self.optimizer, self.progress = optimizer, (*self.progress[:2], 0 if optimizer is None else 7)
        self.fetch()

    @rule(name=st.sampled_from(NAMES))
    def change_on_the_host(self, name: str) -> None:
        found = self.state.host()
        if name in self.latest:
            found[name][...] = self.latest[name] = self.fresh(name)
        self.fetch()

    @rule()
    def read(self) -> None:
        self.check(self.state.read())
        self.fetch()

    @rule(device=st.sampled_from(DEVICES))
    def use(self, device: str) -> None:
        engine = self.engines[device]
        there = self.state.on(engine)
        self.check({name: engine.read(array)[0] for name, array in there.items()})
        if device != self.where:
            self.fetch()

    @rule(device=st.sampled_from(DEVICES), name=st.sampled_from(NAMES), begins=st.booleans())
    def train(self, device: str, name: str, begins: bool) -> None:
        engine = self.engines[device]
        if begins:
            self.state.begin(engine, 0.0)
            self.fetch()
        there = self.state.on(engine)
        if device != self.where:
            self.fetch()
        if name in self.latest:
            self.latest[name] = self.fresh(name)
            engine.write(there[name], self.latest[name])
        step, epoch, updates = self.progress
        if self.optimizer is None:
            self.state.counters.epoch += 1
            self.state.mark_changed(engine)
            self.progress = (step, epoch + 1, updates)
        else:
            self.state.advance(engine, 2)
            self.progress = (step + 2, epoch, updates + 2)
        self.where = device
        if device == "cpu":
            self.fetch()

    copies = Bundle("copies")

    @rule(target=copies)
    def copy(self) -> Any:
        return self.state.snapshot(), dict(self.latest), self.where, self.progress, self.optimizer

    @rule(copied=copies)
    def restore(self, copied: Any) -> None:
        snapshot, values, where, progress, optimizer = copied
        if self.latest["statistics"].shape != values["statistics"].shape:  # a model has one size of them
            self.state.add(statistics=values["statistics"].size)
            self.fetch()
        if optimizer != self.optimizer:  # begins anew on the host, whatever is then put back where the values are
            zeros = dict.fromkeys(self.OPTIMIZERS[optimizer], np.zeros(3))
            self.latest = {name: self.latest[name] for name in ("parameters", "statistics")} | zeros
            self.progress = (*self.progress[:2], 0)
            self.fetch()
        here = self.state._engine
        self.state.restore(snapshot)
        self.latest, self.progress, self.optimizer, self.where = dict(values), progress, optimizer, where
        if here is None or here.name != where:
            self.fetch()

    @rule()
    def lose(self) -> None:
        self.state.lose()
        if self.where != "cpu":
            self.latest, self.progress = dict(self.fetched), self.fetched_progress
        self.fetch()

    @rule()
    def copied(self) -> None:
        self.check(pickle.loads(pickle.dumps(self.state)).read())
        self.fetch()

    def check(self, found: Any) -> None:
        assert found.keys() == self.latest.keys()
        assert all(np.array_equal(found[name], value) for name, value in self.latest.items())

    @invariant()
    def snapshots_are_the_latest(self) -> None:
        found = self.state.snapshot()
        self.check(found.on_host().arrays)
        assert (found.step, found.epoch, found.updates) == self.progress
        assert found.optimizer == (self.optimizer or "")


def test_a_snapshot_from_before_an_optimizer_is_lost_with_the_gpu() -> None:
    """What the host then has are the parameters of its last look, and no updates of an optimizer that is no more."""
    journey = Journeys()
    journey.train("cuda:0", "parameters", False)
    copied = journey.copy()
    journey.start("Momentum", False)
    journey.restore(copied)
    journey.lose()
    journey.snapshots_are_the_latest()
    assert journey.progress == (0, 1, 0)


def test_the_host_knows_how_far_its_values_are() -> None:
    """What `lose` goes back to: the values of the last look, with the counts that belonged to them."""
    engine = CudaEngine(HostRuntime())
    state = State(np.float64)
    state.add(parameters=2, statistics=0)
    state.start_optimizer("SGD")
    state.begin(engine, 0.0)
    for count, looked in ((2, False), (3, True), (4, False)):
        engine.write(state.on(engine)["parameters"], np.full(2, float(count)))
        state.advance(engine, 1)
        if looked:
            state.read()
    state.lose()
    assert state.counters.step == 2
    assert state.read()["parameters"].tolist() == [3.0, 3.0]
    state.counters.step = 5
    state.lose()
    assert state.counters.step == 5, "the host holds the latest"
    state.begin(engine, 0.0)
    state.advance(engine, 1)
    state.lose()
    assert (state.counters.step, state.optimizer and state.optimizer.updates) == (5, 2)


TestJourneys = Journeys.TestCase
TestJourneys.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


# --- data that does not fit -----------------------------------------------------------------------------------------------


def streamed(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Let examples be streamed in blocks of about so many rows, however much memory there is."""
    monkeypatch.setattr(feeds, "RESIDENT_SHARE", 0.0)
    monkeypatch.setattr(feeds, "BLOCK_BYTES", rows * (4 * FEATURES + 8))
    monkeypatch.setattr(fastnn.training.trainer, "BACKUP_SECONDS", 1e6)  # which records events too


@pytest.mark.parametrize(("rows", "length"), by_turns([BATCH, 2 * BATCH, 3 * BATCH, 4 * BATCH, 1000], [None, 2]))
def test_streaming_changes_no_bit(
    rows: int, length: int | None, cuda_host: HostRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    if length is not None:
        monkeypatch.setattr(fastnn.training.chunks, "LOG_ROWS", length)
    X, y = examples()
    options = NOISY | {"validation_data": (X[:40], y[:40])}
    expected = trained("cuda", noisy(), **options)
    streamed(monkeypatch, rows)
    asked = len(cuda_host.asked)
    assert same_bits(trained("cuda", noisy(), **options), expected)
    assert "record" in cuda_host.asked[asked:], "blocks were loaded beside the work"


def test_an_average_has_the_same_bits_in_chunks_and_streams_and_continues_elsewhere(
    cuda_host: HostRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = NOISY | {"optimizer": fastnn.Adam(clip_norm=1.0, ema=0.9)}
    expected = trained("cuda", noisy(), **options)
    monkeypatch.setattr(fastnn.training.chunks, "LOG_ROWS", 3)
    streamed(monkeypatch, BATCH)
    model = trained("cuda", noisy(), **options | {"epochs": 2})
    assert same_bits(trained("cuda", pickle.loads(pickle.dumps(model)), **options | {"epochs": 1}), expected)
    on_cpu = trained("cpu", model, **options | {"epochs": 1})
    assert distance(on_cpu.averaged(), expected.averaged()) < 1e-5


def test_a_divergence_on_the_gpu_leaves_the_average_of_the_last_finite_step(cuda_host: HostRuntime) -> None:
    """The snapshot that is restored lies on the GPU."""
    averages = []
    for device in ("cuda", "cpu"):
        model, y = network("float64", last=2), 1e3 * values("float64")
        with pytest.raises(errors.DivergenceError):
            trained(device, model, y=y, loss="quadratic", optimizer=fastnn.SGD(10.0, ema=0.9), epochs=50)
        assert model.counters.step > 3
        assert all(np.isfinite(weights).all() for weights in model.averaged().weights.values())
        averages.append(model)
    assert averages[0].counters == averages[1].counters
    assert distance(averages[0].averaged(), averages[1].averaged()) < 1e-8


@pytest.mark.parametrize("n", [2 * BATCH + 1, 4 * BATCH + 1, BATCH + 1])
def test_a_last_row_joins_the_mini_batch_before_it_in_a_stream_too(
    n: int, cuda_host: HostRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = examples()
    options = NOISY | {"X": X[:n], "y": y[:n]}
    expected = trained("cuda", noisy(), **options)
    streamed(monkeypatch, BATCH)
    assert same_bits(trained("cuda", noisy(), **options), expected)
    assert distance(trained("cpu", noisy(), **options), expected) < 1e-5


def test_orders_of_any_length_are_streamed(cuda_host: HostRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng(epoch).integers(0, N, (200, 7, 33, 48)[epoch])

    expected = trained("cuda", order=order, epochs=4)
    streamed(monkeypatch, 2 * BATCH)
    assert same_bits(trained("cuda", order=order, epochs=4), expected)


def test_weights_and_values_are_streamed(cuda_host: HostRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"y": values(), "loss": "mean_squared_error", "sample_weight": np.linspace(0, 2, N), "epochs": 2}
    expected = trained("cuda", network(last=2), **options)
    streamed(monkeypatch, BATCH)
    assert same_bits(trained("cuda", network(last=2), **options), expected)


def test_memory_decides_whether_examples_are_streamed(
    cuda_hosts: Hosts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A memory map of more bytes than the GPU has, shuffled as a whole and shard by shard."""
    rows, columns = 1500, 64
    X = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", "float32", (rows, columns))
    X[...] = np.random.default_rng(0).standard_normal((rows, columns))
    y = np.arange(rows) % CLASSES
    monkeypatch.setattr(feeds, "BLOCK_BYTES", X.nbytes // 20)
    monkeypatch.setattr(fastnn.training.trainer, "BACKUP_SECONDS", 1e6)  # which records events too
    options = {"X": X, "y": y, "batch_size": 128, "optimizer": fastnn.SGD(0.1)}
    for shard_rows in (None, 700):
        small = cuda_hosts.install(total=X.nbytes - 50_000)
        model = trained("cuda", shard_rows=shard_rows, **options)
        assert "record" in small.asked
        large = cuda_hosts.install()
        assert same_bits(trained("cuda", shard_rows=shard_rows, **options), model)
        assert "record" not in large.asked
        assert distance(trained("cpu", shard_rows=shard_rows, **options), model) < 1e-5


def test_what_not_even_a_stream_has_room_for_is_said(cuda_hosts: Hosts) -> None:
    cuda_hosts.install(total=20_000)
    with pytest.raises(errors.DeviceMemoryError, match=r"of 19\.5 KiB are free") as raised:
        trained("cuda", X=np.zeros((4000, FEATURES), "float32"), y=np.arange(4000) % 2)
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value, MemoryError)


@pytest.mark.parametrize(("n", "shard_rows"), [(1, 1), (10, 3), (10, 10), (10, 50), (75, 16), (60, 1), (999, 250)])
def test_shards_are_visited_one_after_another(n: int, shard_rows: int) -> None:
    key = random.key(1, random.SHUFFLE)
    orders = [random.sharded_permutation(key, epoch, n, shard_rows) for epoch in range(3)]
    for order in orders:
        assert order.dtype == np.int64
        assert sorted(order) == list(range(n))
        shards = order // shard_rows
        assert np.count_nonzero(np.diff(shards)) == len(set(shards)) - 1, "each is left once"
    if n > 20:
        assert not np.array_equal(orders[0], orders[1])
        assert not np.array_equal(orders[1], orders[2])


# --- arrays of others -----------------------------------------------------------------------------------------------------


def foreign(runtime: HostRuntime, array: np.ndarray) -> Foreign:
    """A copy of an array on the GPU, as another library would hold it."""
    memory = runtime.allocate(array.nbytes)
    runtime.upload(memory.address, np.ascontiguousarray(array), runtime.stream)
    return Foreign(memory, array.shape, array.dtype)


def fetched(runtime: HostRuntime, array: Any) -> np.ndarray:
    assert isinstance(array, Foreign)
    target = np.empty(array.shape, array.dtype)
    runtime.download(target, array.memory.address, runtime.stream)
    return target


def test_arrays_on_the_gpu_stay_there(cuda_host: HostRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = examples()
    there = foreign(cuda_host, X)
    bound: list[int] = []
    to_device = CudaEngine.to_device

    def note(self: CudaEngine, array: Any) -> Any:
        placed = to_device(self, array)
        if placed.shape == X.shape:
            bound.append(placed.address)
        return placed

    monkeypatch.setattr(CudaEngine, "to_device", note)
    sizes = uploads(cuda_host, monkeypatch)
    model = trained("auto", X=there, y=y, epochs=3)
    assert model.device == "cuda:0", "where X lies"
    assert set(bound) == {there.memory.address}
    assert X.nbytes not in sizes
    assert same_bits(model, trained("cuda", epochs=3))
    outputs = model(there)
    assert np.array_equal(fetched(cuda_host, outputs), model(X))
    assert np.array_equal(fetched(cuda_host, model.to("cpu")(there)), model.to("cuda")(X)), "where X lies"
    assert model.evaluate(there, y) == model.evaluate(X, y)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("kind", ["host", "streamed", "array of the GPU"])
def test_rows_that_are_held_back(kind: str, dtype: str, cuda_host: HostRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """X is brought to the GPU once, for training and validation, and not again where it lies there."""
    X, y = examples()
    X = np.abs(X * 30).astype(dtype)
    training, validation = map(np.sort, split(np.arange(N), seed=3, stratify=y))
    options: dict[str, Any] = {"epochs": 2, "metrics": ["log_loss"]}
    pair = X[validation], y[validation]
    expected = network()
    expected_history = expected.fit(
        X[training], y[training], validation_data=pair, batch_size=BATCH, device="cuda", verbose=0, **options
    )
    if kind == "streamed":
        streamed(monkeypatch, BATCH)
    source = foreign(cuda_host, X) if kind == "array of the GPU" else X
    sizes = uploads(cuda_host, monkeypatch)
    model = network()
    history = model.fit(source, y, validation_split=0.2, batch_size=BATCH, device="cuda", verbose=0, **options)
    assert same_bits(model, expected)
    assert dict(history) == dict(expected_history)
    assert sizes.count(X.nbytes) == (kind == "host")


def test_values_on_the_gpu_are_checked_there(cuda_host: HostRuntime) -> None:
    X, y = examples()
    X[3, 2] = np.inf
    there = foreign(cuda_host, X)
    with pytest.raises(errors.InputError, match="1 values are NaN or infinite"):
        trained("cuda", X=there)
    model = trained("cuda")
    with pytest.raises(errors.InputError, match="1 values are NaN or infinite"):
        model(there)
    with pytest.raises(errors.InputTypeError, match="astype"):
        trained("cuda", X=foreign(cuda_host, X.astype("float64")), y=y)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_arrays_of_other_libraries_come_back_as_they_came(device: str, cuda_host: HostRuntime) -> None:
    X, _ = examples()
    model = trained(device)
    expected, classes = model(X), model.predict(X)
    torch = pytest.importorskip("torch")
    given = torch.from_numpy(X).requires_grad_()
    assert isinstance(model(given), torch.Tensor)
    assert np.array_equal(model(given).numpy(), expected)
    assert np.array_equal(model.predict(given).numpy(), classes)
    assert isinstance(model.predict_proba(given), torch.Tensor)
    trained(device, X=torch.from_numpy(X), y=torch.from_numpy(examples()[1]))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_arrays_of_jax_come_back_as_they_came(device: str, cuda_host: HostRuntime) -> None:
    jax = pytest.importorskip("jax")
    X, _ = examples()
    model = trained(device)
    given = jax.numpy.asarray(X)
    assert isinstance(model(given), jax.Array)
    assert np.array_equal(np.asarray(model(given)), model(X))
    assert np.array_equal(np.asarray(model.predict(given)), model.predict(X))


# --- several at once ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_threads_predict_at_once_while_they_capture(cuda_host: HostRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels of the host run one at a time, as those of a stream do; everything else is at once."""
    lock, run = threading.RLock(), host.run_kernel

    def one_at_a_time(*given: Any, **options: Any) -> None:
        with lock:
            run(*given, **options)

    def slow(self: Player, *given: Any) -> None:
        bind(self, *given)
        time.sleep(1e-4)  # lets other threads bind theirs before this one plays

    bind = Player.bind
    monkeypatch.setattr(Player, "bind", slow)
    monkeypatch.setattr(host, "run_kernel", one_at_a_time)
    models = [trained("cuda", noisy(), **NOISY), trained("cuda")]
    rng = np.random.default_rng(2)
    inputs = [rng.standard_normal((rows, FEATURES)).astype("float32") for rows in (40, 40, 70, 70)]
    there = [foreign(cuda_host, X) for X in inputs]
    expected = [[model(X) for X in inputs] for model in models]
    wrong: list[Any] = []

    def work(index: int) -> None:
        try:
            for turn in range(12):
                which, case = (index + turn) % 2, (index + turn) % 4
                model = copy.deepcopy(models[which]) if turn % 3 == 0 else models[which]
                found = model(inputs[case])
                on_gpu = fetched(cuda_host, model(there[case]))
                if not np.array_equal(found, expected[which][case]) or not np.array_equal(on_gpu, expected[which][case]):
                    wrong.append((index, turn))
        except BaseException as error:  # shown below
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_nothing_is_kept_on_the_gpu_when_a_model_goes(cuda_host: HostRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    trained("cuda")  # what the engine keeps for all models
    held = dict(cuda_host.held)
    for share in (feeds.RESIDENT_SHARE, 0.0):
        monkeypatch.setattr(feeds, "RESIDENT_SHARE", share)
        model = trained("cuda", noisy(), **NOISY)
        model.predict(examples()[0])
        assert len(cuda_host.held) > len(held)
        del model
        assert cuda_host.held == held


def test_an_array_of_a_gpu_is_moved_to_the_device_that_is_asked_for(cuda_hosts: Any, rng: np.random.Generator) -> None:
    first, _ = cuda_hosts.install(0), cuda_hosts.install(1)
    X, y = rng.normal(size=(60, 4)).astype(np.float32), rng.integers(0, 3, 60)
    memory = first.allocate(X.nbytes)
    first.upload(memory.address, X, first.stream)
    foreign = Foreign(memory, X.shape, X.dtype)
    results = []
    for given, device in ((X, "cpu"), (foreign, "cpu"), (foreign, "cuda:1"), (foreign, "auto")):
        model = fastnn.Sequential([fastnn.Dense(3)], seed=0)
        history = model.fit(given, y, batch_size=16, epochs=2, device=device, verbose=0)
        results.append((history.device, model.weights["0.weight"]))
    assert [device for device, _ in results] == ["cpu", "cpu", "cuda:1", "cuda:0"]
    for _, weight in results[1:]:
        np.testing.assert_allclose(weight, results[0][1], atol=1e-6)


def test_a_pickled_model_comes_to_life_where_there_is_no_gpu(cuda_hosts: Hosts) -> None:
    cuda_hosts.install()
    model = trained("cuda")
    there = pickle.loads(pickle.dumps(model))
    assert (model.device, there.device) == ("cuda:0", "cuda:0")
    content = pickle.dumps(model)
    cuda_hosts.installed.clear()
    cuda._opened.clear()
    found = pickle.loads(content)
    assert found.device == "cpu"
    X = np.random.default_rng(3).standard_normal((9, FEATURES)).astype("float32")
    np.testing.assert_allclose(found(X), there.to("cpu")(X), atol=1e-5)


@pytest.mark.parametrize("source", ["int64", "float64", "uint8", "float32"])
def test_inputs_are_standardized_where_they_are_gathered(source: str, cuda_host: HostRuntime) -> None:
    """Inputs of the host: what float32 cannot tell apart is told apart on the GPU as on the CPU."""
    large = 1_700_000_000 if source in ("int64", "float64") else 0
    X = (np.random.default_rng(0).integers(0, 200, (N, FEATURES)) + large).astype(source)
    fitted = fastnn.Standardizer().fit(X)
    models = [trained(device, fastnn.Sequential([fitted, fastnn.Dense(CLASSES)], seed=3), X=X) for device in ("cuda", "cpu")]
    assert distance(*models) < 1e-5
    assert np.allclose(models[0](X), models[1](X), atol=1e-5)
    statistics = [fastnn.activation_statistics(model, X).std[0] for model in models]
    np.testing.assert_allclose(statistics, 1.0, rtol=1e-3)
