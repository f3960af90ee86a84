"""The CUDA engine: arrays on a GPU, and programs as graphs that the host only launches."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn import arrays
from fastnn.engines.base import Engine, Fetching, InputMap, Instance, Pass, Passage, Ring
from fastnn.engines.host import convert_rows
from fastnn.errors import DeviceError, DeviceLostError, DeviceMemoryError, InputError, InputTypeError, PackageError
from fastnn.program.passes.elementwise import chain_elementwise
from fastnn.program.passes.norm_dropout import merge_norm_dropout
from fastnn.program.passes.relu_mask import Variant, alternatives, choose_relu_masks
from fastnn.program.shapes import concrete
from fastnn.program.trace import Call, Program, Symbol
from fastnn_kernels.contract import SUM_BLOCK, Operand
from fastnn_kernels.cuda.arrays import DeviceArray
from fastnn_kernels.cuda.families import dense
from fastnn_kernels.cuda.lowering import ALIGNMENT, LOWERINGS, VECTOR, request
from fastnn_kernels.cuda.player import PlacedCall, Player
from fastnn_kernels.cuda.runtime import CudaAbsent, CudaError, CudaLost, CudaOutOfMemory, CudaUnavailable, Runtime
from fastnn_kernels.cuda.schedule import Place
from fastnn_kernels.cuda.variants import Choice

if TYPE_CHECKING:
    from fastnn_kernels.cuda.choices import Choices

WORKSPACE = "workspace"

SHARED_FROM = 2**20
"""Bytes from which arrays of a program share memory: below, calls that could not run side by side would cost more."""

STAGED_BYTES = 2**26
"""About how many bytes of pinned memory half of the blocks of a passage that are under way take; a block at least."""

NODE = 5e-6  # seconds a call takes at most beside its work; with the rates below for the first guess of a chunk only
RATE = 5e12  # floating-point operations a second
BANDWIDTH = 2e11  # bytes a second


_opened: dict[tuple[int, str, bool, bool], CudaEngine] = {}
_unusable: list[str] = []
_lock = threading.Lock()


class CudaEngine(Engine):
    """One GPU. Everything is given to one stream, in order; only `read` and `wait` wait for it.

    Programs with bfloat16 products say so themselves (`passes.mixed_precision`); all others multiply in float32 or TF32.

    `capture=False` launches every kernel on its own instead of replaying graphs, for debuggers; the bits are the same.

    With `autotune`, its programs compute their products as timing has found fastest, see `tune`; else as the rule of
    `fastnn_kernels.cuda.families.dense` says. Single operations always follow the rule.
    """

    noun = "GPU"
    kind = "cupy"
    block_rows = 8192
    product_size = 8192
    more_copies = (2**30,)

    def __init__(self, runtime: Runtime, precision: str = "float32", capture: bool = True, autotune: bool = False) -> None:
        self.runtime, self.precision, self.capture = runtime, precision, capture
        self.products = "tf32" if precision == "tf32" else "float32"
        self.name = f"cuda:{runtime.ordinal}"
        self._numbers: DeviceArray | None = None
        self._choices = _choices(runtime) if autotune else None

    @classmethod
    def open(cls, ordinal: int, precision: str = "float32", autotune: bool = False, capture: bool | None = None) -> CudaEngine:
        """`capture`: None for what `FASTNN_CUDA_CAPTURE` says, see `fastnn.engines.gpu`."""
        import fastnn_kernels.cuda as kernels

        if capture is None:
            capture = os.environ.get("FASTNN_CUDA_CAPTURE") != "0"
        with _lock:
            key = (ordinal, precision, capture, autotune)
            engine = _opened.get(key)
            if engine is None:
                if ordinal == 0 and _unusable:  # asked once a process: a driver that fails may take seconds to say so
                    raise DeviceError(_unusable[0])
                try:
                    engine = _opened[key] = cls(kernels.runtime(ordinal), precision, capture, autotune)
                except CudaUnavailable as error:
                    if ordinal == 0:
                        _unusable.append(str(error))
                    raise DeviceError(str(error)) from error
            return engine

    @classmethod
    def is_broken(cls, error: DeviceError) -> bool:
        """Whether the driver was asked just now, and something keeps a GPU from being used that seems to be here."""
        return error.__cause__ is not None and not isinstance(error.__cause__, CudaAbsent)

    @classmethod
    def translate(cls, error: Exception) -> DeviceError | None:
        if not isinstance(error, CudaError):
            return None
        kinds = ((CudaOutOfMemory, DeviceMemoryError), (CudaLost, DeviceLostError))
        return next((ours for theirs, ours in kinds if isinstance(error, theirs)), DeviceError)(str(error))

    def empty(self, shape: tuple[int, ...], dtype: Any, mirrored: bool = False) -> DeviceArray:
        return DeviceArray.empty(self.runtime, shape, dtype, mirrored)

    def to_device(self, array: Any) -> DeviceArray:
        if isinstance(array, DeviceArray):
            if array.runtime is self.runtime:
                return array
            array = array.read()
        if not self.adopts(array):
            array = arrays.to_host(array)
            copy = self.empty(array.shape, array.dtype)
            copy.write(array)
            return copy
        return DeviceArray.adopt(self.runtime, array)

    def write(self, target: DeviceArray, values: Any) -> None:
        (target[: len(values)] if target.ndim else target).write(values)

    def read(self, *arrays: DeviceArray) -> list[np.ndarray]:
        fetched = [array.fetch() for array in arrays]
        self.wait()
        return fetched

    def begin_read(self, arrays: Mapping[str, DeviceArray]) -> PinnedFetching:
        return PinnedFetching(self, arrays)

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        target.copy_from(source)

    def duplicate(self, arrays: Mapping[str, DeviceArray]) -> dict[str, DeviceArray]:
        """In one piece of memory: to ask for some takes the host longer than a small copy takes the GPU."""
        starts = [0, *itertools.accumulate(-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in arrays.values())]
        memory, copies = self.runtime.allocate(max(1, starts[-1])), {}
        for (name, array), start in zip(arrays.items(), starts, strict=False):
            copies[name] = DeviceArray(self.runtime, memory, memory.address + start, array.shape, array.dtype)
            copies[name].copy_from(array)
        return copies

    def count_nonfinite(self, array: DeviceArray) -> DeviceArray:
        counts = self.empty((-(-array.size // SUM_BLOCK),), np.int64)
        self.compute("count_nonfinite", (array.view(0, (array.size,)), counts), {})
        return counts

    def compute(self, kernel: str, operands: Sequence[DeviceArray], attributes: Mapping[str, Any]) -> None:
        described = tuple(Operand(array.shape, array.dtype) for array in operands)
        with _single_lock:
            offsets = tuple(array.address % ALIGNMENT for array in operands)
            player = _single(self.runtime, self.products, kernel, described, offsets, tuple(sorted(attributes.items())))
            for index, (array, offset) in enumerate(zip(operands, offsets, strict=True)):
                player.bind(str(index), array.address - offset)
            player.play(1, self.runtime.stream)

    def free(self) -> int:
        return self.runtime.memory()[0]

    def room(self) -> int:
        return self.free()

    def feed(self, rows: int, like: Mapping[str, Any]) -> PinnedRing:
        return PinnedRing(self, rows, like)

    def outputs(self, like: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        return np.empty(shape, dtype) if arrays.on_host(like) else self.empty(shape, dtype)

    def load_rows(self, target: DeviceArray, source: Any, start: int, count: int, input_map: InputMap) -> None:
        if arrays.on_host(source):
            rows = target.rows(0, count)
            values = np.empty(rows.shape, rows.dtype)
            convert_rows(values, source[start : start + count], input_map, start)
            rows.write(values)
        else:
            there = self.to_device(source)
            self.check_rows(there.rows(start, count))
            self.map_rows(target, there, start, count, input_map)

    def check_rows(self, X: DeviceArray) -> None:
        """Raise InputError where an element is NaN or infinite, InputTypeError for a dtype that programs do not read."""
        if X.dtype.kind == "f":
            bad = int(self.read(self.count_nonfinite(X))[0].sum())
            if bad:
                raise InputError(f"X: {bad} values are NaN or infinite; remove or replace them")
        if X.dtype not in (np.dtype("uint8"), np.dtype("float32"), np.dtype("float64")):
            raise InputTypeError(f"X: expected uint8, float32 or float64 on a GPU, got {X.dtype}; convert it with .astype")

    def map_rows(self, target: DeviceArray, X: DeviceArray, start: int, count: int, input_map: InputMap) -> None:
        """`count` rows of X from `start` on, mapped, into the first rows of `target`."""
        order, first = self._order(count), self._order(1).view(0, ())
        maps = [self.to_device(array) for array in input_map.arrays().values()]
        operands = (X.rows(start, count), order, first, *maps, target.rows(0, count))
        self.compute(input_map.kernel, operands, {"scale": input_map.scale})

    def store_rows(self, target: Any, source: DeviceArray, start: int, count: int) -> None:
        rows = source.rows(0, count)
        if isinstance(target, DeviceArray):
            target.rows(start, count).copy_from(rows)
        else:
            target[start : start + count] = rows.read()

    def export(self, array: Any) -> Any:
        return array.lend() if isinstance(array, DeviceArray) else array

    def rows_for(self, count: int) -> int:
        """A power of two, so that few programs serve all sizes."""
        return min(self.block_rows, max(32, 1 << (count - 1).bit_length()))

    def _order(self, count: int) -> DeviceArray:
        """0, 1, ..., count - 1 on the GPU."""
        if self._numbers is None or len(self._numbers) < count:
            self._numbers = self.to_device(np.arange(max(count, self.block_rows)))
        return self._numbers.rows(0, count)

    def wait(self) -> None:
        self.runtime.synchronize(self.runtime.stream)

    def passes(self, rows: int) -> Sequence[Pass]:
        return (
            functools.partial(choose_relu_masks, choose=functools.partial(self._choose_variant, rows)),
            merge_norm_dropout,
            chain_elementwise,
        )

    def instance(self, program: Program, rows: int, threads: int | None) -> CudaInstance:
        return CudaInstance(program, rows, self)

    def passage(self, program: Program, rows: int, threads: int | None = None) -> PinnedPassage:
        return PinnedPassage(self.instantiate(program, rows, threads))

    @property
    def choices(self) -> Mapping[str, Choice]:
        """How products are computed, where the rule does not say."""
        return {} if self._choices is None else self._choices.entries

    @property
    def tuned(self) -> int:
        return len(self.choices)

    def tune(self, program: Program, rows: int) -> int:
        if self._choices is not None:
            others = (call for variants in alternatives(program) for variant in variants for call in variant.values())
            calls = [*program.calls, *others]
            products = (call for call in calls if not call.is_view and LOWERINGS[call.kernel][0] == "dense")
            self._choices.tune([_placed_call(call, rows) for call in products], self.products)
        return self.tuned

    def _choose_variant(self, rows: int, variants: Sequence[Variant]) -> Variant:
        """With or without a mask: what takes the least time where that is known of all, else what the rule says."""
        device = replace(self.runtime.device, precision=self.products, choices=self.choices)
        placed = [[_placed_call(call, rows) for call in variant.values()] for variant in variants]
        requests = [[request(c.kernel, c.operands, c.attributes, device, c.offsets) for c in calls] for calls in placed]
        known = [[self.choices.get(dense.key(call)) for call in calls] for calls in requests]
        if all(choice for choices in known for choice in choices):
            seconds = [sum(choice.seconds for choice in choices if choice) for choices in known]
            return variants[seconds.index(min(seconds))]
        for variant, calls in zip(variants, requests, strict=True):
            with_mask = [call for call in calls if "mask" in call.operands]
            if with_mask and all(dense.precision(call) in dense.MASKED and dense.is_all_of(call) for call in with_mask):
                return variant
        return variants[0]


ENGINE = CudaEngine


class PinnedFetching(Fetching):
    """Copies that are made on the GPU, for work to go on, and brought from there to pinned memory by the stream of copies."""

    def __init__(self, engine: CudaEngine, arrays: Mapping[str, DeviceArray]) -> None:
        runtime = self._runtime = engine.runtime
        self._copies: Mapping[str, DeviceArray] = {}
        super().__init__({name: _pinned(runtime, array.shape, array.dtype) for name, array in arrays.items()})
        copied, self._done = runtime.event(), runtime.event()
        self._copies = engine.duplicate(arrays)
        runtime.record(copied, runtime.stream)
        runtime.wait(runtime.copies, copied)
        for name, array in self._copies.items():
            runtime.download(self.values[name], array.address, runtime.copies)
        runtime.record(self._done, runtime.copies)

    def is_done(self) -> bool:
        if self._copies and self._runtime.is_done(self._done):
            self._copies = {}
        return not self._copies

    def close(self) -> None:
        if self._copies:
            self._runtime.synchronize(self._runtime.copies)
            self._copies = {}

    def __del__(self) -> None:
        with contextlib.suppress(BaseException):  # an interpreter that ends, a GPU that is lost; here nobody hears of it
            self.close()


class PinnedRing(Ring):
    """Blocks are gathered into pinned memory and copied from there, beside the work."""

    engine: CudaEngine

    def __init__(self, engine: CudaEngine, rows: int, like: Mapping[str, Any]) -> None:
        super().__init__(engine, rows, like)
        self.uploaded = [engine.runtime.event(), engine.runtime.event()]
        self.used = [engine.runtime.event(), engine.runtime.event()]
        for half in range(2):
            self.leave(half)  # the memory may be what work that is not done yet was given before

    def staging(self, like: Mapping[str, Any]) -> dict[str, np.ndarray]:
        runtime = self.engine.runtime
        return {name: _pinned(runtime, (self.rows, *array.shape[1:]), array.dtype) for name, array in like.items()}

    def fill(self, half: int, count: int, gather: Callable[[str, np.ndarray], None]) -> None:
        """Gather a block and begin to copy it to its half of the ring, once nobody reads that any more."""
        runtime = self.engine.runtime
        runtime.wait(runtime.copies, self.used[half])
        try:
            for name, pinned in self._staged[half].items():
                rows = pinned[:count]
                gather(name, rows)
                runtime.upload(self.arrays[name].rows(half * self.rows, count).address, rows, runtime.copies)
            runtime.record(self.uploaded[half], runtime.copies)
        finally:
            runtime.synchronize(runtime.copies)  # the pinned half may be filled again, or be others', when this returns

    def leave(self, half: int) -> None:
        self.engine.runtime.record(self.used[half], self.engine.runtime.stream)

    def enter(self, half: int) -> None:
        self.engine.runtime.wait(self.engine.runtime.stream, self.uploaded[half])


class PinnedPassage(Passage):
    """Rows come and outputs go through pinned memory, of which there are two halves: while the GPU works on the blocks of one,
    the host prepares those of the other. It waits once for each half."""

    engine: CudaEngine

    def __call__(self, X: Any, outputs: Any, input_map: InputMap) -> None:
        if arrays.on_host(X):
            try:
                self._through(X, outputs, input_map)
            except BaseException:
                with contextlib.suppress(CudaError):
                    self.engine.wait()  # pinned memory goes to others when nothing reads or writes it any more
                raise
            return
        there = self.engine.to_device(X)
        self.engine.check_rows(there)
        for start, count in self.blocks(len(X)):
            self.engine.map_rows(self.x, there, start, count, input_map)
            self.instance.play()
            self.engine.store_rows(outputs, self.instance.output("outputs"), start, count)

    def _through(self, X: Any, outputs: np.ndarray, input_map: InputMap) -> None:
        runtime, made, blocks = self.engine.runtime, self.instance.output("outputs"), list(self.blocks(len(X)))
        many = max(1, min(len(blocks), STAGED_BYTES // (self.x.nbytes + made.nbytes)))
        groups = [blocks[first : first + many] for first in range(0, len(blocks), many)]
        halves = [_Half(runtime, many, self.x, made) for _ in groups[:2]]
        under_way: deque[_Half] = deque()
        for number, group in enumerate(groups):
            if len(under_way) == 2:
                under_way.popleft().take_out(outputs)
            half = halves[number % 2]
            half.blocks = group
            for (start, count), rows, results in zip(group, half.x, half.outputs, strict=False):
                convert_rows(rows[:count], X[start : start + count], input_map, start)
                runtime.upload(self.x.address, rows[:count], runtime.stream)
                self.instance.play()
                runtime.download(results[:count], made.address, runtime.stream)
            runtime.record(half.done, runtime.stream)
            under_way.append(half)
        for half in under_way:
            half.take_out(outputs)


class _Half:
    """Pinned memory for some blocks of a passage on their way in and out, and an event behind the work on them."""

    def __init__(self, runtime: Runtime, blocks: int, x: DeviceArray, outputs: DeviceArray) -> None:
        self.runtime, self.done = runtime, runtime.event()
        self.x, self.outputs = (_pinned(runtime, (blocks, *array.shape), array.dtype) for array in (x, outputs))
        self.blocks: list[tuple[int, int]] = []

    def take_out(self, outputs: np.ndarray) -> None:
        """Wait for the work, and bring what it made to where it belongs."""
        self.runtime.synchronize(self.done)
        for (start, count), results in zip(self.blocks, self.outputs, strict=False):
            outputs[start : start + count] = results[:count]


def _pinned(runtime: Runtime, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An array in pinned memory of the host."""
    return np.ndarray(shape, dtype, runtime.allocate_pinned(math.prod(shape) * dtype.itemsize))


