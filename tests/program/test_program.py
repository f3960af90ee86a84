"""Tracing, fusion and planning, each on its own."""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import engines, ops
from fastnn.data.prepared import DataLayout
from fastnn.errors import InputError, InputTypeError, TracingError
from fastnn.losses import as_loss
from fastnn.network.programs import Decision, Prediction, TrainingStep, Update
from fastnn.program.passes import fuse as fusion
from fastnn.program.plan import plan
from fastnn.program.shapes import B, BatchDim, concrete
from fastnn.program.trace import Program, Symbol, Trace
from fastnn_kernels.contract import ACTIVATIONS_FROM_OUTPUT, KERNELS

# --- symbols --------------------------------------------------------------------------------------------------------


def symbol(shape: tuple[Any, ...] = (B, 3), dtype: str = "float32") -> Symbol:
    return Trace(dtype).input("x", shape)


def test_a_symbol_knows_shape_and_dtype_and_nothing_else() -> None:
    x = symbol()
    assert (x.shape, x.dtype, x.ndim) == ((B, 3), np.dtype("float32"), 2)
    assert concrete(x.shape, 7) == (7, 3)
    assert str(BatchDim(2)) == "2B"
    assert (x @ symbol_like(x, (3, 2))).shape == (B, 2)


def symbol_like(x: Symbol, shape: tuple[Any, ...]) -> Symbol:
    return x.trace.input(f"y{len(x.trace.inputs)}", shape)


