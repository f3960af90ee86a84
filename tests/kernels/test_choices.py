"""Choices by timing, and masks: what is found is the fastest, is kept, and changes nothing but last bits.

The GPU is made of the host, its cuBLASLt of NumPy, and its clock of a table: `Timed.cost` says how long a node takes.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_on_host import host
from cuda_on_host.cublaslt import FakeCublasLt
from cuda_on_host.runtime import HostRuntime
from hosts import Hosts
from laws import EPSILON, FLOATS, PRODUCT_SHAPES, assert_close, check_kernel, wide

import fastnn
import fastnn_kernels.numpy as definition
from fastnn import engines
from fastnn.engines import cuda
from fastnn.engines.cuda import CudaEngine
from fastnn.program.passes.relu_mask import Variant, alternatives, choose_relu_masks
from fastnn.program.shapes import B
from fastnn.program.trace import Call, Program, Trace
from fastnn_kernels.contract import KERNELS, Operand, mask_pitch
from fastnn_kernels.cuda import choices, cublaslt, variants
from fastnn_kernels.cuda.cublaslt import CublasError, CublasLt
from fastnn_kernels.cuda.families import dense
from fastnn_kernels.cuda.lowering import Product
from fastnn_kernels.cuda.runtime import CudaOutOfMemory, Launch, Multiplication, Node

WORKSPACE = 4096
N, FEATURES, CLASSES = 70, 12, 3
BATCH = 32


def even(node: Node) -> float:
    return 1.0


class Timed(HostRuntime):
    """A GPU made of the host with products, on which a node takes `cost` microseconds, and nothing else any time."""

    def __init__(self, ordinal: int = 0) -> None:
        super().__init__(ordinal=ordinal)
        self.library = FakeCublasLt()
        self.cublas = CublasLt(self.library, WORKSPACE)
        self._workspace = np.zeros(WORKSPACE, np.uint8)
        self.device = replace(self.device, products=True, supports=self.cublas.supports)
        self.cost: Callable[[Node], float] = even
        self.now = 0.0
        self.version = 1

    @property
    def products_version(self) -> int:
        return self.version

    def algorithms(self, product: Product, count: int) -> list[bytes]:
        return [candidate.data for candidate in self.cublas.algorithms(product, count)]

    def multiply(self, node: Multiplication) -> None:
        self.cublas.plan(node.product).run(node.addresses, self._workspace.ctypes.data, 0)

    def launch(self, graph: Any, stream: Any) -> None:
        super().launch(graph, stream)
        self.now += sum(self.cost(node) for stage in graph for node in stage) * 1e-6

    def record(self, event: Any, stream: Any) -> None:
        super().record(event, stream)
        event["time"] = self.now

    def elapsed_seconds(self, first: Any, last: Any) -> float:
        return float(last["time"] - first["time"])


@pytest.fixture
def gpu(cuda_hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Timed]:
    """As `cuda:0`; no product is too small for cuBLASLt, and little is timed."""
    monkeypatch.setattr(dense, "OWN_UP_TO", dict.fromkeys(dense.OWN_UP_TO, 0))
    monkeypatch.setattr(choices, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(choices, "_warned", set())
    monkeypatch.setattr(choices, "REPEATS", 1)
    monkeypatch.setattr(choices, "ROUNDS", 1)
    made = Timed()
    cuda_hosts.installed[0] = made
    yield made
    made.cublas.close()
    assert made.library.alive == {}


def network(*hidden: int, activation: str = "relu") -> fastnn.Sequential:
    layers = [fastnn.Dense(size, activation=activation) for size in hidden or (9,)]
    return fastnn.Sequential([*layers, fastnn.Dense(CLASSES)], seed=3)


def examples() -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(0).normal(size=(N, FEATURES)).astype("float32")
    return X, X[:, :CLASSES].argmax(1)


def trained(*hidden: int, epochs: int = 2, **options: Any) -> tuple[fastnn.Sequential, Any]:
    model = network(*hidden)
    options = {"device": "cuda", "batch_size": BATCH, "epochs": epochs, "verbose": 0} | options
    return model, model.fit(*examples(), optimizer=fastnn.SGD(0.1), **options)


def distance(a: fastnn.Sequential, b: fastnn.Sequential) -> float:
    return max(float(np.abs(a.weights[name] - b.weights[name]).max()) for name in a.weights)


def same_bits(a: fastnn.Sequential, b: fastnn.Sequential) -> bool:
    return all(a.weights[name].tobytes() == b.weights[name].tobytes() for name in a.weights)


def kernels(model: fastnn.Sequential, **options: Any) -> list[str]:
    """Of the products of a step."""
    program = model.program(BATCH, device="cuda", **options).instance.program
    return [call.kernel for call in program.calls if call.kernel == "matmul" or call.kernel.startswith("dense")]


def notes(model: fastnn.Sequential, **options: Any) -> dict[str, list[str]]:
    """What each kind of call says of who computes it."""
    instance = model.program(BATCH, device="cuda", **options).instance
    found: dict[str, list[str]] = {}
    for call in instance.computing():
        found.setdefault(call.kernel, []).append(instance.choice(call))
    return found


def number(node: Node) -> int:
    """The algorithm of a product, by the numbers of the stand-in; 0 where none is named."""
    assert isinstance(node, Multiplication)
    return node.product.algorithm[0] if node.product.algorithm else 0


# --- choosing -------------------------------------------------------------------------------------------------------------


def favorite(epilogue: str, algorithm: int) -> Callable[[Node], float]:
    """Clocks by which cuBLASLt is fast with one epilogue and one algorithm, and slow with all others."""

    def cost(node: Node) -> float:
        if isinstance(node, Launch):
            return 1.0 if epilogue == "none" and node.kernel.name.startswith("add_") else 50.0
        return 1.0 if (node.product.epilogue, number(node)) == (epilogue, algorithm) else 30.0

    return cost


def own(tile: str) -> Callable[[Node], float]:
    """Clocks by which our bodies are fast in one tile."""

    def cost(node: Node) -> float:
        if isinstance(node, Multiplication):
            return 90.0
        return 1.0 if f"<float, {tile}" in node.kernel.sections[0].function else 40.0

    return cost


CLOCKS = [
    (favorite("relu_bias", 2), "dense", "cuBLASLt, relu_bias, algorithm 2 of 3 (tuned)"),
    (favorite("none", 3), "dense", "cuBLASLt, algorithm 3 of 3 (tuned)"),
    (favorite("none", 3), "dense_backward_input", "cuBLASLt, algorithm 3 of 3 (tuned)"),
    (favorite("bgradb", 1), "dense_backward_weight", "cuBLASLt, bgradb, algorithm 1 of 3 (tuned)"),
    (own("4, 8"), "dense", "own 4x8 (tuned)"),
    (own("32, 32"), "dense", "own 32x32 (tuned)"),
    (own("64, 64"), "dense_backward_weight", "own 64x64 (tuned)"),
]


def without_masks(clock: Callable[[Node], float]) -> Callable[[Node], float]:
    """The same, and nothing with a mask is worth it."""

    def cost(node: Node) -> float:
        if isinstance(node, Multiplication):
            return 1e4 if node.product.mask else clock(node)
        return 1e4 if "mask" in node.kernel.name else clock(node)

    return cost


@pytest.fixture
def time_all(gpu: Timed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own bodies are timed as well."""
    monkeypatch.setattr(dense, "OWN_UP_TO", dict.fromkeys(dense.OWN_UP_TO, 2**22))


