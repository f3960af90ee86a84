"""An engine for a third kind of device: `tests/support/elsewhere.py` is one file, and the library knows nothing of it.

Everything that a model can do is done on it, and has the bits of the `numpy` engine, whose kernels it runs.
"""

from __future__ import annotations

import ast
import copy
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import elsewhere
import numpy as np
import pytest
import scipy.sparse
from cuda_on_host.runtime import Foreign
from elsewhere import Array, ShelfEngine, ShelfError, ShelfFull
from hosts import Hosts
from trainings import digest, examples, network, run

import fastnn
from fastnn import arrays, engines, errors, ops
from fastnn.callbacks import Callback, Checkpoint, EarlyStopping
from fastnn.data import feeds
from fastnn.engines import cuda
from fastnn.engines.base import Ring
from fastnn.engines.host import HostEngine


@pytest.fixture(autouse=True)
def shelves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The devices shelf:0 and shelf:1, known for the time of a test."""
    monkeypatch.setattr(arrays, "ELSEWHERE", dict(arrays.ELSEWHERE))
    monkeypatch.setattr(engines, "_registered", {})
    monkeypatch.setattr(engines, "DEVICES", engines.DEVICES)
    monkeypatch.setattr(ShelfEngine, "shelves", {})
    engines.register("shelf", elsewhere.DLPACK, ShelfEngine)


def host(array: Any) -> np.ndarray:
    assert isinstance(array, Array), "it came back where the input lies"
    return array.to_device("cpu")


# --- what it is called, and how it is found ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "number"), [("shelf", 0), ("shelf:0", 0), ("shelf:1", 1), ("shelf:01", 1)])
def test_devices_have_the_name_that_was_registered(name: str, number: int) -> None:
    engine, reason = engines.choose(name)
    assert (engine.name, reason) == (f"shelf:{number}", "as asked")
    assert engine is engines.by_name(name)
    assert not engine.is_host
    assert engine.kind == arrays.kind(Array([1.0])) == "elsewhere"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("shlef", r"no device is called 'shlef'; did you mean 'shelf'\?"),
        ("sehlf:1", r"no device is called 'sehlf:1'; did you mean 'shelf:1'\?"),
        ("GPU:1", r"no device is called 'GPU:1'; did you mean 'cuda:1'\?"),
        ("shelf:", "no device is called 'shelf:'"),
        ("shelf:one", "no device is called 'shelf:one'"),
        ("shelf:-1", "no device is called 'shelf:-1'"),
        ("shelf:²", "no device is called"),
        ("auto:1", "no device is called 'auto:1'"),
        ("cpu:0", "no device is called 'cpu:0'"),
    ],
)
def test_other_names_are_unknown(name: str, says: str) -> None:
    with pytest.raises(errors.InputError, match=says):
        engines.choose(name)


def test_what_cannot_be_opened_says_so_itself() -> None:
    with pytest.raises(errors.DeviceError, match="there is no shelf:7; there are two shelves"):
        engines.choose("shelf:7")
    with pytest.raises(errors.DeviceError, match="precision='tf32' needs a GPU; this is a shelf"):
        engines.choose("shelf", "tf32")


@pytest.mark.parametrize(
    ("prefix", "number", "says"),
    [
        ("shelf", 13, "got 'shelf'"),
        ("cuda", 13, "got 'cuda'"),
        ("cpu", 13, "got 'cpu'"),
        ("auto", 13, "got 'auto'"),
        ("a b", 13, "got 'a b'"),
        ("Shelf", 13, "got 'Shelf'"),
        ("", 13, "got ''"),
        ("other", elsewhere.DLPACK, "12 is that of another engine"),
        ("other", 2, "2 is that of another engine"),
        ("other", 1, "1 is that of another engine"),
    ],
)
def test_names_and_numbers_that_are_taken_are_refused(prefix: str, number: int, says: str) -> None:
    before = engines.DEVICES, dict(arrays.ELSEWHERE)
    with pytest.raises(errors.InputError, match=says):
        engines.register(prefix, number, ShelfEngine)
    assert before == (engines.DEVICES, arrays.ELSEWHERE)


def test_auto_asks_the_devices_in_their_order(cuda_hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(RuntimeWarning, match="the GPU cannot be used: there is no cuda:0"):  # a driver that fails is told once
        engine, reason = engines.choose("auto")
    assert (engine.name, reason) == ("shelf:0", "a shelf is here"), "there is no GPU"
    assert fastnn.Sequential([fastnn.Dense(2)]).to("auto").device == "shelf:0"

    def nothing(*given: Any) -> None:
        raise errors.DeviceError("the shelf fell; put it up again")

    monkeypatch.setattr(ShelfEngine, "open", nothing)
    engine, reason = engines.choose("auto")
    assert (engine.name, reason) == ("cpu", "there is no cuda:0")
    monkeypatch.setattr(ShelfEngine, "is_broken", lambda error: True)
    with pytest.warns(RuntimeWarning, match="the shelf cannot be used: the shelf fell; put it up again"):
        engines.choose("auto")
    monkeypatch.setattr(cuda, "_unusable", [])
    cuda_hosts.install()
    assert engines.choose("auto")[0].name == "cuda:0"


def test_every_engine_of_the_library_is_what_its_row_says() -> None:
    for number, there in arrays.ELSEWHERE.items():
        known = engines._engine(there.prefix)
        assert known.kind == there.library
        assert not known.is_host
        assert there.prefix in engines.DEVICES
        assert number != arrays.HOST
    assert engines.CPU.kind == engines.NUMPY.kind == arrays.kind(np.zeros(1))
    assert engines.CPU.is_host


def test_each_engine_adopts_what_lies_where_it_reads(cuda_hosts: Hosts) -> None:
    runtime = cuda_hosts.install()
    given = {"cpu": np.zeros(3), "shelf:0": Array([1.0]), "shelf:1": Array([1.0], 1)}
    given["cuda:0"] = Foreign(runtime.allocate(4), (1,), np.dtype("float32"))  # type: ignore[assignment]
    for name in given:
        engine = engines.by_name(name)
        assert [engine.adopts(array) for array in given.values()] == [other == name for other in given]
        assert engines.of(given[name]) is engine
        assert arrays.device(given[name]) == name


def test_the_whole_engine_is_one_file_that_no_other_names() -> None:
    assert engines._engine("shelf") is ShelfEngine
    library = Path(fastnn.__file__).parent
    assert not [path for path in library.rglob("*.py") if "shelf" in path.read_text().lower()]
    tree = ast.parse(Path(elsewhere.__file__).read_text())
    assigned = [target for node in ast.walk(tree) if isinstance(node, ast.Assign) for target in node.targets]
    patched = [ast.unparse(target) for target in assigned if isinstance(target, ast.Attribute)]
    assert all(target.startswith("self.") for target in patched), "it changes nothing of the library"


@pytest.mark.parametrize("name", ["shelf", "shelf:1"])
def test_the_command_line_takes_it(name: str) -> None:
    from fastnn.cli.commands import Device

    assert Device().convert(name, None, None) == name
    with pytest.raises(click.BadParameter, match=r"no device is called 'shelfs'; did you mean 'shelf'\?"):
        Device().convert("shelfs", None, None)


ALONE = """
import sys
import numpy as np
import fastnn
from fastnn import arrays, engines
assert "fastnn.engines.shelf" not in sys.modules and "shelf" in engines.DEVICES
X, y = np.random.default_rng(0).normal(size=(50, 4)).astype("float32"), np.arange(50) % 3
found = []
for given, device in ((X, "numpy"), (X, "shelf:1")):
    model = fastnn.Sequential([fastnn.Dense(3)], seed=0)
    model.fit(given, y, batch_size=16, epochs=2, device=device, verbose=0)
    found.append(model(X).tobytes())
