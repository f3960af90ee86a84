"""What only a GPU can show: the engine on the real device. Kernels are compared with their definitions by their own tests.

Every test is skipped where no GPU can be used, and runs on simulated ones as well (see `conftest.py`).
`record_property` hands figures on to the record of `ci/gpu.sh`.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import laws
import numpy as np
import pytest
import simulated_cupy
from cuda_on_host.runtime import HostRuntime
from trainings import INTERRUPT, digest, examples, network, run
from trajectories import NORMS, OPTIMIZERS, difference, trained

import fastnn
import fastnn.training.chunks
from fastnn import engines, random
from fastnn.benchmarks import grid
from fastnn.benchmarks.peers import ours
from fastnn.data import feeds
from fastnn.engines.cuda import CudaEngine
from fastnn.errors import DeviceMemoryError
from fastnn_kernels.cuda.arrays import DeviceArray
from fastnn_kernels.cuda.device import CupyRuntime
from fastnn_kernels.cuda.families import dense
from fastnn_kernels.cuda.runtime import Multiplication

ROWS = 8192 + 33
"""More than one block of an evaluation."""


def rounds(engine: CudaEngine, many: int, few: int) -> int:
    """How often something is done: `few` times where the GPU is simulated, which takes the host a thousand times as long."""
    return few if is_simulated(engine) else many


def is_simulated(engine: CudaEngine) -> bool:
    return engine.runtime.name == simulated_cupy.NAME


alone = pytest.mark.alone


def used(engine: CudaEngine) -> int:
    """Bytes of the device that are taken, by everybody."""
    free, total = engine.runtime.memory()
    return total - free


def large(rows: int) -> tuple[fastnn.Sequential, np.ndarray, np.ndarray]:
    """A network whose products are too large for our own bodies, and examples for it."""
    rng = np.random.default_rng(5)
    X, y = rng.standard_normal((rows, 512)).astype("float32"), rng.integers(0, 10, rows)
    X[np.arange(rows), y] += 4  # something to learn
    return fastnn.Sequential([fastnn.Dense(1024, activation="relu"), fastnn.Dense(10)], seed=2), X, y


# --- the same numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["", *NORMS])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_in_float32_follow_the_cpu(gpu: CudaEngine, name: str, norm: str) -> None:
    steps, options = rounds(gpu, 100, 7), {"l2": 1e-3, "l1": 1e-4}
    here = trained("float32", OPTIMIZERS[name], "cuda", steps, norm, **options)
    there = trained("float32", OPTIMIZERS[name], "cpu", steps, norm, **options)
    assert difference(here, there.weights) < 1e-5


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
def test_averages_follow_the_cpu(gpu: CudaEngine, dtype: str, tolerance: float) -> None:
    for optimizer in (fastnn.SGD(0.1, ema=0.9), fastnn.Adam(0.002, ema=0.99, clip_norm=0.5)):
        here, there = (trained(dtype, optimizer, device, rounds(gpu, 100, 21)).averaged() for device in ("cuda", "cpu"))
        assert difference(here, there.weights) < tolerance


@pytest.mark.simulated(everyday=True)
@pytest.mark.parametrize("name", ["adam", "nesterov", "rmsprop"])
def test_steps_in_float64_follow_the_cpu(gpu: CudaEngine, name: str) -> None:
    steps = rounds(gpu, 300, 21)
    here = trained("float64", OPTIMIZERS[name], "cuda", steps)
    assert difference(here, trained("float64", OPTIMIZERS[name], "cpu", steps).weights) < 1e-12


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dropout_drops_the_same_elements(gpu: CudaEngine, dtype: str) -> None:
    key = random.key(7, random.DROPOUT, 3)
    x, step = np.ones((331, 127), dtype), np.array(11, np.int64)
    y = gpu.empty(x.shape, dtype)
    gpu.compute("dropout", (gpu.to_device(x), gpu.to_device(step), y), {"rate": 0.3, "key": key})
    expected = np.empty_like(x)
    engines.CPU.compute("dropout", (x, step, expected), {"rate": 0.3, "key": key})
    assert 0.25 < (expected == 0).mean() < 0.35
    assert y.read().tobytes() == expected.tobytes()


@pytest.mark.parametrize("count", [1, 2, 127, 60_000])
def test_shuffles_are_the_same(gpu: CudaEngine, count: int) -> None:
    key = random.key(7, random.SHUFFLE)
    order = gpu.empty((count,), np.int64)
    gpu.compute("shuffle", (gpu.to_device(np.array(5, np.int64)), order), {"key": key})
    np.testing.assert_array_equal(order.read(), random.permutation(key, 5, count))


@pytest.mark.simulated(everyday=True)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_initial_weights_are_the_same(gpu: CudaEngine, dtype: str) -> None:
    here, there = run(dtype, device="cuda", epochs=0), run(dtype, device="cpu", epochs=0)
    assert here.state._engine is gpu, "the weights have been on the GPU"
    assert digest(here) == digest(there)


def test_evaluation_and_prediction_follow_the_cpu(gpu: CudaEngine) -> None:
    model = run(device="cuda", epochs=rounds(gpu, 3, 1))
    rng = np.random.default_rng(6)
    X, y = rng.standard_normal((ROWS, 37)).astype("float32"), rng.integers(0, 10, ROWS)
    here = model.evaluate(X, y)
    probabilities = {rows: model.predict_proba(X[:rows]) for rows in (0, 1, 31, 33, 8192, ROWS)}
    classes = model.predict(X)
    assert model.device == gpu.name
    model.to("cpu")
    there = model.evaluate(X, y)
    assert here["loss"] == pytest.approx(there["loss"], rel=1e-5)
    assert here["accuracy"] == pytest.approx(there["accuracy"], abs=3 / ROWS)
    expected = model.predict_proba(X)
    for rows, found in probabilities.items():
        np.testing.assert_allclose(found, expected[:rows], rtol=0, atol=1e-5, err_msg=f"{rows} rows")
    least = np.take_along_axis(expected, classes[:, np.newaxis], 1)[:, 0]
    assert (least >= expected.max(axis=1) - 1e-5).all()


@pytest.mark.simulated(everyday=True)
def test_values_are_evaluated_as_on_the_cpu(gpu: CudaEngine) -> None:
    X, _ = examples()
    y = np.tanh(X[:, :2])
    found = {}
    for device in ("cuda", "cpu"):
        model = fastnn.Sequential([fastnn.Dense(17, activation="tanh"), fastnn.Dense(2)], seed=4)
        history = model.fit(
            X, y, loss="mean_squared_error", epochs=3, batch_size=32, validation_data=(X, y), device=device, verbose=0
        )
        found[device] = {**model.evaluate(X, y), "val_r2": history["val_r2"][-1]}
    assert found["cuda"] == pytest.approx(found["cpu"], rel=1e-4)


# --- the same bits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [fastnn.Adam(clip_norm=1.0), fastnn.SGD(0.1, momentum=0.9)], ids=["adam", "sgd"])
def test_all_runs_have_one_digest(gpu: CudaEngine, optimizer: Any) -> None:
    times, epochs = rounds(gpu, 20, 2), rounds(gpu, 3, 1)
    assert len({digest(run(device="cuda", optimizer=optimizer, epochs=epochs)) for _ in range(times)}) == 1


def test_all_runs_of_large_products_have_one_digest(gpu: CudaEngine) -> None:
    found = set()
    rows = rounds(gpu, 2048, 512)
    for _ in range(rounds(gpu, 20, 2)):
        model, X, y = large(rows)
        model.fit(X, y, batch_size=rows // 4, epochs=2, device="cuda", verbose=0)
        found.add(digest(model))
    assert len(found) == 1


@pytest.mark.parametrize("products", ["own", "cuBLASLt"])
def test_graphs_change_no_bit(gpu: CudaEngine, products: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The products of cuBLASLt run side by side in them."""
    assert gpu.capture, "FASTNN_CUDA_CAPTURE turns graphs off"
    if products == "cuBLASLt":
        monkeypatch.setattr(dense, "OWN_UP_TO", dict.fromkeys(dense.OWN_UP_TO, 0))
    epochs = rounds(gpu, 5, 2)
    captured = run(device="cuda", epochs=epochs)
    assert captured.state._engine is gpu
    assert isinstance(gpu.runtime, CupyRuntime)
    assert products == "own" or gpu.runtime._branch_workspace is not None
    alone = engines.gpu(0, capture=False)
    monkeypatch.setenv("FASTNN_CUDA_CAPTURE", "0")
    launched = run(device="cuda", epochs=epochs)
    assert launched.state._engine is alone
    assert digest(launched) == digest(captured)


