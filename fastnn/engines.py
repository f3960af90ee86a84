"""Engines: which are usable here, and a program instantiated on one of them.

An engine plays a program for a number of rows. `numpy` runs the definition call by call, in Python; `cpu` plays compiled
kernels in a compiled loop on several threads. `cuda` will replay a CUDA graph; its room is `fastnn_kernels/cuda`.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastnn.errors import DeviceError, InputError, nearest
from fastnn.program.plan import plan
from fastnn.program.trace import Call, Program, Rows, Symbol, concrete
from fastnn_kernels.contract import KERNELS, Operand
from fastnn_kernels.memory import aligned

DEVICES = ("auto", "cpu", "cuda", "numpy")

BARRIER = 0.7e-6  # seconds a call that two threads meeting costs, uneven shares included
RATE = 80e9  # floating-point operations a second of one core, for the first guess of the number of threads only
BANDWIDTH = 60e9  # bytes a second of one core out of its cache, likewise

TRIAL_SECONDS = 2e-3  # how long the other number of threads is tried
FIRST_SHARE = 5  # the first trial may take this part of the time played
TRIAL_SHARE = 50  # a trial may take this part of the time played since the last one
PATIENCE = 4  # trials that find nothing new become rarer, up to this many times


def choose(device: str) -> tuple[str, str]:
    """The engine for a device name, and why, in one line.

    `"auto"` takes the best that is usable. Raises DeviceError for one that is not, InputError for an unknown name.
    """
    if device not in DEVICES:
        raise InputError(f"no device is called {device!r}{nearest(device, DEVICES)}")
    if device == "cuda":
        raise DeviceError('this version of fastnn has no CUDA engine yet; use device="cpu" or device="auto"')
    if device == "auto":
        return "cpu", "this version has no CUDA engine yet"
    return device, "as asked"


def require_cuda(name: str) -> None:
    """Refuse CuPy arrays while there is no engine for them."""
    raise DeviceError(f"{name}: CuPy arrays need the CUDA engine, which this version lacks; move them with arrays.to_host")


def compute(kernel: str, arrays: Sequence[np.ndarray], attributes: Mapping[str, Any]) -> None:
    """Run one kernel on NumPy arrays now, with the CPU kernels."""
    import fastnn_kernels.cpu as cpu

    cpu.run(kernel, arrays, attributes)


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_threads(threads: int | None) -> None:
    """Raise InputError unless `threads` is None or a number of threads that makes sense."""
    most = 4 * max(16, os.cpu_count() or 1)
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= most):
        raise InputError(f"threads: expected None or a whole number from 1 to {most}, got {threads!r}")


class Instance:
    """A program with buffers, on one engine, for one number of rows. One caller at a time.

    Inputs are given by `bind`; they are used in place, so what a program updates is updated in the array that was bound.
    `play(repeats)` runs it; `output(name)` is a view of a result, valid until the next play.
    """

    def __init__(self, program: Program, rows: int, engine: str = "cpu", threads: int | None = None) -> None:
        check_threads(threads)
        self.program = program
        self.rows = rows
        self.engine = engine
        self.plan = plan(program, rows)
        self.bound: dict[str, np.ndarray] = {}
        self._workspace = aligned(self.plan.size)
        self._names = {symbol: name for name, symbol in program.inputs.items()}
        self._views: dict[Symbol, np.ndarray] = {}
        self._once = _make_player(engine, self, self.plan.once)
        self._calls = _make_player(engine, self, self.plan.calls)
        self.threads = self._usable_threads(threads)
        self._calls.set_parts(self.threads)
        self._pace = _Pace(self.threads, cores()) if threads is None and engine == "cpu" and cores() > 1 else None
        self._ready = False

    def bind(self, **arrays: np.ndarray) -> None:
        """Give inputs their storage: C-contiguous arrays of the declared dtype and shape (rows that are not known
        may be any).
        """
        for name, array in arrays.items():
            symbol = self.program.inputs[name]
            expected = concrete(symbol.shape, self.rows)
            unknown = [isinstance(d, Rows) and d.factor == 0 for d in symbol.shape]
            fits = len(expected) == array.ndim and all(
                free or e == a for e, a, free in zip(expected, array.shape, unknown, strict=True)
            )
            if not fits or array.dtype != symbol.dtype or not array.flags.c_contiguous:
                raise InputError(
                    f"input {name!r}: expected a contiguous {symbol.dtype} array of shape {expected}, "
                    f"got {array.dtype} {array.shape}"
                )
            if self.bound.get(name) is not array:
                self.bound[name] = array
                self._views.clear()
                self._once.bind(symbol, array)
                self._calls.bind(symbol, array)

    def unbind(self) -> None:
        """Let go of the arrays that were bound; they must be bound anew before the next play."""
        self.bound.clear()
        self._views.clear()
        self._ready = False

    def play(self, repeats: int = 1) -> None:
        """Run the program `repeats` times, with no Python in between on the CPU engine."""
        if not self._ready:
            missing = [name for name in self.program.inputs if name not in self.bound]
            if missing:
                raise InputError(f"the program has no {', '.join(missing)} yet; bind them first")
            self._once.play(1)
            self._ready = True
        if self._pace is None:
            self._calls.play(repeats)
        else:
            self._pace.play(self._calls, repeats)
            self.threads = self._pace.best

    def play_calls(self, first: int, count: int, repeats: int = 1) -> None:
        """Run some calls of the plan on their own (`explain` times them, a failing step is searched with them)."""
        self._calls.play(repeats, first, count)

    def output(self, name: str) -> np.ndarray:
        """A view of the result `name`."""
        return self.array(self.program.outputs[name])

    def array(self, symbol: Symbol) -> np.ndarray:
        """The elements of any symbol of the program, where they lie."""
        view = self._views.get(symbol)
        if view is None:
            root = symbol.root
            if root in self._names:
                flat = self.bound[self._names[root]].reshape(-1)
            else:
                start = self.plan.offsets[root]
                flat = self._workspace[start : start + root.operand(self.rows).nbytes].view(root.dtype)
            if symbol is root and root in self._names:
                view = self.bound[self._names[root]]
            else:
                shape = concrete(symbol.shape, self.rows)
                view = flat[symbol.start : symbol.start + math.prod(shape)].reshape(shape)
            self._views[symbol] = view
        return view

    def address(self, symbol: Symbol) -> int:
        """Where a symbol that is not an input lies."""
        start: int = self._workspace.ctypes.data
        return start + self.plan.offsets[symbol.root] + symbol.start * int(symbol.dtype.itemsize)

    def operands(self, call: Call) -> tuple[Operand, ...]:
        return tuple(symbol.operand(self.rows) for symbol in call.operands)

    def attributes(self, call: Call) -> dict[str, Any]:
        """The call's attributes with the number of rows filled in."""
        return {k: v.factor * self.rows if isinstance(v, Rows) else v for k, v in call.attributes.items()}

    def work(self) -> list[tuple[int, int]]:
        """(floating-point operations, bytes moved at least) of each call of one play, by the kernel table."""
        operands = ((KERNELS[call.kernel], self.operands(call)) for call in self.computing())
        return [(kernel.operations(given), kernel.traffic(given)) for kernel, given in operands]

    @property
    def program_dtype(self) -> str:
        """The floating-point dtype of the program."""
        kinds = {s.dtype.name for call in self.plan.calls for s in call.operands if s.dtype.kind == "f"}
        return "float64" if "float64" in kinds and "float32" not in kinds else "float32"

    def computing(self) -> list[Call]:
        """The calls that are played, views left out."""
        return [call for call in self.plan.calls if not call.is_view]

    def _usable_threads(self, threads: int | None) -> int:
        if self.engine != "cpu":
            return 1
        if threads is not None:
            return threads
        work = self.work()
        seconds = sum(operations / RATE + moved / BANDWIDTH for operations, moved in work)
        return 1 if seconds <= seconds / cores() + len(work) * BARRIER else cores()


