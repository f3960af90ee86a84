"""Every kernel in every kernel set, checked against its definition in float64 and then timed.

CPU kernels are timed as training plays them: a program of one call, played `repeats` times by compiled code in one timed call.
How often is decided by the contract's operations and bytes alone, so that two runs time the same work.
NumPy functions are called from Python, with BLAS on one thread. On a GPU the same programs are captured as graphs and timed by
events, on data that lie there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import CASES, Case
from laws import EPSILON, assert_close, wide
from measuring import DeviceTime, Work, note, require
from threadpoolctl import threadpool_limits

import fastnn_kernels.numpy as numpy_set
from fastnn import engines
from fastnn.engines import Engine, Instance, cores
from fastnn.program.trace import Call, Trace
from fastnn_kernels.contract import KERNELS, Operand

RATE, BANDWIDTH = 100e9, 20e9
"""Operations and bytes a second: a guess for every machine, from which the number of repeats follows."""
TIMED = 2e-3
"""Seconds that a timed call should take, by that guess."""
MOST_REPEATS = 2000
LARGE = 5e-6
"""Seconds of one call, by that guess, from which on all cores are tried too."""

quickly = pytest.mark.benchmark(max_time=0.1, min_rounds=5)


def work_of(case: Case, precision: str) -> Work:
    """Of one call."""
    operands = tuple(Operand(array.shape, array.dtype) for array in case.arrays(precision))
    kernel = KERNELS[case.kernel]
    return [(kernel.operations(operands, case.attributes), kernel.traffic(operands))]


def guess(work: Work) -> float:
    """Seconds of one call, roughly."""
    return max(max(operations / RATE, moved / BANDWIDTH) for operations, moved in work)


CHOSEN = [(case, precision) for known in CASES.values() for case in known for precision in case.precisions]
"""Every case with each of its precisions."""


def on_numpy() -> list[Any]:
    return [pytest.param(case, precision, id=f"{case.kernel}-{case.label}-{precision}") for case, precision in CHOSEN]


def on_cpu() -> list[Any]:
    """With one thread, and where there is work for several with one a core; equal names on every machine."""
    found = []
    for case, precision in CHOSEN:
        if "cpu" not in KERNELS[case.kernel].sets:
            continue
        several = cores() > 1 and guess(work_of(case, precision)) > LARGE
        for threads, label in ((1, "one-thread"), (cores(), "all-cores"))[: 1 + several]:
            found.append(pytest.param(case, precision, threads, id=f"{case.kernel}-{case.label}-{precision}-{label}"))
    return found


def check(case: Case, precision: str, before: list[np.ndarray], after: list[np.ndarray]) -> None:
    """Compare what one call wrote with the definition, in float64 and on the same values."""
    expected = [wide(array.copy()) for array in before]
    with np.errstate(all="ignore"):
        getattr(numpy_set, case.kernel)(*expected, **case.attributes)
    kernel = KERNELS[case.kernel]
    tolerance = case.tolerance * EPSILON.get(precision, 0.0)
    for operand, actual, right in list(zip(kernel.operands, after, expected, strict=True))[len(kernel.inputs) :]:
        assert_close(actual, right, tolerance, f"{case.kernel}.{operand}", case.cancels)


def check_finite(case: Case, arrays: list[np.ndarray]) -> None:
    """What is updated in place was updated many times meanwhile."""
    for operand, array in zip(KERNELS[case.kernel].operands, arrays, strict=True):
        assert operand not in KERNELS[case.kernel].updated or np.isfinite(array).all(), f"{operand} is no longer finite"


def one_call(case: Case, arrays: list[Any], threads: int, engine: Engine = engines.CPU) -> Instance:
    """A program of one call on these arrays of the engine."""
    trace = Trace()
    names = KERNELS[case.kernel].operands
    symbols = [trace.input(name, array.shape, array.dtype) for name, array in zip(names, arrays, strict=True)]
    trace.calls.append(Call(case.kernel, tuple(symbols), case.attributes))
    instance = engine.instantiate(trace.program({}), 0, threads)
    instance.bind(**dict(zip(names, arrays, strict=True)))
    return instance


def repeats_of(work: Work) -> int:
    """Plays in one timed call."""
    return max(1, round(TIMED / max(guess(work), TIMED / MOST_REPEATS)))


@quickly
@pytest.mark.parametrize(("case", "precision", "threads"), on_cpu())
def test_cpu(benchmark: Any, case: Case, precision: str, threads: int) -> None:
    benchmark.group = f"cpu: {case.kernel}"
    arrays, work = case.arrays(precision), work_of(case, precision)
    instance = one_call(case, arrays, threads)
    before = [array.copy() for array in arrays]
    instance.play()
    check(case, precision, before, arrays)
    repeats = repeats_of(work)
    benchmark(instance.play, repeats)
    check_finite(case, arrays)
    note(
        benchmark, work, threads=threads, precision=precision, repeats=repeats, examples=repeats * case.examples,
        kernel=case.kernel,
    )  # fmt: skip


@quickly
@pytest.mark.parametrize(("case", "precision"), on_numpy())
def test_numpy(benchmark: Any, case: Case, precision: str) -> None:
    benchmark.group = f"numpy: {case.kernel}"
    arrays = case.arrays(precision)
    before = [array.copy() for array in arrays]
    function = getattr(numpy_set, case.kernel)
    with threadpool_limits(1), np.errstate(all="ignore"):
        function(*arrays, **case.attributes)
        check(case, precision, before, arrays)
        benchmark(function, *arrays, **case.attributes)
    check_finite(case, arrays)
    note(
        benchmark, work_of(case, precision), threads=1, device="numpy", precision=precision, examples=case.examples,
        kernel=case.kernel,
    )  # fmt: skip


@pytest.mark.gpu
@pytest.mark.benchmark(max_time=0.1, min_rounds=5, timer=DeviceTime())
@pytest.mark.parametrize(("case", "precision"), on_numpy())
def test_cuda(benchmark: Any, case: Case, precision: str) -> None:
    require("cuda")
    benchmark.group = f"cuda: {case.kernel}"
    engine = engines.gpu()
    before, work = case.arrays(precision), work_of(case, precision)
    arrays = [engine.to_device(array) for array in before]
    instance = one_call(case, arrays, 1, engine)
    instance.play()
    check(case, precision, before, engine.read(*arrays))
    repeats = repeats_of(work)
    benchmark(instance.play, repeats)
    check_finite(case, engine.read(*arrays))
    note(
        benchmark, work, threads=1, device="cuda", precision=precision, repeats=repeats, examples=repeats * case.examples,
        kernel=case.kernel,
    )  # fmt: skip
