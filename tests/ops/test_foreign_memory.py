"""Memory that others allocated: whatever door an array comes in by, compiled code never writes to it.

Arrays come read-only, between the boundaries of their elements, from files, and from buffers of other libraries.
"""

from __future__ import annotations

import copy
import mmap
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import engines, ops
from fastnn.errors import InputError
from fastnn.program.shapes import B
from fastnn.program.trace import Trace
from fastnn_kernels.contract import SCALARS
from fastnn_kernels.memory import ALIGNMENT, aligned_copy, aligned_zeros

ROWS, FEATURES, CLASSES = 60, 5, 3


def read_only(array: np.ndarray) -> np.ndarray:
    made = array.copy()
    made.flags.writeable = False
    return made


def misaligned(array: np.ndarray) -> np.ndarray:
    """One byte behind a boundary."""
    raw = np.zeros(array.nbytes + 65, np.uint8)
    start = -raw.ctypes.data % 64 + 1
    made = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    made[...] = array
    assert not made.flags.aligned or array.dtype.itemsize == 1 or not array.size
    return made


def strided(array: np.ndarray) -> np.ndarray:
    made = np.zeros((*array.shape, 2), array.dtype)[..., 0]
    made[...] = array
    return made


def mapped(array: np.ndarray) -> np.ndarray:
    """A private mapping, whose pages would take writes."""
    pages = mmap.mmap(-1, max(1, array.nbytes))
    pages.write(array.tobytes())
    return np.frombuffer(pages, array.dtype, array.size).reshape(array.shape)


def foreign(array: np.ndarray) -> np.ndarray:
    """Over an immutable object of Python."""
    return np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)


KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    each.__name__: each for each in (read_only, misaligned, strided, mapped, foreign)
}
kinds = pytest.mark.parametrize("kind", list(KINDS))


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.normal(size=(ROWS, FEATURES)).astype(np.float32), rng.integers(0, CLASSES, ROWS)


def trained(epochs: int = 2, **options: Any) -> fastnn.Sequential:
    layers = [fastnn.Dense(7, activation="relu"), fastnn.BatchNorm(), fastnn.Dense(CLASSES)]
    return more(fastnn.Sequential(layers, seed=1, **options), epochs)


def more(model: fastnn.Sequential, epochs: int = 2, **options: Any) -> fastnn.Sequential:
    X, y = data()
    model.fit(X, y, optimizer="adam", batch_size=16, epochs=epochs, device="cpu", verbose=0, **options)
    return model


def everything(model: fastnn.Sequential) -> dict[str, bytes]:
    assert model.state.optimizer is not None
    arrays = {**model.weights, **model.state.optimizer.slots}
    return {name: array.tobytes() for name, array in arrays.items()}


def check(model: fastnn.Sequential) -> None:
    """What compiled code writes to lies in memory of ours, and continues as if it had never been elsewhere."""
    held = model.state.read()
    assert set(held) == {"parameters", "statistics", "mean", "square"}
    for name, array in held.items():
        flags = array.flags
        assert (flags.writeable, flags.c_contiguous, array.ctypes.data % ALIGNMENT, array.dtype) == (True, True, 0, model.dtype)
        base = array
        while isinstance(base.base, np.ndarray):
            base = base.base
        assert base.flags.owndata, name
    assert model.state.optimizer is not None
    assert all(slot is held[name] for name, slot in model.state.optimizer.slots.items())
    assert everything(more(model)) == everything(more(trained()))


# --- pickles and copies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "strided"])
def test_a_pickle_whose_arrays_lie_elsewhere(kind: str) -> None:
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(trained(), protocol=5, buffer_callback=buffers.append)
    assert buffers, "NumPy hands its arrays out"
    given = [KINDS[kind](np.frombuffer(buffer, np.float32)) for buffer in buffers]
    raw = [np.frombuffer(array.view(np.uint8) if array.flags.aligned else array.data.cast("B"), np.uint8) for array in given]
    before = [array.tobytes() for array in given]
    model = pickle.loads(content, buffers=raw)
    check(model)
    assert [array.tobytes() for array in given] == before


@pytest.mark.parametrize("mode", [None, "r", "r+", "c"])
def test_joblib_maps_the_arrays_of_a_file(tmp_path: Path, mode: str | None) -> None:
    joblib = pytest.importorskip("joblib")
    path = tmp_path / "model.joblib"
    joblib.dump(trained(), path)
    before = path.read_bytes()
    check(joblib.load(path, mmap_mode=mode))
    assert path.read_bytes() == before, "training has written to the file"


@pytest.mark.slow
def test_loky_shares_models_of_more_than_a_megabyte() -> None:
    joblib = pytest.importorskip("joblib")
    X, y = data()
    model = fastnn.Sequential([fastnn.Dense(100_000), fastnn.Dense(CLASSES)], seed=1)
    model.fit(X, y, batch_size=16, epochs=1, device="cpu", verbose=0)
    fit = joblib.delayed(_fit_in_worker)
    both = joblib.Parallel(n_jobs=2, backend="loky", max_nbytes="1M")(fit(model, X, y) for _ in range(2))
    assert both == [_fit_in_worker(model, X, y)] * 2


