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

from fastnn.program.trace import Call, Program, Trace, describe

if TYPE_CHECKING:
    from fastnn.engines import Instance

SECONDS = 0.004
"""How long one call is repeated for a measurement; the fastest of `ROUNDS` counts."""
ROUNDS = 5
COPY_BYTES = (2**15, 2**18, 2**21, 2**24, 2**26)
"""Bytes moved (read and written) by the copies that are measured."""


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
        limits = measure_limits(instance.threads, instance.program_dtype)
        _reset(instance)
        instance.play()
        measured = []
        for index, call in enumerate(instance.computing()):
            _reset(instance)
            measured.append((call, _fastest(functools.partial(instance.play_calls, index, 1))))
        total = sum(seconds for _, seconds in measured)
        return [self._line(call, seconds, total, limits) for call, seconds in measured]

    def _line(self, call: Call, seconds: float, total: float, limits: Limits) -> Line:
        from fastnn_kernels.contract import KERNELS

        operands = self.instance.operands(call)
        entry = KERNELS[call.kernel]
        operations, moved = entry.operations(operands), entry.traffic(operands)
        inputs = " ".join(describe(symbol.shape) for symbol in call.inputs if symbol.shape)
        outputs = " ".join(describe(symbol.shape) for symbol in (*call.updated, *call.outputs) if symbol.shape)
        note = call.attributes.get("activation")
        name = f"{call.kernel}+{note}" if note else call.kernel
        shapes = f"{inputs} -> {outputs}" if outputs else inputs
        limit = limits.seconds(operations, moved) / seconds
        return Line(name, shapes, operations, moved, seconds, seconds / total if total else 0.0, limit)

    def explain(self, width: int = 80) -> str:
        """The table: a line a call, then the whole step, played as training plays it."""
        instance = self.instance
        lines = self.lines()
        _reset(instance)
        # All but the last call, which moves on to the next mini-batch: repeated plays stay within the data.
        whole = _fastest(functools.partial(instance.play_calls, 0, len(lines) - 1)) + lines[-1].seconds
        limits = measure_limits(instance.threads, instance.program_dtype)
        name_width = min(28, max(len(line.kernel) for line in lines))
        room = max(10, width - name_width - 38)
        header = f"{'call':<{name_width}} {'shapes':<{room}} {'FLOP':>6} {'bytes':>6} {'us':>8} {'share':>6} {'limit':>6}"
        rows = [
            *textwrap.wrap(self.title, width),
            f"B = {instance.rows}, {instance.threads} thread(s)",
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
        control[:] = 0


def _fastest(play: Callable[[int], Any]) -> float:
    """Seconds of one play."""
    play(1)
    started = time.perf_counter()
    play(1)
    repeats = int(min(100_000, max(1, SECONDS / max(time.perf_counter() - started, 1e-7))))
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        play(repeats)
        best = min(best, (time.perf_counter() - started) / repeats)
    return best


@functools.cache
def measure_limits(threads: int, dtype: str = "float32") -> Limits:
    """Measure the machine with the library's own matrix product and copy; kept for the life of the process."""
    from fastnn.engines import instantiate

    def seconds(kernel: str, shapes: tuple[tuple[int, ...], ...], attributes: dict[str, Any]) -> float:
        trace = Trace(dtype)
        symbols = tuple(trace.input(f"x{index}", shape) for index, shape in enumerate(shapes))
        trace.calls.append(Call(kernel, symbols, attributes))
        instance = instantiate(trace.program({}), 0, "cpu", threads)
        instance.bind(**{f"x{index}": np.ones(shape, dtype) for index, shape in enumerate(shapes)})
        return _fastest(instance.play)

    size = 384
    product = seconds("matmul", ((size, size),) * 3, {"transpose_a": False, "transpose_b": False})
    copies: list[tuple[int, float]] = []
    for moved in COPY_BYTES:
        elements = moved // 2 // np.dtype(dtype).itemsize
        copies.append((moved, moved / seconds("identity", ((elements,),) * 2, {})))
    for index in reversed(range(len(copies) - 1)):  # what is possible with more bytes is possible with fewer
        copies[index] = (copies[index][0], max(copies[index][1], copies[index + 1][1]))
    return Limits(threads, 2 * size**3 / product, tuple(copies))


def _short(number: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)
