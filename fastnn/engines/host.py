"""The engines of the host: `numpy` runs the definition call by call, `cpu` plays compiled kernels on several threads."""

from __future__ import annotations

import functools
import itertools
import math
import os
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastnn import arrays
from fastnn.engines.base import Engine, InputMap, Instance, Pass, Passage, Ring
from fastnn.engines.thread_count import Partition, Stage, ThreadCountTuner
from fastnn.errors import InputError, PackageError
from fastnn.program.passes.pooling import merge_pooling
from fastnn.program.shapes import BatchDim, concrete
from fastnn.program.trace import Call, Program, Symbol
from fastnn_kernels.contract import SUM_BLOCK
from fastnn_kernels.cores import usable_cores
from fastnn_kernels.memory import aligned_zeros

WAKING = 100e-6
"""Seconds of work below which nobody is woken up for it."""
PREDICTED_ROWS = 1024
"""Rows that a prediction on the CPU handles at a time: threads meet less often than with `block_rows`."""
COPIED_BYTES = 2**14
"""Rows of X up to this size are copied rather than pointed at, which takes longer."""
JOINED_BYTES = 2**19
"""What a product and a look at the same rows read in one go, at least: less than a second-level cache."""
LOOKED_AT = 2**16
"""Elements that are looked at in one go, so that what is found of them stays in a cache."""
CAUTION = 10.0
"""How many times as long as guessed a play may take."""
_NONE = np.zeros(1, np.int64)
_NONE.flags.writeable = False
TIMINGS, RETIMED = 5, 50
"""The first plays begin with timing calls; later one of so many does."""


def cores() -> int:
    """Processor cores that this process may use: affinity, the quota of a container, `FASTNN_THREADS`, `OMP_NUM_THREADS`."""
    try:
        return usable_cores()
    except ValueError as error:
        raise InputError(str(error)) from error


def check_threads(threads: int | None) -> None:
    """Raise InputError unless `threads` is None or a number of threads that makes sense."""
    if threads is None:
        return
    most = _most_threads()
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= most:
        raise InputError(f"threads: expected None or an integer from 1 to {most}, got {threads!r}")


@functools.cache
def _most_threads() -> int:
    """More threads than that are a mistake. Looked up once: the system takes as long to tell as a small network for a step."""
    return 4 * max(16, os.cpu_count() or 1)


