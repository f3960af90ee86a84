"""Arrays of the simulated CuPy, as far as users of this library and its tests need them.

What CuPy computes with kernels of its own is done by NumPy here, on the current stream, when it is its turn.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from simulated_cupy.memory import DEVICE_TO_HOST, HOST_TO_DEVICE, MemoryPointer


class ndarray:
    """A C-contiguous array. `gpu`: the simulated GPU that it lies on."""

    gpu: Any
    """Set in a subclass for each GPU."""

    def __init__(self, shape: tuple[int, ...], dtype: Any = float, memptr: MemoryPointer | None = None) -> None:
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self.data = memptr or self.gpu.memory.allocate(self.nbytes)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __array__(self, *options: Any, **more: Any) -> Any:
        raise TypeError("a NumPy array was made of an array of a GPU; use .get()")

    def get(self, stream: Any = None) -> np.ndarray:
        values = np.empty(self.shape, self.dtype)
        if self.nbytes:
            stream = stream or self.gpu.scheduler.current
            self.gpu.copies.copy(values.ctypes.data, self.data.ptr, self.nbytes, DEVICE_TO_HOST, stream.ptr)
        return values

    def _compute(self, function: Callable[..., Any], *operands: Any) -> ndarray:
        """The array of what `function` makes of the elements of some operands."""
        like = function(*(np.ones(o.shape, o.dtype) if isinstance(o, ndarray) else o for o in operands))
        result = type(self)(np.shape(like), like.dtype)
        target, sources = _reader(result), [_reader(operand) for operand in operands]

        def work() -> None:
            target()[...] = function(*(source() for source in sources))

        self.gpu.scheduler.current.give(work)
        return result

    def reshape(self, shape: tuple[int, ...]) -> ndarray:
        """The same memory."""
        return type(self)(shape, self.dtype, self.data)

    def copy(self) -> ndarray:
        return self._compute(np.copy, self)

    def astype(self, dtype: Any, copy: bool = True) -> ndarray:
        return self._compute(lambda x: x.astype(dtype), self)

    def argmax(self, axis: int) -> ndarray:
        return self._compute(lambda x: x.argmax(axis), self)

    def __gt__(self, limit: float) -> ndarray:
        return self._compute(lambda x: x > limit, self)

    def __getitem__(self, entries: Any) -> ndarray:
        return self._compute(lambda x: x[entries], self)

    def __setitem__(self, entries: Any, value: Any) -> None:
        target, source = _reader(self), _reader(value)

        def work() -> None:
            target()[entries] = source()

        self.gpu.scheduler.current.give(work)

    def __mul__(self, factor: float) -> ndarray:
        return self._compute(lambda x: x * x.dtype.type(factor), self)

    def __matmul__(self, other: ndarray) -> ndarray:
        return self._compute(np.matmul, self, other)


ndarray.__module__ = "cupy"


def _reader(operand: Any) -> Callable[[], Any]:
    """Finds the elements of an array where they lie, when it is the turn of the work; it keeps no memory from the pool."""
    if not isinstance(operand, ndarray):
        return lambda: operand
    address, nbytes, dtype, shape = operand.data.ptr, operand.nbytes, operand.dtype, operand.shape
    return lambda: np.frombuffer((ctypes.c_uint8 * nbytes).from_address(address), dtype).reshape(shape)


def functions(gpu: Any) -> dict[str, Any]:
    """What is used of the namespace `cupy` to make arrays."""
    kind = type("ndarray", (ndarray,), {"gpu": gpu, "__module__": "cupy"})

    def asarray(values: Any, dtype: Any = None) -> ndarray:
        if isinstance(values, ndarray):
            return values if dtype is None else values.astype(dtype)
        values = np.ascontiguousarray(values, dtype)
        array: ndarray = kind(values.shape, values.dtype)
        if array.nbytes:
            stream = gpu.scheduler.current
            gpu.copies.copy(array.data.ptr, values.ctypes.data, values.nbytes, HOST_TO_DEVICE, stream.ptr)
        return array

    def from_dlpack(array: Any) -> Any:
        raise BufferError("arrays of other libraries do not lie on a simulated GPU")

    return {
        "ndarray": kind, "generic": np.void, "asarray": asarray, "from_dlpack": from_dlpack, "ascontiguousarray": asarray,
        "zeros": lambda shape, dtype=float: asarray(np.zeros(shape, dtype)),
        "ones": lambda shape, dtype=float: asarray(np.ones(shape, dtype)),
    }  # fmt: skip