def instantiate(program: Program, rows: int, engine: str = "cpu", threads: int | None = None) -> Instance:
    """`program` on an engine for `rows` rows."""
    return Instance(program, rows, engine, threads)


def _make_player(engine: str, instance: Instance, calls: Sequence[Call]) -> _NumpyCalls | _CpuCalls:
    calls = [call for call in calls if not call.is_view]
    return _NumpyCalls(instance, calls) if engine == "numpy" else _CpuCalls(instance, calls)


class _Pace:
    """How many threads play a program fastest: one or all, tried again now and then, since others use the machine too.

    The number changes no bit of the results.
    """

    def __init__(self, guess: int, most: int) -> None:
        self.best = guess
        self.other = 1 if guess > 1 else most
        self.seconds: dict[int, float] = {}
        self.least: dict[int, float] = {}
        self.since = 0.0
        self.patience = 1

    def play(self, calls: Any, repeats: int) -> None:
        trial = self._trial(repeats)
        if trial:
            # Threads that slept need a millisecond or more until they run on cores of their own: that is not timed.
            calls.set_parts(self.other)
            calls.play(1)
            self._timed(calls, self.other, trial - 1)
            self.since = 0.0
            self.patience = min(2 * self.patience, PATIENCE)
            self._compare()
        if repeats > trial:
            self.since += self._timed(calls, self.best, repeats - trial)
            self._compare()

    def _compare(self) -> None:
        """Change to the other number where it was faster when last played, which a neighbour's sudden load can bring about."""
        if self.seconds[self.best] > 1.1 * self.seconds.get(self.other, math.inf):
            self.best, self.other = self.other, self.best
            self.since, self.patience = 0.0, 1

    def _trial(self, repeats: int) -> int:
        """How many of the repeats to play with the other number of threads; 0 while it would cost too much."""
        if self.best not in self.seconds:
            return 0
        best = max(self.seconds[self.best], 1e-7)
        count = 1 + math.ceil(TRIAL_SECONDS / best)
        if self.other in self.seconds:
            due = self.since >= TRIAL_SHARE * self.patience * count * self.least[self.other]
        else:
            due = self.since >= FIRST_SHARE * count * 2.0 * best
        return count if due and count <= repeats else 0

    def _timed(self, calls: Any, threads: int, repeats: int) -> float:
        calls.set_parts(threads)
        started = time.perf_counter()
        calls.play(repeats)
        taken = time.perf_counter() - started
        each = taken / repeats
        least = self.least[threads] = min(each, self.least.get(threads, math.inf))
        if taken >= TRIAL_SECONDS / 2 or each == least:  # a few slow steps after a rest are no measure
            self.seconds[threads] = each
        return taken