@pytest.mark.parametrize("length", [1, 7, 1000])
def test_chunks_change_no_bit(gpu: CudaEngine, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = rounds(gpu, 3, 1)
    expected = digest(run(device="cuda", epochs=epochs))
    monkeypatch.setattr(fastnn.training.chunks, "LOG_ROWS", length)
    assert digest(run(device="cuda", epochs=epochs)) == expected


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_streaming_changes_no_bit(gpu: CudaEngine, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, rows = np.random.default_rng(9), rounds(gpu, 1003, 233)
    X, y = rng.integers(0, 255, (rows, 37)).astype(dtype), rng.integers(0, 10, rows)

    def streamed() -> str:
        model = network()
        model.fit(X, y, batch_size=32, epochs=rounds(gpu, 3, 2), device="cuda", validation_data=(X, y), verbose=0)
        return digest(model)

    made = []
    begin = feeds.Blocks.begin
    monkeypatch.setattr(feeds.Blocks, "begin", lambda feed, order: (made.append(feed.rows), begin(feed, order))[1])
    expected = streamed()
    assert not made
    monkeypatch.setattr(feeds, "RESIDENT_SHARE", 0.0)
    monkeypatch.setattr(feeds, "BLOCK_BYTES", 100 * 37 * X.itemsize)
    assert streamed() == expected
    assert made
    assert min(made) < rows, "one block held everything"


# --- products ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", [p for p in engines.PRECISIONS if p != "float32"])
def test_a_lower_precision_differs_and_trains(gpu: CudaEngine, precision: str) -> None:
    if not gpu.runtime.device.products:
        pytest.skip("no cuBLASLt here")
    if precision == "tf32" and is_simulated(gpu):
        pytest.skip("what the tensor cores of TF32 round is not simulated")
    digests, losses, rows = set(), [], rounds(gpu, 2048, 512)
    for chosen in ("float32", precision):
        model, X, y = large(rows)
        history = model.fit(X, y, batch_size=rows // 4, epochs=rounds(gpu, 5, 3), device="cuda", precision=chosen, verbose=0)
        assert history.precision == chosen
        assert {value.dtype.name for value in model.weights.values()} == {"float32"}
        digests.add(digest(model))
        losses.append(history["loss"])
    assert len(digests) == 2
    assert losses[1][-1] < 0.5 * losses[1][0]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


@pytest.mark.simulated(everyday=True)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cublaslt_and_our_own_products_agree(gpu: CudaEngine, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not gpu.runtime.device.products:
        pytest.skip("no cuBLASLt here")
    multiplied: list[bool] = []
    captured = gpu.runtime.capture

    def spy(stages: Any) -> Any:
        multiplied.append(any(isinstance(node, Multiplication) for stage in stages for node in stage))
        return captured(stages)

    monkeypatch.setattr(gpu.runtime, "capture", spy)
    found, steps = [], rounds(gpu, 50, 7)
    for up_to in (0, 2**62):
        monkeypatch.setattr(dense, "OWN_UP_TO", dict.fromkeys(dense.OWN_UP_TO, up_to))
        for optimizer in ("adam", "momentum"):
            multiplied.clear()
            found.append(trained(dtype, OPTIMIZERS[optimizer], "cuda", steps, "batch norm" if optimizer == "adam" else ""))
            assert set(multiplied) == {up_to == 0}, "products were not computed by whom they should be"
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    for theirs, ours_ in zip(found[:2], found[2:], strict=True):
        assert difference(theirs, ours_.weights) < tolerance


# --- arrays of others -------------------------------------------------------------------------------------------------


def cupy_array(values: np.ndarray) -> tuple[Any, int]:
    cupy = pytest.importorskip("cupy")
    array = cupy.asarray(values)
    return array, array.data.ptr


def torch_array(values: np.ndarray) -> tuple[Any, int]:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch sees no GPU")
    array = torch.from_numpy(values).cuda()
    return array, array.data_ptr()


def jax_array(values: np.ndarray) -> tuple[Any, int]:
    jax = pytest.importorskip("jax")
    try:
        place = jax.devices("cuda")[0]
    except RuntimeError as error:
        pytest.skip(f"this JAX sees no GPU: {error}")
    array = jax.device_put(values, place)
    return array, array.unsafe_buffer_pointer()


LIBRARIES = [cupy_array, torch_array, jax_array]


def check_library(gpu: CudaEngine, make: Callable[..., Any]) -> None:
    if is_simulated(gpu) and make is not cupy_array:
        pytest.skip("PyTorch and JAX see no simulated GPU")


@pytest.fixture(autouse=True)
def _room(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX takes three quarters of the memory of a GPU when it first looks at it, unless it is told not to."""
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


@pytest.mark.parametrize("make", LIBRARIES, ids=["cupy", "torch", "jax"])
def test_arrays_of_others_are_used_where_they_lie(gpu: CudaEngine, make: Callable[..., Any]) -> None:
    pytest.importorskip("array_api_compat")
    check_library(gpu, make)
    X, y = examples()
    epochs = rounds(gpu, 2, 1)
    array, address = make(X)
    assert gpu.to_device(array).address == address
    model = network()
    history = model.fit(array, y, batch_size=32, epochs=epochs, verbose=0)
    assert history.device == gpu.name, "auto takes the GPU that X lies on"
    twin = network()
    twin.fit(X, y, batch_size=32, epochs=epochs, device="cuda", verbose=0)
    assert digest(model) == digest(twin)
    for method in ("predict", "predict_proba", "__call__"):
        found, expected = getattr(model, method)(array), getattr(twin, method)(X)
        assert type(found) is type(array), method
        assert fastnn.arrays.device(found) == "cuda:0", method
        np.testing.assert_allclose(fastnn.arrays.to_host(found), expected, rtol=0, atol=1e-6, err_msg=method)
    assert model.evaluate(array, y) == twin.evaluate(X, y)


@pytest.mark.parametrize("make", LIBRARIES, ids=["cupy", "torch", "jax"])
def test_targets_and_weights_of_others(gpu: CudaEngine, make: Callable[..., Any]) -> None:
    pytest.importorskip("array_api_compat")
    check_library(gpu, make)
    X, y = examples()
    epochs = rounds(gpu, 2, 1)
    weight = np.linspace(0.5, 2.0, len(X)).astype("float32")
    twin, model = network(), network()
    twin.fit(X, y, sample_weight=weight, batch_size=32, epochs=epochs, device="cuda", verbose=0)
    given, targets, weights = (make(values)[0] for values in (X, y.astype("int32"), weight))
    model.fit(given, targets, sample_weight=weights, batch_size=32, epochs=epochs, verbose=0)
    assert digest(model) == digest(twin)


TARGETS: dict[str, tuple[int, str, Callable[[np.ndarray], np.ndarray]]] = {
    "classes": (10, "softmax_cross_entropy", lambda y: y),
    "values": (2, "mean_squared_error", lambda y: np.stack([y, y % 3], axis=1).astype("float32") / 9),
    "one value": (1, "mean_squared_error", lambda y: y.astype("float32") / 9),
}
"""Outputs, a loss, and targets of a dtype that programs read, made of class indices."""


@pytest.mark.simulated(everyday=True)
@pytest.mark.filterwarnings("ignore:the model was trained on other data")
@pytest.mark.parametrize("kind", TARGETS)
def test_targets_on_the_gpu_are_not_brought_there_again(gpu: CudaEngine, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are looked at on the host, once; other dtypes, and labels that are no class indices, are brought."""
    outputs, loss, targets = TARGETS[kind]
    X, y = examples()
    y, weight = targets(y), np.linspace(0.5, 2.0, len(X)).astype("float32")
    upload, sent = type(gpu.runtime).upload, []

    def note(runtime: Any, address: int, array: np.ndarray, stream: Any) -> None:
        sent.append(array.tobytes())
        upload(runtime, address, array, stream)

    monkeypatch.setattr(type(gpu.runtime), "upload", note)
    models, scores = [], []
    for place in (np.array, lambda values: cupy_array(values)[0]):
        models.append(fastnn.Sequential([fastnn.Dense(5, activation="tanh"), fastnn.Dense(outputs)], seed=1))
        given, wanted, weights = (place(values) for values in (X, y, weight))
        sent.clear()
        options: dict[str, Any] = {"sample_weight": weights, "loss": loss, "batch_size": 64, "epochs": 1, "verbose": 0}
        models[-1].fit(given, wanted, device="cuda", **options)
        models[-1].fit(given, wanted, device="cuda", validation_split=0.25, **options)
        scores.append(models[-1].evaluate(given, wanted, sample_weight=weights))
        counts = [sent.count(values.tobytes()) for values in (X, y, weight)]
        if place is np.array:
            assert counts == [3 if kind == "classes" else 4, 3, 3], "r2 and mae are those of a prediction"
        else:
            assert counts == [0, 0, 1], "weights are put together where rows are held back"
    assert digest(models[0]) == digest(models[1])
    assert scores[0] == scores[1]


def test_work_waits_for_cupy_and_cupy_for_it(gpu: CudaEngine) -> None:
    """The values of X are written on a stream of CuPy's after long work; the outputs are read on it without waiting."""
    cupy = pytest.importorskip("cupy")
    model, (X, _) = run(device="cuda", epochs=1), examples()
    expected = model(X)
    width = rounds(gpu, 4096, 8)
    stream = cupy.cuda.Stream(non_blocking=True)
    for _ in range(rounds(gpu, 5, 2)):
        with stream:
            given, long = cupy.zeros(X.shape, "float32"), cupy.ones((width, width), "float32")
            source = cupy.asarray(X)
            for _ in range(20):
                long = long @ long * 1e-4
            given[...] = source
            found = model(given).copy()
            given[...] = 0
        np.testing.assert_allclose(found.get(stream=stream), expected, rtol=0, atol=1e-6)


def test_work_waits_for_torch_and_torch_for_it(gpu: CudaEngine) -> None:
    pytest.importorskip("array_api_compat")
    check_library(gpu, torch_array)
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch sees no GPU")
    model, (X, _) = run(device="cuda"), examples()
    expected = model(X)
    stream = torch.cuda.Stream()
    for _ in range(5):
        with torch.cuda.stream(stream):
            given, long = torch.zeros(X.shape, device="cuda"), torch.ones((4096, 4096), device="cuda")
            source = torch.from_numpy(X).cuda()
            for _ in range(20):
                long = long @ long * 1e-4
            given.copy_(source)
            found = model(given).clone()
        stream.synchronize()
        np.testing.assert_allclose(found.cpu().numpy(), expected, rtol=0, atol=1e-6)


def test_a_benchmark_trains_on_data_of_the_gpu(gpu: CudaEngine) -> None:
    cell = grid.Cell("planar", rounds(gpu, 400, 32), "cuda")
    contestant = ours.Fastnn(grid.make_task(cell, 1, checking=True))
    assert fastnn.arrays.device(contestant.X) == "cuda:0"
    there = ours.Fastnn(grid.make_task(cell, 1, checking=True), device="cpu")
    order = grid.check_order(cell)
    np.testing.assert_allclose(contestant.losses(order), there.losses(order), rtol=0, atol=2e-5)
    assert contestant.time(2) > 0
    assert contestant.peak_bytes() > contestant.task.X.nbytes
    assert contestant.work()


# --- what goes wrong --------------------------------------------------------------------------------------------------


@alone
def test_more_memory_than_there_is(gpu: CudaEngine) -> None:
    _, total = gpu.runtime.memory()
    with pytest.raises(DeviceMemoryError, match="left"), engines.translate_errors():
        gpu.empty((total + 1,), "uint8")
    run(device="cuda", epochs=1)


@alone
@pytest.mark.simulated(skip="its data are as large as the memory of a GPU")
def test_training_ends_where_there_is_no_room_and_goes_on_when_there_is(gpu: CudaEngine) -> None:
    X, y = np.zeros((60_000, 4096), np.uint8), np.arange(60_000) % 10
    X[:, 0] = y
    model = fastnn.Sequential([fastnn.Dense(1024, activation="relu"), fastnn.Dense(10)], seed=1).build(4096)
    before = model.weights
    rest = 2**26  # two blocks of a stream, the parameters and what Adam keeps take more
    taken: list[Any] = [gpu.runtime.allocate(gpu.runtime.memory()[0] - rest)]
    with pytest.raises(DeviceMemoryError, match="left") as caught:
        model.fit(X, y, batch_size=128, epochs=1, device="cuda", verbose=0)
    taken.clear()
    del caught
    gc.collect()
    assert all(np.array_equal(value, before[name]) for name, value in model.weights.items())
    history = model.fit(X, y, batch_size=128, epochs=1, device="cuda", verbose=0)
    assert np.isfinite(history["loss"]).all()


@pytest.mark.simulated(skip="it is about a process of its own, which would find no GPU")
@pytest.mark.parametrize("delay", [0.3, 0.71])
def test_an_interrupt_leaves_whole_steps(gpu: CudaEngine, delay: float) -> None:
    code = INTERRUPT.format(path=[p for p in sys.path if p])
    ended = subprocess.run(
        [sys.executable, "-c", code, "cuda", str(delay)], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_two_threads_train_and_predict_at_once(gpu: CudaEngine) -> None:
    epochs, predictions = rounds(gpu, 10, 1), rounds(gpu, 50, 5)
    expected = digest(run(device="cuda", epochs=epochs))
    X, _ = examples()
    still = run(device="cuda", epochs=epochs)
    outputs = still(X)
    found: list[Any] = []

    def train() -> None:
        found.append(digest(run(device="cuda", epochs=epochs)))

    def predict() -> None:
        found.extend("same" if still(X).tobytes() == outputs.tobytes() else "other outputs" for _ in range(predictions))

    threads = [threading.Thread(target=target) for target in (train, predict, train, predict)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted([expected] * 2 + ["same"] * 2 * predictions)


@alone
def test_memory_after_many_fits(gpu: CudaEngine) -> None:
    """New models each time, and one model that continues."""
    model = network()

    def fits(count: int) -> int:
        X, y = examples()
        for _ in range(count):
            run(device="cuda", epochs=1)
            model.fit(X, y, batch_size=32, epochs=1, device="cuda", verbose=0)
        gc.collect()
        return used(gpu)

    first = fits(rounds(gpu, 5, 1))
    assert fits(rounds(gpu, 50, 2)) <= first + 2**22


def test_saved_on_the_gpu_loaded_on_the_cpu(gpu: CudaEngine, tmp_path: Path) -> None:
    model, (X, y) = run(device="cuda", epochs=rounds(gpu, 3, 1)), examples()
    model.save(tmp_path / "model.safetensors")
    loaded = fastnn.load(tmp_path / "model.safetensors")
    assert loaded.device == "cpu"
    assert all(np.array_equal(value, loaded.weights[name]) for name, value in model.weights.items())
    np.testing.assert_allclose(loaded.predict_proba(X), model.predict_proba(X), rtol=0, atol=1e-6)
    assert loaded.fit(X, y, batch_size=32, epochs=1, device="cuda", verbose=0).device == gpu.name
    assert not all(np.array_equal(value, loaded.weights[name]) for name, value in model.weights.items())


@pytest.mark.simulated(skip="calls are repeated until the time that they take can be measured")
def test_a_program_is_explained(gpu: CudaEngine) -> None:
    text = network().build(37).program(32, device="cuda").explain()
    assert gpu.name in text
    assert "whole step" in text


# --- a whole training -------------------------------------------------------------------------------------------------


@pytest.mark.simulated(skip="the accuracy after ten epochs of MNIST would take the host hours")
@pytest.mark.parametrize("what", [*engines.PRECISIONS, "float64"])
def test_mnist(gpu: CudaEngine, mnist: Path, what: str, record_property: Callable[[str, object], None]) -> None:
    data = fastnn.datasets.load(str(mnist))
    dtype, precision = ("float64", "float32") if what == "float64" else ("float32", what)
    layers = [fastnn.Dense(256, activation="relu"), fastnn.Dropout(0.2), fastnn.Dense(10)]
    model = fastnn.Sequential(layers, seed=0, dtype=dtype, input_scale=data.scale)
    model.fit(data.X_train, data.y_train, batch_size=128, epochs=10, device="cuda", precision=precision, verbose=0)
    accuracy = model.evaluate(data.X_test, data.y_test)["accuracy"]
    record_property(f"mnist {what}", round(accuracy, 4))
    assert accuracy >= 0.975


# --- the comparison itself --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("beyond", "what"), [(-1, "before"), (7, "beyond")])
def test_what_a_kernel_writes_outside_its_operands_is_found(beyond: int, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`laws.run_on_gpu` on a GPU made of the host, with a kernel that writes one element too many."""
    engine = CudaEngine(HostRuntime(), capture=False)
    monkeypatch.setattr(laws, "gpu", lambda: engine)
    arrays = [np.linspace(0, 1, 7, dtype="float32"), np.empty(7, "float32")]
    for offset in (0, 1):
        laws.run_on_gpu("tanh", arrays, {}, beyond=offset)
        np.testing.assert_allclose(arrays[1], np.tanh(arrays[0]), rtol=1e-6)
    compute = engine.compute

    def planted(kernel: str, given: Any, attributes: Any) -> None:
        compute(kernel, given, attributes)
        y = given[1]
        DeviceArray(y.runtime, y.owner, y.address + beyond * 4, (1,), "float32").write(np.ones(1))

    monkeypatch.setattr(engine, "compute", planted)
    with pytest.raises(AssertionError, match=f"{what} an operand"):
        laws.run_on_gpu("tanh", arrays, {})
