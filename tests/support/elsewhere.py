"""An engine for a device that is neither the host nor a GPU, in one file, as `docs/recipes/engine.md` says.

Its devices are `shelf:0` and `shelf:1`; its arrays keep NumPy away, which nothing but this file may look behind; its programs
are the definition's, so that every result has the bits of the `numpy` engine.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import fastnn_kernels.numpy as definition
from fastnn import arrays
from fastnn.engines.base import Engine, InputMap, Instance
from fastnn.engines.host import convert_rows
from fastnn.errors import DeviceError, DeviceLostError, DeviceMemoryError, InputError
from fastnn.program.shapes import concrete
from fastnn.program.trace import Call, Program, Symbol

DLPACK = 12
"""kDLExtDev of dlpack.h: a device of one's own."""


# --- the library whose arrays users have there ---------------------------------------------------------------------------


class Array:
    """An array on a shelf. Like CuPy's it has methods of NumPy's, and is no NumPy array by itself."""

    def __init__(self, values: Any, ordinal: int = 0) -> None:
        self._values, self.ordinal = np.require(values, None, ["C", "A"]), ordinal

    shape = property(lambda self: self._values.shape)
    dtype = property(lambda self: self._values.dtype)
    ndim = property(lambda self: self._values.ndim)
    size = property(lambda self: self._values.size)
    nbytes = property(lambda self: self._values.nbytes)
    device = property(lambda self: self.ordinal)

    def __len__(self) -> int:
        return len(self._values)

    def __array__(self, *options: Any, **more: Any) -> Any:
        raise TypeError("a NumPy array was made of an array that does not lie on the host")

    def __array_namespace__(self, **options: Any) -> Any:
        return sys.modules[__name__]

    def __dlpack_device__(self) -> tuple[int, int]:
        return DLPACK, self.ordinal

    def to_device(self, device: str, /, stream: Any = None) -> np.ndarray:
        assert device == "cpu"
        return self._values.copy()

    def __getitem__(self, entries: Any) -> Array:
        return type(self)(self._values[entries._values if isinstance(entries, Array) else entries], self.ordinal)

    def __gt__(self, limit: float) -> Array:
        return Array(self._values > limit, self.ordinal)

    def argmax(self, axis: int) -> Array:
        return Array(self._values.argmax(axis), self.ordinal)

    def astype(self, dtype: Any, copy: bool = True) -> Array:
        return Array(self._values.astype(dtype, copy=copy), self.ordinal)

    def min(self) -> Any:
        return self._values.min()

    def max(self) -> Any:
        return self._values.max()


def asarray(values: np.ndarray, /, *, device: int) -> Array:
    """An array on a shelf, as the array API standard makes one of an array of the host."""
    return Array(values, device)


def from_dlpack(array: Any, /) -> Array:
    """An array of another library on a shelf."""
    return Array(array.content, array.__dlpack_device__()[1])


# --- the engine ----------------------------------------------------------------------------------------------------------


class ShelfError(RuntimeError):
    """A shelf broke."""


class ShelfFull(ShelfError):
    """A shelf has no room."""


class Placed(Array):
    """An array as programs use it."""

    def rows(self, start: int, count: int) -> Placed:
        return self[start : start + count]  # type: ignore[return-value]

    def read(self) -> np.ndarray:
        return self._values.copy()


