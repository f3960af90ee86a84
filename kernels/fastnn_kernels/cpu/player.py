"""The player: a compiled loop that runs a list of kernel calls again and again, on one thread or on several at once.

A call is two words: the address of the kernel and the address of its operand words. For several threads the calls are put
together to stages: a call that is cut into parts, calls of which each is one part, played one after the other, or calls that
read the same rows and need nothing of each other, part by part, so that a cache still holds the rows of the part. Each worker
has a share of the parts, the same rows or columns of one call after another, which its caches then hold. It claims them one
at a time, and when none is left, those of the others; whoever finishes the last part of a stage opens the next one. So nobody
ever waits for a part that nobody has begun: a worker that comes late, or whose thread does not run, is not missed. While it
plays, denormals are flushed to zero on x86-64.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastnn_kernels.cpu.compiling import compile_function
from fastnn_kernels.cpu.intrinsics import atomic_add, atomic_load, atomic_store, call_kernel
from fastnn_kernels.cpu.processor import features

X86 = "sse2" in features()
FLUSH = 0x8040  # flush-to-zero (bit 15) and denormals-are-zero (bit 6) of MXCSR
SPINS = 2000  # a few microseconds of waiting before the thread offers its core to others
YIELDS = 2000  # how often it does so before it sleeps
NAP = 50  # microseconds that it sleeps for


def _external(builder: Any, name: str, result: ir.Type, *arguments: ir.Type) -> Any:
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


@intrinsic
def pause(typingctx: Any) -> Any:
    """Tell an x86 core that this is a waiting loop; nothing elsewhere."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if X86:
            builder.call(_external(builder, "llvm.x86.sse2.pause", ir.VoidType()), [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def offer_core(typingctx: Any) -> Any:
    """Let another thread run (POSIX `sched_yield`)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.call(_external(builder, "sched_yield", ir.IntType(32)), [])

    return types.int32(), codegen


@intrinsic
def sleep(typingctx: Any, microseconds: Any) -> Any:
    """Let the core go for so long (POSIX `usleep`)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i32 = ir.IntType(32)
        return builder.call(_external(builder, "usleep", i32, i32), [builder.trunc(args[0], i32)])

    return types.int32(types.int64), codegen


@intrinsic
def read_mxcsr(typingctx: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i32 = ir.IntType(32)
        if not X86:
            return ir.Constant(i32, 0)
        slot = cgutils.alloca_once(builder, i32)
        store = _external(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), ir.IntType(8).as_pointer())
        builder.call(store, [builder.bitcast(slot, ir.IntType(8).as_pointer())])
        return builder.load(slot)

    return types.int32(), codegen


@intrinsic
def write_mxcsr(typingctx: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if X86:
            slot = cgutils.alloca_once_value(builder, args[0])
            load = _external(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), ir.IntType(8).as_pointer())
            builder.call(load, [builder.bitcast(slot, ir.IntType(8).as_pointer())])
        return context.get_dummy_value()

    return types.void(types.int32), codegen


STAGE = 3
"""Words of a stage: its first call, how many calls it has, and of how many parts each is."""
PARTS_BITS = 20
"""Of a worker's counter, the lowest bits say how many of its parts are claimed, the others of which stage."""
LINE = 64
"""Bytes of a cache line. The first of what workers share counts the parts that are done, then each has one for its counter."""


def state_words(workers: int) -> int:
    """How many int64 so many workers share."""
    return LINE // 8 * (1 + workers)


@numba.njit(error_model="numpy")
def _next_shared(stages: Any, count: int, stage: int, last: int) -> int:
    """The first stage from this one on that several workers can take part in, or `last`."""
    for ahead in range(count):
        if stage + ahead >= last:
            return last
        if stages[STAGE * ((stage + ahead) % count) + 2] > 1:
            return stage + ahead
    return last


@numba.njit(error_model="numpy")
def _wait(ticket: int, stage: int) -> None:
    """Wait until this stage is open."""
    spins = 0
    while atomic_load(ticket) >> PARTS_BITS < stage:
        spins += 1
        if spins < SPINS:
            pause()
        elif spins < SPINS + YIELDS:
            offer_core()
        else:
            sleep(NAP)


@numba.njit(error_model="numpy")
def _open(stages: Any, count: int, stage: int, last: int, worker: int, workers: int, state: int) -> int:
    """Open a stage; returns the part that this worker plays first, or -1 where there is no such stage."""
    atomic_store(state, 0)
    parts = stages[STAGE * (stage % count) + 2] if stage < last else 0
    for each in range(workers):
        claimed = parts if parts == 1 or stage == last else int(each == worker)
        atomic_store(state + LINE * (1 + each), (stage << PARTS_BITS) + claimed)
    return -1 if stage == last else parts * worker // workers if parts > 1 else 0


@numba.njit(error_model="numpy")
def _claim(stages: Any, count: int, last: int, worker: int, workers: int, state: int) -> Any:
    """A stage and a part of it that nobody else plays: one of this worker's own, or else one of another's. Where there is none
    now, the newest stage that is open and -1.
    """
    newest = 0
    for ahead in range(workers):
        owner = (worker + ahead) % workers
        counter = state + LINE * (1 + owner)
        word = atomic_load(counter)
        for attempt in range(2):  # looking first spares the others a write; what is looked at may be over when it is claimed
            stage, claimed = word >> PARTS_BITS, word & ((1 << PARTS_BITS) - 1)
            newest = max(newest, stage)
            if stage >= last:
                break
            parts = stages[STAGE * (stage % count) + 2]
            low, high = parts * owner // workers, parts * (owner + 1) // workers
            if claimed >= high - low:
                break
            if attempt == 1:
                return stage, low + claimed
            word = atomic_add(counter, 1)
    return newest, -1


def _play(calls: Any, stages: Any, count: int, repeats: int, worker: int, workers: int, state: int) -> None:
    before = read_mxcsr()
    write_mxcsr(before | FLUSH)
    if state == 0:  # alone: a call is one part, but where it has others beside it in its stage
        for _ in range(repeats):
            for stage in range(count):
                first, size, parts = stages[STAGE * stage], stages[STAGE * stage + 1], stages[STAGE * stage + 2]
                parts = parts if size > 1 else 1
                for part in range(parts):
                    for k in range(first, first + size):
                        call_kernel(calls[2 * k], calls[2 * k + 1], part, parts, worker)
    else:
        last, part, stage = repeats * count, -1, 0
        while True:
            if part < 0:
                stage, part = _claim(stages, count, last, worker, workers, state)
            if stage >= last:
                break
            if part < 0:
                _wait(state + LINE * (1 + worker), _next_shared(stages, count, stage + 1, last))
                continue
            row = STAGE * (stage % count)
            first, parts = stages[row], stages[row + 2]
            for k in range(first, first + stages[row + 1]):
                call_kernel(calls[2 * k], calls[2 * k + 1], part, parts, worker)
            part = -1
            if parts == 1 or atomic_add(state, 1) + 1 == parts:
                stage += 1
                part = _open(stages, count, stage, last, worker, workers, state)
    write_mxcsr(before)


_WORDS = types.CPointer(types.int64)


@functools.cache
def play() -> Callable[[int, int, int, int, int, int, int], None]:
    """`play()(calls, stages, count, repeats, worker, workers, state)`; addresses are integers. The GIL is free while it runs.

    `stages`: STAGE words for each of `count` stages, of one part or at least as many as workers. `state`: the address of
    `state_words` int64 that are 0 before the first worker starts and that all of them share, or 0 for a worker that plays
    alone, calls that are stages of their own in one part. It returns when all stages are done; called again with the same
    state, it returns at once.
    """
    signature = types.void(_WORDS, _WORDS, *[types.int64] * 5)
    function = compile_function(_play, signature, "play")
    word = ctypes.c_int64
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, word, word, word, word, word)
    entry: Callable[[int, int, int, int, int, int, int], None] = prototype(int(function.address or 0))
    return entry
