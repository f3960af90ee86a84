"""Explaining a program: each call with its shapes, operations, bytes and measured time, and how near that is to the limit.

The limits are measured on this machine in the same process: the rate of a matrix product that stays in the cache, and
the rate of copying for several sizes, since what lies in a cache is faster than memory. A call's limit is the longer of
its operations at the one rate and its bytes at the other.
"""

from __future__ import annotations

import functools
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn.program.shapes import describe
from fastnn.program.trace import Call, Program, Trace
from fastnn_kernels.contract import KERNELS

if TYPE_CHECKING:
    from fastnn.engines.base import Engine, Instance

SECONDS = 0.004
"""How long one call is repeated for a measurement; the fastest of `ROUNDS` counts."""
ROUNDS = 5
STEPS = 64
"""Whole steps that are played in a row at most."""
COPY_BYTES = (2**15, 2**18, 2**21, 2**24, 2**26)
"""Bytes moved (read and written) by the copies that are measured."""
PATTERN = 2**18 - 1
"""Random numbers that are repeated; an odd number of them, so that the rows of a square matrix differ."""


@dataclass(frozen=True)
class Line:
    """One call of a program, explained. Times in seconds."""

    kernel: str
    shapes: str
    operations: int
    bytes: int
    seconds: float
    share: float
    limit: float
    """The share of the measured machine limit that the call reaches, 1.0 being the limit."""
    choice: str = ""
    """Which of several ways computes it; empty where there is one way only."""


@dataclass(frozen=True)
class Limits:
    """Measured rates of this machine for a number of threads: floating-point operations and bytes a second."""

    threads: int
    operations: float
    copies: tuple[tuple[int, float], ...]

    def seconds(self, operations: int, moved: int) -> float:
        """The least time that so much work takes."""
        rate = next((rate for size, rate in self.copies if moved <= size), self.copies[-1][1])
        return max(operations / self.operations, moved / rate)


class Explanation:
    """A program with buffers: `str()` lists its calls, `explain()` times each of them."""

    def __init__(self, instance: Instance, title: str) -> None:
        self.instance = instance
        self.title = title

    @property
    def program(self) -> Program:
        return self.instance.program

    def __str__(self) -> str:
        return f"{self.title}\n{self.program}"

    __repr__ = __str__

    def lines(self) -> list[Line]:
        """Play and time every call on its own."""
        instance = self.instance
        limits = measure_limits(instance.threads, instance.program_dtype, instance.engine)
        _reset(instance)
        instance.play()
        measured = []
        for index, call in enumerate(instance.computing()):
            _reset(instance)
            measured.append((call, _fastest(instance, functools.partial(instance.play_calls, index, 1))))
        total = sum(seconds for _, seconds in measured)
        return [self._line(call, seconds, total, limits) for call, seconds in measured]

    def _step(self, guess: float) -> float:
        """Seconds of a whole step, played as training plays it: several steps in a row, which stay within the data."""
        instance = self.instance
        count = int(min(STEPS, max(1, SECONDS / guess))) if "control" in instance.bound else 1
        best = float("inf")
        for _ in range(ROUNDS + 1):  # the first one is the slowest
            _reset(instance)
            instance.engine.wait()
            started = time.perf_counter()
            instance.play(count)
            instance.engine.wait()
            best = min(best, (time.perf_counter() - started) / count)
        return best

    def _line(self, call: Call, seconds: float, total: float, limits: Limits) -> Line:
        operands = self.instance.operands(call)
        entry = KERNELS[call.kernel]
        operations, moved = entry.operations(operands, call.attributes), entry.traffic(operands)
        inputs = " ".join(describe(symbol.shape) for symbol in call.inputs if symbol.shape)
        outputs = " ".join(describe(symbol.shape) for symbol in (*call.updated, *call.outputs) if symbol.shape)
        note = call.attributes.get("activation")
        name = f"{call.kernel}+{note}" if note else call.kernel
        shapes = f"{inputs} -> {outputs}" if outputs else inputs
        share, limit = seconds / total if total else 0.0, limits.seconds(operations, moved) / seconds
        return Line(name, shapes, operations, moved, seconds, share, limit, self.instance.choice(call))

    def explain(self, width: int = 80) -> str:
        """The table: a line a call, then the whole step, played as training plays it."""
        instance = self.instance
        lines = self.lines()
        whole = self._step(sum(line.seconds for line in lines))
        limits = measure_limits(instance.threads, instance.program_dtype, instance.engine)
        name_width = min(28, max(len(line.kernel) for line in lines))
        room = max(10, width - name_width - 38)
        header = f"{'call':<{name_width}} {'shapes':<{room}} {'FLOP':>6} {'bytes':>6} {'us':>8} {'share':>6} {'limit':>6}"
        rows = [
            *textwrap.wrap(self.title, width),
            *textwrap.wrap(f"B = {instance.rows}, {instance.describe()}", width),
            "",
            header,
            "-" * len(header),
        ]
        for line in lines:
            rows.append(
                f"{_cut(line.kernel, name_width):<{name_width}} {_cut(line.shapes, room):<{room}} "
                f"{_short(line.operations):>6} {_short(line.bytes):>6} "
                f"{line.seconds * 1e6:8.2f} {line.share:6.1%} {line.limit:6.0%}"
            )
            if line.choice:
                rows.append(_cut(f"  {line.choice}", width))
        operations, moved = sum(line.operations for line in lines), sum(line.bytes for line in lines)
        least = sum(limits.seconds(line.operations, line.bytes) for line in lines)
        rows += [
            "-" * len(header),
            f"{'whole step':<{name_width}} {'':<{room}} {_short(operations):>6} {_short(moved):>6} {whole * 1e6:8.2f} "
            f"{'':>6} {least / whole:6.0%}",
            "",
            f"limits measured here: {limits.operations / 1e9:.0f} GFLOP/s; copying, in GB/s:",
            "  " + ", ".join(f"{rate / 1e9:.0f} at {_short(size)}B" for size, rate in limits.copies),
        ]
        return "\n".join(rows)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _reset(instance: Instance) -> None:
    """Back to the first step, so that repeated plays stay within the data."""
    control = instance.bound.get("control")
    if control is not None:
        instance.engine.write(control, (0,) * len(control))