assert found[0] == found[1] and model.device == "shelf:1"
there = sys.modules["fastnn.engines.shelf"].Array(X)
assert model.fit(there, y, epochs=1, verbose=0).device == "shelf:0"
assert engines.choose("auto")[0].name in ("cuda:0", "shelf:0")
with engines.translate_errors():
    raise sys.modules["fastnn.engines.shelf"].ShelfFull("no room")
"""


def test_in_the_library_it_is_a_file_and_a_row(tmp_path: Path) -> None:
    """The same file in a copy of the library, found by its name: nothing is registered."""
    library = Path(fastnn.__file__).parent
    shutil.copytree(library, tmp_path / "fastnn", ignore=shutil.ignore_patterns("__pycache__", "benchmarks"))
    engine = Path(elsewhere.__file__).read_text().replace("kind = __name__", 'kind = "fastnn"')
    (tmp_path / "fastnn" / "engines" / "shelf.py").write_text(engine)
    path = tmp_path / "fastnn" / "arrays.py"
    row = '{2: Elsewhere("cuda", "cupy"), 12: Elsewhere("shelf", "fastnn")}'
    changed = path.read_text().replace('{2: Elsewhere("cuda", "cupy")}', row)
    assert row in changed
    path.write_text(changed)
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    ran = subprocess.run(
        [sys.executable, "-P", "-c", ALONE], env=os.environ | {"PYTHONPATH": paths}, cwd=tmp_path, capture_output=True,
        text=True, check=False, timeout=120,
    )  # fmt: skip
    assert ran.stderr.splitlines()[-1] == "fastnn.errors.DeviceMemoryError: no room", ran.stderr


# --- what is done on it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "split"), [("float32", False), ("float64", False), ("float32", True)])
def test_a_training_has_the_bits_of_the_definition(dtype: str, split: bool) -> None:
    X, y = examples()
    models, scores = {}, {}
    validation: dict[str, Any] = {"validation_split": 0.3} if split else {"validation_data": (X[:99], y[:99])}
    for device in ("numpy", "shelf:1"):
        flow = fastnn.GradientFlow()
        model = models[device] = network(dtype)
        history = model.fit(
            X, y, batch_size=32, epochs=3, verbose=0, device=device, l2=1e-4, callbacks=[flow], metrics=["f1"],
            sample_weight=np.linspace(0.5, 2, len(X)), **validation,
        )  # fmt: skip
        assert (history.device, model.device) == (device, device)
        scores[device] = (
            dict(history), model.evaluate(X, y), model.predict_proba(X).tobytes(), model.predict(X).tobytes(),
            model(X).tobytes(), flow.gradients.tobytes(),
        )  # fmt: skip
    assert digest(models["shelf:1"]) == digest(models["numpy"])
    assert scores["shelf:1"] == scores["numpy"]


def test_arrays_there_are_trained_on_where_they_lie() -> None:
    X, y = examples()
    expected, model = run(device="numpy"), network()
    history = model.fit(Array(X, 1), Array(y), batch_size=32, epochs=3, verbose=0, l2=1e-4)
    assert (history.device, model.device) == ("shelf:1", "shelf:1")
    assert digest(model) == digest(expected)
    assert model.evaluate(Array(X), Array(y)) == expected.evaluate(X, y), "on another device of the kind"
    for method in (model, model.predict_proba, model.predict):
        for given in (Array(X, 1), Array(X, 0)):
            found = method(given)
            assert found.ordinal == given.ordinal
            if method == model.predict_proba:  # of an array of the host the softmax is that of the CPU's kernels
                np.testing.assert_allclose(host(found), expected.predict_proba(X), rtol=1e-6)
            else:
                assert np.array_equal(host(found), getattr(expected, getattr(method, "__name__", "__call__"))(X))
    assert isinstance(model(X), np.ndarray)


def test_rows_of_arrays_there_are_held_back_where_they_lie() -> None:
    X, y = examples()
    histories, flows = [], [fastnn.GradientFlow(), fastnn.GradientFlow()]
    for source, flow in zip((Array(X), X), flows, strict=True):
        model = network()
        options: dict[str, Any] = {"batch_size": 32, "epochs": 2, "metrics": ["log_loss"], "device": "shelf:0"}
        history = model.fit(source, y, validation_split=0.3, shuffle=False, callbacks=[flow], verbose=0, **options)
        histories.append((dict(history), digest(model), flow.gradients.tobytes()))
    assert histories[0] == histories[1]


def test_arrays_there_are_moved_to_the_device_that_is_asked_for(cuda_hosts: Hosts) -> None:
    runtime = cuda_hosts.install()
    X, y = examples()
    memory = runtime.allocate(X.nbytes)
    runtime.upload(memory.address, X, runtime.stream)
    expected = run(device="numpy")
    for given, device in ((Array(X), "numpy"), (Array(X), "shelf:1"), (Foreign(memory, X.shape, X.dtype), "shelf:0")):
        model = network()
        history = model.fit(given, y, batch_size=32, epochs=3, verbose=0, l2=1e-4, device=device)
        assert history.device == device
        assert digest(model) == digest(expected)
    model = network()
    assert model.fit(Array(X), y, batch_size=32, epochs=3, verbose=0, l2=1e-4, device="cuda").device == "cuda:0"
    np.testing.assert_allclose(model(X), expected(X), atol=1e-4)


def test_values_there_are_checked_there() -> None:
    X, y = examples()
    model = run(device="shelf")
    with pytest.raises(errors.InputTypeError, match="X: expected uint8 or float32 on shelf:0, got float64"):
        network().fit(Array(X.astype("float64")), y, verbose=0)
    X[3, 2] = np.inf
    for use in (lambda: network().fit(Array(X), y, verbose=0), lambda: model(Array(X)), lambda: model.evaluate(Array(X), y)):
        with pytest.raises(errors.InputError, match="1 values are NaN or infinite"):
            use()


@pytest.mark.parametrize("form", ["dense", "sparse", "uint8"])
def test_data_that_do_not_fit_are_streamed(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = examples()
    X = np.abs(X * 30).astype("uint8") if form == "uint8" else np.where(X > 0, X, 0).astype("float32")
    given = scipy.sparse.csr_array(X) if form == "sparse" else X
    filled: list[int] = []
    fill = Ring.fill

    def note(ring: Ring, half: int, count: int, gather: Callable[..., None]) -> None:
        filled.append(count)
        fill(ring, half, count, gather)

    def trained(device: str, X: Any) -> Any:
        model = network()
        model.fit(X, y, batch_size=32, epochs=3, verbose=0, device=device, validation_data=(X, y))
        return digest(model), model.evaluate(X, y), np.asarray(model.predict(X)).tobytes()

    monkeypatch.setattr(Ring, "fill", note)
    expected = trained("numpy", X)
    assert trained("shelf", given) == expected
    assert not filled, "all of it lies there"
    engines.by_name("shelf").capacity = 1000  # type: ignore[attr-defined]
    monkeypatch.setattr(feeds, "BLOCK_BYTES", 70 * (X.itemsize * 37 + 8))
    assert trained("shelf", given) == expected
    assert filled[:6] == [64, 64, 64, 64, 64, 11]


def test_a_run_is_resumed_there(tmp_path: Path) -> None:
    """After an error, and from a checkpoint that was made on another engine."""
    X, y = examples()

    class Interrupt(Callback):
        every = 13

        def step_end(self, run: Any) -> None:
            raise KeyboardInterrupt

    def trained(device: str, **options: Any) -> fastnn.Sequential:
        model = network()
        model.fit(X, y, batch_size=32, epochs=3, verbose=0, device=device, l2=1e-4, **options)
        return model

    expected = digest(run(device="numpy"))
    for first, then in (("shelf:0", "shelf:1"), ("numpy", "shelf"), ("shelf", "numpy")):
        folder = tmp_path / f"{first}-{then}".replace(":", "")
        with pytest.raises(KeyboardInterrupt):
            trained(first, callbacks=[Checkpoint(folder, steps=6), Interrupt()])
        model = trained(then, callbacks=[Checkpoint(folder, steps=6)], resume=True)
        assert model.counters.step == 33
        assert digest(model) == expected
    model = trained("shelf")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert digest(other) == expected
        assert other.device == "shelf:0"
        assert np.array_equal(other(X), model(X))


def test_the_best_weights_are_restored_there() -> None:
    X, y = examples()
    found = {}
    for device in ("numpy", "shelf"):
        model = network()
        stopping = EarlyStopping("val_loss", patience=1, restore_best=True)
        options = {"validation_data": (X[::-1], y), "callbacks": [stopping], "device": device, "optimizer": fastnn.SGD(0.5)}
        history = model.fit(X, y, batch_size=32, epochs=8, verbose=0, **options)
        found[device] = (model.weights["0.weight"].tobytes(), dict(history))
        assert len(history["loss"]) < 8
    assert found["shelf"] == found["numpy"]


def test_divergence_is_found_there() -> None:
    X, y = examples()
    said = set()
    for device in ("numpy", "shelf"):
        model = fastnn.Sequential([fastnn.Dense(8, activation="relu"), fastnn.Dense(10)], seed=0)
        with pytest.raises(errors.DivergenceError) as raised:
            model.fit(X, y, batch_size=32, epochs=9, verbose=0, optimizer=fastnn.SGD(1e9), device=device)
        said.add((str(raised.value), digest(model)))
    assert len(said) == 1


@pytest.mark.parametrize("method", ["vectorized", "threads"])
def test_models_are_trained_together_there(method: str) -> None:
    from fastnn import tuning

    X, y = examples()
    found = {}
    for device in ("numpy", "shelf"):
        models = [fastnn.Sequential([fastnn.Dense(5, activation="relu"), fastnn.Dense(10)], seed=seed) for seed in (1, 2)]
        tuning.train_together(models, X, y, batch_size=32, epochs=2, device=device, method=method)
        found[device] = [model.weights["0.weight"].tobytes() for model in models]
    assert found["shelf"] == found["numpy"]


def test_an_engine_of_the_host_is_registered_without_a_number_of_devices() -> None:
    class Defined(HostEngine):
        """The definition under another name."""

        @classmethod
        def open(cls, ordinal: int, precision: str = "float32", autotune: bool = False) -> Defined:
            return cls("defined")

        def compute(self, *given: Any) -> None:
            engines.NUMPY.compute(*given)

        def instance(self, *given: Any) -> Any:
            return engines.NUMPY.instance(*given)

    before = dict(arrays.ELSEWHERE)
    engines.register("defined", None, Defined)
    assert before == arrays.ELSEWHERE
    assert engines.DEVICES[-1] == "defined"
    model = run(device="defined")
    assert model.device == "defined"
    assert digest(model) == digest(run(device="numpy"))
    with pytest.raises(errors.InputError, match="no device is called 'defined:0'"):
        engines.choose("defined:0")


# --- computations and operations ------------------------------------------------------------------------------------------


def recorded() -> fastnn.Computation:
    def compute(x: Any, t: Any, w: Any) -> Any:
        z = ops.tanh(x @ w)
        return {"cost": ops.mean(ops.softmax_cross_entropy(z, t)), "p": ops.softmax(z)}

    return fastnn.record(compute, x=("B", 4), t=("B",), w=(4, 3), dtypes={"t": "int64"}, gradients="w")


def test_a_recorded_computation_runs_there(rng: np.random.Generator) -> None:
    x, w = (rng.normal(size=shape).astype("float32") for shape in ((9, 4), (4, 3)))
    t, computation = rng.integers(0, 3, 9), recorded()
    expected = computation.run({"x": x, "t": t, "w": w}, device="numpy")
    found = computation.run({"x": x, "t": t, "w": w}, device="shelf:1")
    assert all(found[name].tobytes() == expected[name].tobytes() for name in expected)
    for there in ({"x": Array(x, 1)}, {"x": Array(x), "t": Array(t, 1), "w": Array(w)}, {"w": Array(w, 1), "t": Array(t)}):
        found = computation(**{"x": x, "t": t, "w": w, **there})
        first = next(there[name] for name in ("x", "t", "w") if name in there)
        for name, array in found.items():
            assert array.ordinal == first.ordinal or "x" not in there
            assert host(array).tobytes() == expected[name].tobytes()
    with pytest.raises(errors.InputError, match="t: softmax_cross_entropy expects numbers from 0 to 2, got 0 to 3"):
        computation(x=x, t=Array([0, 3] + 7 * [1]), w=w)
    with pytest.raises(errors.InputTypeError, match="x: expected float32 on shelf:0, got float64"):
        computation(x=Array(x.astype("float64")), t=t, w=w)
    assert "softmax_cross_entropy" in computation.explain({"x": Array(x), "t": t, "w": w})


def test_values_of_two_engines_meet_by_way_of_the_host(cuda_hosts: Hosts, rng: np.random.Generator) -> None:
    runtime = cuda_hosts.install()
    x, w = (rng.normal(size=shape).astype("float32") for shape in ((9, 4), (4, 3)))
    computation = recorded()
    given = {"x": Array(x), "t": rng.integers(0, 3, 9), "w": engines.gpu().to_device(w)}
    expected = computation.run({**given, "x": x, "w": w}, device="numpy")
    found = computation(**given)
    assert all(host(found[name]).tobytes() == expected[name].tobytes() for name in expected)
    assert runtime.asked


def test_operations_are_computed_where_their_arrays_lie(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(2, 5, 4))
    found = ops.softmax(ops.add(Array(a, 1), Array(b, 1)))
    assert found.ordinal == 1
    np.testing.assert_allclose(host(found), ops.softmax(a + b), rtol=1e-14)
    assert host(ops.multiply(Array(a), 2.0)).tobytes() == (2.0 * a).tobytes()
    with pytest.raises(errors.InputTypeError, match="add: arrays of elsewhere and numpy cannot be mixed"):
        ops.add(Array(a), b)
    with pytest.raises(errors.InputTypeError, match="arrays of elsewhere and numpy together"):
        arrays.namespace(Array(a), b)
    assert np.array_equal(arrays.to_host(Array(a)), a)
    assert np.array_equal(arrays.to_host(engines.by_name("shelf").to_device(a)), a)


def test_the_host_gets_arrays_by_their_own_library(rng: np.random.Generator) -> None:
    """By `get` where they have it, as CuPy's do, else by the array API, else by DLPack and the library of the device."""
    a = rng.normal(size=(5, 4))

    class Getting(Array):
        def get(self) -> np.ndarray:
            return 2 * self._values

    class Foreign:
        content = a

        def __dlpack_device__(self) -> tuple[int, int]:
            return elsewhere.DLPACK, 1

    assert np.array_equal(arrays.to_host(Getting(a)), 2 * a)
    assert np.array_equal(arrays.to_host(Array(a)), a)
    assert np.array_equal(arrays.to_host(Foreign()), a)
    assert (arrays.kind(Getting(a)), arrays.kind(Foreign()), arrays.device(Foreign())) == ("elsewhere", "", "shelf:1")
    with pytest.raises(errors.InputTypeError, match="exp: expected an array, got Foreign"):
        ops.exp(Foreign())
    with pytest.raises(errors.InputTypeError, match="expected arrays of numpy or cupy or elsewhere, got Foreign"):
        arrays.namespace(Foreign())