def _choices(runtime: Runtime) -> Choices:
    try:
        from fastnn_kernels.cuda.choices import Choices
    except ImportError as error:
        raise PackageError.of("msgspec", "choosing by timing", error) from error
    return Choices(runtime)


_single_lock = threading.Lock()
"""Threads share the players of single calls: held from binding one until it is given to the stream."""


@functools.lru_cache(maxsize=256)
def _single(
    runtime: Runtime,
    precision: str,
    kernel: str,
    operands: tuple[Operand, ...],
    offsets: tuple[int, ...],
    attributes: tuple[tuple[str, Any], ...],
) -> Player:
    """A player of one call, whose operands lie in spaces of their own, so many bytes behind a boundary."""
    places = tuple(Place(str(index), offset) for index, offset in enumerate(offsets))
    return Player(runtime, [PlacedCall(kernel, operands, dict(attributes), places)], precision, capture=False)


def _placed_call(call: Call, rows: int) -> PlacedCall:
    """A call on its own, with every operand as far behind a boundary as it will be in a program."""
    operands = tuple(symbol.operand(rows) for symbol in call.operands)
    places = (Place("", symbol.start * symbol.dtype.itemsize % VECTOR) for symbol in call.operands)
    return PlacedCall(call.kernel, operands, call.attributes, tuple(places))


