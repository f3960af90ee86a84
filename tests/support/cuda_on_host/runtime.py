"""The runtime of the GPU made of the host: see `host.py` for how kernels run.

Memory lies between guards and holds NaN when it is allocated. Everything that is asked is done at once; a graph is the
record of its stages, and the nodes of a stage are run in an order that is drawn. `fail_at(n, error)` makes the n-th call from
then on fail that a GPU can fail.
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cuda_on_host import host
from fastnn_kernels.cuda.lowering import Device, Product
from fastnn_kernels.cuda.runtime import CudaLost, CudaOutOfMemory, Launch, Multiplication, Node

GUARD = 256


class HostMemory:
    """Memory between two guards, which are looked at when it goes."""

    def __init__(self, runtime: HostRuntime, nbytes: int) -> None:
        self.runtime, self.nbytes = runtime, nbytes
        raw = np.full(nbytes + 3 * GUARD, 0xFF, np.uint8)
        start = GUARD + -(raw.ctypes.data + GUARD) % GUARD
        raw[:start], raw[start + nbytes :] = 0xA5, 0xA5
        self._raw, self._start = raw, start
        self.address: int = raw.ctypes.data + start
        runtime.held[self.address] = nbytes

    def check(self) -> None:
        outside = (self._raw[: self._start], self._raw[self._start + self.nbytes :])
        assert all((part == 0xA5).all() for part in outside), "a kernel wrote beyond its memory"

    def __del__(self) -> None:
        self.runtime.held.pop(self.address, None)
        self.check()


@dataclass(eq=False)
class Foreign:
    """An array of another library on this GPU."""

    memory: HostMemory
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0


class HostRuntime:
    """See `fastnn_kernels.cuda.runtime.Runtime`."""

    def __init__(self, total: int = 2**34, products: bool = False, ordinal: int = 0) -> None:
        self.device = Device(90, 4, 64 * 1024, products)
        self.name, self.ordinal, self.total = "a GPU made of the host", ordinal, total
        self.held: dict[int, int] = {}
        self.asked: list[str] = []
        self.stream, self.copies = "stream", "copies"
        self._random = random.Random(0)
        self._left: int | None = None
        self._error: Exception | None = None
        self._lost = False

    # --- faults -------------------------------------------------------------------------------------------------------

    def fail_at(self, n: int | None, error: Exception | None = None) -> None:
        """The n-th call from now on (counted from 0) fails; CudaLost fails every call after it as well. None: none fails."""
        self._left, self._error, self._lost = n, error, False
        self.asked.clear()

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self._lost:
            assert self._error is not None
            raise self._error
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                self._left = None
                assert self._error is not None
                self._lost = isinstance(self._error, CudaLost)
                raise self._error

    # --- memory -------------------------------------------------------------------------------------------------------

    def memory(self) -> tuple[int, int]:
        return self.total - sum(self.held.values()), self.total

    def allocate(self, nbytes: int) -> HostMemory:
        self._ask("allocate")
        free, total = self.memory()
        if nbytes > free:
            raise CudaOutOfMemory(nbytes, free, total)
        return HostMemory(self, nbytes)

    def allocate_pinned(self, nbytes: int) -> np.ndarray:
        self._ask("allocate_pinned")
        return np.full(nbytes, 0xFF, np.uint8)

    def _inside(self, address: int, nbytes: int) -> None:
        """Every copy must stay within memory that is allocated."""
        assert any(start <= address and address + nbytes <= start + held for start, held in self.held.copy().items()), (
            "a copy reaches beyond what is allocated"
        )

    def upload(self, address: int, array: np.ndarray, stream: Any) -> None:
        self._ask("upload")
        assert array.flags.c_contiguous
        if array.nbytes:
            self._inside(address, array.nbytes)
            ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def download(self, array: np.ndarray, address: int, stream: Any) -> None:
        self._ask("download")
        assert array.flags.c_contiguous
        if array.nbytes:
            self._inside(address, array.nbytes)
            ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def copy(self, target: int, source: int, nbytes: int, stream: Any) -> None:
        self._ask("copy")
        if nbytes:
            self._inside(target, nbytes)
            self._inside(source, nbytes)
            ctypes.memmove(target, source, nbytes)

    def clear(self, address: int, nbytes: int, stream: Any) -> None:
        self._ask("clear")
        if nbytes:
            self._inside(address, nbytes)
            ctypes.memset(address, 0, nbytes)

    # --- streams ------------------------------------------------------------------------------------------------------

    def event(self) -> Any:
        return {}

    def record(self, event: Any, stream: Any) -> None:
        self._ask("record")

    def wait(self, stream: Any, event: Any) -> None:
        self._ask("wait")

    def is_done(self, event: Any) -> bool:
        self._ask("is_done")
        return True

    def elapsed_seconds(self, first: Any, last: Any) -> float:
        return 1e-6

    def synchronize(self, work: Any) -> None:
        self._ask("synchronize")

    # --- work ---------------------------------------------------------------------------------------------------------

    def prepare(self, nodes: Sequence[Node]) -> None:
        self._ask("prepare")
        for node in nodes:
            if isinstance(node, Launch):
                host.function(node.kernel)

    def run(self, node: Node, stream: Any) -> None:
        self._ask("run")
        self._do(node)

    def _do(self, node: Node) -> None:
        if isinstance(node, Launch):
            host.run_kernel(node.kernel, node.blocks, node.shared, node.values)
        else:
            self.multiply(node)

    def multiply(self, node: Multiplication) -> None:
        raise AssertionError("this host has no products")

    @property
    def products_version(self) -> int:
        return 0

    def algorithms(self, product: Product, count: int) -> list[bytes]:
        raise AssertionError("this host has no products")

    def capture(self, stages: Sequence[Sequence[Node]]) -> Any:
        self._ask("capture")
        return [list(stage) for stage in stages]

    def launch(self, graph: Any, stream: Any) -> None:
        self._ask("launch")
        for stage in graph:
            for node in self._random.sample(stage, len(stage)):
                self._do(node)

    # --- arrays of others ---------------------------------------------------------------------------------------------

    def adopt(self, array: Any) -> tuple[int, tuple[int, ...], np.dtype[Any], Any]:
        assert isinstance(array, Foreign)
        return array.memory.address, array.shape, array.dtype, array

    def lend(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any], owner: Any) -> Any:
        return Foreign(owner, shape, dtype)
