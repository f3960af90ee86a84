"""What an engine is: where arrays lie while a program works on them, and programs instantiated on it."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastnn import arrays
from fastnn.errors import DeviceError, InputError, nearest
from fastnn.program.plan import plan
from fastnn.program.shapes import BatchDim, N, concrete
from fastnn.program.trace import Call, Program, Symbol
from fastnn_kernels.contract import KERNELS, Operand

Pass = Callable[[Program], Program]
"""A function from program to program; see `fastnn.program.passes`."""

Placed = Any
"""An array where an engine uses it: a NumPy array on the host, elsewhere a `PlacedArray`, such as `DeviceArray` on a GPU."""


class PlacedArray(Protocol):
    """What the library asks of an array that does not lie on the host; it is C-contiguous."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int: ...

    @property
    def nbytes(self) -> int: ...

    def __len__(self) -> int: ...

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's number of the kind of device, and the number of the device."""

    def __getitem__(self, entries: slice) -> PlacedArray:
        """Entries of the first axis that follow each other, in the same memory."""

    def rows(self, start: int, count: int) -> PlacedArray:
        """`count` entries of the first axis from `start` on, in the same memory."""

    def read(self) -> np.ndarray:
        """A copy on the host, now."""


class InputMap(NamedTuple):
    """What becomes of the elements of an example as they are read: x `scale`; or, computed in float64 and rounded once,
    (x `scale` - `offset`) `factor`, float64 arrays with a number for each element."""

    scale: float = 1.0
    offset: np.ndarray | None = None
    factor: np.ndarray | None = None

    @property
    def kernel(self) -> str:
        """What reads rows so."""
        return "gather_rows" if self.offset is None else "gather_standardized"

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name, where there are any."""
        return {} if self.offset is None or self.factor is None else {"offset": self.offset, "factor": self.factor}


AS_IT_IS = InputMap()
"""The map that changes nothing."""


class Engine(ABC):
    """One place where programs run, and the few things that training does to arrays there.

    A subclass for devices that are not the host is all that the library knows of them: see `fastnn.engines.register`.
    """

    name: str
    """For devices that are not the host `prefix:ordinal`, such as "cuda:0"."""
    noun: str = "device"
    """What messages call such a device."""
    is_host: bool = False
    """Whether arrays are NumPy arrays and are used where they lie."""
    kind: str = "numpy"
    """The library of the arrays that users have there and operations take: what `fastnn.arrays.kind` says of them."""
    precision: str = "float32"
    """Of products of float32 numbers: "float32", "tf32" or "bf16"."""
    block_rows: int = 256
    """Rows that evaluation and prediction handle at a time."""
    product_size: int = 384
    """Of the square product by which the limit of the device is measured; it stays in the cache of a processor."""
    more_copies: tuple[int, ...] = ()
    """Bytes moved by copies that are measured beside those of `fastnn.engines.explain`."""

    @classmethod
    def open(cls, ordinal: int, precision: str = "float32", autotune: bool = False) -> Engine:
        """The engine of the device with this number, the same one each time. Raises DeviceError, in one line with the cure,
        where there is none or it cannot be used so."""
        raise DeviceError(f"{cls.__name__} opens no device")

    @classmethod
    def is_broken(cls, error: DeviceError) -> bool:
        """Whether an error of `open` says that a device seems to be here that does not work: `"auto"` then warns."""
        return False

    @classmethod
    def translate(cls, error: Exception) -> DeviceError | None:
        """An error of this engine's runtime (they are RuntimeErrors) as one of this library: DeviceMemoryError where memory was
        missing, DeviceLostError where the device is lost, else DeviceError; None for all other errors."""
        return None

    def adopts(self, array: Any) -> bool:
        """Whether an array, of any library that speaks DLPack, lies where this engine reads it in place."""
        return arrays.device(array) == self.name

    @property
    def tuned(self) -> int:
        """Choices among ways to compute a product that were made by timing; 0 where all follow the rule."""
        return 0

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: Any, mirrored: bool = False) -> Placed:
        """An array there, zeros on the host; `mirrored`: the host writes or reads it often, and waits (`read`, `wait`) between
        two writes."""

    @abstractmethod
    def to_device(self, array: Any) -> Placed:
        """An array of the host, or of another library, there, for programs to read; not copied where it lies there already
        (`adopts`), contiguous and aligned; from other devices by way of the host."""

    @abstractmethod
    def write(self, target: Placed, values: Any) -> None:
        """Set the first entries of `target` (or the only one, where it is 0-d) to `values` of the host, which may be changed
        once this returns."""

    @abstractmethod
    def read(self, *arrays: Placed) -> list[np.ndarray]:
        """Arrays on the host, after all work given so far. They may be the engine's own, and change with the next play."""

    def begin_read(self, arrays: Mapping[str, Placed]) -> Fetching:
        """Begin to bring arrays to the host as they are after all work given so far, beside the work given from now on."""
        return Fetching({name: values.copy() for name, values in zip(arrays, self.read(*arrays.values()), strict=True)})

    @abstractmethod
    def copy(self, target: Placed, source: Placed) -> None:
        """Copy one array there into another one there."""

    def duplicate(self, arrays: Mapping[str, Placed]) -> dict[str, Placed]:
        """Copies of some arrays there."""
        copies = {name: self.empty(array.shape, array.dtype) for name, array in arrays.items()}
        for name, array in arrays.items():
            self.copy(copies[name], array)
        return copies

    @abstractmethod
    def compute(self, kernel: str, operands: Sequence[Placed], attributes: Mapping[str, Any]) -> None:
        """Run one kernel of the contract now."""

    @abstractmethod
    def count_nonfinite(self, array: Placed) -> Placed:
        """An array whose sum is the number of elements that are NaN or infinite."""

    @abstractmethod
    def free(self) -> int:
        """Bytes of memory that are free there."""

    def room(self) -> int | None:
        """Bytes that are free for data; None where data are used in place."""
        return None

    def feed(self, rows: int, like: Mapping[str, Any]) -> Ring:
        """Where data come to that do not fit here, or do not lie here as programs read them, block by block: room for two
        blocks of `rows` examples each, of the arrays `like`."""
        return Ring(self, rows, like)

    @abstractmethod
    def wait(self) -> None:
        """Until all work given so far is done."""

    def passes(self, rows: int) -> Sequence[Pass]:
        """The rewrites that suit this engine, in the order in which a program for `rows` rows goes through them."""
        return ()

    def instantiate(self, program: Program, rows: int, threads: int | None = None) -> Instance:
        """`program` here for `rows` rows, after the passes."""
        for rewrite in self.passes(rows):
            program = rewrite(program)
        return self.instance(program, rows, threads)

    @abstractmethod
    def instance(self, program: Program, rows: int, threads: int | None) -> Instance:
        """`program` as it is, for `rows` rows."""

    def passage(self, program: Program, rows: int, threads: int | None = None) -> Passage:
        """`program`, which makes `outputs` of `x`, here for X of any number of rows, of which it handles `rows` at a time."""
        return Passage(self.instantiate(program, rows, threads))

    def tune(self, program: Program, rows: int) -> int:
        """Time the ways to compute each product of `program` for `rows` rows and choose the fastest, where the engine has
        several and was asked to choose so. Returns `tuned`."""
        return self.tuned

    @abstractmethod
    def outputs(self, like: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        """Room for the results of a prediction: on the host where the inputs `like` lie there, else beside them."""

    @abstractmethod
    def load_rows(self, target: Placed, source: Any, start: int, count: int, input_map: InputMap) -> None:
        """Entries of `source` from `start` on, mapped, into the first `count` rows of `target`.

        Raises InputError where one is NaN or infinite.
        """

    @abstractmethod
    def store_rows(self, target: Any, source: Placed, start: int, count: int) -> None:
        """The first `count` rows of `source` into `target` from `start` on."""

    def export(self, array: Any) -> Any:
        """An array of `outputs` as one that users know."""
        return array

    def rows_for(self, count: int) -> int:
        """How many rows a prediction of `count` rows handles at a time."""
        return min(count, self.block_rows)

    def zeros(self, shape: tuple[int, ...], dtype: Any, mirrored: bool = False) -> Placed:
        """An array of zeros there."""
        array = self.empty(shape, dtype, mirrored)
        self.write(array, np.zeros(shape, dtype))
        return array


class Fetching:
    """Arrays on their way to the host; `values` holds them when they have come. Here they have come at once."""

    def __init__(self, values: dict[str, np.ndarray]) -> None:
        self.values = values

    def is_done(self) -> bool:
        """Whether they have come, without waiting for them."""
        return True

    def close(self) -> None:
        """Let go of them, when nothing writes to `values` any more."""


class Ring:
    """Two halves, each of which takes a block of examples: one is filled, in another thread, while the other is worked on.

    In this one blocks are gathered on the host, and written from there before the work on them begins.
    """

    def __init__(self, engine: Engine, rows: int, like: Mapping[str, Any]) -> None:
        self.engine, self.rows = engine, rows
        self.arrays: dict[str, Placed] = {
            name: engine.empty((2 * rows, *array.shape[1:]), array.dtype) for name, array in like.items()
        }
        """The halves one after the other: row r of half h is row h * rows + r."""
        self._staged = [self.staging(like) for _ in range(2)]
        self._counts = [0, 0]

    def staging(self, like: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Memory of the host that a block is gathered in."""
        return {name: np.empty((self.rows, *array.shape[1:]), array.dtype) for name, array in like.items()}

    def fill(self, half: int, count: int, gather: Callable[[str, np.ndarray], None]) -> None:
        """Bring a block of `count` rows to a half that nobody reads any more: `gather` writes those of one array. Called in a
        thread of its own; it returns when memory that was gathered in may be used again."""
        self._counts[half] = count
        for name, rows in self._staged[half].items():
            gather(name, rows[:count])

    def enter(self, half: int) -> None:
        """Work on a half that was filled follows."""
        for name, rows in self._staged[half].items():
            self.engine.write(self.arrays[name][half * self.rows :], rows[: self._counts[half]])

    def leave(self, half: int) -> None:
        """All work on a half has been given to the engine."""


class Passage:
    """Rows of X on their way through a program, block by block: from its input `x` to its output `outputs`, into the rows of
    an array of `Engine.outputs`. One caller at a time."""

    def __init__(self, instance: Instance) -> None:
        self.instance, self.engine, self.rows = instance, instance.engine, instance.rows
        symbol = instance.program.inputs["x"]
        self.x: Placed = self.engine.zeros(concrete(symbol.shape, self.rows), symbol.dtype)
        instance.bind(x=self.x)

    def __call__(self, X: Any, outputs: Any, input_map: InputMap) -> None:
        """outputs[i] = what the program makes of X[i], mapped. Raises InputError where an element is NaN or infinite."""
        for start, count in self.blocks(len(X)):
            self.engine.load_rows(self.x, X, start, count, input_map)
            self.instance.play()
            self.engine.store_rows(outputs, self.instance.output("outputs"), start, count)

    def blocks(self, n: int) -> Iterator[tuple[int, int]]:
        """Where the blocks of n rows begin, and how many rows they have."""
        count = min(self.rows, n)
        for start in range(0, n, max(1, count)):
            yield min(start, n - count), count  # the last one overlaps the one before: rows do not depend on each other


class Instance(ABC):
    """A program with buffers, on one engine, for one number of rows. One caller at a time.

    Inputs are given by `bind`; they are used in place, so what a program updates is updated in the array that was bound.
    `play(repeats)` runs it; `output(name)` is a view of a result, valid until the next play.
    """

    threads: int = 1

    def __init__(self, program: Program, rows: int, engine: Engine, shared_from: int = 0) -> None:
        self.program = program
        self.rows = rows
        self.engine = engine
        self.plan = plan(program, rows, shared_from)
        self.bound: dict[str, Placed] = {}
        self._names = {symbol: name for name, symbol in program.inputs.items()}
        self._views: dict[Symbol, Placed] = {}
        self._loose: dict[str, weakref.ref[Any]] = {}  # what was bound last, while it lives
        self._ready = False  # nothing is missing
        self._has_constants = False
        self._fixed: dict[str, list[tuple[int, int]]] = {}  # of each input, the axes of a known length
        written = {symbol.root for call in program.calls for symbol in (*call.updated, *call.outputs)}
        self._writes = {name for name, symbol in program.inputs.items() if symbol in written}

    @abstractmethod
    def _bound(self, symbol: Symbol, array: Placed) -> None:
        """Take note of where an input lies."""

    @abstractmethod
    def _play_once(self) -> None:
        """Compute the constants of the program."""

    @abstractmethod
    def _play(self, repeats: int) -> None: ...

    @abstractmethod
    def play_calls(self, first: int, count: int, repeats: int = 1) -> None:
        """Run some calls of the plan on their own (`explain` times them, a failing step is searched with them)."""

    @abstractmethod
    def _view(self, symbol: Symbol, bound: Placed | None) -> Placed:
        """The elements of a symbol, of the array `bound` to its root or of the workspace."""

    def bind(self, **arrays: Placed) -> None:
        """Give inputs their storage: C-contiguous and aligned arrays of the declared dtype and shape (rows that are not known
        may be any), which can be written to where the program updates them. Raises InputError for others.
        """
        for name, array in arrays.items():
            if self.bound.get(name) is array and (name not in self._writes or self._is_writable(array)):
                continue  # checked when it was bound first
            if name in self._loose and self._loose.pop(name)() is array:
                self.bound[name] = array
                continue
            if name not in self.program.inputs:
                raise InputError(f"the program has no input {name!r}{nearest(name, self.program.inputs)}")
            symbol = self.program.inputs[name]
            self._check(name, symbol, array)
            self.bound[name] = array
            self._views.clear()
            self._bound(symbol, array)

    def _check(self, name: str, symbol: Symbol, array: Placed) -> None:
        """Raise InputError for an array that cannot be this input."""
        fixed = self._fixed.get(name)
        if fixed is None:
            fixed = self._fixed[name] = [(i, concrete((d,), self.rows)[0]) for i, d in enumerate(symbol.shape) if d != N]
        shape = array.shape
        if len(shape) != symbol.ndim or any(shape[i] != d for i, d in fixed) or array.dtype != symbol.dtype:
            expected = concrete(symbol.shape, self.rows)
            raise InputError(
                f"input {name!r}: expected {symbol.dtype} of shape {expected}, got {array.dtype} of shape {array.shape}"
            )
        if isinstance(array, np.ndarray) and not (array.flags.c_contiguous and array.flags.aligned):
            raise InputError(f"input {name!r}: expected a contiguous, aligned array; pass numpy.require(x, None, 'CA')")
        if name in self._writes and not self._is_writable(array):
            raise InputError(f"input {name!r}: the program writes to it, and this array is read-only; pass a copy")

    @staticmethod
    def _is_writable(array: Placed) -> bool:
        return not isinstance(array, np.ndarray) or bool(array.flags.writeable)

    def unbind(self, *names: str) -> None:
        """Let go of the arrays that were bound to these inputs, without any to all; bind others before the next play."""
        for name in names or list(self.bound):
            self.bound.pop(name, None)
        self._views.clear()
        self._ready = False

    def loosen(self, *names: str) -> None:
        """`unbind` inputs whose arrays nobody but the library has, and which are often bound again: those are known then."""
        arrays = {name: self.bound[name] for name in names if name in self.bound}
        self.unbind(*arrays)
        self._loose = {name: weakref.ref(array) for name, array in arrays.items()}

    def play(self, repeats: int = 1) -> None:
        """Run the program `repeats` times, with no Python in between but on the NumPy engine."""
        if not self._ready:
            missing = [name for name in self.program.inputs if name not in self.bound]
            if missing:
                raise InputError(f"the program has no {', '.join(missing)} yet; bind them first")
            if not self._has_constants:
                self._play_once()
            self._ready = self._has_constants = True
        self._play(repeats)

    def output(self, name: str) -> Placed:
        """A view of the result `name`."""
        return self.array(self.program.outputs[name])

    def array(self, symbol: Symbol) -> Placed:
        """The elements of any symbol of the program, where they lie."""
        view = self._views.get(symbol)
        if view is None:
            root = symbol.root
            bound = self.bound[self._names[root]] if root in self._names else None
            view = self._views[symbol] = self._view(symbol, bound)
        return view

    def operands(self, call: Call) -> tuple[Operand, ...]:
        return tuple(symbol.operand(self.rows) for symbol in call.operands)

    def attributes(self, call: Call) -> dict[str, Any]:
        """The call's attributes with the number of rows filled in."""
        return {k: v.of(self.rows) if isinstance(v, BatchDim) else v for k, v in call.attributes.items()}

    def work(self) -> list[tuple[int, int]]:
        """(floating-point operations, bytes moved at least) of each call of one play, by the kernel table."""
        calls = ((KERNELS[call.kernel], self.operands(call), call.attributes) for call in self.computing())
        return [(kernel.operations(operands, attributes), kernel.traffic(operands)) for kernel, operands, attributes in calls]

    def first_chunk(self, seconds: float) -> int:
        """How many plays take about so long, guessed low: what training begins with, before it has measured."""
        return 8

    def choice(self, call: Call) -> str:
        """Which of several ways computes a call, in a few words for `explain`; nothing where there is one way only."""
        return ""

    def describe(self) -> str:
        """How plays run, in a few words for `explain`."""
        return f"{self.threads} thread(s)"

    @property
    def program_dtype(self) -> str:
        """The floating-point dtype of the program."""
        kinds = {s.dtype.name for call in self.plan.calls for s in call.operands if s.dtype.kind == "f"}
        return "float64" if "float64" in kinds and "float32" not in kinds else "float32"

    def computing(self) -> list[Call]:
        """The calls that are played, views left out."""
        return [call for call in self.plan.calls if not call.is_view]