def _fastest(instance: Instance, play: Callable[[int], Any]) -> float:
    """Seconds of one play of some calls of an instance."""

    def seconds(repeats: int) -> float:
        instance.engine.wait()
        started = time.perf_counter()
        play(repeats)
        instance.engine.wait()
        return time.perf_counter() - started

    play(1)
    repeats = int(min(100_000, max(1, SECONDS / max(seconds(1), 1e-7))))
    return min(seconds(repeats) for _ in range(ROUNDS)) / repeats


def measure_limits(threads: int, dtype: str = "float32", engine: Engine | None = None) -> Limits:
    """Measure a device (the processor by default) with the library's own matrix product and copy; kept for the process."""
    from fastnn.engines.host import CPU

    return _measure_limits(threads, dtype, engine or CPU)


@functools.cache
def _measure_limits(threads: int, dtype: str, engine: Engine) -> Limits:
    def seconds(kernel: str, shapes: tuple[tuple[int, ...], ...], attributes: dict[str, Any]) -> float:
        trace = Trace(dtype)
        symbols = tuple(trace.input(f"x{index}", shape) for index, shape in enumerate(shapes))
        trace.calls.append(Call(kernel, symbols, attributes))
        instance = engine.instantiate(trace.program({}), 0, threads)
        arrays = {f"x{index}": make_numbers(shape, dtype) for index, shape in enumerate(shapes)}
        instance.bind(**{name: engine.to_device(array) for name, array in arrays.items()})
        return _fastest(instance, instance.play)

    size = engine.product_size
    product = seconds("matmul", ((size, size),) * 3, {"transpose_a": False, "transpose_b": False})
    copies: list[tuple[int, float]] = []
    for moved in (*COPY_BYTES, *engine.more_copies):
        elements = moved // 2 // np.dtype(dtype).itemsize
        copies.append((moved, moved / seconds("identity", ((elements,),) * 2, {})))
    for index in reversed(range(len(copies) - 1)):  # what is possible with more bytes is possible with fewer
        copies[index] = (copies[index][0], max(copies[index][1], copies[index + 1][1]))
    return Limits(threads, 2 * size**3 / product, tuple(copies))


def make_numbers(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Normal numbers, the same each time, for measurements: zeros cost a GPU less power, so that it multiplies them faster."""
    return np.resize(np.random.default_rng(0).standard_normal(PATTERN).astype(dtype), shape)


def _short(number: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)
