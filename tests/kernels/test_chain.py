"""Chains: elementwise calls put together have the bits of the calls one by one, in the definition and on a GPU."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import laws
import ml_dtypes
import numpy as np
import pytest
from cuda_on_host import calls
from cuda_on_host.runtime import HostRuntime
from hypothesis import given, settings
from hypothesis import strategies as st

import fastnn
import fastnn_kernels.numpy as definition
from fastnn import ops
from fastnn.engines.cuda import CudaEngine, CudaInstance
from fastnn.program.passes.elementwise import MOST_STEPS, chain_elementwise
from fastnn.program.shapes import B
from fastnn.program.trace import Call, Program, Symbol, Trace, constant
from fastnn_kernels.contract import CHAIN_INPUTS, CHAINED, KERNELS, Operand, Step
from fastnn_kernels.cuda.compiling import compile_source, version
from fastnn_kernels.cuda.kernels import kernel, unit
from fastnn_kernels.cuda.lowering import Ahead, Body, Device, lower
from fastnn_kernels.cuda.runtime import CudaUnavailable

KEY = (0x243F6A88, 0x85A308D3)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
CHAINS = tuple(f"chain_{inputs}" for inputs in range(1, CHAIN_INPUTS + 1))

needs_cases = pytest.mark.skipif(not calls.CASES.exists(), reason="bench/ is not here; it is not installed")


def kernels_of(program: Program) -> list[str]:
    return [call.kernel for call in program.calls if not call.is_view]


def steps_of(call: Call) -> list[str]:
    return [step.kernel for step in call.attributes["steps"]]


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """NaN count as equal, whatever their bits are."""
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    if a.dtype.kind == "b":
        return bool((a == b).all())
    missing = a != a
    return bool((missing == (b != b)).all()) and a[~missing].tobytes() == b[~missing].tobytes()


@functools.cache
def engine() -> CudaEngine:
    """A GPU where there is one, else one made of the host."""
    return laws.gpu() or CudaEngine(HostRuntime(), capture=False)


def play(program: Program, rows: int, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the program makes of copies of the inputs, which belong to it if it writes them."""
    placed = {name: engine().to_device(array) for name, array in inputs.items()}
    instance = CudaInstance(program, rows, engine())
    instance.bind(**placed)
    instance.play()
    made = {name: instance.output(name) for name in program.outputs}
    arrays = engine().read(*placed.values(), *made.values())
    return dict(zip([*placed, *made], [array.copy() for array in arrays], strict=True))


def check(program: Program, rows: int, inputs: Mapping[str, np.ndarray]) -> Program:
    """Play the program with chains and without; returns the one with chains."""
    with_chains = chain_elementwise(program)
    one_by_one, together = (play(each, rows, inputs) for each in (program, with_chains))
    for name, array in one_by_one.items():
        assert same_bits(together[name], array), name
    return with_chains


# --- the kernels ------------------------------------------------------------------------------------------------------


@needs_cases
@pytest.mark.parametrize("name", CHAINS)
def test_kernel(name: str) -> None:
    """The CUDA set against the definition in float64."""
    for case in calls.calls(name):
        for precision in case.precisions:
            *inputs, y = case.arrays(precision)
            laws.check_kernel(name, inputs, [(y.shape, y.dtype)], tolerance=case.tolerance, **case.attributes)


@needs_cases
@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("name", CHAINS)
def test_definition_is_the_kernels_one_by_one(name: str, precision: str) -> None:
    for case in calls.calls(name):
        *inputs, y = case.arrays("float32" if precision == "bfloat16" else case.precisions[-1])
        stored = BFLOAT16 if precision == "bfloat16" else y.dtype
        given = [x.astype(stored) if x.dtype.kind == "f" else x for x in inputs]
        steps = tuple(step._replace(stored="bfloat16" * (precision == "bfloat16")) for step in case.attributes["steps"])
        y = np.empty(y.shape, stored)
        getattr(definition, name)(*given, y, steps=steps)
        values = [x.astype(np.float32) if x.dtype == BFLOAT16 else x for x in given]
        for step in steps:
            result = np.empty(y.shape, bool if step.kernel == "less_equal" else values[0].dtype)
            getattr(definition, step.kernel)(*(values[i] for i in step.arguments), result, **dict(step.attributes))
            values.append(result.astype(stored).astype(result.dtype))
        assert same_bits(y, values[-1].astype(stored)), case.label