class _NumpyCalls:
    """The definition: each call a Python call."""

    def __init__(self, instance: Instance, calls: Sequence[Call]) -> None:
        import fastnn_kernels.numpy as kernels

        self.instance = instance
        self.calls = [(getattr(kernels, call.kernel), call) for call in calls]

    def bind(self, symbol: Symbol, array: np.ndarray) -> None:
        """Arrays are looked up when they are used."""

    def set_parts(self, parts: int) -> None:
        """One thread."""

    def play(self, repeats: int, first: int = 0, count: int | None = None) -> None:
        stop = len(self.calls) if count is None else first + count
        with np.errstate(all="ignore"):
            for _ in range(repeats):
                for function, call in self.calls[first:stop]:
                    operands = (self.instance.array(symbol) for symbol in call.operands)
                    function(*operands, **self.instance.attributes(call))


class _CpuCalls:
    """The tables of the player: for each call the kernel's address and its operand words."""

    def __init__(self, instance: Instance, calls: Sequence[Call]) -> None:
        import fastnn_kernels.cpu as cpu
        from fastnn_kernels.cpu.team import TEAM

        self.team = TEAM
        self.parts = 1
        lowered = [cpu.lower(call.kernel, instance.operands(call), instance.attributes(call)) for call in calls]
        self.scratch_bytes = -(-max((low.scratch or 0 for low in lowered), default=0) // 64) * 64
        self.scratch = aligned(0)
        self._scratch_words: list[int] = []
        self._patches: dict[Symbol, list[tuple[int, int]]] = {}
        words: list[int] = []
        starts = []
        given = set(instance.program.inputs.values())
        for call, low in zip(calls, lowered, strict=True):
            starts.append(len(words))
            addresses: list[int] = []
            for symbol in call.operands:
                if symbol.root in given:
                    place = (len(words) + len(addresses), symbol.start * symbol.dtype.itemsize)
                    self._patches.setdefault(symbol.root, []).append(place)
                    addresses.append(0)
                else:
                    addresses.append(instance.address(symbol))
            if low.scratch is not None:
                self._scratch_words.append(len(words) + len(addresses))
            words += low.words(addresses)
        self.words = np.array(words, np.int64)
        base = self.words.ctypes.data
        table = [(low.address, base + 8 * start) for low, start in zip(lowered, starts, strict=True)]
        self.table = np.array(table, np.int64).reshape(-1, 2)
        self.set_parts(1)

    def bind(self, symbol: Symbol, array: np.ndarray) -> None:
        for word, offset in self._patches.get(symbol, ()):
            self.words[word] = array.ctypes.data + offset

    def set_parts(self, parts: int) -> None:
        self.parts = parts
        if self.scratch.size >= self.scratch_bytes * parts:
            return
        self.scratch = aligned(self.scratch_bytes * parts)
        for word in self._scratch_words:
            self.words[word] = self.scratch.ctypes.data

    def play(self, repeats: int, first: int = 0, count: int | None = None) -> None:
        count = len(self.table) - first if count is None else count
        if count and repeats:
            self.team.play(self.table.ctypes.data + 16 * first, count, repeats, self.parts)
