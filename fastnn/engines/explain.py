"""Explaining a program: each call with its shapes, operations, bytes and measured time, and how near that is to the limit.

Calls and whole steps are timed in turns, and the median of the turns counts, so that no row depends on what else the machine
did for a while. Calls are repeated on their own, a step is played as training plays it; what a step takes beyond its calls is
the last row, so that the rows add up to the step.

The limits are measured on this machine in the same process: the rate of a matrix product that stays in the cache, and
the rate of copying for several sizes, since what lies in a cache is faster than memory. A call's limit is the longer of
its operations at the one rate and its bytes at the other.
"""

from __future__ import annotations

import functools
import math
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn.notebooks import Printed
from fastnn.program.shapes import describe
from fastnn.program.trace import Call, Program, Trace
from fastnn_kernels.contract import KERNELS

if TYPE_CHECKING:
    from fastnn.engines.base import Engine, Instance

SECONDS = 0.002
"""How long one call is repeated for a measurement."""
ROUNDS = 15
"""Turns of every call and the step, whose median counts; of the limits, the fastest."""
TRIES = 3
MOST = 100_000
"""Repeats of one call."""
WAITING, OVERLAP = "waiting", "overlap"
"""What a step takes beyond its calls, such as waiting for data that are in no cache and for starts of kernels; and what it
saves where calls run at the same time."""
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
    """Of a whole step."""
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
        """The least time that so much work takes. Rates of copying are interpolated between those that were measured."""
        sizes, rates = np.log(np.array(self.copies)).T
        rate = math.exp(np.interp(math.log(max(moved, 1)), sizes, rates))
        return max(operations / self.operations, moved / rate)


class Explanation(Printed):
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
        return self._measure()[0]

    def _measure(self) -> tuple[list[Line], float]:
        """Every call, and the seconds of a whole step: medians of turns in each of which all are played."""
        instance = self.instance
        limits = measure_limits(instance.threads, instance.program_dtype, instance.engine)
        _reset(instance)
        instance.play()
        calls = list(instance.computing())
        plays = [functools.partial(instance.play_calls, index, 1) for index in range(len(calls))]
        counts = [_count_repeats(instance, play) for play in plays]
        step = min(_time(instance, instance.play, 1) for _ in range(TRIES))
        steps = int(min(STEPS, max(1, 2 * SECONDS / step))) if "control" in instance.bound else 1
        # What starting to play takes is spread over thousands of steps in training: one play of the shortest call is nearly it.
        shortest = plays[max(range(len(calls)), key=counts.__getitem__)]
        start, turns = float("inf"), []
        for _ in range(ROUNDS):
            start = min(start, _time(instance, shortest, 1))
            times = [_time(instance, play, count) for play, count in zip(plays, counts, strict=True)]
            turns.append([*times, _time(instance, instance.play, steps)])
        repeats = np.array([*counts, steps])
        totals = np.maximum(np.median(turns, axis=0) - start * (repeats > 1), 1e-9)  # beside one long play, starting is nothing
        *seconds, whole = (totals / repeats).tolist()
        return [self._line(call, each, whole, limits) for call, each in zip(calls, seconds, strict=True)], whole

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
        """The table: a line a call, what a step takes beyond them, and the whole step, which is their sum."""
        instance = self.instance
        lines, whole = self._measure()
        rest = whole - sum(line.seconds for line in lines)
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
        label = WAITING if rest >= 0 else OVERLAP
        rows.append(f"{label:<{name_width}} {'':<{room}} {'':>6} {'':>6} {rest * 1e6:8.2f} {rest / whole:6.1%}")
        operations, moved = sum(line.operations for line in lines), sum(line.bytes for line in lines)
        least = sum(limits.seconds(line.operations, line.bytes) for line in lines)
        rows += [
            "-" * len(header),
            f"{'whole step':<{name_width}} {'':<{room}} {_short(operations):>6} {_short(moved):>6} {whole * 1e6:8.2f} "
            f"{1:6.1%} {least / whole:6.0%}",
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


def _time(instance: Instance, play: Callable[[int], Any], repeats: int) -> float:
    """Seconds of `repeats` plays of some calls of an instance, from its first step on."""
    _reset(instance)
    instance.engine.wait()
    started = time.perf_counter()
    play(repeats)
    instance.engine.wait()
    return time.perf_counter() - started


def _count_repeats(instance: Instance, play: Callable[[int], Any]) -> int:
    """How often something has to be played for it to take `SECONDS`, by the fastest of a few tries."""
    repeats, seconds = 1, min(_time(instance, play, 1) for _ in range(TRIES))
    while seconds < SECONDS / 2 and repeats < MOST:
        repeats = int(min(MOST, max(2 * repeats, repeats * SECONDS / max(seconds, 1e-7))))
        seconds = min(_time(instance, play, repeats) for _ in range(TRIES))
    return repeats


def _fastest(instance: Instance, play: Callable[[int], Any]) -> float:
    """Seconds of one play, the fastest of several."""
    repeats = _count_repeats(instance, play)
    return min(_time(instance, play, repeats) for _ in range(ROUNDS)) / repeats


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