def _fit_in_worker(model: fastnn.Sequential, X: np.ndarray, y: np.ndarray) -> dict[str, bytes]:
    twin = copy.deepcopy(model)
    more(twin, 1)
    return {name: array.tobytes() for name, array in twin.weights.items()}


def test_a_deep_copy() -> None:
    model = trained()
    before = everything(model)
    check(copy.deepcopy(model))
    assert everything(model) == before


def test_a_pickle_made_on_a_machine_of_the_other_byte_order() -> None:
    model = trained()
    dtype, arrays, *counts = model.state.__getstate__()
    swapped = {name: array.astype(array.dtype.newbyteorder()) for name, array in arrays.items()}
    model.state.__setstate__((dtype, swapped, *counts))
    twin = pickle.loads(pickle.dumps(model))
    check(twin)


# --- values that are given to a model -----------------------------------------------------------------------------------------


@kinds
def test_set_weights(kind: str) -> None:
    model, given = trained(), {name: KINDS[kind](array) for name, array in trained().weights.items()}
    before = {name: array.tobytes() for name, array in given.items()}
    model.set_weights(given)
    check(model)
    assert {name: array.tobytes() for name, array in given.items()} == before


@kinds
def test_a_snapshot(kind: str) -> None:
    """Parameters, running statistics and the optimizer's state."""
    model, snapshot = trained(5), trained().snapshot()
    given = {name: KINDS[kind](array) for name, array in snapshot.arrays.items()}
    assert set(given) == {"parameters", "statistics", "mean", "square"}
    before = {name: array.tobytes() for name, array in given.items()}
    for target in (model, fastnn.Sequential(model.layers, seed=1).build(FEATURES)):
        target.restore(replace(snapshot, arrays=given))
        check(target)
    assert {name: array.tobytes() for name, array in given.items()} == before


def test_a_file(tmp_path: Path) -> None:
    trained().save(tmp_path / "m.safetensors", optimizer=True)
    check(fastnn.load(tmp_path / "m.safetensors"))
    model = trained(5)
    fastnn.checkpoints.restore(model, tmp_path / "m.safetensors")
    check(model)


def test_a_resumed_run(tmp_path: Path) -> None:
    folder = fastnn.callbacks.Checkpoint(tmp_path / "run")
    model = trained(0)
    more(model, 1, callbacks=[folder])
    resumed = trained(0)
    more(resumed, 2, callbacks=[folder], resume=True)
    check(resumed)


@kinds
def test_what_is_trained_on(kind: str) -> None:
    (X, y), make = data(), KINDS[kind]
    order = np.arange(ROWS)[::-1].copy()
    for targets, loss in ((y, "softmax_cross_entropy"), (np.eye(CLASSES, dtype=np.float32)[y], "mean_squared_error")):
        found = []
        plain = (X, targets, np.full(ROWS, 0.5, np.float32), order)
        for inputs, t, weights, visits in (plain, tuple(map(make, plain))):
            model = fastnn.Sequential([fastnn.Dense(7, activation="relu"), fastnn.Dense(CLASSES)], seed=1)
            history = model.fit(
                inputs, t, loss=loss, sample_weight=weights, order=lambda epoch, visits=visits: visits,
                validation_data=(inputs, t), epochs=2, batch_size=16, device="cpu", verbose=0,
            )  # fmt: skip
            found.append((dict(history), model.evaluate(inputs, t), model(inputs).tobytes(), everything(model)))
        assert found[0] == found[1]


# --- operations and programs ----------------------------------------------------------------------------------------------