def test_data_sets_there_are_split_there() -> None:
    X, y = examples()
    parts = fastnn.datasets.split(Array(X), Array(y), stratify=Array(y), seed=3)
    expected = fastnn.datasets.split(X, y, stratify=y, seed=3)
    for pair, others in zip(parts, expected, strict=True):
        assert all(np.array_equal(host(part), other) for part, other in zip(pair, others, strict=True))


# --- faults ---------------------------------------------------------------------------------------------------------------


def test_errors_of_its_runtime_are_errors_of_the_library() -> None:
    X, y = examples()
    shelf: Any = engines.by_name("shelf")
    model = run(device="shelf")
    full, broken = ShelfFull("there is no room on the shelf"), ShelfError("the board broke")
    for error, ours in ((full, errors.DeviceMemoryError), (broken, errors.DeviceLostError)):
        shelf.fails = error
        with pytest.raises(ours, match=str(error)) as raised:
            model.fit(X, y, batch_size=32, epochs=1, verbose=0, device="shelf")
        assert raised.value.__cause__ is error
        shelf.fails = None
    with pytest.raises(RuntimeError, match="its own"), engines.translate_errors():
        raise RuntimeError("its own")


def test_a_model_goes_on_without_a_device_that_is_lost() -> None:
    X, y = examples()
    shelf: Any = engines.by_name("shelf")
    model = run(device="shelf")
    expected = digest(model)

    class Break(Callback):
        every = 2

        def step_end(self, run: Any) -> None:
            shelf.fails = ShelfError("the board broke")

    with pytest.raises(errors.DeviceLostError):
        model.fit(X, y, batch_size=32, epochs=1, verbose=0, device="shelf", l2=1e-4, callbacks=[Break()])
    assert model.device == "cpu"
    assert digest(model) == expected
    model.fit(X, y, batch_size=32, epochs=1, verbose=0, device="numpy", l2=1e-4)