def free_memory() -> int:
    """Bytes of main memory that programs may take now; 4 GiB where the system does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return 2**32


class HostEngine(Engine):
    """Arrays are NumPy arrays and are used where they lie."""

    is_host = True

    def __init__(self, name: str) -> None:
        self.name = name

    def empty(self, shape: tuple[int, ...], dtype: Any, mirrored: bool = False) -> np.ndarray:
        return aligned_zeros(math.prod(shape), dtype).reshape(shape)

    def zeros(self, shape: tuple[int, ...], dtype: Any, mirrored: bool = False) -> np.ndarray:
        return self.empty(shape, dtype)

    def to_device(self, array: Any) -> np.ndarray:
        host = arrays.to_host(array)
        flags = host.flags
        if type(host) is np.ndarray and flags.c_contiguous and flags.aligned:
            return host
        return np.require(host, requirements=["C", "A", "E"])

    def adopts(self, array: Any) -> bool:
        return type(array) is np.ndarray or arrays.on_host(array)

    def write(self, target: np.ndarray, values: Any) -> None:
        if target.ndim:
            target[: len(values)] = values
        else:
            target[...] = values

    def read(self, *arrays: np.ndarray) -> list[np.ndarray]:
        return list(arrays)

    def copy(self, target: np.ndarray, source: np.ndarray) -> None:
        np.copyto(target, source)

    def duplicate(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: array.copy() for name, array in arrays.items()}

    def compute(self, kernel: str, operands: Sequence[np.ndarray], attributes: Mapping[str, Any]) -> None:
        if self.name == "numpy":
            import fastnn_kernels.numpy as definition

            getattr(definition, kernel)(*operands, **attributes)
        else:
            _cpu_kernels().run(kernel, operands, attributes)

    def count_nonfinite(self, array: np.ndarray) -> np.ndarray:
        flat = array.reshape(-1)
        for start in range(0, flat.size, LOOKED_AT):
            if not np.logical_and.reduce(np.isfinite(flat[start : start + LOOKED_AT])):
                return np.array([np.count_nonzero(~np.isfinite(flat))])
        return _NONE

    def outputs(self, like: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return np.empty(shape, dtype)

    def load_rows(self, target: np.ndarray, source: Any, start: int, count: int, input_map: InputMap) -> None:
        convert_rows(target[:count], source[start : start + count], input_map, start)

    def store_rows(self, target: np.ndarray, source: np.ndarray, start: int, count: int) -> None:
        target[start : start + count] = source[:count]

    def free(self) -> int:
        return free_memory()

    def feed(self, rows: int, like: Mapping[str, Any]) -> Ring:
        return HostRing(self, rows, like)

    def wait(self) -> None:
        """Whatever is asked is done when the call returns."""

    def passes(self, rows: int) -> Sequence[Pass]:
        return (merge_pooling,)

    def instance(self, program: Program, rows: int, threads: int | None) -> HostInstance:
        return HostInstance(program, rows, self, threads)

    def rows_for(self, count: int) -> int:
        return super().rows_for(count) if self is NUMPY else min(count, PREDICTED_ROWS)

    def passage(self, program: Program, rows: int, threads: int | None = None) -> Passage:
        if self is NUMPY:
            return super().passage(program, rows, threads)
        instance = self.instantiate(count_nonfinite_inputs(program), rows, threads)
        assert isinstance(instance, HostInstance)
        return InPlacePassage(instance)


class HostRing(Ring):
    """One whose blocks are gathered where programs read them."""

    def staging(self, like: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {}

    def fill(self, half: int, count: int, gather: Callable[[str, np.ndarray], None]) -> None:
        for name, array in self.arrays.items():
            gather(name, array[half * self.rows : half * self.rows + count])

    def enter(self, half: int) -> None:
        """Nothing is to be brought."""


CPU = HostEngine("cpu")
NUMPY = HostEngine("numpy")


def convert_rows(target: np.ndarray, rows: np.ndarray, input_map: InputMap, start: int = 0) -> None:
    """target = rows, mapped; `start`: the number of the first row. Raises InputError where one is NaN or infinite."""
    scale, offset, factor = input_map
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
        if offset is not None and factor is not None:
            values = rows.astype(np.float64) * scale
            rows = (values - offset.reshape(rows.shape[1:])) * factor.reshape(rows.shape[1:])
            scale = 1.0
        np.copyto(target, rows, casting="unsafe")
        if scale != 1.0:
            target *= target.dtype.type(scale)
    if not np.isfinite(target).all():
        raise nonfinite_rows(target, start)


def nonfinite_rows(rows: np.ndarray, start: int) -> InputError:
    """The error for rows of which some elements are NaN or infinite; `start`: the number of the first row."""
    nonfinite = np.argwhere(~np.isfinite(rows))
    row, *rest = map(int, nonfinite[0])
    return InputError(
        f"X: {len(nonfinite)} values are NaN or infinite in {rows.dtype}, the first in {spot((start + row, *rest))}; "
        "remove or replace them"
    )


def spot(index: Sequence[int], names: Sequence[str] | None = None) -> str:
    """Where an element lies, for messages: `row 3, column 1 ('age')`."""
    row, *rest = index
    if not rest:
        return f"row {row}"
    if len(rest) > 1:
        return f"row {row}, position {tuple(rest)}"
    return f"row {row}, column {rest[0]}" + (f" ({names[rest[0]]!r})" if names else "")


class HostInstance(Instance):
    """A program with buffers on the host."""

    def __init__(self, program: Program, rows: int, engine: HostEngine, threads: int | None = None) -> None:
        check_threads(threads)
        super().__init__(program, rows, engine)
        self._workspace = aligned_zeros(self.plan.size)
        self._once = self._player(self.plan.once)
        self._calls = self._player(self.plan.calls)
        most = 1 if engine is NUMPY else min(threads or cores(), cores())
        self._partition = Partition(self.work(), most, self._joined())
        calls = self._calls  # nothing here refers back to the instance, so that its memory goes when its last owner lets go
        self._tuner = ThreadCountTuner(lambda repeats, alone: calls.play(repeats, alone=alone))
        self._plays = 0
        self._share()

    def _joined(self) -> dict[int, int]:
        """Looks for numbers that are not finite, each right behind the first call that reads the same; see `Partition`."""
        joined, calls = {}, self.computing()
        for index, (before, call) in enumerate(itertools.pairwise(calls), 1):
            if call.kernel == "count_nonfinite" and any(symbol.root is call.inputs[0].root for symbol in before.inputs):
                parts = call.inputs[0].operand(self.rows).nbytes // JOINED_BYTES
                if parts > 1 and index - 1 not in joined:
                    joined[index] = parts
        return joined

    def _bound(self, symbol: Symbol, array: np.ndarray) -> None:
        self._once.bind(symbol, array)
        self._calls.bind(symbol, array)

    def point(self, symbol: Symbol, address: int) -> None:
        """Let compiled code find an input at this address, where the caller has seen to everything that `bind` checks."""
        for calls in (self._once, self._calls):
            assert isinstance(calls, _CpuCalls)
            calls.point(symbol, address)

    def first_chunk(self, seconds: float) -> int:
        if self.engine is NUMPY:
            return super().first_chunk(seconds)
        return max(super().first_chunk(seconds), int(seconds / (CAUTION * sum(self._partition.seconds))))

    def _play_once(self) -> None:
        self._once.play(1)

    def _play(self, repeats: int) -> None:
        partition = self._partition
        if partition.threads > 1 and repeats > 1:
            self._plays += 1
            if (self._plays <= TIMINGS or self._plays % RETIMED == 0) and any(partition.timed):
                self._play_timed()
                repeats -= 1
        if repeats and self.threads > 1 and self._calls.wakes(repeats):
            self._tuner.play(repeats)
        else:
            self._calls.play(repeats)

    def _play_timed(self) -> None:
        """Play once, with the times of calls whose sharing depends on them."""
        partition, first = self._partition, 0
        for call, timed in enumerate(partition.timed):
            if timed:
                self._calls.play(1, first, call - first)
                started = time.perf_counter()
                self._calls.play(1, call, 1, alone=True)
                partition.note(call, time.perf_counter() - started)
                first = call + 1
        self._calls.play(1, first, len(partition.timed) - first)
        self._share()

    def _share(self) -> None:
        """Let calls be shared as their times say."""
        stages = self._partition.stages()
        self._calls.share(stages, self._partition)
        self.threads = self._partition.threads if self._partition.shared else 1

    def play_calls(self, first: int, count: int, repeats: int = 1) -> None:
        self._calls.play(repeats, first, count)

    def _view(self, symbol: Symbol, bound: np.ndarray | None) -> np.ndarray:
        root = symbol.root
        if bound is not None:
            if symbol is root:
                return bound
            flat = bound.reshape(-1)
        else:
            start = self.plan.offsets[root]
            flat = self._workspace[start : start + root.operand(self.rows).nbytes].view(root.dtype)
        shape = concrete(symbol.shape, self.rows)
        return flat[symbol.start : symbol.start + math.prod(shape)].reshape(shape)

    def address(self, symbol: Symbol) -> int:
        """Where a symbol that is not an input lies."""
        start: int = self._workspace.ctypes.data
        return start + self.plan.offsets[symbol.root] + symbol.start * int(symbol.dtype.itemsize)

    def _player(self, calls: Sequence[Call]) -> _NumpyCalls | _CpuCalls:
        calls = [call for call in calls if not call.is_view]
        return _NumpyCalls(self, calls) if self.engine is NUMPY else _CpuCalls(self, calls)


def count_nonfinite_inputs(program: Program) -> Program:
    """The program with one more output, `nonfinite`: how many elements of `x` are NaN or infinite, in parts, of which there may
    be fewer than it has entries."""
    x = program.inputs["x"]
    each = math.prod(d for d in x.shape if isinstance(d, int))
    counts = Symbol(x.trace, (BatchDim(-(-each // SUM_BLOCK)),), "int64")
    # Behind the first call that reads x: a product brings it into the cache beside its work.
    readers = (index for index, call in enumerate(program.calls) if not call.is_view and any(s.root is x for s in call.inputs))
    place = next(readers, len(program.calls) - 1) + 1
    calls = (*program.calls[:place], Call("count_nonfinite", (x, counts)), *program.calls[place:])
    return Program(program.inputs, calls, {**program.outputs, "nonfinite": counts})


class InPlacePassage(Passage):
    """Of a program that counts the elements of `x` that are not finite. Rows that it can use as they are, it reads where they
    lie."""

    instance: HostInstance

    def __init__(self, instance: HostInstance) -> None:
        super().__init__(instance)
        program = instance.program
        self._symbol = program.inputs["x"]
        self._address = self._own = int(self.x.ctypes.data)
        self._made = instance.output("outputs")
        self._reads = program.outputs["outputs"].root is not self._symbol  # else they would be looked for in x
        self._counts = instance.output("nonfinite")[: -(-self.x.size // SUM_BLOCK)]

    def __call__(self, X: Any, outputs: Any, input_map: InputMap) -> None:
        if not (self._reads and input_map.scale == 1.0 and input_map.offset is None and self._is_plain(X)):
            if self._address != self._own:
                self._read_from(self._own)
            super().__call__(X, outputs, input_map)
            return
        n, small = len(X), X.nbytes <= COPIED_BYTES
        address, of_row = self._own if small else int(X.ctypes.data), X.nbytes // n
        if n == self.rows:
            self._pass(X, 0, address, outputs)
            return
        for start, count in self.blocks(n):
            block = slice(start, start + count)
            self._pass(X[block], start, address if small else address + start * of_row, outputs[block])

    def _pass(self, block: np.ndarray, start: int, address: int, outputs: np.ndarray) -> None:
        """One block, row `start` of X being its first, which the program is to find at `address`."""
        if address == self._own:
            np.copyto(self.x, block)
        if address != self._address:
            self._read_from(address)
        self.instance.play()
        if np.logical_or.reduce(self._counts):
            raise nonfinite_rows(block, start)
        outputs[...] = self._made

    def _is_plain(self, X: Any) -> bool:
        """Whether the program can read all rows of a block in X."""
        if not isinstance(X, np.ndarray) or X.dtype != self.x.dtype or len(X) < self.rows:
            return False
        flags = X.flags
        return flags.c_contiguous and flags.aligned

    def _read_from(self, address: int) -> None:
        self._address = 0  # an interruption leaves it so, and the next block points again
        self.instance.point(self._symbol, address)
        self._address = address


def _cpu_kernels() -> Any:
    """The CPU kernel set, which is compiled by Numba."""
    try:
        import fastnn_kernels.cpu
    except ImportError as error:
        raise PackageError.of("numba", "the CPU engine", error) from error
    return fastnn_kernels.cpu


class _NumpyCalls:
    """The definition: each call a Python call."""

    def __init__(self, instance: HostInstance, calls: Sequence[Call]) -> None:
        import fastnn_kernels.numpy as kernels

        self.instance = weakref.proxy(instance)  # whose part this is
        self.calls = [(getattr(kernels, call.kernel), call) for call in calls]

    def bind(self, symbol: Symbol, array: np.ndarray) -> None:
        """Arrays are looked up when they are used."""

    def share(self, stages: Sequence[Stage], partition: Partition) -> None:
        """One thread."""

    def wakes(self, repeats: int) -> bool:
        return False

    def play(self, repeats: int, first: int = 0, count: int | None = None, alone: bool = False) -> None:
        stop = len(self.calls) if count is None else first + count
        with np.errstate(all="ignore"):
            for _ in range(repeats):
                for function, call in self.calls[first:stop]:
                    operands = (self.instance.array(symbol) for symbol in call.operands)
                    function(*operands, **self.instance.attributes(call))


class _CpuCalls:
    """The tables of the player: for each call the kernel's address and its operand words."""

    def __init__(self, instance: HostInstance, calls: Sequence[Call]) -> None:
        cpu = _cpu_kernels()
        from fastnn_kernels.cpu.team import TEAM, Work

        self.team, self._work = TEAM, Work
        self.workers = 1
        lowered = cpu.lower_all([(call.kernel, instance.operands(call), instance.attributes(call)) for call in calls], cores)
        self.scratch_bytes = -(-max((low.scratch or 0 for low in lowered), default=0) // 64) * 64
        self.scratch = aligned_zeros(0)
        self._scratch_words: list[int] = []
        self._patches: dict[Symbol, list[tuple[int, int]]] = {}
        words: list[int] = []
        starts = []
        inputs = set(instance.program.inputs.values())
        for call, low in zip(calls, lowered, strict=True):
            starts.append(len(words))
            addresses: list[int] = []
            for symbol in call.operands:
                if symbol.root in inputs:
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
        self._size = len(table)
        self._give_scratch(1)
        self._stages: Sequence[Stage] = ((0, len(table), 1),)
        self._seconds = math.inf
        self._works: dict[tuple[int, int], Any] = {}

    def bind(self, symbol: Symbol, array: np.ndarray) -> None:
        if symbol in self._patches:
            self.point(symbol, array.ctypes.data)

    def point(self, symbol: Symbol, address: int) -> None:
        """Let an input lie at this address."""
        words = self.words
        for word, offset in self._patches.get(symbol, ()):
            words[word] = address + offset

    def _give_scratch(self, workers: int) -> None:
        """Have scratch memory for so many workers."""
        if self.scratch.size < self.scratch_bytes * workers:
            self.scratch = aligned_zeros(self.scratch_bytes * workers)
            for word in self._scratch_words:
                self.words[word] = self.scratch.ctypes.data

    def share(self, stages: Sequence[Stage], partition: Partition) -> None:
        """Play the calls in these stages from now on."""
        self._seconds = sum(partition.seconds)
        if stages != self._stages:
            self._stages, self._works = stages, {}
            self.workers = partition.threads if partition.shared else 1
            self._give_scratch(self.workers)

    def wakes(self, repeats: int) -> bool:
        """Whether others are woken up to play so many times: not for little work."""
        return self.workers > 1 and self._seconds * repeats >= WAKING

    def play(self, repeats: int, first: int = 0, count: int | None = None, alone: bool = False) -> None:
        """Play calls so many times; `alone`: on this thread."""
        count = self._size - first if count is None else count
        if not count or not repeats:
            return
        work = self._works.get((first, count)) or self._make_work(first, count)
        if alone or not self.wakes(repeats):
            work.play(repeats)
        else:
            self.team.play(work, repeats, self.workers)

    def _make_work(self, first: int, count: int) -> Any:
        """The tables of some of the calls."""
        stages = []
        for start, calls, parts in self._stages:
            low, high = max(start, first), min(start + calls, first + count)
            if low < high:
                stages.append((low, high - low, parts))
        work = self._work(self.table, np.array(stages, np.int64), (self.words, self.scratch))
        self._works[first, count] = work
        return work
