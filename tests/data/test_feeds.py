"""Feeds: however examples come to a program, it computes the same bits, and only blocks of them take up memory."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

import fastnn
from fastnn import errors
from fastnn.data import feeds, inputs

N, F, C = 203, 12, 3
FORMS = ["csr", "csc", "coo"]


def dense(dtype: Any = "float32") -> np.ndarray:
    rng = np.random.default_rng(1)
    X = np.where(rng.uniform(size=(N, F)) < 0.3, rng.normal(size=(N, F)) * 20, 0)
    return X.astype(dtype)


Y = np.random.default_rng(2).integers(0, C, N)


def trained(X: Any, device: str = "cpu", dtype: str = "float32", **options: Any) -> tuple[Any, ...]:
    """Everything that a model says after two epochs, as bytes."""
    layers = [fastnn.Dense(8, activation="relu"), fastnn.Dropout(0.2), fastnn.BatchNorm(), fastnn.Dense(C)]
    model = fastnn.Sequential(layers, seed=3, dtype=dtype)
    settings = {"batch_size": 32, "epochs": 2, "verbose": 0, "device": device, "validation_data": (X, Y)} | options
    history = model.fit(X, Y, **settings)
    weights = {name: value.tobytes() for name, value in model.weights.items()}
    predictions = np.asarray(model.predict_proba(X)).tobytes()
    return weights, dict(history), predictions, model.evaluate(X, Y)


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two mini-batches, and memory maps that are large and read a few rows at a time."""
    monkeypatch.setattr(feeds, "BLOCK_BYTES", 70 * (4 * F + 8))
    monkeypatch.setattr(inputs, "LARGE_BYTES", 1)
    monkeypatch.setattr(inputs, "RELEASE_BYTES", 2**18)