def test_instances_make_room_for_others() -> None:
    """What is kept for later goes where an array finds no room."""
    X, _ = examples()
    model, shelf = run(device="shelf"), engines.by_name("shelf")
    expected = run(device="shelf")(X[:100])  # of as many rows: a BLAS adds otherwise for other numbers of them
    model(X[:300])
    shelf.fails = ShelfFull("there is no room on the shelf")  # type: ignore[attr-defined]
    assert np.array_equal(model(X[:100]), expected)
    assert shelf.fails is None  # type: ignore[attr-defined]


# --- inputs to be standardized -----------------------------------------------------------------------------------------------


def test_inputs_there_that_were_rounded_before_they_are_standardized_are_refused() -> None:
    X = 1_700_000_000 + np.arange(120.0).reshape(60, 2)
    y = np.sin(np.arange(60.0))
    fitted = fastnn.Standardizer().fit(X)
    options: dict[str, Any] = {"loss": "mean_squared_error", "epochs": 1, "batch_size": 20, "verbose": 0}
    model = fastnn.Sequential([fitted, fastnn.Dense(1)], seed=0)
    says = r"X: float32 numbers around the mean 1\.7e\+09 of feature 0 are 3\.7 deviations apart; give X in float64"
    with pytest.raises(errors.InputError, match=says):
        model.fit(Array(X.astype(np.float32)), y, **options)
    model.fit(Array(X), y, **options)
    on_host = fastnn.Sequential([fitted, fastnn.Dense(1)], seed=0)
    on_host.fit(X, y, device="numpy", **options)
    np.testing.assert_array_equal(model.weights["1.weight"], on_host.weights["1.weight"])
    with pytest.raises(errors.InputError, match=says):
        model.predict(Array(X.astype(np.float32)))
    np.testing.assert_array_equal(host(model.predict(Array(X))), on_host.predict(X))
