"""What an engine is: where arrays lie while a program works on them, and programs instantiated on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastnn.errors import InputError
from fastnn.program.plan import plan
from fastnn.program.shapes import BatchDim, concrete
from fastnn.program.trace import Call, Program, Symbol
from fastnn_kernels.contract import KERNELS, Operand

Pass = Callable[[Program], Program]
"""A function from program to program; see `fastnn.program.passes`."""

Placed = Any
"""An array where an engine uses it: a NumPy array on the host, a `DeviceArray` on a GPU."""


class Engine(ABC):
    """One place where programs run, and the few things that training does to arrays there."""

    name: str
    is_host: bool = False
    """Whether arrays are NumPy arrays and are used where they lie."""
    precision: str = "float32"
    """Of products of float32 numbers: "float32", "tf32" or "bf16"."""
    block_rows: int = 256
    """Rows that evaluation and prediction handle at a time."""
    product_size: int = 384
    """Of the square product by which the limit of the device is measured; it stays in the cache of a processor."""
    more_copies: tuple[int, ...] = ()
    """Bytes moved by copies that are measured beside those of `fastnn.engines.explain`."""

    @property
    def tuned(self) -> int:
        """Choices among ways to compute a product that were made by timing; 0 where all follow the rule."""
        return 0

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: Any, mirrored: bool = False) -> Placed:
        """An array there, zeros on the host; `mirrored`: the host writes or reads it often."""

    @abstractmethod
    def place(self, array: Any) -> Placed:
        """An array of the host, or of another library, there, for programs to read; not copied where it lies there already,
        contiguous and aligned."""

    @abstractmethod
    def write(self, target: Placed, values: Any) -> None:
        """Set the first entries of `target` (or the only one, where it is 0-d) to `values` of the host."""

    @abstractmethod
    def read(self, *arrays: Placed) -> list[np.ndarray]:
        """Arrays on the host, after all work given so far. They may be the engine's own, and change with the next play."""

    @abstractmethod
    def copy(self, target: Placed, source: Placed) -> None:
        """Copy one array there into another one there."""

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

    def tune(self, program: Program, rows: int) -> int:
        """Time the ways to compute each product of `program` for `rows` rows and choose the fastest, where the engine has
        several and was asked to choose so. Returns `tuned`."""
        return self.tuned

    @abstractmethod
    def outputs(self, like: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        """Room for the results of a prediction: on the host where the inputs `like` lie there, else beside them."""

    @abstractmethod
    def load_rows(self, target: Placed, source: Any, start: int, count: int, scale: float) -> None:
        """Entries of `source` from `start` on, times `scale`, into the first `count` rows of `target`.

        Raises InputError where one is NaN or infinite.
        """

    @abstractmethod
    def store_rows(self, target: Any, source: Placed, start: int, count: int) -> None:
        """The first `count` rows of `source` into `target` from `start` on."""

    def lent(self, array: Any) -> Any:
        """An array of `outputs` as one that users know."""
        return array

    def rows_for(self, count: int) -> int:
        """How many rows a prediction of `count` rows handles at a time."""
        return min(count, self.block_rows)

    def zeros(self, shape: tuple[int, ...], dtype: Any, mirrored: bool = False) -> Placed:
        """An array of zeros there."""
        made = self.empty(shape, dtype, mirrored)
        self.write(made, np.zeros(shape, dtype))
        return made


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
        self._ready = False
        self._written = {symbol.root for call in program.calls for symbol in (*call.updated, *call.outputs)}

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
    def _view(self, symbol: Symbol, given: Placed | None) -> Placed:
        """The elements of a symbol, of the array `given` for its root or of the workspace."""

    def bind(self, **arrays: Placed) -> None:
        """Give inputs their storage: C-contiguous and aligned arrays of the declared dtype and shape (rows that are not known
        may be any), which can be written to where the program updates them. Raises InputError for others.
        """
        for name, array in arrays.items():
            symbol = self.program.inputs[name]
            expected = concrete(symbol.shape, self.rows)
            unknown = [isinstance(d, BatchDim) and d.factor == 0 for d in symbol.shape]
            fits = len(expected) == array.ndim and all(
                free or e == a for e, a, free in zip(expected, array.shape, unknown, strict=True)
            )
            if not fits or array.dtype != symbol.dtype:
                raise InputError(
                    f"input {name!r}: expected {symbol.dtype} of shape {expected}, got {array.dtype} of shape {array.shape}"
                )
            if isinstance(array, np.ndarray):
                if not (array.flags.c_contiguous and array.flags.aligned):
                    raise InputError(f"input {name!r}: expected a contiguous, aligned array; pass numpy.require(x, None, 'CA')")
                if symbol in self._written and not array.flags.writeable:
                    raise InputError(f"input {name!r}: the program writes to it, and this array is read-only; pass a copy")
            if self.bound.get(name) is not array:
                self.bound[name] = array
                self._views.clear()
                self._bound(symbol, array)

    def unbind(self) -> None:
        """Let go of the arrays that were bound; they must be bound anew before the next play."""
        self.bound.clear()
        self._views.clear()
        self._ready = False

    def play(self, repeats: int = 1) -> None:
        """Run the program `repeats` times, with no Python in between but on the NumPy engine."""
        if not self._ready:
            missing = [name for name in self.program.inputs if name not in self.bound]
            if missing:
                raise InputError(f"the program has no {', '.join(missing)} yet; bind them first")
            self._play_once()
            self._ready = True
        self._play(repeats)

    def output(self, name: str) -> Placed:
        """A view of the result `name`."""
        return self.array(self.program.outputs[name])

    def array(self, symbol: Symbol) -> Placed:
        """The elements of any symbol of the program, where they lie."""
        view = self._views.get(symbol)
        if view is None:
            root = symbol.root
            given = self.bound[self._names[root]] if root in self._names else None
            view = self._views[symbol] = self._view(symbol, given)
        return view

    def operands(self, call: Call) -> tuple[Operand, ...]:
        return tuple(symbol.operand(self.rows) for symbol in call.operands)

    def attributes(self, call: Call) -> dict[str, Any]:
        """The call's attributes with the number of rows filled in."""
        return {k: v.factor * self.rows if isinstance(v, BatchDim) else v for k, v in call.attributes.items()}

    def work(self) -> list[tuple[int, int]]:
        """(floating-point operations, bytes moved at least) of each call of one play, by the kernel table."""
        given = ((KERNELS[call.kernel], self.operands(call), call.attributes) for call in self.computing())
        return [(kernel.operations(operands, attributes), kernel.traffic(operands)) for kernel, operands, attributes in given]

    def first_chunk(self, seconds: float) -> int:
        """How many plays take about so long, guessed low: what training begins with, before it has measured."""
        return 8

    def choice(self, call: Call) -> str:
        """Which of several ways computes a call, in a few words for `explain`; nothing where there is one way only."""
        return ""

    def played(self) -> str:
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
