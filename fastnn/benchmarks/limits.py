"""The machine's limits: the rate of a matrix product and of copying, measured in every run.

The best of a machine is kept in a file beside the compiled kernels, so that a run on a busy day is not held against a lower
limit than the machine has. A product is timed in every library at hand, and the fastest counts.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from fastnn.benchmarks.grid import PRECISIONS, Task
from fastnn.benchmarks.peers import Contestant
from fastnn.benchmarks.record import Limit
from fastnn.engines.explain import COPY_BYTES, Limits, make_numbers, measure_limits
from fastnn.errors import FileError
from fastnn.storage.atomic import write_whole

SIZES = (512, 1024, 2048)
"""Of the square products that BLAS is given."""
SECONDS = 0.1
"""For each of them."""
FILE = "limits.json"


class Meter(Contestant):
    """Not a contestant, but in a process like theirs, on the same cores: `limits` measures the device of its task."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)

    def limits(self) -> list[Limit]:
        device, threads = self.task.cell.device, self.task.threads
        if device == "cuda":
            return [Limit(device=device, precision=p, best=best, now=best) for p, best in measure_cuda(threads).items()]
        return [
            Limit(device=device, precision="float32", best=best, now=best)
            for best in map(measure_cpu, sorted({1, threads}))
        ]  # fmt: skip


def measure_cpu(threads: int) -> Limits:
    """Of float32 on so many threads: the best of the library's own product and of NumPy's BLAS; the library's own copy."""
    from threadpoolctl import threadpool_limits

    measured = measure_limits(threads)
    with threadpool_limits(threads):
        blas = max(_product(size, _numpy_product(size)) for size in SIZES)
    return Limits(threads, max(measured.operations, blas), measured.copies)


def _numpy_product(size: int) -> Callable[[], Any]:
    a, b, c = (make_numbers((size, size), np.float32) for _ in range(3))
    return functools.partial(np.matmul, a, b, out=c)


def _product(size: int, multiply: Callable[[], Any]) -> float:
    """Floating-point operations a second, of the fastest call in `SECONDS`."""
    best, end = float("inf"), time.perf_counter() + SECONDS
    while True:
        started = time.perf_counter()
        multiply()
        finished = time.perf_counter()
        best = min(best, finished - started)
        if finished > end:
            return 2 * size**3 / best


def measure_cuda(threads: int) -> dict[str, Limits]:
    """Of the current GPU, by CuPy: cuBLAS's product in each precision and the device's copy, timed by events."""
    import cupy
    from cupy.cuda import cublas, runtime

    handle = cupy.cuda.device.get_cublas_handle()
    size = 8192
    one, zero = np.ones((), np.float32), np.zeros((), np.float32)

    def seconds(call: Callable[[], Any]) -> float:
        call()
        best = float("inf")
        for _ in range(10):
            start, end = cupy.cuda.Event(), cupy.cuda.Event()
            start.record()
            call()
            end.record()
            end.synchronize()
            best = min(best, cupy.cuda.get_elapsed_time(start, end) / 1e3)
        return best

    # (type of A and B, compute type) as cuBLAS numbers them; C is float32 and has the number 0.
    kinds = {"float32": (0, 68), "tf32": (0, 77), "bf16": (14, 68)}
    copies = []
    for moved in (*COPY_BYTES, 2**30):
        source, target = (cupy.asarray(make_numbers((moved // 8,), np.float32)) for _ in range(2))
        copy = functools.partial(
            runtime.memcpyAsync, target.data.ptr, source.data.ptr, moved // 2, runtime.memcpyDeviceToDevice,
            cupy.cuda.get_current_stream().ptr,
        )  # fmt: skip
        copies.append((moved, moved / seconds(copy)))
    limits = {}
    numbers = make_numbers((size, size), np.float32)
    for precision in PRECISIONS["cuda"]:
        kind, compute = kinds[precision]
        values = (numbers.view(np.uint32) >> 16).astype(np.uint16) if precision == "bf16" else numbers
        a, b = cupy.asarray(values), cupy.asarray(values)
        c = cupy.zeros((size, size), cupy.float32)
        multiply = functools.partial(
            cublas.gemmEx, handle, 0, 0, size, size, size, one.ctypes.data, a.data.ptr, kind, size, b.data.ptr, kind, size,
            zero.ctypes.data, c.data.ptr, 0, size, compute, -1,
        )  # fmt: skip
        limits[precision] = Limits(threads, 2 * size**3 / seconds(multiply), tuple(copies))
    return limits


def best_known(measured: list[Limit], machine: str) -> list[Limit]:
    """`measured`, each with the best of this and earlier runs on this machine; writes down what is better than before."""
    from fastnn_kernels.caching import cache_folder

    folder = cache_folder()
    known: dict[str, list[Limit]] = {}
    if folder is not None:
        with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
            known = msgspec.json.decode((folder / FILE).read_bytes(), type=dict[str, list[Limit]])
    before = {_name(limit): limit.best for limit in known.get(machine, ())}
    updated = [
        Limit(device=limit.device, precision=limit.precision, best=_better(limit.now, before.get(_name(limit))), now=limit.now)
        for limit in measured
    ]  # fmt: skip
    kept = {_name(limit): limit for limit in (*known.get(machine, ()), *updated)}
    if folder is not None:
        with contextlib.suppress(FileError):
            write_whole(folder / FILE, msgspec.json.encode({**known, machine: list(kept.values())}))
    return updated


def _name(limit: Limit) -> tuple[str, str, int]:
    return limit.device, limit.precision, limit.now.threads


def _better(now: Limits, before: Limits | None) -> Limits:
    if before is None or [size for size, _ in before.copies] != [size for size, _ in now.copies]:
        return now
    copies = tuple((size, max(a, b)) for (size, a), (_, b) in zip(now.copies, before.copies, strict=True))
    return Limits(now.threads, max(now.operations, before.operations), copies)