@pytest.mark.parametrize("device", ["cpu", "numpy"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.usefixtures("blocks")
def test_sparse_matrices_are_trained_on_as_their_dense_twins(form: str, device: str) -> None:
    assert trained(scipy.sparse.csr_array(dense()).asformat(form), device) == trained(dense(), device)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool", "float64"])
@pytest.mark.parametrize("computed", ["float32", "float64"])
@pytest.mark.usefixtures("blocks")
def test_sparse_numbers_of_every_dtype_are_trained_on_as_their_dense_twins(dtype: str, computed: str) -> None:
    X = abs(dense()).astype(dtype)
    assert trained(scipy.sparse.csr_matrix(X), dtype=computed) == trained(X, dtype=computed)


@pytest.mark.parametrize("n", [N, 1, 2, 64, 65, 129])
@pytest.mark.usefixtures("blocks")
def test_blocks_end_with_mini_batches_whatever_the_number_of_examples(n: int) -> None:
    def outcome(X: Any) -> Any:
        model = fastnn.Sequential([fastnn.Dense(C)], seed=0)
        model.fit(X, Y[:n] if n > 2 else np.eye(C)[:n], batch_size=min(32, n), epochs=2, verbose=0)
        return model.weights["0.weight"].tobytes()

    X = dense()[:n]
    assert outcome(scipy.sparse.csr_array(X)) == outcome(X)


@pytest.mark.usefixtures("blocks")
def test_orders_and_weights_of_the_user_go_through_blocks_too() -> None:
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng(epoch).integers(0, N, (300, 33)[epoch])

    options = {"order": order, "sample_weight": np.linspace(0, 2, N)}
    assert trained(scipy.sparse.csr_array(dense()), **options) == trained(dense(), **options)


@pytest.mark.usefixtures("blocks")
def test_a_diverging_step_is_found_again_in_blocks() -> None:
    def outcome(X: Any) -> tuple[str, bytes]:
        model = fastnn.Sequential([fastnn.Dense(8, activation="relu"), fastnn.Dense(C)], seed=0)
        with pytest.raises(errors.DivergenceError) as raised:
            model.fit(X, Y, batch_size=32, epochs=9, optimizer=fastnn.SGD(1e9), verbose=0)
        return str(raised.value), model.weights["0.weight"].tobytes()

    assert outcome(scipy.sparse.csr_array(dense())) == outcome(dense())


def test_a_block_is_gathered_while_the_one_before_is_worked_on() -> None:
    gathered = []

    class Noted(inputs.SparseRows):
        def take(self, indices: np.ndarray, out: np.ndarray) -> None:
            gathered.append((threading.current_thread() is threading.main_thread(), list(indices)))
            super().take(indices, out)

    X = Noted(scipy.sparse.csr_array(dense()))
    model = fastnn.Sequential([fastnn.Dense(C)], seed=0)
    before = feeds.BLOCK_BYTES
    try:
        feeds.BLOCK_BYTES = 70 * (4 * F + 8)
        model.fit(X, Y, batch_size=32, epochs=1, verbose=0, order=lambda epoch: np.arange(N))
    finally:
        feeds.BLOCK_BYTES = before
    assert not any(main for main, _ in gathered)
    assert [len(rows) for _, rows in gathered] == [64, 64, 64, 11]
    assert [row for _, rows in gathered for row in rows] == list(range(N))


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", ">f4", "int16", "float16"])
@pytest.mark.parametrize("mode", ["r", "c"])
@pytest.mark.usefixtures("blocks")
def test_memory_maps_are_trained_on_as_arrays(dtype: str, mode: Any, tmp_path: Path) -> None:
    X = abs(dense()).astype(dtype)
    X.tofile(tmp_path / "X")
    assert trained(np.memmap(tmp_path / "X", dtype, mode, shape=X.shape)) == trained(X)


@pytest.mark.usefixtures("blocks")
def test_pages_of_a_map_are_let_go_of_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "FAULT_BYTES", 2**15)
    dense().tofile(tmp_path / "X")
    X = np.memmap(tmp_path / "X", "float32", "r", shape=(N, F))
    release, released = inputs.MappedRows.release, []
    monkeypatch.setattr(inputs.MappedRows, "release", lambda rows: released.append(release(rows)))
    fastnn.Sequential([fastnn.Dense(C)], seed=0).fit(X, Y, batch_size=32, epochs=1, verbose=0)
    assert len(released) >= N // 16


# --- on a GPU ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.8])
@pytest.mark.parametrize("kind", ["sparse", "mapped", "mapped, big-endian"])
@pytest.mark.usefixtures("blocks", "cuda_host")
def test_rows_lie_on_a_gpu_or_are_streamed_to_it(
    kind: str, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "RESIDENT_SHARE", share)
    X = dense()
    given = scipy.sparse.csr_array(X)
    if kind != "sparse":
        dtype = "float32" if kind == "mapped" else ">f4"
        X.astype(dtype).tofile(tmp_path / "X")
        given = np.memmap(tmp_path / "X", dtype, "r", shape=X.shape)
    assert trained(given, "cuda", validation_data=None) == trained(X, "cuda", validation_data=None)


# --- memory -----------------------------------------------------------------------------------------------------------------


def grown(script: str, *arguments: str) -> float:
    """By how many MiB the resident memory of a process rises at most, from where the script says `start()` on."""
    prelude = """
        import sys
        import numpy as np
        import fastnn
        from fastnn.data import inputs

        def resident(key):
            with open("/proc/self/status") as file:
                return next(int(line.split()[1]) / 1024 for line in file if line.startswith(key))

        def start():
            global begun
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
            begun = resident("VmRSS")
    """
    whole = "\n".join(textwrap.dedent(part) for part in (prelude, script, 'print(resident("VmHWM") - begun)'))
    done = subprocess.run([sys.executable, "-c", whole, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[-1])


needs_proc = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="tells no peak of the resident memory")


@pytest.mark.slow
@needs_proc
def test_a_sparse_matrix_is_never_dense_as_a_whole() -> None:
    """200,000 x 5,000 at a density of 0.1 %: 4 GB were it dense."""
    script = """
        import scipy.sparse
        rng = np.random.default_rng(0)
        n, f, stored = 200_000, 5_000, 1_000_000
        places = rng.integers(0, n, stored), rng.integers(0, f, stored)
        X = scipy.sparse.coo_array((np.ones(stored, np.float32), places), shape=(n, f)).tocsc()
        y = rng.integers(0, 2, n)
        model = fastnn.Sequential([fastnn.Dense(8, activation="relu"), fastnn.Dense(2)], seed=0)
        start()
        model.fit(X, y, batch_size=256, epochs=1, device="cpu", verbose=0)
        assert model.predict(X).shape == (n,)
        model.evaluate(X, y)
    """
    assert grown(script) < 700


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_the_resident_memory_does_not_grow_with_the_file(dtype: str, tmp_path: Path) -> None:
    """1 GB, mostly holes of the file."""
    script = """
        path, dtype = sys.argv[1:]
        f = 2048
        n = 1_000_000_000 // f // np.dtype(dtype).itemsize
        with open(path, "wb") as file:
            file.truncate(n * f * np.dtype(dtype).itemsize)
        X = np.memmap(path, dtype, "r", shape=(n, f))
        y = np.arange(n) % 2
        model = fastnn.Sequential([fastnn.Dense(8, activation="relu"), fastnn.Dense(2)], seed=0)
        start()
        model.fit(X, y, batch_size=128, epochs=1, device="cpu", verbose=0)
        model.evaluate(X, y)
        model.predict(X)
    """
    assert grown(script, str(tmp_path / "X"), dtype) < 600


COLORED_STRIPES = """
    from pathlib import Path
    folder = Path(sys.argv[1])
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:32, :32].astype(np.float32)
    colors = np.array([(1.0, 0.2, 0.1), (0.1, 0.3, 1.0)], np.float32)
    for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
        y = rng.integers(0, 10, 10_000)
        angle, phase = (y % 5 * np.pi / 5)[:, None, None], rng.uniform(0, 2 * np.pi, (10_000, 1, 1))
        waves = np.sin(0.9 * (np.cos(angle) * rows + np.sin(angle) * columns) + phase).astype(np.float32)
        images = 40 * waves[:, None] * colors[y // 5][:, :, None, None] + 128
        images += 50 * rng.standard_normal(images.shape, np.float32)
        records = np.empty((10_000, 3073), np.uint8)
        records[:, 0], records[:, 1:] = y, images.clip(0, 255).astype(np.uint8).reshape(10_000, 3072)
        records.tofile(folder / name)
    del rows, columns, y, angle, phase, waves, images, records
"""
"""50,000 + 10,000 images in CIFAR's form: stripes of five directions and two colors, their phases and the noise at random."""


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize(("as_float", "least", "most"), [(False, 170, 230), (True, 850, 1000)])
def test_50000_color_images_are_trained_on_as_bytes(as_float: bool, least: float, most: float, tmp_path: Path) -> None:
    """176 MiB of images, 703 in float32: read, trained on for an epoch and evaluated. With a copy in float32 it takes 882."""
    script = """
        def train(X, y):
            layers = [
                fastnn.Conv2D(16, 5, strides=2, activation="relu"), fastnn.MaxPool2D(2), fastnn.Flatten(), fastnn.Dense(10)
            ]
            model = fastnn.Sequential(layers, seed=0, input_scale=1 / 255)
            model.fit(X, y, batch_size=64, epochs=1, device="cpu", verbose=0)
            return model

        few = np.zeros((200, 32, 32, 3), np.float32 if as_float else np.uint8)
        train(few, np.arange(200) % 10).evaluate(few, np.arange(200) % 10)    # what is loaded and compiled takes memory too
        start()
        data = fastnn.datasets.load(folder).as_images()
        assert (data.X_train.shape, data.X_train.dtype, len(data.X_test)) == ((50_000, 32, 32, 3), np.uint8, 10_000)
        if as_float:
            data = dataclasses.replace(data, X_train=data.X_train.astype(np.float32), X_test=data.X_test.astype(np.float32))
        accuracy = train(data.X_train, data.y_train).evaluate(data.X_test, data.y_test)["accuracy"]
        assert accuracy > 0.9, accuracy
    """
    dedented = "\n".join(map(textwrap.dedent, (f"import dataclasses\nas_float = {as_float}\n", COLORED_STRIPES, script)))
    assert least < grown(dedented, str(tmp_path)) < most