@pytest.mark.parametrize(
    ("use", "named"),
    [
        (lambda x: bool(x), "ops.where"),
        (lambda x: float(x), "float"),
        (lambda x: int(x), "int"),
        (lambda x: np.asarray(x), "fastnn.ops"),
        (lambda x: np.exp(x), "numpy.exp needs values, .*; use ops.exp$"),
        (lambda x: np.absolute(x), "use ops.abs$"),
        (lambda x: np.tanh(x, out=np.ones(3)), "use ops.tanh$"),
        (lambda x: np.sin(x), "numpy.sin .* use an operation of fastnn.ops$"),
        (lambda x: np.negative(x), "use ops.negative$"),
        (lambda x: np.maximum(x, np.ones(3)), "use ops.maximum$"),
        (lambda x: np.add.reduce(x), "numpy.add.reduce .* use ops.sum$"),
        (lambda x: np.multiply.reduce(x), "numpy.multiply.reduce .* use an operation of fastnn.ops$"),
        (lambda x: np.add.outer(x, x), "numpy.add.outer .* use an operation of fastnn.ops$"),
        (lambda x: np.ones(3, "float32") < x, "less: a Symbol and an array|greater: a Symbol and an array"),
        (lambda x: np.float64(2) == x, "use ops.equal"),
        (lambda x: np.float32(2) != x, "use ops.not_equal"),
        (lambda x: x // 2, "a Symbol has no //; use ops.divide$"),
        (lambda x: 2 // x, "no //; use ops.divide$"),
        (lambda x: np.float32(2) // x, "no //; use ops.divide$"),
        (lambda x: np.float32(2) % x, "no %; use"),
        (lambda x: x % 2, "no %; use an operation of fastnn.ops$"),
        (lambda x: 2 % x, "no %; "),
        (lambda x: x & (x > 1), "no &; use ops.where$"),
        (lambda x: True & x, "no &; use ops.where$"),
        (lambda x: x | True, "no |; use ops.where$"),
        (lambda x: True | x, "no |; use ops.where$"),
        (lambda x: ~x, "no ~; use ops.where$"),
        (lambda x: +x, "no unary +; use the symbol itself$"),
        (lambda x: range(x), "an integer needs values"),
        (lambda x: x.__setitem__(0, 1.0), "no assignment to elements; use ops.where$"),
        (lambda x: x.T, "a Symbol has no .T; use ops.transpose$"),
        (lambda x: x.sum(axis=0), "a Symbol has no .sum; use ops.sum$"),
        (lambda x: x.mean(), "use ops.mean$"),
        (lambda x: x.reshape(-1), "use ops.reshape$"),
        (lambda x: x.dot(x), "a Symbol has no .dot; use ops.matmul$"),
        (lambda x: np.sum(x), "ops.sum"),
        (lambda x: np.concatenate([x, x]), "ops.concatenate"),
        (lambda x: x == 0, "ops.equal"),
        (lambda x: x != 0, "ops.not_equal"),
        (lambda x: x[0], "ops.gather"),
        (lambda x: list(x), "ops.gather"),
        (lambda x: len(x), "shape"),
        (lambda x: x + np.ones(3, "float32"), "mixed"),
        (lambda x: np.ones(3, "float32") + x, "mixed"),
        (lambda x: ops.add(np.ones(3, "float32"), x), "mixed"),
        (lambda x: np.eye(3, dtype="float32") @ x, "mixed"),
        (lambda x: x @ np.eye(3, dtype="float32"), "mixed"),
    ],
)
def test_what_needs_values_raises_and_names_the_way(use: Any, named: str) -> None:
    with pytest.raises(TracingError, match=named.replace("no |", r"no \|").replace("+", r"\+")):
        use(symbol())


def test_names_that_no_operation_has_are_missing_as_from_any_object() -> None:
    x = symbol()
    assert not any(hasattr(x, name) for name in ("detach", "__dlpack_device__", "tocsr", "sum", "T", "ops", "ACTIVATIONS_"))
    with pytest.raises(AttributeError, match="'Symbol' object has no attribute 'detach'"):
        x.detach  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(AttributeError, match=r"use ops\.sum"):
        x.sum  # type: ignore[attr-defined]  # noqa: B018


LEFT: list[Any] = [
    lambda n, x: n + x, lambda n, x: n - x, lambda n, x: n * x, lambda n, x: n / x, lambda n, x: n**x,
    lambda n, x: n < x, lambda n, x: n <= x, lambda n, x: n > x, lambda n, x: n >= x,
]  # fmt: skip


@pytest.mark.parametrize("number", [np.float64(2), np.float32(2), np.int64(2), 2])
@pytest.mark.parametrize("use", LEFT)
def test_numbers_of_numpy_do_on_the_left_what_those_of_python_do(use: Any, number: Any) -> None:
    found, expected = symbol(), symbol()
    y, z = use(number, found), use(2.0, expected)
    assert str(found.trace.program({"y": y})) == str(expected.trace.program({"y": z}))
    assert y.dtype == z.dtype


NO_ARRAY = "(expected an array, got|a Symbol and an array)"


@pytest.mark.parametrize("foreign", [2, None, [[1.0]], "2", np.complex64(2 + 3j), np.str_("2.5"), np.datetime64("2020")])
@pytest.mark.parametrize(
    "use",
    [lambda a, x: a @ x, lambda a, x: x @ a, lambda a, x: ops.matmul(a, x)],
    ids=["reflected", "operator", "operation"],
)
def test_what_is_no_matrix_is_refused_in_a_product(use: Any, foreign: Any) -> None:
    with pytest.raises((InputTypeError, TracingError), match=f"matmul: {NO_ARRAY}"):
        use(foreign, symbol())


@pytest.mark.parametrize("foreign", [None, "2", np.complex64(2 + 3j), np.str_("2.5"), np.datetime64("2020")])
def test_what_is_no_number_is_refused_by_operators(foreign: Any) -> None:
    for use in (lambda: symbol() * foreign, lambda: foreign + symbol()):
        with pytest.raises((InputTypeError, TracingError), match=f"(multiply|add): {NO_ARRAY}"):
            use()


def test_operators_mean_the_vocabulary() -> None:
    x = symbol()
    for result in (x + 1, 1 + x, x - 1, 1 - x, x * 2, 2 * x, x / 2, 2 / x, x**2, -x, abs(x)):
        assert isinstance(result, Symbol)
        assert result.shape == (B, 3)
    for result in (x < 1, x <= 1, x > 1, x >= 1):
        assert result.dtype == np.dtype(bool)
    kernels = {call.kernel for call in x.trace.calls}
    assert {"add", "subtract", "multiply", "divide", "power", "negative", "abs", "less", "greater_equal"} <= kernels


def test_two_recordings_cannot_be_mixed() -> None:
    with pytest.raises(TracingError, match="another recording"):
        ops.add(symbol(), symbol())


def test_reshape_keeps_the_rows() -> None:
    x = symbol((B, 4, 6))
    assert ops.reshape(x, (B, -1)).shape == (B, 24)
    assert ops.reshape(x, (-1, 6)).shape == (BatchDim(4), 6)
    assert ops.reshape(x, (2, -1)).shape == (2, BatchDim(12))
    with pytest.raises(InputError, match="no place"):
        ops.reshape(x, (B, -1, 7))
    with pytest.raises(InputError, match="other elements"):
        ops.reshape(x, (B, 23))


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        (lambda: ops.dense(np.ones((2, 3), "f4"), np.ones((4, 2), "f4")), InputError, "expected 4, got 3"),
        (lambda: ops.dense(np.ones(3, "f4"), np.ones((3, 2), "f4")), InputError, "two axes"),
        (lambda: ops.dense(np.ones((2, 3), "f4"), np.ones((3, 2), "f8")), InputTypeError, "one dtype"),
        (lambda: ops.dense(np.ones((2, 3)), np.ones((3, 2)), np.ones(3)), InputError, r"\(2,\)"),
        (lambda: ops.dense(np.ones((2, 3)), np.ones((3, 2)), None, "rleu"), InputError, "did you mean 'relu'"),
        (lambda: ops.relu(np.ones(3, "f2")), InputTypeError, "float16"),
        (lambda: ops.relu(np.ones(3, int)), InputTypeError, "int64"),
        (lambda: ops.relu([1.0]), InputTypeError, "list"),
        (lambda: ops.add(1.0, 2.0), InputTypeError, "numbers only"),
        (lambda: ops.add(np.ones((2, 3)), np.ones((2, 2))), InputError, "do not fit"),
        (lambda: ops.sum(np.ones((2, 3)), 2), InputError, "axis 2"),
        (lambda: ops.sum(np.ones((2, 3)), (0, 0)), InputError, "twice"),
        (lambda: ops.where(np.ones(3), np.ones(3), 0.0), InputTypeError, "bool"),
        (lambda: ops.softmax_cross_entropy(np.ones((2, 3)), np.array([0, 3])), InputError, "0 to 2"),
        (lambda: ops.softmax_cross_entropy(np.ones((2, 3)), np.array([0, 1, 1])), InputError, "one class index a row"),
        (lambda: ops.sigmoid_cross_entropy(np.ones((2, 3)), np.ones(2)), InputError, "targets of shape"),
        (lambda: ops.dropout(np.ones((2, 3)), 1.0, (0, 0), 0), InputError, "rate"),
        (lambda: ops.activate(np.ones(2), "elu", -1.0), InputError, "alpha"),
        (lambda: ops.gather(np.ones((2, 3)), np.array([2])), InputError, "0 to 1"),
        (lambda: ops.slice(np.ones((2, 3)), 2, 4), InputError, "stop"),
        (lambda: ops.concatenate([np.ones((2, 3)), np.ones((3, 3))], axis=1), InputError, "differ"),
        (lambda: ops.one_hot(np.array([0, 5]), 3), InputError, "0 to 2"),
        (lambda: ops.batch_norm(*[np.ones((1, 2))], *[np.ones(2)] * 4, training=True), InputError, "one row"),
        (lambda: ops.layer_norm(np.ones((2, 3)), np.ones(2), np.ones(3)), InputError, r"gamma of shape \(3,\), got \(2,\)"),
        (lambda: ops.layer_norm(np.ones((2, 3)), np.ones(3), np.ones((1, 3))), InputError, r"beta of shape \(3,\)"),
        (lambda: ops.layer_norm(np.ones(3), np.ones(3), np.ones(3)), InputError, r"x \(B, O\)"),
        (lambda: ops.layer_norm(np.ones((2, 3)), *[np.ones(3)] * 2, epsilon=0.0), InputError, "epsilon > 0, got 0.0"),
    ],
)
def test_bad_arguments_say_what_was_expected(wrong: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        wrong()


# --- fusion ---------------------------------------------------------------------------------------------------------


def kernels(program: Program) -> list[str]:
    return [call.kernel for call in program.calls]


def outputs_of(program: Program, rows: int, engine: str, **arrays: np.ndarray) -> dict[str, bytes]:
    instance = engines.instantiate(program, rows, engine, 1)
    copies = {name: arrays[name].copy() for name in program.inputs}
    instance.bind(**copies)
    instance.play()
    found = {name: instance.output(name).tobytes() for name in program.outputs}
    return found | {name: array.tobytes() for name, array in copies.items()}


@pytest.mark.parametrize("rows", [1, 31, 33])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS_FROM_OUTPUT])
def test_dense_fusions_keep_every_bit(activation: str | None, dtype: str, rows: int, rng: np.random.Generator) -> None:
    """bias + activation forward, activation derivative into dX, bias gradient with dW."""
    trace = Trace(dtype)
    x, t = trace.input("x", (B, 7)), trace.input("t", (B, 3))
    w, b, v, c = (trace.input(n, s) for n, s in (("w", (7, 33)), ("b", (33,)), ("v", (33, 3)), ("c", (3,))))
    hidden = ops.dense(x, w, b, activation)
    out = ops.dense(hidden, v, c)
    cost = ops.mean(ops.squared_error(out, t))
    from fastnn.program.differentiate import gradients

    found = gradients(cost, [w, b, v, c])
    plain = trace.program({"cost": cost, "out": out} | {f"d{i}": g for i, g in enumerate(found)})
    plain = fusion.drop_unread(plain)
    fused = fusion.fuse(plain)
    shapes = {"x": (rows, 7), "t": (rows, 3), "w": (7, 33), "b": (33,), "v": (33, 3), "c": (3,)}
    arrays = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    for engine in ("numpy", "cpu"):
        assert outputs_of(plain, rows, engine, **arrays) == outputs_of(fused, rows, engine, **arrays)
    assert "add" not in kernels(fused)
    assert kernels(fused).count("dense") == 2
    assert kernels(fused).count("dense_backward_weight") == 2
    assert ("dense_backward_input" in kernels(fused)) == (activation is not None)
    assert "squared_error_with_gradient" in kernels(fused)
    assert len(fused.calls) < len(plain.calls)


