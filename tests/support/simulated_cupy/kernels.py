"""Kernels and products of the simulated GPU: the sources compiled for the host (`cuda_on_host`), done when it is their turn."""

from __future__ import annotations

import ctypes
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from cuda_on_host import host
from cuda_on_host.cublaslt import FakeCublasLt

from fastnn_kernels.cuda.lowering import THREADS
from simulated_cupy.memory import INVALID_VALUE, DeviceMemory
from simulated_cupy.streams import Scheduler

SHARED_BYTES, MOST_SHARED_BYTES = 48 * 1024, 227 * 1024
"""Shared memory that a block may have without being asked for, and at most (compute capability 9.0)."""

MAX_DYNAMIC_SHARED_SIZE_BYTES = 8
"""CUfunction_attribute (cuda.h)."""

DEFINITION = re.compile(r'extern "C" __global__ void __launch_bounds__\(\d+\) (\w+)\((.*?)\) \{')


class CUDADriverError(RuntimeError):
    """As `cupy.cuda.driver.CUDADriverError`."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"CUDA_ERROR {status}: {text}")
        self.status = status


@dataclass(frozen=True)
class Entry:
    """A kernel as its source says: its name, and the types of its arguments."""

    name: str
    types: tuple[str, ...]


_addresses: dict[Entry, int] = {}
"""Of the compiled functions; names of kernels tell their contents."""


class Module:
    """As `cupy.cuda.function.Module`; what it loads is the source that a compiler would have been given."""

    functions: ClassVar[dict[int, Function]] = {}
    """All that were made, by their handles."""

    def load(self, code: bytes) -> None:
        text = code.decode()
        entries = [
            Entry(name, tuple(argument.rpartition(" ")[0] for argument in arguments.split(", ")))
            for name, arguments in DEFINITION.findall(text)
        ]
        if any(entry not in _addresses for entry in entries):
            _addresses.update(host.load(entries, text=text))  # type: ignore[arg-type]
        self.entries = {entry.name: entry for entry in entries}

    def get_function(self, name: str) -> Function:
        return Function(self.entries[name])


class Function:
    """As `cupy.cuda.function.Function`."""

    handles = itertools.count(1)

    def __init__(self, entry: Entry) -> None:
        self.entry, self.most_shared, self.ptr = entry, SHARED_BYTES, next(self.handles)
        Module.functions[self.ptr] = self


def driver(scheduler: Scheduler) -> SimpleNamespace:
    """What is used of `cupy.cuda.driver`."""

    def set_attribute(pointer: int, attribute: int, value: int) -> None:
        assert attribute == MAX_DYNAMIC_SHARED_SIZE_BYTES
        if value > MOST_SHARED_BYTES:
            raise CUDADriverError(INVALID_VALUE, f"{value} bytes of shared memory")
        Module.functions[pointer].most_shared = value

    def launch(
        pointer: int, grid_x: int, grid_y: int, grid_z: int, block_x: int, block_y: int, block_z: int, shared: int, stream: int,
        arguments: int, extra: int,
    ) -> None:  # fmt: skip
        assert (grid_y, grid_z, block_x, block_y, block_z, extra) == (1, 1, THREADS, 1, 1, 0)
        function = Module.functions[pointer]
        if not 1 <= grid_x < 2**31 or shared > function.most_shared:
            raise CUDADriverError(INVALID_VALUE, f"{grid_x} blocks with {shared} bytes of shared memory each")
        entry = function.entry
        table = (ctypes.c_void_p * len(entry.types)).from_address(arguments)
        kinds = [host.CTYPES.get(type, ctypes.c_void_p) for type in entry.types]
        values = [kind.from_address(place).value or 0 for kind, place in zip(kinds, table, strict=True)]
        run: Callable[[], None] = lambda: host.run_kernel(  # noqa: E731
            entry, grid_x, shared, values, address=_addresses[entry]  # type: ignore[arg-type]
        )  # fmt: skip
        scheduler.find(stream).give(run, computes=True)

    return SimpleNamespace(
        CUDADriverError=CUDADriverError,
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=MAX_DYNAMIC_SHARED_SIZE_BYTES,
        funcSetAttribute=set_attribute,
        launchKernel=launch,
    )


class CublasLtOfStreams(FakeCublasLt):
    """Products that are done when it is their turn, in two parts: what the first one leaves in the workspace, the second one
    makes the result of. Where the workspace holds something else by then, the result is NaN."""

    def __init__(self, scheduler: Scheduler, memory: DeviceMemory) -> None:
        super().__init__()
        self.scheduler, self.memory = scheduler, memory
        self._marks = itertools.count(1)

    def _give(
        self, multiply: Callable[[], Any], finish: Callable[..., None], workspace: int, workspace_bytes: int, stream: Any
    ) -> None:
        self.memory.check_inside(workspace, workspace_bytes)
        ends = [ctypes.c_int64.from_address(workspace + start) for start in (0, workspace_bytes - 8)]
        products: list[Any] = []
        mark = 0

        def first() -> None:
            nonlocal mark
            mark = next(self._marks)
            products.append(multiply())
            for end in ends:
                end.value = mark

        def second() -> None:
            result, *operands = products.pop()
            if any(end.value != mark for end in ends):
                result = np.full_like(result, np.nan)
            finish(result, *operands)

        queue = self.scheduler.find(stream)
        for part in (first, second):
            queue.give(part, computes=True)
