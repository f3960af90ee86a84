"""Memory of the simulated GPU, pinned memory of the host, and copies between them.

Blocks are given back to the stream that they were taken from, as CuPy's pool does it: the next one who takes such a block on
that stream need not wait. So a block is filled with 0xFF, which is NaN, behind what its stream was given before, and whoever
still uses it then, on another stream or later, finds that. Memory around a block is watched. Pinned memory, of which CuPy's
pool asks no stream, is filled with 0xFF at once.
"""

from __future__ import annotations

import ctypes
from collections import defaultdict
from typing import Any

import numpy as np

from simulated_cupy.streams import CUDARuntimeError, Scheduler, Stream

TOTAL = 4 * 2**30
UNIT = 512
"""Bytes that sizes of blocks are rounded up to."""

MOST_WASTED = 4
"""Times the bytes that are asked for a block may have that was there already; CuPy's pool would split it."""

EDGE = 512
POISON, GUARD = 0xFF, 0xA5
INVALID_VALUE = 1

HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE = 1, 2, 3
"""cudaMemcpyKind (driver_types.h)."""


class OutOfMemoryError(MemoryError):
    """As `cupy.cuda.memory.OutOfMemoryError`."""


class Block:
    """Memory between two edges."""

    def __init__(self, size: int) -> None:
        raw = np.empty(size + 2 * EDGE + UNIT, np.uint8)
        start = EDGE + -(raw.ctypes.data + EDGE) % UNIT
        self.inner, self._edges = raw[start : start + size], (raw[start - EDGE : start], raw[start + size :])
        self.address, self.size = raw.ctypes.data + start, size
        self.inner.fill(POISON)
        for edge in self._edges:
            edge.fill(GUARD)

    def is_whole(self) -> bool:
        """Whether nobody wrote beyond it."""
        return all((edge == GUARD).all() for edge in self._edges)


class Pooled:
    """A block that goes back to its stream with the last reference to it; `ptr` as of `cupy.cuda.memory.BaseMemory`."""

    def __init__(self, memory: DeviceMemory, block: Block, stream: Stream) -> None:
        self.memory, self.block, self.stream, self.ptr = memory, block, stream, block.address

    def __del__(self) -> None:
        self.memory.give_back(self.block, self.stream)


class UnownedMemory:
    """As `cupy.cuda.UnownedMemory`."""

    def __init__(self, ptr: int, size: int, owner: Any, device_id: int) -> None:
        self.ptr, self.size, self.owner, self.device_id = ptr, size, owner, device_id


class MemoryPointer:
    """As `cupy.cuda.MemoryPointer`."""

    def __init__(self, mem: Pooled | UnownedMemory, offset: int) -> None:
        self.mem, self.ptr = mem, mem.ptr + offset