@pytest.mark.parametrize("name", fusion.LOSSES)
def test_loss_fusion_keeps_every_bit(name: str, rng: np.random.Generator) -> None:
    for weighted in (False, True):
        trace = Trace("float32")
        z, t, w = trace.input("z", (B, 5)), trace.input("t", (B, 5)), trace.input("w", (B,))
        losses = getattr(ops, name)(z, t)
        cost = ops.weighted_mean(losses, w) if weighted else ops.mean(losses)
        from fastnn.program.differentiate import gradients

        (dz,) = gradients(cost, [z])
        plain = fusion.drop_unread(trace.program({"cost": cost, "dz": dz}))
        fused = fusion.drop_unread(fusion.fuse_loss_gradient(plain))
        assert f"{name}_with_gradient" in kernels(fused)
        assert f"{name}_backward" not in kernels(fused)
        arrays = {
            "z": rng.standard_normal((33, 5)).astype("f4"),
            "t": rng.dirichlet(np.ones(5), 33).astype("f4"),
            "w": rng.random(33).astype("f4"),
        }
        for engine in ("numpy", "cpu"):
            assert outputs_of(plain, 33, engine, **arrays) == outputs_of(fused, 33, engine, **arrays)


def test_what_is_read_twice_is_not_fused_away(rng: np.random.Generator) -> None:
    trace = Trace("float32")
    x, w, b = trace.input("x", (B, 3)), trace.input("w", (3, 4)), trace.input("b", (4,))
    z = ops.dense(x, w, b)
    y = ops.relu(z)
    program = fusion.fuse(trace.program({"z": z, "y": y}))
    assert kernels(program) == ["dense", "relu"]
    product = ops.matmul(x, w)
    program = fusion.fuse(trace.program({"product": product, "sum": ops.add(product, b), "y": y}))
    assert kernels(program) == ["dense", "matmul", "add"]


