"""A CuPy whose GPU is simulated on the host, with streams that are really asynchronous.

`fastnn_kernels.cuda.device` runs on it as it is: memory from a pool, modules of kernels, products of cuBLASLt, graphs by stream
capture. What is given to a stream is done later, in an order of `streams.ORDERS`, so that what lacks an event or a
synchronization gives a wrong result. Names and arguments are those of CuPy 14.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import fastnn_kernels.cuda.cublaslt
from fastnn.engines import cuda
from fastnn_kernels.cuda import device
from simulated_cupy import arrays, kernels, memory, streams

ORDERS = streams.ORDERS
NAME = "a simulated GPU"
VERSION = 13000


class SimulatedGpu:
    """One GPU, and the module `cupy` by which it is used."""

    def __init__(self, order: str = "random", seed: int = 0, total: int = memory.TOTAL) -> None:
        self.scheduler = streams.Scheduler(order, seed)
        self.memory = memory.DeviceMemory(self.scheduler, total)
        self.pinned = memory.PinnedMemory(self.scheduler)
        self.copies = memory.Copies(self.scheduler, self.memory, self.pinned)
        self.cublaslt = kernels.CublasLtOfStreams(self.scheduler, self.memory)

    def check(self) -> None:
        """When nobody uses it any more: all that was given can be done, and nothing was written beyond its memory."""
        with self.scheduler.lock:
            self.scheduler.finish_all()
            self.memory.check()

    def runtime_module(self) -> SimpleNamespace:
        """What is used of `cupy.cuda.runtime`."""
        properties = {
            "name": NAME.encode(), "major": 9, "minor": 0, "multiProcessorCount": 4,
            "sharedMemPerBlockOptin": kernels.MOST_SHARED_BYTES,
        }  # fmt: skip
        return SimpleNamespace(
            CUDARuntimeError=streams.CUDARuntimeError, driverGetVersion=lambda: VERSION,
            memcpyHostToDevice=memory.HOST_TO_DEVICE, memcpyDeviceToHost=memory.DEVICE_TO_HOST,
            memcpyDeviceToDevice=memory.DEVICE_TO_DEVICE, getDeviceCount=lambda: 1, runtimeGetVersion=lambda: VERSION,
            getDeviceProperties=lambda ordinal: properties, memGetInfo=self.memory.info, memcpyAsync=self.copies.copy,
            memsetAsync=self.copies.fill,
        )  # fmt: skip

    def cupy(self) -> ModuleType:
        """The module, as far as it is used."""
        module = ModuleType("cupy")
        module.__version__ = "simulated"  # type: ignore[attr-defined]
        scheduler = self.scheduler
        module.cuda = SimpleNamespace(  # type: ignore[attr-defined]
            runtime=self.runtime_module(), driver=kernels.driver(scheduler),
            memory=SimpleNamespace(OutOfMemoryError=memory.OutOfMemoryError), function=SimpleNamespace(Module=kernels.Module),
            Device=contextlib.nullcontext, Stream=functools.partial(streams.Stream, scheduler),
            Event=functools.partial(streams.Event, scheduler), get_elapsed_time=streams.get_elapsed_time,
            get_current_stream=lambda: scheduler.current, alloc=self.memory.allocate, alloc_pinned_memory=self.pinned.allocate,
            UnownedMemory=memory.UnownedMemory, MemoryPointer=memory.MemoryPointer,
        )  # fmt: skip
        module.__dict__.update(arrays.functions(self), get_default_memory_pool=lambda: self.memory)
        return module


def connect(gpu: SimulatedGpu, set_attribute: Callable[..., None], set_item: Callable[..., None]) -> None:
    """Let `fastnn_kernels.cuda.device` find a simulated GPU; what it sets, it sets by these two functions."""
    set_item(sys.modules, "cupy", gpu.cupy())
    set_attribute(device, "driver_version", lambda: VERSION)
    set_attribute(device, "machine_codes", lambda sources, architecture: {n: s.encode() for n, s in sources.items()})
    set_attribute(fastnn_kernels.cuda.cublaslt, "load_library", lambda: gpu.cublaslt)


@contextlib.contextmanager
def install(order: str = "random", seed: int = 0, **options: Any) -> Iterator[SimulatedGpu]:
    """Let a simulated GPU be the only one of this process; it is looked at when it goes."""
    gpu = SimulatedGpu(order, seed, **options)
    with pytest.MonkeyPatch.context() as patch:
        connect(gpu, patch.setattr, patch.setitem)
        patch.setattr(cuda, "_opened", {})
        patch.setattr(cuda, "_unusable", [])
        device.open_device.cache_clear()
        try:
            yield gpu
        finally:
            device.open_device.cache_clear()
            cuda._single.cache_clear()
    gpu.check()