class ShelfEngine(Engine):
    """A shelf of `capacity` bytes; what lies on it is not counted, only what data may take."""

    noun = "shelf"
    kind = __name__
    shelves: dict[int, ShelfEngine] = {}  # noqa: RUF012 - those that were opened

    def __init__(self, ordinal: int) -> None:
        self.ordinal, self.name = ordinal, f"shelf:{ordinal}"
        self.capacity = 2**30
        self.fails: Exception | None = None
        """What the next play raises, or the next array that is made where it is ShelfFull."""

    @classmethod
    def open(cls, ordinal: int, precision: str = "float32", autotune: bool = False) -> ShelfEngine:
        if ordinal > 1:
            raise DeviceError(f"there is no shelf:{ordinal}; there are two shelves")
        if precision != "float32":
            raise DeviceError(f"precision={precision!r} needs a GPU; this is a shelf")
        return cls.shelves.setdefault(ordinal, cls(ordinal))

    @classmethod
    def translate(cls, error: Exception) -> DeviceError | None:
        if not isinstance(error, ShelfError):
            return None
        return DeviceMemoryError(str(error)) if isinstance(error, ShelfFull) else DeviceLostError(str(error))

    def empty(self, shape: tuple[int, ...], dtype: Any, mirrored: bool = False) -> Placed:
        if isinstance(self.fails, ShelfFull):
            error, self.fails = self.fails, None
            raise error
        values = np.empty(shape, dtype)
        values.reshape(-1).view(np.uint8).fill(255)  # NaN until it is written
        return Placed(values, self.ordinal)

    def to_device(self, array: Any) -> Placed:
        if isinstance(array, Placed) and self.adopts(array):
            return array
        return Placed(array._values if self.adopts(array) else arrays.to_host(array).copy(), self.ordinal)

    def write(self, target: Placed, values: Any) -> None:
        if target.ndim:
            target._values[: len(values)] = values
        else:
            target._values[...] = values

    def read(self, *placed: Placed) -> list[np.ndarray]:
        return [array.read() for array in placed]

    def copy(self, target: Placed, source: Placed) -> None:
        np.copyto(target._values, source._values)

    def compute(self, kernel: str, operands: Sequence[Placed], attributes: Mapping[str, Any]) -> None:
        getattr(definition, kernel)(*(array._values for array in operands), **attributes)

    def count_nonfinite(self, array: Placed) -> Placed:
        return Placed(np.array([np.count_nonzero(~np.isfinite(array._values))]), self.ordinal)

    def free(self) -> int:
        return self.capacity

    def room(self) -> int:
        return self.capacity

    def wait(self) -> None:
        """Whatever is asked is done when the call returns."""

    def instance(self, program: Program, rows: int, threads: int | None) -> ShelfInstance:
        return ShelfInstance(program, rows, self)

    def outputs(self, like: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        return np.empty(shape, dtype) if arrays.on_host(like) else self.empty(shape, dtype)

    def load_rows(self, target: Placed, source: Any, start: int, count: int, input_map: InputMap) -> None:
        if not arrays.on_host(source) and not np.isfinite(source._values).all():
            raise InputError(f"X: {self.count_nonfinite(source)._values[0]} values are NaN or infinite")
        rows = source[start : start + count]
        convert_rows(target._values[:count], rows if arrays.on_host(rows) else rows._values, input_map, start)

    def store_rows(self, target: Any, source: Placed, start: int, count: int) -> None:
        values = target if isinstance(target, np.ndarray) else target._values
        values[start : start + count] = source._values[:count]

    def export(self, array: Any) -> Any:
        return Array(array._values, self.ordinal) if isinstance(array, Placed) else array


ENGINE = ShelfEngine


class ShelfInstance(Instance):
    """A program with buffers on a shelf, played call by call."""

    engine: ShelfEngine

    def __init__(self, program: Program, rows: int, engine: ShelfEngine) -> None:
        super().__init__(program, rows, engine)
        self._workspace = engine.empty((max(self.plan.size, 1),), np.uint8)

    def _bound(self, symbol: Symbol, array: Placed) -> None:
        assert isinstance(array, Placed)
        assert array.ordinal == self.engine.ordinal

    def _compute(self, calls: Sequence[Call]) -> None:
        if self.engine.fails is not None:
            error, self.engine.fails = self.engine.fails, None
            raise error
        with np.errstate(all="ignore"):
            for call in calls:
                self.engine.compute(call.kernel, [self.array(symbol) for symbol in call.operands], self.attributes(call))

    def _play_once(self) -> None:
        self._compute([call for call in self.plan.once if not call.is_view])

    def _play(self, repeats: int) -> None:
        self.play_calls(0, len(self.computing()), repeats)

    def play_calls(self, first: int, count: int, repeats: int = 1) -> None:
        for _ in range(repeats):
            self._compute(self.computing()[first : first + count])

    def _view(self, symbol: Symbol, bound: Placed | None) -> Placed:
        root, shape = symbol.root, concrete(symbol.shape, self.rows)
        if bound is not None and symbol is root:
            return bound
        if bound is not None:
            flat = bound._values.reshape(-1)
        else:
            start = self.plan.offsets[root]
            flat = self._workspace._values[start : start + root.operand(self.rows).nbytes].view(root.dtype)
        return Placed(flat[symbol.start : symbol.start + math.prod(shape)].reshape(shape), self.engine.ordinal)