def test_unread_calls_are_dropped_and_updates_are_kept() -> None:
    trace = Trace("float32")
    x = trace.input("x", (B, 3))
    log = trace.input("log", (4, 4))
    index = trace.input("index", (), "int64")
    ops.exp(x)
    total = ops.sum(x)
    trace.append("log_value", (total, index, log), [], {"column": 0})
    assert kernels(fusion.drop_unread(trace.program({}))) == ["sum", "log_value"]


# --- planning -------------------------------------------------------------------------------------------------------


def step(batch_norm: bool = True) -> Program:
    layers: list[fastnn.Layer] = (
        [fastnn.Dense(33, activation="tanh"), fastnn.Dense(17), fastnn.BatchNorm()] if batch_norm else []
    )
    model = fastnn.Sequential([*layers, fastnn.Activation("relu"), fastnn.Dropout(0.2), fastnn.Dense(3)], seed=0).build(7)
    optimizer = fastnn.Adam(clip_norm=1.0)
    data = DataLayout("float32", "int64", ())
    loss = as_loss("softmax_cross_entropy")
    return TrainingStep(loss, data, Decision(0.5, False), Update.of(optimizer), True).build(model.network)


@pytest.mark.parametrize("rows", [0, 1, 31, 128])
def test_arrays_that_live_together_do_not_overlap(rows: int) -> None:
    program = step()
    made = plan(program, rows)
    lives: dict[Symbol, list[int]] = {}
    given = {s.root for s in program.inputs.values()}
    for index, call in enumerate((*made.once, *made.calls)):
        for s in call.operands:
            if s.root not in given:
                lives.setdefault(s.root, []).append(index)
    constants = {s.root for call in made.once for s in call.outputs}
    assert set(lives) == set(made.offsets)
    roots = list(lives)
    for i, a in enumerate(roots):
        for b in roots[:i]:
            a_first, a_last = (0, 10**6) if a in constants else (lives[a][0], lives[a][-1])
            b_first, b_last = (0, 10**6) if b in constants else (lives[b][0], lives[b][-1])
            if a_last < b_first or b_last < a_first:
                continue
            a_start, b_start = made.offsets[a], made.offsets[b]
            a_end, b_end = a_start + a.operand(rows).nbytes, b_start + b.operand(rows).nbytes
            assert a_end <= b_start or b_end <= a_start or a_start == a_end or b_start == b_end
    assert all(offset % 64 == 0 for offset in made.offsets.values())