def updated(make: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
    """Parameters, mean and square after one step of Adam on arrays made by `make`."""
    rng = np.random.default_rng(5)
    arrays = [make(rng.normal(size=37) ** 2) for _ in range(3)]
    inputs = [make(array) for array in (rng.normal(size=37), np.array(0.0), np.full((1, len(SCALARS)), 0.1))]
    index, starts = np.array(0), make(np.array([0, 31, 37], np.int32))
    penalties = make(np.array([[0.1, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]]))
    attributes = {**fastnn.Adam().attributes()}
    assert ops.update("adam", arrays[0], arrays[1:], *inputs, index, starts, penalties, attributes) is None
    return arrays


@pytest.mark.parametrize("kind", ["misaligned", "strided", "mapped"])
def test_an_update_in_place(kind: str) -> None:
    assert [a.tobytes() for a in updated(KINDS[kind])] == [a.tobytes() for a in updated(np.copy)]
    assert updated(np.copy)[0].tobytes() != updated(np.copy)[1].tobytes()


@pytest.mark.parametrize("kind", ["read_only", "foreign"])
def test_an_update_in_place_of_what_cannot_be_written(kind: str) -> None:
    with pytest.raises(InputError, match=r"adam: parameters is updated in place, and this array is read-only; pass a copy"):
        updated(KINDS[kind])
    x, state = np.ones((4, 3)), KINDS[kind](np.ones(3))
    with pytest.raises(InputError, match=r"batch_norm: running_mean is updated in place.*read-only"):
        ops.batch_norm(x, np.ones(3), np.ones(3), state, np.ones(3), training=True)
    assert state.tolist() == [1.0] * 3


@pytest.mark.parametrize("kind", ["misaligned", "strided", "mapped"])
def test_running_statistics_in_place(kind: str) -> None:
    rng, found = np.random.default_rng(2), []
    x = rng.normal(size=(33, 7))
    for make in (np.copy, KINDS[kind]):
        mean, variance = make(np.zeros(7)), make(np.ones(7))
        y = ops.batch_norm(make(x), make(np.ones(7)), make(np.zeros(7)), mean, variance, training=True)
        found.append((y.tobytes(), mean.tobytes(), variance.tobytes()))
    assert found[0] == found[1]
    assert np.allclose(np.frombuffer(found[0][1]), 0.1 * x.mean(axis=0))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"starts": np.array([0, 30])}, "starts that rise from 0 to 37"),
        ({"starts": np.array([0, 40, 37]), "penalties": np.zeros((2, 4))}, "starts that rise from 0 to 37"),
        ({"starts": np.array([0.0, 37.0])}, "expected integers"),
        ({"penalties": np.zeros((2, 4))}, r"penalties \(S, 4\)"),
        ({"index": np.array(1)}, "an index from 0 to 0, got 1"),
        ({"norm": np.zeros(1)}, r"expected norm \(\)"),
        ({"scalars": np.zeros((1, 2))}, rf"scalars \(N, {len(SCALARS)}\)"),
        ({"attributes": {}}, "expected the attributes clip_norm, clip_value, got none"),
        ({"attributes": {"clip_value": 0.0, "clip_norm": 0.0, "beta": 0.9}}, "got beta, clip_norm, clip_value"),
    ],
)
def test_an_update_that_would_read_beyond_its_arrays(given: dict[str, Any], message: str) -> None:
    arrays: dict[str, Any] = {
        "norm": np.array(0.0), "scalars": np.zeros((1, len(SCALARS))), "index": np.array(0), "starts": np.array([0, 37]),
        "penalties": np.zeros((1, 4)), "attributes": {"clip_value": 0.0, "clip_norm": 0.0},
    }  # fmt: skip
    with pytest.raises(fastnn.errors.FastnnError, match=message):
        ops.update("sgd", np.zeros(37), [], np.zeros(37), *{**arrays, **given}.values())


def test_a_program_refuses_what_it_cannot_use_in_place() -> None:
    trace = Trace(np.float64)
    x, total = trace.input("x", (B, 3)), trace.input("total", (3,))
    mean = trace.input("mean", (3,))
    ops.batch_norm(x, mean, mean, total, trace.input("variance", (3,)), training=True)
    instance = engines.instantiate(trace.program({}), 4)
    with pytest.raises(InputError, match=r"the program has no input 'totl'; did you mean 'total'\?"):
        instance.bind(totl=np.ones(3))
    assert not instance.bound
    for kind in ("read_only", "foreign"):
        instance.bind(x=KINDS[kind](np.ones((4, 3))))
        with pytest.raises(InputError, match="'total': the program writes to it, and this array is read-only"):
            instance.bind(total=KINDS[kind](np.ones(3)))
    for kind in ("misaligned", "strided"):
        for name, shape in (("x", (4, 3)), ("total", (3,))):
            with pytest.raises(InputError, match=f"'{name}': expected a contiguous, aligned array"):
                instance.bind(**{name: KINDS[kind](np.ones(shape))})


# --- the gate itself --------------------------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("shape", [(), (0,), (1,), (31,), (3, 5), (2, 0)])
def test_aligned_copy(kind: str, shape: tuple[int, ...]) -> None:
    array = KINDS[kind](np.random.default_rng(0).normal(size=shape))
    made = aligned_copy(array)
    assert made.shape == shape
    assert made.tobytes() == array.tobytes()
    assert made.flags.writeable
    assert made.flags.c_contiguous
    assert made.ctypes.data % ALIGNMENT == 0 or not made.size
    assert not np.shares_memory(made, array)


def test_aligned_copy_is_of_this_machines_byte_order() -> None:
    made = aligned_copy(np.arange(5, dtype=">f4" if sys.byteorder == "little" else "<f4"))
    assert made.dtype.isnative
    assert made.tolist() == [0, 1, 2, 3, 4]
    assert aligned_zeros(5, np.float32).dtype == made.dtype


def test_memory_that_was_bound_and_then_made_read_only() -> None:
    """An array that an instance has already is looked at again where the program writes to it."""
    trace = Trace("float64")
    control = trace.input("control", (3,), "int64")
    trace.append("advance", (control,), [], {"rows": B})
    instance = engines.instantiate(trace.program({}), 4, "cpu", 1)
    memory = np.zeros(3, np.int64)
    instance.bind(control=memory)
    instance.play()
    memory.flags.writeable = False
    with pytest.raises(InputError, match="read-only"):
        instance.bind(control=memory)
    assert memory.tolist() == [1, 4, 1]