def test_operations_are_those_of_the_steps() -> None:
    operands = [Operand(shape, np.dtype("float32")) for shape in ((3, 5), (5,), (3, 5))]
    steps = (Step("add", (0, 1)), Step("gelu_backward", (2, 0)))
    assert KERNELS["chain_2"].operations(operands, {"steps": steps}) == (1 + 2) * 15
    assert KERNELS["chain_2"].traffic(operands) == 4 * (15 + 5 + 15)
    assert "cpu" not in KERNELS["chain_2"].sets


def test_a_chain_looks_ahead_of_the_control_block() -> None:
    operands = [Operand((7,), np.dtype("float32")), Operand((), np.dtype("int64")), Operand((7,), np.dtype("float32"))]
    steps = (Step("relu", (0,)), Step("dropout", (2, 1), (("key", KEY), ("rate", 0.5))))
    (body,) = lower("chain_2", operands, {"steps": steps}, Device()).works
    assert isinstance(body, Body)
    assert [argument for argument in body.arguments if isinstance(argument, Ahead)] == [Ahead(1, 1)]


def test_rates_keys_and_slopes_do_not_change_the_text() -> None:
    strings = set()
    for rate, alpha in ((0.5, 0.1), (0.0, 0.3), (1.0, 2.0)):
        operands = [Operand((7,), np.dtype("float32")), Operand((), np.dtype("int64")), Operand((7,), np.dtype("float32"))]
        dropout = Step("dropout", (2, 1), (("key", (int(rate * 10), 1)), ("rate", rate)))
        steps = (Step("leaky_relu", (0,), (("alpha", alpha),)), dropout)
        (body,) = lower("chain_2", operands, {"steps": steps}, Device()).works
        assert isinstance(body, Body)
        strings.add(unit([kernel([body])]))
    assert len(strings) == 1


@needs_cases
@pytest.mark.parametrize("architecture", [75, 90])
def test_nothing_is_contracted_across_calls(architecture: int) -> None:
    """a * b + a is a product that is rounded and then a sum in every chain: FFMA is no instruction of it."""
    try:
        version()
    except CudaUnavailable as error:
        pytest.skip(str(error))
    operands = [Operand((1024,), np.dtype("float32"))] * 3
    steps = (Step("multiply", (0, 1)), Step("add", (2, 0)))
    (body,) = lower("chain_2", operands, {"steps": steps}, Device()).works
    assert isinstance(body, Body)
    each = kernel([body])
    assert b"FFMA" not in opcodes(compile_source(unit([each]), architecture).cubin)
    fused = unit([each]).replace("= rounded(", "= (")
    assert b"FFMA" in opcodes(compile_source(fused, architecture).cubin), "the test sees no FFMA where there must be one"


def opcodes(cubin: bytes) -> set[bytes]:
    """Which of FFMA and FADD the kernel of an ELF file has: the lowest nine bits of each 16 bytes of code are the operation."""
    table = int.from_bytes(cubin[40:48], "little")
    count = int.from_bytes(cubin[60:62], "little")
    names = {0x023: b"FFMA", 0x021: b"FADD"}
    found = set()
    for index in range(count):
        header = cubin[table + 64 * index : table + 64 * index + 64]
        kind, flags = int.from_bytes(header[4:8], "little"), int.from_bytes(header[8:16], "little")
        if kind == 1 and flags & 4:  # a section of code
            start, size = (int.from_bytes(header[at : at + 8], "little") for at in (24, 32))
            words = np.frombuffer(cubin[start : start + size], "<u8")[::2] & 0x1FF
            found |= {names[word] for word in words.tolist() if word in names}
    assert found, "no code was found"
    return found


# --- programs made by hand --------------------------------------------------------------------------------------------