def test_memory_is_shared_by_arrays_that_do_not_live_together() -> None:
    made = plan(step(), 1024)
    total = sum(root.operand(1024).nbytes for root in made.offsets)
    assert made.size < 0.7 * total


def test_constants_are_made_once() -> None:
    made = plan(step(), 32)
    assert {call.kernel for call in made.once} == {"fill", "expand"}
    assert not any(call.kernel == "fill" for call in made.calls)


def test_a_program_prints_its_calls() -> None:
    text = str(step())
    assert "gather_rows(X, order, position, scale=1.0)" in text
    assert "(B, 33) = dense(" in text
    assert len(text.splitlines()) == len(step().calls)


def test_explain_times_every_call() -> None:
    model = fastnn.Sequential([fastnn.Dense(16, activation="relu"), fastnn.Dense(3)], seed=0).build(5)
    before = model.weights
    explanation = model.program(batch_size=32)
    lines = explanation.lines()
    assert [line.kernel for line in lines][:3] == ["gather_rows", "gather_rows", "dense+relu"]
    assert all(line.seconds > 0 and line.limit > 0 for line in lines)
    assert all(0 < line.share < 1 for line in lines)
    dense = next(line for line in lines if line.kernel == "dense+relu")
    assert dense.operations == 2 * 32 * 5 * 16 + 2 * 32 * 16
    assert dense.bytes == 4 * (32 * 5 + 5 * 16 + 16 + 32 * 16)
    table = explanation.explain()
    assert "whole step" in table
    assert all(len(line) <= 80 for line in table.splitlines()[3:])
    assert all(np.array_equal(before[name], value) for name, value in model.weights.items())


@pytest.mark.parametrize("device", ["cpu", "numpy"])
def test_the_rows_of_a_step_add_up(device: str) -> None:
    """Whatever the machine does besides: a step is its calls and what it takes beyond them, in time as in shares."""
    model = fastnn.Sequential([fastnn.Dense(16, activation="relu"), fastnn.Dense(3)], seed=0).build(5)
    table = model.program(batch_size=32, device=device).explain()
    rows = [row.split() for row in table.split("\n" + "-" * 80 + "\n")[1].splitlines()]
    *_, whole = re.findall(r"^whole step .* (\d+\.\d\d) 100.0% +\d+%$", table, re.MULTILINE)
    assert rows[-1][0] in ("waiting", "overlap")
    share = [float(row[-1].rstrip("%")) for row in rows[-1:]] + [float(row[-2].rstrip("%")) for row in rows[:-1]]
    seconds = [float(rows[-1][-2])] + [float(row[-3]) for row in rows[:-1]]
    assert abs(sum(seconds) - float(whole)) < 0.006 * len(rows)
    assert abs(sum(share) - 100) < 0.06 * len(rows)