class DeviceMemory:
    """The memory of the GPU, with the methods of CuPy's default pool."""

    def __init__(self, scheduler: Scheduler, total: int = TOTAL) -> None:
        self.scheduler, self.total = scheduler, total
        self.blocks: dict[int, Block] = {}
        """All that the pool holds, by address."""
        self._free: dict[Stream, list[Block]] = defaultdict(list)
        self._damaged = False

    def allocate(self, nbytes: int) -> MemoryPointer:
        """Memory that belongs to the current stream. Raises OutOfMemoryError."""
        size = max(1, -(-nbytes // UNIT)) * UNIT
        with self.scheduler.lock:
            stream = self.scheduler.current
            candidates = [block for block in self._free[stream] if size <= block.size <= MOST_WASTED * size]
            if candidates:
                block = min(candidates, key=lambda block: block.size)
                self._free[stream].remove(block)
            else:
                if self.total_bytes() + size > self.total:
                    self.free_all_blocks()
                if self.total_bytes() + size > self.total:
                    raise OutOfMemoryError(f"{nbytes} bytes are not there")
                block = Block(size)
                self.blocks[block.address] = block
            return MemoryPointer(Pooled(self, block, stream), 0)

    def give_back(self, block: Block, stream: Stream) -> None:
        def poison() -> None:
            self._damaged = self._damaged or not block.is_whole()
            block.inner.fill(POISON)

        with self.scheduler.lock:
            capture, stream.capture = stream.capture, None  # the pool gives nothing to a stream, and captures nothing
            stream.give(poison)
            stream.capture = capture
            self._free[stream].append(block)

    def total_bytes(self) -> int:
        """What the pool holds."""
        return sum(block.size for block in self.blocks.values())

    def free_bytes(self) -> int:
        """Of those, what nobody uses."""
        return sum(block.size for blocks in self._free.values() for block in blocks)

    def free_all_blocks(self) -> None:
        """Give what nobody uses back to the GPU, which waits for all its work."""
        with self.scheduler.lock:
            self.scheduler.finish_all()
            for blocks in self._free.values():
                for block in blocks:
                    del self.blocks[block.address]
                blocks.clear()

    def info(self) -> tuple[int, int]:
        """cudaMemGetInfo."""
        return self.total - self.total_bytes(), self.total

    def check(self) -> None:
        """Raise AssertionError if something was written beyond a block, of those that went as well."""
        damaged = self._damaged or not all(block.is_whole() for block in self.blocks.values())
        assert not damaged, "something wrote beyond its memory"

    def check_inside(self, address: int, nbytes: int) -> None:
        if not any(start <= address and address + nbytes <= start + block.size for start, block in self.blocks.items()):
            raise CUDARuntimeError(INVALID_VALUE, f"{nbytes} bytes that reach beyond what is allocated")


class PinnedMemory:
    """Pinned memory of the host, in sizes that are powers of two, as CuPy's pool has them."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._blocks: list[np.ndarray] = []
        self._free: dict[int, list[np.ndarray]] = defaultdict(list)

    def allocate(self, nbytes: int) -> Any:
        """Something with the buffer protocol, which goes back to the pool with the last reference to it."""
        size = 1 << max(UNIT - 1, nbytes - 1).bit_length()
        with self.scheduler.lock:
            if self._free[size]:
                block = self._free[size].pop()
            else:
                block = np.full(size, POISON, np.uint8)
                self._blocks.append(block)

        def give_back(_: Any) -> None:
            with self.scheduler.lock:
                block.fill(POISON)
                self._free[size].append(block)

        kind = type("PinnedMemoryPointer", (ctypes.c_uint8 * size,), {"__del__": give_back})
        return kind.from_buffer(block)

    def holds(self, address: int, nbytes: int) -> bool:
        starts = ((block.ctypes.data, len(block)) for block in self._blocks)
        return any(start <= address and address + nbytes <= start + size for start, size in starts)


class Copies:
    """cudaMemcpyAsync and cudaMemsetAsync, with what the CUDA runtime's manual says of API synchronization behavior: pinned
    memory is read and written when it is the copy's turn; memory that is not pinned is read before the call returns, and a copy
    to it is done then, with all that the stream was given before."""

    def __init__(self, scheduler: Scheduler, device: DeviceMemory, pinned: PinnedMemory) -> None:
        self.scheduler, self.device, self.pinned = scheduler, device, pinned

    def copy(self, target: int, source: int, nbytes: int, kind: int, pointer: int) -> None:
        stream = self.scheduler.find(pointer)
        with self.scheduler.lock:
            if kind != HOST_TO_DEVICE:
                self.device.check_inside(source, nbytes)
            if kind != DEVICE_TO_HOST:
                self.device.check_inside(target, nbytes)
            host = {HOST_TO_DEVICE: source, DEVICE_TO_HOST: target}.get(kind)
            if host is None or self.pinned.holds(host, nbytes):
                stream.give(lambda: _move(target, source, nbytes))
                return
            stream.forbid_capture("a copy from or to memory that is not pinned")
            if kind == HOST_TO_DEVICE:
                staged = ctypes.create_string_buffer(ctypes.string_at(source, nbytes), nbytes)
                stream.give(lambda: _move(target, ctypes.addressof(staged), nbytes))
            else:
                self.scheduler.finish(stream)
                _move(target, source, nbytes)

    def fill(self, target: int, value: int, nbytes: int, pointer: int) -> None:
        with self.scheduler.lock:
            self.device.check_inside(target, nbytes)
            self.scheduler.find(pointer).give(lambda: _set(target, value, nbytes))


def _move(target: int, source: int, nbytes: int) -> None:
    ctypes.memmove(target, source, nbytes)


def _set(target: int, value: int, nbytes: int) -> None:
    ctypes.memset(target, value, nbytes)