class Recorded:
    """A recording with an input x (B, 5) of numbers with NaN and infinities, and others of all kinds."""

    def __init__(self, dtype: Any = "float32", columns: int = 5) -> None:
        self.trace = Trace(dtype)
        self.columns = columns
        self.x = self.trace.input("x", (B, columns))
        self.dy = self.trace.input("dy", (B, columns))
        self.memory = self.trace.input("memory", (B, columns))
        self.row = self.trace.input("row", (columns,))
        self.column = self.trace.input("column", (B, 1))
        self.one = self.trace.input("one", ())
        self.step = self.trace.input("step", (), "int64")

    def arrays(self, rows: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(rows + self.columns)
        found = {}
        for name, symbol in self.trace.inputs.items():
            operand = symbol.operand(rows)
            values = rng.standard_normal(operand.shape)
            if operand.shape == (rows, self.columns) and rows * self.columns > 3:
                values.flat[:3] = (np.nan, -np.inf, -0.0)
            found[name] = np.array(7 if operand.dtype.kind == "i" else values, operand.dtype)
        return found

    def check(self, *rows: int, **outputs: Symbol) -> Program:
        for count in rows or (0, 1, 31, 33):
            program = check(self.trace.program(outputs), count, self.arrays(count))
        return program

    def dropout(self, x: Symbol) -> Symbol:
        return ops.dropout(x, 0.3, KEY, self.step)


@pytest.mark.parametrize("dtype", laws.FLOATS)
@pytest.mark.parametrize("columns", [1, 4, 5])
def test_activation_and_dropout_forward_and_backward(dtype: str, columns: int) -> None:
    """The output of ReLU is computed anew in the backward chain, so that it is written nowhere."""
    r = Recorded(dtype, columns)
    y = ops.relu(r.x)
    (dx,) = r.trace.append("relu_backward", (r.dropout(r.dy), y), [(y.shape, y.dtype)])
    program = r.check(z=r.dropout(y), dx=dx)
    assert kernels_of(program) == ["chain_3", "chain_2"]
    assert list(map(steps_of, program.calls)) == [["relu", "dropout", "relu_backward"], ["relu", "dropout"]]


@pytest.mark.parametrize("dtype", laws.FLOATS)
def test_rows_columns_and_single_numbers_are_broadcast(dtype: str) -> None:
    r = Recorded(dtype)
    y = ops.where(ops.less(r.x, r.column), r.x * r.row, r.one) - ops.abs(r.dy)
    program = r.check(y=y)
    assert kernels_of(program) == ["chain_5"]
    assert steps_of(program.calls[0])[-1] == "subtract"


def test_single_calls_are_left_alone() -> None:
    r = Recorded()
    total = ops.sum(ops.exp(r.x), 1)
    before = r.trace.program({"y": ops.log(total)})
    assert chain_elementwise(before).calls == before.calls


def test_what_is_read_outside_is_not_kept_inside() -> None:
    """Outputs, results that are summed, and results that are read in another shape."""
    r = Recorded()
    output = ops.exp(r.x)
    summed = ops.tanh(output)
    viewed = ops.sigmoid(summed)
    flat = r.trace.reshape(viewed, (B * 5,))
    program = r.check(output=output, sums=ops.sum(summed, 0), flat=ops.negative(flat), last=ops.negative(viewed))
    assert kernels_of(program) == ["exp", "tanh", "sigmoid", "sum", "negative", "negative"]
    r = Recorded()
    assert kernels_of(r.check(y=ops.negative(ops.exp(r.x).view((B, 5))))) == ["exp", "negative"]


def test_what_is_broadcast_is_made_outside() -> None:
    """A dropout numbers the elements of its own array."""
    r = Recorded()
    program = r.check(y=r.dropout(r.column) * r.x, z=ops.exp(r.row) - r.x)
    assert kernels_of(program) == ["dropout", "multiply", "exp", "subtract"]


def test_storage_that_is_given_is_written() -> None:
    """A gradient is made in its place in the arena."""
    r = Recorded()
    place = r.memory.view((B, 5))
    r.trace.calls.append(Call("multiply", (ops.exp(r.x), r.dy, place)))
    program = r.check(y=ops.negative(ops.abs(place)))
    assert kernels_of(program) == ["chain_2", "chain_1"]


def test_nothing_is_read_after_it_was_written_anew() -> None:
    r = Recorded()
    early = ops.exp(r.memory)
    r.trace.calls.append(Call("identity", (r.x, r.memory)))
    program = r.check(y=early * r.dy)
    assert kernels_of(program) == ["exp", "identity", "multiply"]
    r = Recorded()
    early = ops.exp(r.memory)
    r.trace.calls.append(Call("identity", (early, r.memory)))
    assert kernels_of(r.check()) == ["exp", "identity"]
    r = Recorded()
    early = ops.exp(r.x)
    r.trace.calls.append(Call("identity", (r.dy, early.view((B, 5)))))
    assert kernels_of(r.check(y=ops.negative(early))) == ["exp", "identity", "negative"]


def test_no_chain_is_too_long_or_reads_too_much() -> None:
    r = Recorded()
    y = r.x
    for index in range(2 * MOST_STEPS + 3):
        y = ops.tanh(y) if index % 2 else y * r.dy
    program = r.check(31, y=y)
    assert [len(steps_of(call)) for call in program.calls] == [3, MOST_STEPS, MOST_STEPS]
    r = Recorded()
    more = [r.trace.input(f"more{index}", (B, 5)) for index in range(9)]
    y = r.x
    for each in more:
        y = y + each
    program = r.check(31, y=y)
    assert [len(call.inputs) for call in program.calls] == [5, CHAIN_INPUTS]


def test_powers_are_computed_once() -> None:
    r = Recorded()
    power = r.x**r.one
    program = r.check(31, sums=ops.sum(ops.exp(power), 0), y=ops.negative(power))
    assert kernels_of(program) == ["power", "exp", "sum", "negative"]
    r = Recorded()
    power = r.x**r.one
    assert kernels_of(r.check(31, y=ops.negative(power))) == ["chain_2"]


def test_floats_of_two_kinds_are_not_computed_together() -> None:
    """What is compared in float64 may choose between numbers in float32."""
    r = Recorded()
    wide = r.trace.input("wide", (B, 5), "float64")
    condition = ops.less(wide, ops.negative(wide))
    program = r.check(31, y=ops.where(condition, r.x, ops.exp(r.dy)))
    assert kernels_of(program) == ["chain_1", "chain_3"]


def test_constants_are_computed_before_the_first_play() -> None:
    r = Recorded()
    known = ops.exp(constant(r.x, 2.0))
    program = r.check(y=r.x * known + known)
    assert kernels_of(program) == ["fill", "exp", "chain_2"]
    r = Recorded()
    (twos,) = r.trace.append("fill", (), [(r.x.shape, r.x.dtype)], {"value": 2.0})
    program = r.check(y=ops.exp(twos) + r.x)
    assert kernels_of(program) == ["fill", "exp", "add"]


def test_numbers_are_no_inputs() -> None:
    r = Recorded()
    number = constant(r.x, 0.1)
    program = r.check(y=ops.abs(r.x + 0.1) * number - 3.0)
    assert kernels_of(program) == ["chain_1"]
    assert str(program.calls[0].attributes["steps"]).startswith("(fill(value=0.1), fill(value=3.0), add(0, 1), abs(3)")
    r = Recorded()
    number = constant(r.x, 0.1)
    assert kernels_of(r.check(y=number, z=ops.abs(r.x + number))) == ["fill", "chain_1"]
    r = Recorded()
    program = r.check(y=ops.negative(r.dropout(constant(r.x, 0.1))))
    assert kernels_of(program) == ["fill", "chain_2"]
    r = Recorded()
    zeros = (constant(r.x, 0.0), constant(r.x, -0.0))
    r.check(y=ops.minimum(zeros[0], ops.abs(r.x)) * ops.maximum(zeros[1], ops.negative(ops.abs(r.dy))))


def test_what_would_be_stored_in_16_bits_is_rounded_to_them() -> None:
    r = Recorded()
    symbol = functools.partial(Symbol, r.trace, (B, 5), BFLOAT16)
    narrow, activated, dropped = symbol(), symbol(), symbol()
    r.trace.calls += [
        Call("identity", (r.x, narrow)),
        Call("gelu", (narrow, activated)),
        Call("dropout", (activated, r.step, dropped), {"rate": 0.3, "key": KEY}),
    ]
    (y,) = r.trace.append("multiply", (dropped, r.x), [(r.x.shape, r.x.dtype)])
    assert [each.stored for each in r.check(y=y).calls[0].attributes["steps"]] == [*["bfloat16"] * 3, ""]
    program = r.check(y=y, dropped=dropped)
    assert kernels_of(program) == ["chain_2", "multiply"]
    assert [step.stored for step in program.calls[0].attributes["steps"]] == ["bfloat16", "bfloat16", ""]


@pytest.mark.parametrize("columns", [1, 5, 8])
def test_all_of_a_chain_may_be_stored_in_16_bits(columns: int) -> None:
    r = Recorded(columns=columns)
    narrow = r.trace.input("narrow", (B, columns), BFLOAT16)
    activated, dropped = (Symbol(r.trace, narrow.shape, BFLOAT16) for _ in range(2))
    r.trace.calls += [
        Call("elu", (narrow, activated), {"alpha": 0.3}),
        Call("dropout", (activated, r.step, dropped), {"rate": 0.3, "key": KEY}),
    ]
    assert kernels_of(r.check(dropped=dropped)) == ["chain_2"]


def test_a_program_prints_its_chains() -> None:
    r = Recorded()
    text = str(chain_elementwise(r.trace.program({"y": ops.leaky_relu(r.x + r.row, 0.3)})))
    assert "chain_2(x, row, steps=(add(0, 1), leaky_relu(2, alpha=0.3)))" in text


# --- programs made by chance ------------------------------------------------------------------------------------------

UNARY = ("exp", "tanh", "relu", "negative", "step", "softplus")
BINARY = ("add", "subtract", "multiply", "maximum")

moves = st.lists(
    st.tuples(
        st.sampled_from([*UNARY, *BINARY, *BINARY, "power", "less", "dropout", "sum", "reshape", "store"]),
        *(st.integers(0, 20) for _ in range(4)),
    ),
    min_size=2, max_size=14,
)  # fmt: skip
"""(what is called, which symbols it reads), counted from the last one that was made."""


def record(r: Recorded, made: list[tuple[str, int, int, int, int]]) -> dict[str, Symbol]:
    """Calls by chance; returns the outputs: the last symbol, and one of four of the others."""
    arrays = [r.dy, r.memory, r.x]
    others = [r.row, r.column, r.one]
    for name, *numbers in made:
        a, b, c = (arrays[-1 - number % len(arrays)] for number in numbers[:3])
        narrow = others[numbers[3] % 3] if numbers[3] % 2 else b
        if name in UNARY:
            arrays.append(getattr(ops, name)(a))
        elif name == "less":
            arrays.append(ops.where(ops.less(a, narrow), b, c))
        elif name == "dropout":
            arrays.append(r.dropout(a))
        elif name == "sum":
            others.append(r.trace.reshape(ops.sum(a, 1), (B, 1)))
            arrays.append(others[-1] * b)
        elif name == "reshape":
            arrays.append(r.trace.reshape(a, a.shape))
        elif name == "store":
            r.trace.calls.append(Call("identity", (a, r.memory)))
        elif name == "power":
            arrays.append(a**narrow)
        else:
            arrays.append(getattr(ops, name)(a, narrow))
    known = set(r.trace.inputs.values())
    kept = [symbol for index, symbol in enumerate(arrays) if (index % 4 == 0 or symbol is arrays[-1]) and symbol not in known]
    return {f"y{index}": symbol for index, symbol in enumerate(kept)}


def by_chance(made: list[tuple[str, int, int, int, int]], rows: int, columns: int, dtype: str) -> None:
    r = Recorded(dtype, columns)
    outputs = record(r, made)
    r.check(rows, **outputs)


shapes = (st.sampled_from([0, 1, 7, 31, 33]), st.sampled_from([1, 4, 5, 33]), st.sampled_from(laws.FLOATS))


@settings(max_examples=12, derandomize=True, deadline=None)
@given(moves, *shapes)
def test_programs_by_chance(made, rows, columns, dtype) -> None:
    by_chance(made, rows, columns, dtype)


@pytest.mark.slow
@settings(max_examples=70, deadline=None)
@given(moves, *shapes)
def test_many_programs_by_chance(made, rows, columns, dtype) -> None:
    by_chance(made, rows, columns, dtype)


@settings(max_examples=200, deadline=None)
@given(moves)
def test_chained_programs_are_in_order(made) -> None:
    """Everything is made before it is read, and what is kept is made once."""
    r = Recorded()
    program = chain_elementwise(r.trace.program(record(r, made)))
    known = set(program.inputs.values())
    for call in program.calls:
        assert all(symbol.root in known for symbol in call.reads), call.kernel
        assert call.is_view or not any(symbol in known for symbol in call.outputs if symbol is not r.memory)
        known |= {symbol.root for symbol in call.outputs}
        steps = call.attributes.get("steps", ())
        assert len(steps) <= MOST_STEPS
        assert all(step.kernel in CHAINED for step in steps)
        assert all(number < len(call.inputs) + index for index, step in enumerate(steps) for number in step.arguments)
    assert all(symbol.root in known for symbol in program.outputs.values())


# --- training ---------------------------------------------------------------------------------------------------------


def smooth_l1(outputs: Any, targets: Any) -> Any:
    """Quadratic near 0, linear beyond 1."""
    d = outputs - targets
    return ops.sum(ops.where(ops.abs(d) < 1.0, 0.5 * d * d, ops.abs(d) - 0.5), 1)


class Residual(fastnn.Layer):
    """x + gelu(x W)."""

    def parameters(self, shape: tuple[int, ...]) -> dict[str, fastnn.Parameter]:
        return {"weight": fastnn.Parameter((shape[0], shape[0]), fastnn.initializers.He())}

    def forward(self, x: Any, training: bool) -> Any:
        return x + ops.gelu(ops.matmul(x, self.weight))


def network() -> fastnn.Sequential:
    layers = [fastnn.Dense(9, activation="silu"), fastnn.Dropout(0.2), Residual(), fastnn.Dense(3)]
    return fastnn.Sequential(layers, seed=3)


def trained(dtype: str, precision: str) -> fastnn.Sequential:
    rng = np.random.default_rng(1)
    X, y = (rng.standard_normal((97, columns)).astype(dtype) for columns in (7, 3))
    model = network()
    model.fit(X, y, loss=smooth_l1, batch_size=32, epochs=2, device="cuda", precision=precision, verbose=0)
    return model


@pytest.mark.parametrize(("dtype", "precision"), [("float32", "float32"), ("float64", "float32"), ("float32", "bf16")])
def test_training_has_the_same_bits(
    cuda_host: HostRuntime, monkeypatch: pytest.MonkeyPatch, dtype: str, precision: str
) -> None:
    weights = trained(dtype, precision).weights
    monkeypatch.setattr("fastnn.engines.cuda.chain_elementwise", lambda program: program)
    for name, expected in trained(dtype, precision).weights.items():
        assert same_bits(weights[name], expected), name


def counted(model: fastnn.Sequential, features: int, chain: Callable[[Program], Program], **options: Any) -> Counter[str]:
    """The kernels of a step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastnn.engines.cuda.chain_elementwise", chain)
        return Counter(kernels_of(model.build(features).program(128, device="cuda", **options).program))


def test_a_step_has_fewer_calls(cuda_host: HostRuntime) -> None:
    """Two of dropout and activation forwards, two backwards; and all of a loss of the user's own, forwards and backwards."""
    layers: list[fastnn.Layer] = []
    for _ in range(2):
        layers += [fastnn.Dense(64, use_bias=False), fastnn.BatchNorm(), fastnn.Activation("gelu"), fastnn.Dropout(0.2)]
    deep = fastnn.Sequential([*layers, fastnn.Dense(10)], seed=1)
    before = counted(deep, 20, lambda program: program)
    after = counted(deep, 20, chain_elementwise)
    assert before["gelu"] == before["gelu_backward"] == 2
    assert before["dropout"] == 4
    assert after["chain_2"] == after["chain_3"] == 2
    assert before.total() - after.total() == 4
    before, after = (counted(network(), 20, chain, loss=smooth_l1) for chain in (lambda program: program, chain_elementwise))
    elementwise = [sum(count for name, count in found.items() if name in CHAINED) for found in (before, after)]
    chains = sum(count for name, count in after.items() if name in CHAINS)
    assert elementwise[0] >= 20
    assert elementwise[1] + chains == 6