def test_a_slow_turn_changes_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is busy in a third of the turns: each row is the median of what it took when it was not."""
    from fastnn.engines import explain

    model = fastnn.Sequential([fastnn.Dense(16, activation="relu"), fastnn.Dense(3)], seed=0).build(5)
    explanation, turn = model.program(batch_size=32), -1
    calls = len(list(explanation.instance.computing()))

    def timed(instance: object, play: Any, repeats: int) -> float:
        nonlocal turn
        index = play.args[0] if isinstance(play, functools.partial) else None
        turn += index is not None and repeats == 1  # what begins a turn
        busy = 5.0 if turn % 3 == 1 else 1.0
        return busy * (1e-5 + repeats * (2e-5 * calls if index is None else 1e-5 + 1e-7 * index))

    monkeypatch.setattr(explain, "_count_repeats", lambda instance, play: 1000 - play.args[0])
    monkeypatch.setattr(explain, "_time", timed)
    limits = explain.Limits(1, 1e9, ((2**20, 1e9),))
    monkeypatch.setattr(explain, "measure_limits", lambda *_: limits)
    for index, line in enumerate(explanation.lines()):
        assert line.seconds == pytest.approx(1e-5 + 1e-7 * index, rel=2e-3)
        assert line.share == pytest.approx(line.seconds / (2e-5 * calls), rel=2e-2)


def test_rates_of_copying_are_interpolated() -> None:
    """Where ten times the bytes are copied at half the rate, the square root of ten times them take the square root of it."""
    from fastnn.engines import explain

    limits = explain.Limits(1, 1e9, ((1000, 4e9), (10000, 2e9)))
    for moved, rate in ((10, 4e9), (1000, 4e9), (10**3.5, 8**0.5 * 1e9), (10000, 2e9), (10**6, 2e9)):
        assert limits.seconds(0, moved) == pytest.approx(moved / rate)  # type: ignore[arg-type]
    assert limits.seconds(0, 0) == 0
    assert limits.seconds(10**9, 1000) == 1


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "sigmoid_cross_entropy", "mean_squared_error"])
def test_what_is_explained_is_computed_of_random_examples(loss: str) -> None:
    model = fastnn.Sequential([fastnn.Dense(16, activation="relu"), fastnn.Dense(3)], seed=0).build(5)
    made = [model.program(batch_size=32, loss=loss, optimizer="adam").instance for _ in range(2)]
    for name in ("X", "y"):
        first, second = (np.array(instance.bound[name]) for instance in made)
        assert len(np.unique(first)) >= min(3, first.size), name
        np.testing.assert_array_equal(first, second, err_msg="another time")
    X, y, before = made[0].bound["X"], made[0].bound["y"], np.array(made[0].bound["parameters"])
    assert (X != 0).mean() > 0.99
    assert 0.8 < X.std() < 1.2
    assert y.min() >= 0
    assert y.max() < (3 if y.dtype.kind == "i" else 1)
    made[0].play(5)
    assert np.isfinite(made[0].bound["gradient"]).all()
    assert np.count_nonzero(made[0].bound["gradient"]) > 0.5 * before.size
    np.testing.assert_array_equal(made[0].bound["parameters"], before)


def test_limits_are_measured_with_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastnn.benchmarks import limits
    from fastnn.engines import explain
    from fastnn.engines.host import HostEngine

    bound: list[np.ndarray] = []

    class Small(HostEngine):
        product_size = 64

        def to_device(self, array: np.ndarray) -> np.ndarray:
            bound.append(array.copy())
            return super().to_device(array)

    monkeypatch.setattr(explain, "COPY_BYTES", (2**15,))
    engine = Small("cpu")
    assert explain.measure_limits(1, "float32", engine).operations > 0
    assert [array.shape for array in bound] == [(64, 64)] * 3 + [(2**12,)] * 2
    a, b = limits._numpy_product(64).args  # type: ignore[attr-defined]
    for array in (*bound, a, b):
        assert array.dtype == np.float32
        assert 0.8 < array.std() < 1.2
        assert len(np.unique(array)) > 0.9 * array.size
    assert not np.array_equal(a[0], a[1])


def test_a_wrong_binding_is_refused() -> None:
    program = Prediction().build(fastnn.Sequential([fastnn.Dense(3)], seed=0).build(5).network)
    instance = engines.instantiate(program, 4)
    for wrong in (np.zeros((3, 5), "f4"), np.zeros((4, 5), "f8"), np.zeros((5, 4), "f4").T):
        with pytest.raises(InputError, match="'x'"):
            instance.bind(x=wrong)
    with pytest.raises(InputError, match="parameters"):
        instance.play()


def test_the_contract_counts() -> None:
    from fastnn_kernels.contract import Operand

    f4 = np.dtype("float32")
    a, b, c = Operand((32, 784), f4), Operand((784, 128), f4), Operand((32, 128), f4)
    assert KERNELS["matmul"].operations((a, b, c)) == 2 * 32 * 784 * 128
    assert KERNELS["matmul"].traffic((a, b, c)) == 4 * (32 * 784 + 784 * 128 + 32 * 128)
    source, order, position = Operand((60000, 784), np.dtype("uint8")), Operand((60000,), np.dtype("int64")), Operand((), f4)
    assert KERNELS["gather_rows"].traffic((source, order, position, a)) == 32 * 784 * (1 + 4) + 8 * 60000 + 4
    assert KERNELS["log_value"].traffic((position, position, Operand((4096, 4), f4))) == 4 + 4 + 2 * 4
    assert KERNELS["matmul"].operations((Operand((784, 32), f4), b, Operand((32, 128), f4))) == 2 * 32 * 784 * 128


def test_a_loss_is_fused_with_its_own_gradient_only(rng: np.random.Generator) -> None:
    from fastnn.program.differentiate import gradients

    trace = Trace("float64")
    z, t = trace.input("z", (B, 3)), trace.input("t", (B, 3))
    large, small = ops.squared_error(z, t, 100.0), ops.squared_error(z, t, 0.5)
    cost = ops.mean(small + ops.sign(large) * 0.0)
    (dz,) = gradients(cost, [z])
    plain = fusion.drop_unread(trace.program({"cost": cost, "dz": dz}))
    arrays = {"z": rng.standard_normal((5, 3)), "t": rng.standard_normal((5, 3))}
    assert outputs_of(plain, 5, "numpy", **arrays) == outputs_of(fusion.fuse(plain), 5, "numpy", **arrays)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: ops.gather_rows(np.ones((40, 2), "f4"), np.array([99, 100]), np.array(0), 2, "float32"), "0 to 39"),
        (lambda: ops.gather_rows(np.ones((40, 2), "f4"), np.arange(5), np.array(4), 2, "float32"), "2 rows from position 4"),
        (lambda: ops.gather_rows(np.ones((40, 2), "f4"), np.ones(5), np.array(0), 2, "float32"), "integers"),
        (lambda: ops.is_correct(np.ones((5, 3), "f4"), np.array([0, 1])), "one class index a row"),
        (lambda: ops.is_correct(np.ones((5, 3), "f4"), np.ones((5, 3))), "one dtype"),
        (lambda: ops.softmax_cross_entropy(np.ones((2, 3)), [0, 1]), "list"),
        (lambda: ops.transpose(np.ones((1,) * 7)), "6 axes"),
        (lambda: ops.transpose(np.ones((2, 3)), (2, 1)), "order of 2 axes"),
        (lambda: ops.add(np.ones((1,) * 7), np.ones(1)), "6 axes"),
        (lambda: ops.reshape(np.ones((2, 3)), (4, 2)), "no place"),
        (lambda: ops.one_hot(np.array([0]), 2.5), "classes"),
    ],
)
def test_what_would_read_or_write_elsewhere_is_refused(wrong: Any, says: str) -> None:
    with pytest.raises(fastnn.FastnnError, match=says):
        wrong()


def test_orders_of_any_integer_type_are_read() -> None:
    source = np.arange(20, dtype="float32").reshape(10, 2)
    found = ops.gather_rows(source, np.array([3, 9], np.int32), np.array(0), 2, "float32")
    assert found.tolist() == [[6.0, 7.0], [18.0, 19.0]]
