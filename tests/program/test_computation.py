"""Computations that are recorded first and run afterwards: against NumPy and PyTorch, on every device, and what is refused."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cuda_on_host.runtime import Foreign, HostRuntime

import fastnn
from fastnn import ops
from fastnn.computation import Computation
from fastnn.engines.cache import KEPT_INSTANCES
from fastnn.errors import InputError, InputTypeError, TracingError


def linear(**options: Any) -> Computation:
    """The quadratic cost of a linear layer."""
    return fastnn.record(
        lambda x, t, w: {"cost": ops.mean(ops.squared_error(x @ w, t)), "y": x @ w},
        x=("B", 3), t=("B", 2), w=(3, 2), **{"gradients": ["w", "x"], "dtype": "float64", **options},
    )  # fmt: skip


def values(rng: np.random.Generator, rows: int = 5, dtype: str = "float64") -> dict[str, np.ndarray]:
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes(rows).items()}


def shapes(rows: int) -> dict[str, tuple[int, ...]]:
    return {"x": (rows, 3), "t": (rows, 2), "w": (3, 2)}


def expected(x: np.ndarray, t: np.ndarray, w: np.ndarray) -> dict[str, np.ndarray]:
    y = x @ w
    cost = ((y - t) ** 2).sum(axis=1).mean() / 2
    return {"cost": cost, "y": y, "d w": x.T @ (y - t) / len(x), "d x": (y - t) @ w.T / len(x)}


def check(found: Any, wanted: dict[str, np.ndarray], tolerance: float = 1e-12) -> None:
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        assert found[name].shape == np.shape(value)
        np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=tolerance)


# --- what is computed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("device", ["numpy", "cpu"])
def test_results_and_gradients_are_those_of_numpy_for_any_number_of_rows(
    device: str, dtype: str, rng: np.random.Generator
) -> None:
    computation = linear(dtype=dtype)
    for rows in (1, 5, 33, 5):
        given = values(rng, rows, dtype)
        found = computation.run(given, device=device)
        assert {array.dtype.name for array in found.values()} == {dtype}
        check(found, expected(**given), 1e-12 if dtype == "float64" else 1e-4)


def test_a_gpu_computes_the_same(cuda_host: HostRuntime, rng: np.random.Generator) -> None:
    computation = linear()
    for rows in (4, 3, 4):
        given = values(rng, rows)
        check(computation.run(given, device="cuda"), expected(**given))


def on_gpu(runtime: HostRuntime, array: np.ndarray) -> Foreign:
    memory = runtime.allocate(array.nbytes)
    runtime.upload(memory.address, array, runtime.stream)
    return Foreign(memory, array.shape, array.dtype)


def test_a_value_on_a_gpu_keeps_everything_there(cuda_host: HostRuntime, rng: np.random.Generator) -> None:
    given = values(rng)
    there = on_gpu(cuda_host, given["x"])
    found = {}
    for name, array in linear()(**{**given, "x": there}).items():
        assert isinstance(array, Foreign)
        found[name] = np.empty(array.shape, array.dtype)
        cuda_host.download(found[name], array.memory.address, cuda_host.stream)
    check(found, expected(**given))
    with pytest.raises(InputTypeError, match="x: expected float32 on cuda:0, got float64"):
        linear(dtype="float32").run({**given, "x": there})


@pytest.mark.slow
def test_every_device_gives_intermediate_results_of_a_fused_network(cuda_host: HostRuntime, rng: np.random.Generator) -> None:
    def network(x: Any, t: Any, v: Any, w: Any, scale: Any, shift: Any, mean: Any, variance: Any, step: Any) -> Any:
        z = x @ v
        n = ops.batch_norm(z, scale, shift, mean, variance, training=True)
        a = ops.relu(n)
        y = ops.dropout(a, 0.3, (1, 2), step) @ w
        losses = ops.softmax_cross_entropy(y, t)
        found = {"cost": ops.mean(losses), "z": z, "n": n, "a": a, "y": y, "losses": losses, "right": ops.is_correct(y, t)}
        return {**found, "p": ops.softmax(y), "flat": ops.reshape(x, (x.shape[0] * 4,)), "v too": v, "variance": variance}

    floats = {"x": ("B", 4), "v": (4, 6), "w": (6, 3), **dict.fromkeys(("scale", "shift", "mean", "variance"), (6,))}
    computation = fastnn.record(
        network,
        **floats,
        t=("B",),
        step=(),
        dtype="float64",
        dtypes={"t": "int64", "step": "int64"},
        gradients=("x", "v", "scale"),
    )
    for rows in (5, 1, 33, 0):
        given = {name: rng.random([rows if d == "B" else d for d in shape]) for name, shape in floats.items()}
        given |= {"t": rng.integers(0, 3, rows), "step": 4}
        defined = computation.run(given, device="numpy")
        for device in ("cpu", "cuda"):
            check(computation.run(given, device=device), defined, 1e-9)


def test_gradients_are_those_of_pytorch(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    computation = fastnn.record(
        lambda x, t, v, b, w: ops.mean(ops.softmax_cross_entropy(ops.tanh(x @ v + b) @ w, t)) + 0.1 * ops.sum(w**2.0),
        x=("B", 4), t=("B",), v=(4, 6), b=(6,), w=(6, 3), dtype="float64", dtypes={"t": "int64"}, gradients=("v", "b", "w"),
    )  # fmt: skip
    x, v, b, w = (torch.tensor(rng.standard_normal(shape)) for shape in ((7, 4), (4, 6), 6, (6, 3)))
    t = torch.tensor(rng.integers(0, 3, 7))
    trained = [array.requires_grad_() for array in (v, b, w)]
    cost = torch.nn.functional.cross_entropy(torch.tanh(x @ v + b) @ w, t) + 0.1 * (w**2).sum()
    wanted = torch.autograd.grad(cost, trained)
    found = computation(x=x, t=t, v=v, b=b, w=w)
    check(found, {"value": cost.item(), **{f"d {n}": g.numpy() for n, g in zip("vbw", wanted, strict=True)}})


def test_the_only_result_without_a_name_comes_alone() -> None:
    square = fastnn.record(lambda x: x * x, x=(2,))
    found = square(x=[3, 4])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [9, 16])
    same = fastnn.record(lambda x: x, x=(), dtype="float64")
    assert same(x=2.5) == 2.5
    assert fastnn.record(lambda x: {"y": x}, x=(), gradients="x")(x=2) == {"y": 2.0, "d x": 1.0}


def test_two_inputs_of_one_gradient_and_one_that_nothing_depends_on() -> None:
    found = fastnn.record(lambda a, b, c: ops.sum(a + b), a=(2,), b=(2,), c=(3,), gradients=["a", "b", "c", "a"])(
        a=[1, 2], b=[3, 4], c=[5, 6, 7]
    )
    check(found, {"value": np.array(10), "d a": np.ones(2), "d b": np.ones(2), "d c": np.zeros(3)})


def test_conditions_and_indices_are_inputs(rng: np.random.Generator) -> None:
    computation = fastnn.record(
        lambda x, i, c: ops.where(c, ops.gather(x, i), 0.0), x=(4, 2), i=("B",), c=("B", 2), dtypes={"i": "int64", "c": bool}
    )
    x = rng.standard_normal((4, 2)).astype("float32")
    i, c = np.array([3, 0, 3], np.int32), rng.random((3, 2)) < 0.5
    np.testing.assert_array_equal(computation(x=x, i=i, c=c), np.where(c, x[i], 0))
    assert computation(x=x, i=[], c=np.zeros((0, 2), bool)).shape == (0, 2)


def test_results_are_copies_and_values_are_not_kept(rng: np.random.Generator) -> None:
    computation, given = linear(), values(rng)
    before = {name: array.copy() for name, array in given.items()}
    first = computation(**given)
    kept = {name: array.copy() for name, array in first.items()}
    for array in first.values():
        array[...] = 7.0
    check(computation(**given), kept, 0.0)
    computation(**values(rng))
    assert all((array == 7.0).all() for array in first.values())
    assert all(np.array_equal(given[name], array) for name, array in before.items())
    assert not any(np.shares_memory(a, b) for a in first.values() for b in given.values())
    transposed = {**given, "w": np.asfortranarray(given["w"]), "x": np.repeat(given["x"], 2, axis=0)[::2]}
    check(computation(**transposed), kept, 0.0)


def test_what_is_updated_in_place_can_be_returned(rng: np.random.Generator) -> None:
    def normalized(x: Any, gamma: Any, beta: Any, mean: Any, variance: Any) -> Any:
        y = ops.batch_norm(x, gamma, beta, mean, variance, training=True, momentum=0.75)
        return {"y": y, "new mean": mean}

    computation = fastnn.record(normalized, x=("B", 2), gamma=(2,), beta=(2,), mean=(2,), variance=(2,), dtype="float64")
    x, mean = rng.standard_normal((6, 2)), np.ones(2)
    for _ in range(2):
        found = computation(x=x, gamma=np.ones(2), beta=np.zeros(2), mean=mean, variance=np.ones(2))
        np.testing.assert_allclose(found["new mean"], 0.75 + 0.25 * x.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found["y"].mean(axis=0), 0.0, atol=1e-12)
        np.testing.assert_array_equal(mean, np.ones(2))


def test_threads_run_one_computation_at_once(rng: np.random.Generator) -> None:
    computation = linear()
    given = [values(rng, 3 + index % 2) for index in range(6)]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(30):
            try:
                check(computation(**given[index]), expected(**given[index]))
            except BaseException:
                wrong.append(index)
                raise

    workers = [threading.Thread(target=work, args=(index,)) for index in range(len(given))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_it_is_recorded_once_and_few_instances_are_kept(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastnn.engines import NUMPY

    made, recorded = [], []
    instantiate = type(NUMPY).instantiate

    def counted(self: Any, program: Any, rows: int, threads: Any = None) -> Any:
        made.append(rows)
        return instantiate(self, program, rows, threads)

    monkeypatch.setattr(type(NUMPY), "instantiate", counted)
    computation = fastnn.record(lambda x: recorded.append(1) or ops.exp(x), x=("B",))
    for rows in [*range(1, 2 * KEPT_INSTANCES), *range(1, 2 * KEPT_INSTANCES), 47, 47]:
        assert len(computation.run({"x": np.zeros(rows, "f4")}, device="numpy")) == rows
    assert len(recorded) == 1
    assert len(made) == 2 * (2 * KEPT_INSTANCES - 1)
    assert sum(map(len, computation._cache._free.values())) == KEPT_INSTANCES
    for options in ({"device": "cpu"}, {"device": "cpu", "threads": 2}, {"device": "cpu"}):
        computation.run({"x": np.zeros(47, "f4")}, **options)
    assert made[-3:] == [2 * KEPT_INSTANCES - 1, 47, 47], "one for each device and number of threads"


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_it_prints_its_calls_with_the_names_of_results() -> None:
    head, *calls = str(linear()).splitlines()
    assert head == (
        "x (B, 3) float64, t (B, 2) float64, w (3, 2) float64 -> "
        "cost () float64, y (B, 2) float64, d w (3, 2) float64, d x (B, 3) float64"
    )
    assert [call.split(" = ")[1].split("(")[0] for call in calls].count("squared_error_with_gradient") == 1
    assert any(call.startswith("cost () = mean(") for call in calls)
    assert any(call.startswith("d w (3, 2) = matmul(") for call in calls)
    assert repr(linear()).startswith("<Computation x (B, 3) float64")


def test_it_times_its_calls(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastnn.engines import explain

    monkeypatch.setattr(explain, "SECONDS", 1e-5)
    monkeypatch.setattr(explain, "_measure_limits", lambda *_: explain.Limits(1, 1e9, ((2**20, 1e9),)))
    table = linear().explain(values(rng, 9), threads=1, width=100)
    assert "B = 9, 1 thread(s)" in table
    assert "squared_error_with_gradient" in table
    assert "whole step" in table
    assert "nothing is computed" in fastnn.record(lambda x: x, x=(2,)).explain({"x": [1, 2]})


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feeds", "error", "says"),
    [
        ({"u": 1}, InputError, r"no input is called 'u'"),
        ({"ww": 1}, InputError, r"no input is called 'ww'; did you mean 'w'\?"),
        ({"w": None}, InputTypeError, "w: expected float64, got object"),
        ({"w": "text"}, InputTypeError, f"w: expected float64, got {np.dtype('U4')}"),
        ({"w": np.zeros((2, 3))}, InputError, r"w: expected shape \(3, 2\), got \(2, 3\)"),
        ({"x": np.zeros(3)}, InputError, r"x: expected shape \(B, 3\), got \(3,\)"),
        ({"x": np.zeros((4, 3))}, InputError, "same number of rows B in all values, got 4 in x, 5 in t"),
        (
            {"x": np.zeros((5, 3), complex)},
            InputTypeError,
            r"x: expected float64, got complex128; convert it with numpy.asarray",
        ),
        ({"x": [[1.0, 2.0], [3.0]]}, InputError, r"x: expected numbers of shape \(B, 3\)"),
    ],
)
def test_values_that_do_not_fit_are_refused(
    feeds: dict[str, Any], error: type[Exception], says: str, rng: np.random.Generator
) -> None:
    computation, given = linear(), values(rng)
    with pytest.raises(error, match=says):
        computation(**{**given, **feeds})
    check(computation(**given), expected(**given))


def test_missing_values_devices_and_threads_are_refused(rng: np.random.Generator) -> None:
    computation, given = linear(), values(rng)
    with pytest.raises(InputError, match="expected values for x, t, w, got none for t, w; feed them by name"):
        computation(x=given["x"])
    with pytest.raises(InputTypeError, match="expected a dict of values by the names of inputs, got ndarray"):
        computation.run(given["x"])  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"no device is called 'cpuu'; did you mean 'cpu'\?"):
        computation.run(given, device="cpuu")
    with pytest.raises(InputError, match="threads: expected None or an integer"):
        computation.run(given, threads=0)
    with pytest.raises(
        InputTypeError, match=r"x: expected float32, got float64; convert it with numpy\.asarray\(x, 'float32'\)"
    ):
        linear(dtype="float32")(**given)


LABELLED: dict[str, Callable[..., Any]] = {
    "softmax_cross_entropy": lambda x, i: ops.softmax_cross_entropy(x, i),
    "is_correct": lambda x, i: ops.is_correct(x, i),
    "one_hot": lambda x, i: x * ops.one_hot(i, 3),
    "gather": lambda x, i: ops.gather(ops.reshape(x, (x.shape[0] * 3,)), i),
}


def test_labels_on_a_gpu_are_looked_at_too(cuda_host: HostRuntime) -> None:
    computation = fastnn.record(LABELLED["one_hot"], x=("B", 3), i=("B",), dtypes={"i": "int64"})
    with pytest.raises(InputError, match="i: one_hot expects numbers from 0 to 2, got 0 to 3"):
        computation(x=np.zeros((2, 3), "f4"), i=on_gpu(cuda_host, np.array([0, 3])))


@pytest.mark.parametrize("operation", LABELLED)
def test_labels_and_indices_beyond_the_range_are_refused(operation: str) -> None:
    """Compiled kernels would read what lies beyond their arrays."""
    computation = fastnn.record(LABELLED[operation], x=("B", 3), i=("B",), dtypes={"i": "int64"})
    most = 5 if operation == "gather" else 2
    x = np.zeros((2, 3), "f4")
    computation(x=x, i=[0, most])
    for wrong in ([0, most + 1], [-1, 0]):
        with pytest.raises(
            InputError, match=f"i: {operation} expects numbers from 0 to {most}, got {min(wrong)} to {max(wrong)}"
        ):
            computation(x=x, i=wrong)


def test_indices_that_are_computed_are_checked_when_they_are_recorded(rng: np.random.Generator) -> None:
    def largest(x: Any, table: Any) -> Any:
        return ops.gather(table, ops.argmax(x))

    x, table = rng.standard_normal((4, 3)).astype("f4"), np.arange(3, dtype="f4")
    found = fastnn.record(largest, x=("B", 3), table=(3,))(x=x, table=table)
    np.testing.assert_array_equal(found, x.argmax(axis=1))
    with pytest.raises(TracingError, match="gather expects numbers below 2, and those of argmax lie below 3"):
        fastnn.record(largest, x=("B", 3), table=(2,))
    with pytest.raises(TracingError, match="gather_rows does not look at the integers"):
        fastnn.record(
            lambda x, i, p: ops.gather_rows(x, i, p, 1, "float32"), x=(3, 2), i=(3,), p=(), dtypes={"i": "int64", "p": "int64"}
        )


@pytest.mark.parametrize(
    ("function", "options", "error", "says"),
    [
        (lambda: 0, {}, InputError, "expected the shape of each argument"),
        (3, {"x": (2,)}, InputTypeError, "expected a function of the inputs, got int"),
        (lambda x: x, {"x": 3}, InputError, r'x: expected a shape of integers and at most one "B"'),
        (lambda x: x, {"x": "B"}, InputError, "x: expected a shape"),
        (lambda x: x, {"x": ("B", "B")}, InputError, "x: expected a shape"),
        (lambda x: x, {"x": ("N", 2)}, InputError, "x: expected a shape"),
        (lambda x: x, {"x": (2.0,)}, InputError, "x: expected a shape"),
        (lambda x: x, {"x": (-1,)}, InputError, "x: expected a shape"),
        (lambda x: x, {"x": (True,)}, InputError, "x: expected a shape"),
        (lambda x, y: x, {"x": (2,)}, InputError, r"expected the inputs \(x, y\) of the function, got x: .*\by\b"),
        (lambda x: x, {"x": (2,), "z": (2,)}, InputError, r"expected the inputs \(x\) of the function, got x, z"),
        (lambda x: x, {"x": (2,), "dtype": "int64"}, InputTypeError, "dtype: expected float32 or float64, got 'int64'"),
        (lambda x: x, {"x": (2,), "dtype": None}, InputTypeError, "dtype: expected float32 or float64, got None"),
        (lambda x: x, {"x": (2,), "dtype": "flaot32"}, InputTypeError, "dtype: expected float32 or float64, got 'flaot32'"),
        (lambda x: x, {"x": (2,), "dtypes": {"x": "int32"}}, InputTypeError, "x: expected float32, float64, int64 or bool"),
        (lambda x: x, {"x": (2,), "dtypes": {"y": "int64"}}, InputError, "dtypes: no input is called 'y'"),
        (lambda x: None, {"x": (2,)}, InputTypeError, "expected a Symbol, or a dict of names and Symbols, .*got None"),
        (lambda x: 1.0, {"x": (2,)}, InputTypeError, "from the function, got 1.0"),
        (lambda x: {}, {"x": (2,)}, InputTypeError, "from the function, got {}"),
        (lambda x: (x, x), {"x": (2,)}, InputTypeError, "from the function, got tuple"),
        (lambda x: {"y": np.ones(2)}, {"x": (2,)}, InputTypeError, "expected names and Symbols .* got 'y': ndarray"),
        (lambda x: {1: x}, {"x": (2,)}, InputTypeError, "expected names and Symbols from the function, got 1: Symbol"),
        (lambda x: x * np.ones(2), {"x": (2,)}, TracingError, "arrays come in as its inputs"),
        (lambda x: x * x, {"x": ("B",), "gradients": "x"}, TracingError, r"of a single number, and this has shape \(B,\)"),
        (lambda x: ops.sum(x), {"x": (2,), "gradients": ["weight"]}, InputError, "gradients: no input is called 'weight'"),
        (lambda x: {"d x": ops.sum(x)}, {"x": (2,), "gradients": "x"}, InputError, "'d x' of the function has the name"),
        (
            lambda x, i: ops.sum(ops.gather(x, i)), {"x": (2,), "i": (2,), "dtypes": {"i": "int64"}, "gradients": "i"},
            InputTypeError, "gradients: expected inputs of float32 or float64, and 'i' is int64",
        ),
        (lambda x, y: ops.sum(x), {"x": (2,), "y": (2,), "gradients": "y"}, TracingError, "does not depend on"),
    ],
)  # fmt: skip
def test_what_cannot_be_recorded_is_refused(
    function: Callable[..., Any], options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        fastnn.record(function, **options)


def test_a_symbol_of_another_recording_is_refused() -> None:
    kept: list[Any] = []
    fastnn.record(lambda x: kept.append(x) or x, x=(2,))
    with pytest.raises(TracingError, match="the result 'value' belongs to another recording"):
        fastnn.record(lambda x: kept[0], x=(2,))


def test_symbols_have_their_arithmetic_and_derivatives_at_once() -> None:
    code = """
import numpy as np, fastnn
found = fastnn.record(lambda a, w: {"y": (a * w + 1.0) ** 2.0}, a=(), w=(), gradients="w")
assert found.run({"a": 3, "w": 2}, device="numpy") == {"y": 49.0, "d w": 42.0}
from fastnn.program.trace import Trace
"""
    alone = """
from fastnn.program.trace import Trace
x = Trace().input("x", (2,))
assert (x * x - 1.0).shape == (2,)
"""
    for lines in (code, alone):
        subprocess.run([sys.executable, "-c", lines], check=True)
