"""What a GPU is asked first, one section a process, so that a GPU that fails ends one section only.

    python ci/gpu_probe.py SECTION FILE [CONTESTANT]

Appends a JSON object to FILE for each finding, as soon as it is known: `section`, `what`, `ok`, figures, and `error` where it
is not ok. Ends with 1 if something was not ok.

    open      versions, what opening a GPU takes, its properties
    compile   every body of every family by the compiler that is here, for this GPU
    copies    whether copies read and write memory of the host when the library expects it
    products  every epilogue of cuBLASLt by precision and transposition, each first used inside a capture
    kernels   the first case of every kernel, at two alignments, against its definition
    bits      digests of trainings that must be equal
    cells     alone on the GPU: a step by events, a whole call of `fit`, what it begins with, and captures
    peer      seconds of an epoch of CONTESTANT, a name in `fastnn.benchmarks.peers.CONTESTANTS`

The variables CELLS, KERNELS, PRODUCTS and REPEATS of the environment select a part, see `ci/gpu.sh`.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

CELLS = "mnist:128 wide:8192 nielsen:8 deep:128 mnist:8192 wide:128 deep:8192 planar:400 wide:65536"
"""Networks of the benchmark and mini-batches, those that tell most first."""
REPEATS = 5
"""Calls of `fit` that are timed, after as many that are not; trainings that must have equal bits."""

GROSS = 2.0**14
"""Epsilons beyond which a kernel is wrong and not imprecise; the tests of each kernel know how precise it has to be."""
ERRORS = {"float32": 1e-5, "tf32": 5e-3, "bf16": 2e-2, "float64": 1e-13}
"""Of a product, relative to its norm."""


class Findings:
    """The lines of a section."""

    def __init__(self, section: str, path: Path) -> None:
        self.section, self.path = section, path
        self.count = 0
        self.wrong: list[str] = []
        self._began = time.perf_counter()

    def add(self, what: str, ok: bool, **figures: Any) -> None:
        at = round(time.perf_counter() - self._began, 2)
        line = json.dumps({"section": self.section, "what": what, "ok": ok, "at": at, **figures}, default=str)
        with self.path.open("a") as file:
            file.write(line + "\n")
        print(line[:400], flush=True)
        self.count += 1
        self.wrong += [] if ok else [f"{what}: {figures.get('error', '')}"]

    def measure(self, what: str, call: Callable[[], Any]) -> None:
        """Add what a call returns, a mapping or one value, with the milliseconds that it took; an error is a finding."""
        started = time.perf_counter()
        try:
            value = call()
        except Exception as error:
            self.add(what, False, error=f"{type(error).__name__}: {error}"[:600])
            return
        figures = value if isinstance(value, Mapping) else {"value": value}
        self.add(what, True, ms=round(1e3 * (time.perf_counter() - started), 2), **figures)


def check(condition: object, error: str) -> None:
    """Raise AssertionError unless a condition holds; with `python -O` as well."""
    if not condition:
        raise AssertionError(error)


# --- what is asked for ------------------------------------------------------------------------------------------------


def is_wanted(kind: str, name: str) -> bool:
    """Whether `kind`, KERNELS or PRODUCTS, selects a name. Raises re.error for what is no regular expression."""
    return re.search(os.environ.get(kind, ""), name) is not None


def wanted_cells() -> list[Any]:
    """On the GPU, by CELLS. Raises ValueError for what names none."""
    from fastnn.benchmarks import grid

    text = os.environ.get("CELLS") or CELLS
    names = [word.partition(":") for word in text.split()]
    if not all(network in grid.NETWORKS and size.isdecimal() and int(size) for network, _, size in names):
        raise ValueError(f"CELLS: expected such as mnist:128, with a network of {', '.join(grid.NETWORKS)}, got {text!r}")
    return [grid.Cell(network, int(size), "cuda") for network, _, size in names]


def repeats() -> int:
    """By REPEATS. Raises ValueError for what is no integer >= 1."""
    text = os.environ.get("REPEATS") or str(REPEATS)
    if not (text.isdecimal() and int(text)):
        raise ValueError(f"REPEATS: expected an integer >= 1, got {text!r}")
    return int(text)


# --- does it open, compile, copy --------------------------------------------------------------------------------------


def ask_to_open(findings: Findings) -> None:
    def properties() -> dict[str, Any]:
        import cupy

        names = ("sharedMemPerBlockOptin", "l2CacheSize", "pageableMemoryAccess", "asyncEngineCount", "multiProcessorCount")
        found = cupy.cuda.runtime.getDeviceProperties(0)
        return {name: found.get(name) for name in names}

    def versions() -> dict[str, Any]:
        import cupy

        runtime = cupy.cuda.runtime
        return {"cupy": cupy.__version__, "built": runtime.runtimeGetVersion(), "driver": runtime.driverGetVersion()}

    def compiler() -> dict[str, Any]:
        from fastnn_kernels.cuda.compiling import version

        return {"nvrtc": version()}

    def device() -> dict[str, Any]:
        from fastnn_kernels.cuda.device import open_device

        runtime = open_device(0)
        check(runtime.device.products, "cuBLASLt cannot be used")
        return {"name": runtime.name, "device": repr(runtime.device)[:200], "cublaslt": runtime.products_version}

    findings.measure("importing numba", lambda: __import__("numba").__version__)
    findings.measure("versions", versions)
    findings.measure("opening the GPU", device)
    findings.measure("NVRTC", compiler)
    findings.measure("properties", properties)


def ask_compiler(findings: Findings) -> None:
    from cuda_on_host import calls

    from fastnn_kernels.cuda.compiling import machine_codes
    from fastnn_kernels.cuda.device import open_device
    from fastnn_kernels.cuda.kernels import kernel, unit
    from fastnn_kernels.cuda.lowering import LOWERINGS, Body, lower

    device = open_device(0).device

    def compile_family(names: list[str]) -> dict[str, Any]:
        kernels = {}
        for name in names:
            case = calls.cases().CASES[name][0]
            precision = calls.precisions(case)[0]
            works = lower(name, calls.operands(case, precision), case.attributes, device).works
            kernels |= {each.name: each for each in (kernel([work]) for work in works if isinstance(work, Body))}
        codes = machine_codes({name: unit([each]) for name, each in kernels.items()}, device.architecture)
        return {"kernels": len(codes), "bytes": sum(map(len, codes.values()))}

    for family in sorted({family for family, _ in LOWERINGS.values()}):
        names = [name for name, (of, _) in LOWERINGS.items() if of == family and name in calls.cases().CASES]
        names = [name for name in names if is_wanted("KERNELS", name)]
        if names:
            findings.measure(family, functools.partial(compile_family, names))


def ask_for_copies(findings: Findings) -> None:
    from fastnn import engines

    engine = engines.gpu(0)
    runtime, size = engine.runtime, 2**26
    target, slow = engine.empty((size,), "uint8"), engine.empty((2**29,), "uint8")

    def keep_busy() -> None:
        for _ in range(4):
            runtime.clear(slow.address, slow.nbytes, runtime.stream)

    def change_at_once() -> dict[str, Any]:
        """`DeviceArray.write` lets go of its source when it returns."""
        keep_busy()
        source = np.ones(size, np.uint8)
        runtime.upload(target.address, source, runtime.stream)
        source[:] = 2
        stale = int((target.read() != 1).sum())
        check(not stale, f"{stale} of {size} bytes were read after the call had returned")
        return {"bytes": size}

    def read_at_once() -> dict[str, Any]:
        keep_busy()
        there = np.zeros(size, np.uint8)
        runtime.download(there, target.address, runtime.stream)
        missing = int((there == 0).sum())
        engine.wait()
        check((there == 1).all(), "other bytes came back")
        return {"bytes that came only later": missing}

    def rates() -> dict[str, Any]:
        pageable, pinned = np.ones(size, np.uint8), runtime.allocate_pinned(size)
        found = {}
        for name, source in (("pageable", pageable), ("pinned", pinned)):
            engine.wait()
            started = time.perf_counter()
            runtime.upload(target.address, source, runtime.stream)
            engine.wait()
            found[f"{name} GB/s"] = round(size / (time.perf_counter() - started) / 1e9, 2)
        return found

    findings.measure("a source that changes after an upload", change_at_once)
    findings.measure("a download from pageable memory", read_at_once)
    findings.measure("rates", rates)


# --- does it compute --------------------------------------------------------------------------------------------------


def every_product() -> Iterator[tuple[str, str, Any]]:
    """(name, precision, product), for three sizes, the transpositions that training needs, five kinds, every epilogue."""
    from fastnn_kernels.cuda.cublaslt import EPILOGUES, READS_BIAS, USES_MASK, WRITES_BIAS
    from fastnn_kernels.cuda.lowering import Pointer, Product

    sizes = ((256, 512, 384), (8192, 10, 512), (130, 77, 65))
    transpositions = ((False, False), (False, True), (True, False))
    kinds = (
        ("float", "float", "float32"), ("float", "float", "tf32"), ("bf16", "bf16", "float32"), ("bf16", "float", "float32"),
        ("double", "double", "float64"),
    )  # fmt: skip
    for shape, (a, b), (operand, result, compute), epilogue in itertools.product(sizes, transpositions, kinds, EPILOGUES):
        has_bias = epilogue in READS_BIAS + WRITES_BIAS
        product = Product(
            Pointer(0, operand, False), Pointer(1, operand, False), Pointer(2, result, True), *shape, a, b, compute, epilogue,
            Pointer(3, result, epilogue in WRITES_BIAS) if has_bias else None,
            Pointer(4, "u8", epilogue == "relu_aux_bias") if epilogue in USES_MASK else None,
        )  # fmt: skip
        letters = "".join("T" if each else "N" for each in (a, b))
        name = f"{'x'.join(map(str, shape))} {letters} {operand}->{result} {compute} {epilogue}"
        yield name, "bf16" if operand == "bf16" else compute, product


def ask_for_products(findings: Findings) -> None:
    import ml_dtypes

    from fastnn import engines
    from fastnn_kernels.contract import mask_pitch
    from fastnn_kernels.cuda.cublaslt import READS_BIAS
    from fastnn_kernels.cuda.runtime import Multiplication

    engine, rng = engines.gpu(0), np.random.default_rng(0)
    runtime = engine.runtime
    types = {"float": np.float32, "double": np.float64, "bf16": ml_dtypes.bfloat16}

    def compute(product: Any, precision: str) -> dict[str, Any]:
        rows, columns, inner, epilogue = product.rows, product.columns, product.inner, product.epilogue
        a = rng.standard_normal((inner, rows) if product.transpose_a else (rows, inner)).astype(types[product.a.type])
        b = rng.standard_normal((columns, inner) if product.transpose_b else (inner, columns)).astype(types[product.b.type])
        bias = rng.standard_normal(rows if epilogue == "bgrada" else columns).astype(types[product.c.type])
        bits = rng.integers(0, 256, (rows, mask_pitch(columns)), np.uint8)
        left, right = (m.astype(np.float64) for m in (a.T if product.transpose_a else a, b.T if product.transpose_b else b))
        expected = left @ right + (bias.astype(np.float64) if epilogue in READS_BIAS else 0.0)
        if epilogue in ("relu_bias", "relu_aux_bias"):
            expected = np.maximum(expected, 0)
        if epilogue in ("drelu", "drelu_bgrad"):
            expected *= np.unpackbits(bits, axis=1, bitorder="little")[:, :columns]
        sums = {"drelu_bgrad": expected.sum(0), "bgrada": left.sum(1), "bgradb": right.sum(0)}.get(epilogue)

        there = [engine.to_device(array) for array in (a, b, np.full((rows, columns), np.nan).astype(types[product.c.type]))]
        there += [engine.to_device(bias)] if product.bias is not None else []
        there += [engine.to_device(bits)] if product.mask is not None else []
        node = Multiplication(product, tuple(array.address for array in there))
        runtime.prepare([node])
        graph = runtime.capture([[node]])
        runtime.launch(graph, runtime.stream)
        c = there[2].read()
        found = {"error": float(np.linalg.norm(c.astype(np.float64) - expected) / np.linalg.norm(expected))}
        if sums is not None:
            found["error of sums"] = float(np.linalg.norm(there[3].read().astype(np.float64) - sums) / np.linalg.norm(sums))
        worst = max(found.values())
        check(worst <= ERRORS[precision], f"an error of {worst:.3g} where {ERRORS[precision]:.3g} is allowed")
        if epilogue == "relu_aux_bias":
            mask = np.unpackbits(there[-1].read(), axis=1, bitorder="little")[:, :columns].astype(bool)
            wrong = int((mask != (c.astype(np.float64) > 0)).sum())
            check(not wrong, f"{wrong} bits of the mask are wrong")
        runtime.launch(graph, runtime.stream)
        check(there[2].read().tobytes() == c.tobytes(), "other bits the second time")
        return found

    for name, precision, product in every_product():
        if not is_wanted("PRODUCTS", name):
            continue

        def ask(product: Any = product, precision: str = precision) -> dict[str, Any]:
            return compute(product, precision) if runtime.device.supports(product) else {"supported": False}

        findings.measure(name, ask)


def ask_for_kernels(findings: Findings) -> None:
    import laws
    from cuda_on_host import calls

    import fastnn_kernels.numpy as definition
    from fastnn_kernels.contract import KERNELS
    from fastnn_kernels.cuda.lowering import LOWERINGS

    def run(name: str, case: Any, precision: str) -> dict[str, Any]:
        worst, entry = 0.0, KERNELS[name]
        epsilon = float(np.finfo(precision).eps) if precision.startswith("float") else 1.0
        for beyond in (0, 1):
            arrays = case.arrays(precision)
            expected = [laws.wide(array.copy()) for array in arrays]
            with np.errstate(all="ignore"):
                getattr(definition, name)(*expected, **case.attributes)
            laws.run_on_gpu(name, arrays, case.attributes, beyond=beyond)
            first = len(entry.inputs)
            for operand, array, exact in zip(
                (*entry.updated, *entry.outputs), arrays[first:], expected[first:], strict=True
            ):  # fmt: skip
                if array.dtype.kind != "f":
                    check(np.array_equal(array, exact), f"{operand}: other values")
                    continue
                check((np.isnan(array) == np.isnan(exact)).all(), f"{operand}: NaN in other places")
                with np.errstate(all="ignore"):
                    errors = np.abs(array - exact) / np.maximum(1.0, np.abs(exact))
                worst = max(worst, float(np.nanmax(errors, initial=0.0)))
        check(worst <= GROSS * epsilon, f"an error of {worst:.3g}")
        return {"epsilons": round(worst / epsilon, 2)}

    for name in LOWERINGS:
        if name in calls.cases().CASES and hasattr(definition, name) and is_wanted("KERNELS", name):
            case = calls.cases().CASES[name][0]
            for precision in calls.precisions(case):
                findings.measure(f"{name} {precision}", functools.partial(run, name, case, precision))


def ask_for_bits(findings: Findings) -> None:
    import trainings

    import fastnn.training.chunks as chunks
    from fastnn.data import feeds

    def digest() -> str:
        return trainings.digest(trainings.run(device="cuda"))[:12]

    expected = digest()

    def compare(count: int = 1) -> str:
        others = {digest() for _ in range(count)} - {expected}
        check(not others, f"{', '.join(sorted(others))} and not {expected}")
        return expected

    findings.measure("run after run", functools.partial(compare, repeats()))
    os.environ["FASTNN_CUDA_CAPTURE"] = "0"
    findings.measure("kernels launched one by one", compare)
    del os.environ["FASTNN_CUDA_CAPTURE"]
    rows = chunks.LOG_ROWS
    for chunks.LOG_ROWS in (1, 7):
        findings.measure(f"chunks of {chunks.LOG_ROWS} steps", compare)
    chunks.LOG_ROWS = rows
    feeds.RESIDENT_SHARE, feeds.BLOCK_BYTES = 0.0, 100 * 37 * 4
    findings.measure("data that are streamed", compare)


# --- how fast ---------------------------------------------------------------------------------------------------------


def name_cell(cell: Any) -> dict[str, Any]:
    """The figures by which records are laid beside others."""
    return {"network": cell.network, "batch_size": cell.batch_size, "rows": cell.rows}


def ask_cells(findings: Findings) -> None:
    from fastnn import engines
    from fastnn.benchmarks import grid, peers
    from fastnn.network.state import State

    cells, fits = wanted_cells(), repeats()

    runtime = engines.gpu(0).runtime
    spent = {"begin": 0.0, "captures": 0}
    begin, capture = State.begin, runtime.capture

    def timed_begin(*arguments: Any) -> None:
        started = time.perf_counter()
        begin(*arguments)
        spent["begin"] += time.perf_counter() - started

    def counted_capture(stages: Any) -> Any:
        spent["captures"] += 1
        return capture(stages)

    State.begin, runtime.capture = timed_begin, counted_capture  # type: ignore[method-assign]

    def step(contestant: Any, cell: grid.Cell) -> dict[str, Any]:
        """How a step is played, and microseconds of it, by events around the longest graph that stays within the data; where
        nodes are side by side, also around one with the same nodes in a row."""
        instance = contestant.model.program(
            cell.batch_size, loss=contestant.loss, optimizer=contestant.optimizer, device="cuda"
        ).instance  # fmt: skip
        player, steps = instance._calls, cell.rows // cell.batch_size
        length = next(each for each in player.lengths if each <= max(1, steps))

        def fastest(play: Callable[[], None]) -> float:
            best = float("inf")
            for turn in range(6):
                instance.engine.write(instance.bound["control"], (0,) * 8)
                before, after = runtime.event(), runtime.event()
                runtime.record(before, runtime.stream)
                play()
                runtime.record(after, runtime.stream)
                seconds = runtime.elapsed_seconds(before, after) / length
                best = min(best, seconds) if turn else best  # the first one captures
            return 1e6 * best

        found = {"played": player.describe(), "step_us": fastest(lambda: player._play(length, runtime.stream))}
        if any(len(stage) > 1 for stage in player.stages(length)):
            row = runtime.capture([[node] for node in player.nodes(length)])
            found["row_us"] = fastest(lambda: runtime.launch(row, runtime.stream))
        return found

    def measure(cell: grid.Cell) -> dict[str, Any]:
        contestant: Any = peers.load(peers.CONTESTANTS["fastnn"].home)(grid.make_task(cell, 1))
        started = time.perf_counter()
        contestant.fit()
        first = time.perf_counter() - started
        for _ in range(fits):
            contestant.fit()
        spent.update(begin=0.0, captures=0)
        started = time.perf_counter()
        for _ in range(fits):
            contestant.fit()
        whole = (time.perf_counter() - started) / fits
        figures: dict[str, Any] = {"captures": spent["captures"] / fits, "begin_ms": 1e3 * spent["begin"] / fits}
        figures |= step(contestant, cell)
        figures |= {"first_fit_s": first, "fit_ms": 1e3 * whole, "steps_ms": 1e-3 * figures["step_us"] * cell.steps}
        rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in figures.items()}
        return {**name_cell(cell), "steps": cell.steps, **rounded}

    for cell in cells:
        findings.measure(str(cell), functools.partial(measure, cell))


def ask_peer(findings: Findings, name: str) -> None:
    """Losses are not compared here: `fastnn bench` does that before it times anybody."""
    from fastnn.benchmarks import grid, peers

    cells, fits = wanted_cells(), repeats()
    epochs = min(3, fits)
    entry = peers.CONTESTANTS[name]
    check(not entry.missing(), entry.missing())
    if entry.flags:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {entry.flags}".strip()
    kind = peers.load(entry.home)

    def measure(cell: grid.Cell) -> dict[str, Any]:
        started = time.perf_counter()
        contestant = kind(grid.make_task(cell, 1))
        contestant.time(epochs)
        ready = time.perf_counter() - started
        best = min(contestant.time(epochs) for _ in range(fits))
        return {**name_cell(cell), "contestant": name, "epoch_ms": round(1e3 * best, 3), "ready_s": round(ready, 2)}

    for cell in cells:
        findings.measure(str(cell), functools.partial(measure, cell))


SECTIONS: dict[str, Callable[..., None]] = {
    "open": ask_to_open, "compile": ask_compiler, "copies": ask_for_copies, "products": ask_for_products,
    "kernels": ask_for_kernels, "bits": ask_for_bits, "cells": ask_cells, "peer": ask_peer,
}  # fmt: skip


def main(arguments: list[str]) -> int:
    if len(arguments) != (3 if arguments[:1] == ["peer"] else 2) or arguments[0] not in SECTIONS:
        print(__doc__, file=sys.stderr)
        return 2
    section, path, *rest = arguments
    findings = Findings("-".join([section, *rest]), Path(path))
    try:
        SECTIONS[section](findings, *rest)
        check(findings.count, "nothing is left of it by CELLS, KERNELS or PRODUCTS")
    except Exception as error:
        findings.add("the whole section", False, error=f"{type(error).__name__}: {error}"[:600])
    first = f", {len(findings.wrong)} not right; first {findings.wrong[0]}" if findings.wrong else ", all right"
    print(f"{findings.count} findings{first}")
    return 1 if findings.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