@pytest.mark.usefixtures("time_all")
@pytest.mark.parametrize(("clock", "kernel", "note"), CLOCKS)
def test_the_fastest_is_chosen_and_computes_the_same(
    gpu: Timed, clock: Callable[[Node], float], kernel: str, note: str
) -> None:
    gpu.cost = without_masks(clock)
    model, history = trained(autotune=True)
    assert history.autotuned
    assert note in notes(model, autotune=True)[kernel]
    assert distance(model, trained(device="cpu")[0]) < 1e-6


def test_the_median_of_several_rounds_counts(gpu: Timed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second algorithm is disturbed once, the first more often, the third too slow to be timed again."""
    monkeypatch.setattr(choices, "REPEATS", 20)
    monkeypatch.setattr(choices, "ROUNDS", 5)
    timed = {1: [10, 10, 13, 13, 10, 13], 2: [11, 11, 99, 11, 11, 11], 3: [20]}
    delays = {n: iter([x for x in each for _ in "wt"]) for n, each in timed.items()}  # each is warmed up, then timed
    launched: list[int] = []

    def launch(graph: Sequence[Sequence[Node]], stream: Any) -> None:
        assert [len(stage) for stage in graph] == [1] * 20, "repeats in one graph, one after another"
        launched.append(number(graph[0][0]))
        gpu.now += 20e-6 * next(delays[launched[-1]])

    monkeypatch.setattr(dense, "TIMED_UP_TO", 0)
    monkeypatch.setattr(gpu, "launch", launch)
    engine = engines.gpu(0, autotune=True)
    engine.tune(product_program(), 5)
    (choice,) = engine.choices.values()
    assert isinstance(choice.variant, variants.Library)
    assert (choice.variant.rank, choice.variant.count) == (2, 3)
    assert choice.seconds == pytest.approx(11e-6)
    assert launched == [1, 1, 2, 2, 3, 3, *[1, 1, 2, 2] * 5]


def product_program(columns: int = 7) -> Program:
    trace = Trace()
    a, b = trace.input("a", (B, 6)), trace.input("b", (6, columns))
    (c,) = trace.append("matmul", (a, b), [((B, columns), "float32")], {"transpose_a": False, "transpose_b": False})
    return trace.program({"c": c})


def test_each_product_is_timed_once(gpu: Timed) -> None:
    engine = engines.gpu(0, autotune=True)
    engine.tune(product_program(), 5)
    gpu.asked.clear()
    engine.tune(product_program(), 5)
    assert "capture" not in gpu.asked
    assert engine.tuned == 1
    for program, rows in ((product_program(), 6), (product_program(8), 5)):
        engine.tune(program, rows)
    assert engine.tuned == 3
    assert engines.gpu(0).tuned == 0


def test_alignment_is_part_of_what_is_timed(gpu: Timed) -> None:
    trace = Trace()
    whole = trace.input("whole", (100,))
    for start in (0, 4, 8, 3, 7, 6):
        a = trace.input(f"a{start}", (B, 6))
        trace.append("matmul", (a, whole.view((6, 7), start)), [((B, 7), "float32")], {})
    engine = engines.gpu(0, autotune=True)
    engine.tune(trace.program({}), 5)
    found = sorted(re.findall(r"b@\d+|$", name)[0] for name in engine.choices)
    assert found == ["", "b@4", "b@8"]
    instance = engine.instantiate(trace.program({}), 5)
    assert [instance.choice(call) for call in instance.computing()] == ["cuBLASLt, algorithm 1 of 3 (tuned)"] * 6
    instance.bind(whole=engine.zeros((100,), "float32"))
    instance.bind(**{name: engine.zeros((5, 6), "float32") for name in trace.inputs if name != "whole"})
    instance.play()


def test_an_algorithm_that_does_not_run_is_not_chosen(gpu: Timed, monkeypatch: pytest.MonkeyPatch) -> None:
    multiply = gpu.multiply

    def refuse(node: Multiplication) -> None:
        if number(node) == 1:
            raise CublasError(15, "a test")
        multiply(node)

    monkeypatch.setattr(gpu, "multiply", refuse)
    engine = engines.gpu(0, autotune=True)
    engine.tune(product_program(), 5)
    (choice,) = engine.choices.values()
    assert isinstance(choice.variant, variants.Library)
    assert choice.variant.rank == 2


def test_what_does_not_fit_or_does_not_run_is_left_to_the_rule(gpu: Timed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "TIMED_UP_TO", 0)
    engine = engines.gpu(0, autotune=True)
    gpu.fail_at(0, CudaOutOfMemory(1, 0, 1))
    engine.tune(product_program(), 5)
    gpu.fail_at(None)
    gpu.library.fail["Matmul"] = 13
    engine.tune(product_program(), 5)
    assert not engine.tuned
    instance = engine.instantiate(product_program(), 5)
    assert instance.choice(instance.computing()[0]) == "cuBLASLt"
    del gpu.library.fail["Matmul"]
    gpu.library.nothing_found = True
    engine.tune(product_program(9), 5)
    (choice,) = engine.choices.values()
    assert isinstance(choice.variant, variants.Own), "cuBLASLt has nothing, so that our own bodies were timed"


def test_without_tune_the_rule_decides(gpu: Timed) -> None:
    before, history = trained()
    assert not history.autotuned
    gpu.cost = favorite("none", 3)
    _, history = trained(autotune=True)
    assert history.autotuned
    after, history = trained()
    assert not history.autotuned
    assert same_bits(before, after)
    assert not any("tuned" in note for found in notes(after).values() for note in found)
    assert not any(number(node) for node in multiplications(after))
    assert any(number(node) for node in multiplications(after, autotune=True))


def multiplications(model: fastnn.Sequential, **options: Any) -> list[Node]:
    instance: Any = model.program(BATCH, device="cuda", **options).instance
    return [node for node in instance._calls.nodes(1) if isinstance(node, Multiplication)]


def test_programs_that_were_made_before_are_not_gone_on_with(gpu: Timed) -> None:
    """One model, tuned after it has been trained by the rule and once more when more has been timed."""
    model = network()
    for options in ({}, {"autotune": True}, {}, {"autotune": True, "batch_size": 20}, {"autotune": True}):
        gpu.library.ran.clear()
        gpu.cost = favorite("none", 3)
        model.fit(*examples(), **({"device": "cuda", "batch_size": BATCH, "epochs": 1, "verbose": 0} | options))
        assert (3 in {ran for ran, _ in gpu.library.ran}) == ("autotune" in options)


@pytest.mark.usefixtures("known_limits")
def test_on_the_cpu_there_is_nothing_to_tune() -> None:
    model, history = trained(device="cpu", autotune=True)
    assert not history.autotuned
    assert same_bits(model, trained(device="cpu")[0])
    assert "tuned" not in model.program(BATCH, device="cpu", autotune=True).explain()


def test_explain_says_who_computes_a_product(gpu: Timed, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastnn.engines import explain

    monkeypatch.setattr(explain, "measure_limits", lambda *given: explain.Limits(1, 1e9, ((2**30, 1e9),)))
    monkeypatch.setattr(explain, "SECONDS", 0.0)
    gpu.cost = without_masks(even)
    model, _ = trained(autotune=True)
    lines = model.program(BATCH, device="cuda", autotune=True).explain().splitlines()
    below = {line.split()[0]: after for line, after in itertools.pairwise(lines) if line}
    assert re.fullmatch(r"  cuBLASLt, relu_bias, algorithm 1 of 3 \(tuned\)", below["dense+relu"])
    assert sum("(tuned)" in line for line in lines) == len(kernels(model, autotune=True)) == 5
    assert [line for line in lines if len(line) > 80] == []
    lines = model.program(BATCH, device="cuda").explain().splitlines()
    assert "  cuBLASLt, relu_bias" in lines
    on_cpu = model.program(BATCH, device="cpu").explain()
    assert "own" not in on_cpu


# --- on disk --------------------------------------------------------------------------------------------------------------


def tuned(gpu: Timed, cuda_hosts: Hosts) -> CudaEngine:
    """The engine of a new process, after tuning one product."""
    cuda._opened.clear()
    engine = engines.gpu(0, autotune=True)
    gpu.asked.clear()
    engine.tune(product_program(), 5)
    return engine


def test_choices_are_kept(gpu: Timed, cuda_hosts: Hosts, tmp_path: Path) -> None:
    gpu.cost = favorite("none", 2)
    first = tuned(gpu, cuda_hosts)
    assert "capture" in gpu.asked
    (path,) = tmp_path.iterdir()
    kept = json.loads(path.read_text())
    assert kept["device"] == gpu.name
    assert (kept["cublaslt"], kept["choice_version"]) == (1, dense.CHOICE_VERSION)
    assert list(kept["choices"]) == list(first.choices)
    gpu.cost = favorite("none", 3)
    second = tuned(gpu, cuda_hosts)
    assert "capture" not in gpu.asked
    assert second.choices == first.choices
    (choice,) = second.choices.values()
    assert isinstance(choice.variant, variants.Library)
    assert (choice.variant.rank, choice.variant.algorithm[0]) == (2, 2)
    gpu.version = 2
    third = tuned(gpu, cuda_hosts)
    assert "capture" in gpu.asked, "another version of cuBLASLt"
    assert third.choices != first.choices
    assert len(list(tmp_path.iterdir())) == 2


def test_processes_add_to_what_is_kept(gpu: Timed, cuda_hosts: Hosts) -> None:
    cuda._opened.clear()
    here = engines.gpu(0, autotune=True)
    there = CudaEngine(gpu, "tf32", autotune=True)
    here.tune(product_program(), 5)
    there.tune(product_program(), 5)
    assert there.tuned == 2
    assert tuned(gpu, cuda_hosts).tuned == 2
    assert "capture" not in gpu.asked


GOOD = '"matmul": {"seconds": 1e-5, "library": null, "own": {"rows": 32, "columns": 32, "splits": 1}}'


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"device": "a GPU made of the host"}',
        b'{"device": "another", "cublaslt": 1, "choice_version": VERSION, "choices": {}}',
        b'{"device": "a GPU made of the host", "cublaslt": 7, "choice_version": VERSION, "choices": {}}',
        *(
            b'{"device": "a GPU made of the host", "cublaslt": 1, "choice_version": VERSION, "choices": {%s}}' % each.encode()
            for each in (
                GOOD.replace("1e-5", "-1"),
                GOOD.replace("1e-5", '"fast"'),
                GOOD.replace('"splits": 1', '"splits": 0'),
                GOOD.replace('"own"', '"more": 2, "own"'),
                '"matmul": {"seconds": 1e-5}',
                GOOD.replace("null", '{"epilogue": "none", "algorithm": "AAAA", "rank": 1, "count": 1}'),
                '"matmul": {"seconds": 1e-5, "library": {"epilogue": "none", "algorithm": "AAAA", "rank": 1, "count": 1}}',
            )
        ),
    ],
)
def test_a_file_that_is_damaged_or_of_another_costs_one_warning(
    gpu: Timed, cuda_hosts: Hosts, tmp_path: Path, content: bytes
) -> None:
    expected = tuned(gpu, cuda_hosts).choices
    (path,) = tmp_path.iterdir()
    whole = path.read_text()
    good = f'{{"device": "{gpu.name}", "cublaslt": 1, "choice_version": {dense.CHOICE_VERSION}, "choices": {{{GOOD}}}}}'
    path.write_text(good)
    cuda._opened.clear()
    assert list(engines.gpu(0, autotune=True).choices) == ["matmul"], "this one is whole"
    path.write_bytes(content.replace(b"VERSION", b"%d" % dense.CHOICE_VERSION))
    with pytest.warns(RuntimeWarning, match="cannot be used") as raised:
        assert tuned(gpu, cuda_hosts).choices == expected
    assert len(raised) == 1
    assert path.read_text() == whole


def test_a_folder_that_cannot_be_used_ends_nothing(
    gpu: Timed, cuda_hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices, "cache_folder", lambda: None)
    assert tuned(gpu, cuda_hosts).tuned == 1
    monkeypatch.setattr(choices, "cache_folder", lambda: tmp_path / "gone")
    with pytest.warns(RuntimeWarning, match="cannot be kept"):
        assert tuned(gpu, cuda_hosts).tuned == 1


def test_a_choice_that_means_nothing_here_is_left(gpu: Timed, tmp_path: Path, cuda_hosts: Hosts) -> None:
    """No such tile, no such epilogue, an algorithm that cuBLASLt does not know: the rule decides, or the heuristic."""
    (name,) = tuned(gpu, cuda_hosts).choices
    (path,) = tmp_path.iterdir()
    kept = json.loads(path.read_text())

    def noted(way: dict[str, Any]) -> str:
        path.write_text(json.dumps(kept | {"choices": {name: {"seconds": 1.0} | way}}))
        cuda._opened.clear()
        engine = engines.gpu(0, autotune=True)
        instance = engine.instantiate(product_program(), 5)
        a, b = engine.to_device(np.ones((5, 6), "float32")), engine.to_device(np.ones((6, 7), "float32"))
        instance.bind(a=a, b=b)
        instance.play()
        assert (engine.read(instance.output("c"))[0] == 6).all()
        return instance.choice(instance.computing()[0])

    assert noted({"own": {"rows": 5, "columns": 7, "splits": 1}}) == "cuBLASLt"
    library = kept["choices"][name]["library"]
    assert noted({"library": library | {"epilogue": "bias"}}) == "cuBLASLt"
    assert noted({"library": library | {"epilogue": "nothing"}}) == "cuBLASLt"
    with pytest.warns(RuntimeWarning, match="is not taken"):
        noted({"library": library | {"algorithm": ZEROS}})


ZEROS = "AAAA" * 21 + "AA=="
"""64 bytes in base64."""


# --- masks: the kernels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("m", "k", "n"), [*PRODUCT_SHAPES, (3, 4000, 5)])
def test_kernels_with_masks(m: int, k: int, n: int, dtype: str) -> None:
    rng = np.random.default_rng(0)
    x, w, b, v = (rng.uniform(-1, 1, shape).astype(dtype) for shape in ((m, k), (k, n), (n,), (n, k)))
    mask = rng.integers(0, 256, (m, mask_pitch(n)), np.uint8)
    y, made = check_kernel("dense_with_mask", [x, w, b], [((m, n), dtype), (mask.shape, "uint8")], tolerance=8 + k / 4)
    assert (np.unpackbits(made, axis=1, count=n, bitorder="little") == (y > 0)).all()
    (dx,) = check_kernel("dense_backward_input_with_mask", [x, v, mask], [((m, n), dtype)], tolerance=8 + k / 4)
    db, expected = np.full(n, np.nan, dtype), np.full(n, np.nan)
    host.run("dense_backward_input_with_mask", [x, v, mask, dx, db], {})
    definition.dense_backward_input_with_mask(wide(x), wide(v), mask, wide(dx), expected)
    assert_close(db, expected, (8 + k / 4) * (8 + m) * EPSILON[dtype])


def test_kernels_with_masks_count_the_gradient_of_the_bias() -> None:
    shapes = ((4, 3), (5, 3), (4, 16), (4, 5), (5,))
    operands = [Operand(shape, np.dtype("uint8" if shape == (4, 16) else "float32")) for shape in shapes]
    entry = KERNELS["dense_backward_input_with_mask"]
    assert entry.sets == ("numpy", "cuda")
    assert entry.operations(operands) == entry.operations(operands[:-1]) + 20
    assert entry.traffic(operands) == entry.traffic(operands[:-1]) + 20


# --- masks: programs ------------------------------------------------------------------------------------------------------


def test_masks_by_the_rule(gpu: Timed) -> None:
    """Not in float32; in tf32 the gradient of the bias is made with dx, which in bfloat16 has another type than it."""
    model, _ = trained()
    assert sorted(kernels(model)) == sorted(["dense", "dense", "dense_backward_input", *["dense_backward_weight"] * 2])
    summed = ["dense_with_mask", "dense", "dense_backward_input_with_mask", "dense_backward_weight", "matmul"]
    assert sorted(kernels(model, precision="tf32")) == sorted(summed)
    alone = ["dense_with_mask", "dense", "dense_backward_input_with_mask", *["dense_backward_weight"] * 2]
    assert sorted(kernels(model, precision="bf16")) == sorted(alone)
    assert notes(model, precision="tf32")["dense_backward_input_with_mask"] == ["cuBLASLt, drelu_bgrad"]
    assert notes(model, precision="bf16")["dense_backward_input_with_mask"] == ["cuBLASLt, drelu"]


@pytest.mark.parametrize(("precision", "hidden"), [("tf32", (9,)), ("tf32", (130, 5, 33)), ("bf16", (9,)), ("bf16", (130, 5))])
def test_masks_compute_the_same(gpu: Timed, precision: str, hidden: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.library.ran.clear()
    with_masks, _ = trained(*hidden, precision=precision)
    assert "dense_with_mask" in kernels(with_masks, precision=precision)
    monkeypatch.setattr(dense, "MASKED", ())
    cuda._opened.clear()
    without, _ = trained(*hidden, precision=precision)
    assert "dense_with_mask" not in kernels(without, precision=precision)
    assert distance(with_masks, without) < (1e-6 if precision == "tf32" else 2e-2)
    assert distance(with_masks, network(*hidden).build(FEATURES)) > 1e-2, "something was learned"


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize("refused", [*cublaslt.EPILOGUES, "all"])
def test_what_is_refused_ends_no_training(gpu: Timed, refused: str, precision: str) -> None:
    gpu.library.refused = set(cublaslt.EPILOGUES.values()) if refused == "all" else {cublaslt.EPILOGUES[refused]}
    model, _ = trained(precision=precision)
    masks = sum("with_mask" in name for name in kernels(model, precision=precision))
    lost = {"relu_aux_bias", "drelu", "drelu_bgrad"} if precision == "bf16" else {"relu_aux_bias"}
    assert masks == (0 if refused in lost - {"drelu_bgrad"} or refused == "all" else 2)
    assert distance(model, trained(device="cpu")[0]) < (1e-6 if precision == "tf32" else 2e-2)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_timing_decides_on_masks(gpu: Timed, precision: str) -> None:
    """What is cheap with a mask is taken in every precision, what is dear in none."""

    def cheap(node: Node) -> float:
        return 1.0 if isinstance(node, Multiplication) and node.product.mask else 10.0

    gpu.cost = cheap
    model, _ = trained(precision=precision, autotune=True)
    assert sum("with_mask" in name for name in kernels(model, precision=precision, autotune=True)) == 2
    gpu.cost = without_masks(even)
    gpu.version = 2
    cuda._opened.clear()
    other, _ = trained(precision=precision, autotune=True)
    assert sum("with_mask" in name for name in kernels(other, precision=precision, autotune=True)) == 0
    assert distance(model, other) < (1e-6 if precision != "bf16" else 2e-2)


def of(model: fastnn.Sequential) -> Program:
    """The step on a processor, where no engine has changed it."""
    return model.program(BATCH, device="cpu").program


def most(ways: Sequence[Variant]) -> Variant:
    return ways[1]


def test_a_layer_with_relu_has_three_ways() -> None:
    program = of(network(9, 5).build(FEATURES))
    found = list(alternatives(program))
    assert [len(ways) for ways in found] == [3, 3]
    assert choose_relu_masks(program, lambda ways: ways[0]).calls == program.calls
    counts = []
    for index in range(3):
        calls = [call.kernel for call in choose_relu_masks(program, lambda ways, index=index: ways[index]).calls]  # type: ignore[misc]
        counts.append([calls.count(name) for name in (*COUNTED, "dense_backward_weight", "matmul")])
    assert counts == [[3, 2, 0, 0, 3, 0], [1, 0, 2, 2, 1, 2], [1, 0, 2, 2, 3, 0]]


COUNTED = ("dense", "dense_backward_input", "dense_with_mask", "dense_backward_input_with_mask")


def test_gradients_are_where_they_were() -> None:
    program = of(network(9, 5).build(FEATURES))
    changed = choose_relu_masks(program, most)

    def written(program: Program) -> dict[str, int]:
        """How often each gradient is made."""
        found: dict[str, int] = {}
        for call in program.calls:
            for symbol in call.outputs:
                if symbol.name.startswith("d "):
                    found[symbol.name] = found.get(symbol.name, 0) + 1
        return found

    assert written(changed) == written(program)
    assert len(written(program)) == 6
    assert set(written(program).values()) == {1}


@pytest.mark.parametrize("activation", ["tanh", "leaky_relu"])
def test_other_activations_have_no_mask(activation: str) -> None:
    assert not list(alternatives(of(network(9, activation=activation).build(FEATURES))))


def test_a_layer_whose_output_is_differentiated_elsewhere_has_no_mask() -> None:
    layers = [fastnn.Dense(9, activation="relu"), fastnn.Dropout(0.5), fastnn.Dense(CLASSES)]
    assert not list(alternatives(of(fastnn.Sequential(layers, seed=3).build(FEATURES))))


def test_a_bias_gradient_whose_memory_is_in_use_is_not_made_sooner() -> None:
    """Something between reads what lies where it will be."""
    program = of(network(9).build(FEATURES))
    (weight,) = (c for c in program.calls if c.kernel == "dense_backward_weight" and c.inputs[1].shape[1] == 9)
    at = program.calls.index(weight)
    db = weight.outputs[1]
    for offset, ways in ((0, 2), (8, 2), (9, 3)):
        region = db.root.view((1,), db.start + offset)
        reader = Call("identity", (region, program.calls[0].outputs[0].trace.input(f"kept{offset}", (1,))))
        changed = program.with_calls([*program.calls[:at], reader, *program.calls[at:]])
        (found,) = alternatives(changed)
        assert len(found) == ways, offset
