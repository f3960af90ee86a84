"""Arrays on a GPU, as far as the engine needs them: where they lie, their shape and dtype, and the way to and from the host."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastnn_kernels.cuda.runtime import Runtime


class DeviceArray:
    """A C-contiguous array on a GPU; `owner` keeps its memory alive. `mirror`: pinned host memory for all of it, or None.

    What the host writes to and reads from an array with a mirror goes through the mirror, so that copies need not wait: between
    two writes the host waits for the stream, or else the first copy might bring the values of the second.
    """

    def __init__(
        self,
        runtime: Runtime,
        owner: Any,
        address: int,
        shape: tuple[int, ...],
        dtype: Any,
        mirror: np.ndarray | None = None,
    ) -> None:
        self.runtime, self.owner, self.address = runtime, owner, address
        self.shape, self.dtype, self.mirror = tuple(shape), np.dtype(dtype), mirror

    @classmethod
    def empty(cls, runtime: Runtime, shape: tuple[int, ...], dtype: Any, mirrored: bool = False) -> DeviceArray:
        """An array that holds nothing yet. Raises CudaOutOfMemory."""
        dtype = np.dtype(dtype)
        nbytes = math.prod(shape) * dtype.itemsize
        memory = runtime.allocate(max(nbytes, 1))
        mirror = runtime.allocate_pinned(nbytes).view(dtype).reshape(shape) if mirrored else None
        return cls(runtime, memory, memory.address, shape, dtype, mirror)

    @classmethod
    def adopt(cls, runtime: Runtime, array: Any) -> DeviceArray:
        """An array of another library on this GPU, without a copy where it is C-contiguous."""
        address, shape, dtype, owner = runtime.adopt(array)
        return cls(runtime, owner, address, shape, dtype)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * int(self.dtype.itemsize)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<DeviceArray {self.shape} {self.dtype} on cuda:{self.runtime.ordinal}>"

    def view(self, start: int, shape: tuple[int, ...]) -> DeviceArray:
        """The elements from `start` on, read in order as `shape`; it has no mirror."""
        return DeviceArray(self.runtime, self.owner, self.address + start * self.dtype.itemsize, shape, self.dtype)

    def __getitem__(self, entries: slice) -> DeviceArray:
        start, stop, _ = entries.indices(len(self))
        return self.rows(start, stop - start)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.runtime.ordinal

    def rows(self, start: int, count: int) -> DeviceArray:
        """`count` entries of the first axis from `start` on."""
        each = math.prod(self.shape[1:])
        view = self.view(start * each, (count, *self.shape[1:]))
        view.mirror = None if self.mirror is None else self.mirror[start : start + count]
        return view

    def write(self, values: Any, stream: Any = None) -> None:
        """Set all elements from the host."""
        source = np.asarray(values, self.dtype, order="C")
        if self.mirror is not None:
            np.copyto(self.mirror, source)
            source = self.mirror
        self.runtime.upload(self.address, source, stream or self.runtime.stream)

    def fetch(self, stream: Any = None) -> np.ndarray:
        """A host array that holds the elements once the stream is synchronized: the mirror, or a new one."""
        target = self.mirror if self.mirror is not None else np.empty(self.shape, self.dtype)
        self.runtime.download(target, self.address, stream or self.runtime.stream)
        return target

    def read(self) -> np.ndarray:
        """A copy on the host, now."""
        values = self.fetch()
        self.runtime.synchronize(self.runtime.stream)
        return values.copy() if values is self.mirror else values

    def copy_from(self, source: DeviceArray) -> None:
        """The same elements as `source`, an array of as many bytes on the same GPU."""
        self.runtime.copy(self.address, source.address, self.nbytes, self.runtime.stream)

    def lend(self) -> Any:
        """The same memory as an array that users know."""
        return self.runtime.lend(self.address, self.shape, self.dtype, self.owner)