class CudaInstance(Instance):
    """A program with buffers on a GPU; its graphs keep everything alive that they point to."""

    engine: CudaEngine

    def __init__(self, program: Program, rows: int, engine: CudaEngine) -> None:
        super().__init__(program, rows, engine, SHARED_FROM)
        self._workspace = engine.runtime.allocate(max(self.plan.size, 1))
        self._once = self._player(self.plan.once, capture=False)
        self._calls = self._player(self.plan.calls, engine.capture)
        self._notes = dict(zip(self.computing(), self._calls.notes, strict=True))

    def _player(self, calls: Sequence[Call], capture: bool) -> Player:
        placed = [
            PlacedCall(call.kernel, self.operands(call), self.attributes(call), tuple(self._place(s) for s in call.operands))
            for call in calls
            if not call.is_view
        ]
        player = Player(self.engine.runtime, placed, self.engine.products, capture, self.engine.choices)
        player.bind(WORKSPACE, self._workspace.address)
        return player

    def _place(self, symbol: Symbol) -> Place:
        root, offset = symbol.root, symbol.start * symbol.dtype.itemsize
        if root in self._names:
            return Place(self._names[root], offset, open=0 in concrete(root.shape, self.rows))
        return Place(WORKSPACE, self.plan.offsets[root] + offset)

    def _bound(self, symbol: Symbol, array: DeviceArray) -> None:
        for player in (self._once, self._calls):
            player.bind(self._names[symbol], array.address)

    def _play_once(self) -> None:
        self._once.play(1, self.engine.runtime.stream)

    def _play(self, repeats: int) -> None:
        self._calls.play(repeats, self.engine.runtime.stream)

    def play_calls(self, first: int, count: int, repeats: int = 1) -> None:
        self._calls.play_calls(first, count, repeats, self.engine.runtime.stream)

    def first_chunk(self, seconds: float) -> int:
        return max(1, int(seconds / self._seconds))

    @functools.cached_property
    def _seconds(self) -> float:
        """About how long a play takes."""
        return sum(NODE + operations / RATE + moved / BANDWIDTH for operations, moved in self.work())

    def choice(self, call: Call) -> str:
        return self._notes[call]

    def describe(self) -> str:
        return f"{self.engine.name}, {self.engine.precision}, {self._calls.describe()}"

    def _view(self, symbol: Symbol, bound: DeviceArray | None) -> DeviceArray:
        shape = concrete(symbol.shape, self.rows)
        if bound is not None:
            return bound if symbol is symbol.root else bound.view(symbol.start, shape)
        start = self.plan.offsets[symbol.root]
        whole = DeviceArray(
            self.engine.runtime, self._workspace, self._workspace.address + start, (math.prod(shape),), symbol.dtype
        )
        return whole.view(symbol.start, shape)
