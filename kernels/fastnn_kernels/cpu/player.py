"""The player: a compiled loop that runs a list of kernel calls again and again, on one thread or on several at once.

A call is two words: the address of the kernel and the address of its operand words. Between calls
all parts meet at a spin barrier; a lone part meets nobody. While it plays, denormals are flushed to zero on x86-64.
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
from fastnn_kernels.cpu.intrinsics import atomic_add, atomic_load, call_kernel
from fastnn_kernels.cpu.processor import features

X86 = "sse2" in features()
FLUSH = 0x8040  # flush-to-zero (bit 15) and denormals-are-zero (bit 6) of MXCSR
SPINS = 2000  # about 10 us of waiting before the thread offers its core to others


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


@numba.njit(error_model="numpy")
def barrier(arrived: int, target: int, parts: int) -> int:
    """Wait until all parts have come; `arrived` is the address of their counter, `target` the count of the last meeting."""
    target += parts
    atomic_add(arrived, 1)
    spins = 0
    while atomic_load(arrived) < target:
        spins += 1
        if spins < SPINS:
            pause()
        else:
            offer_core()
    return target


def _play(calls: Any, count: int, repeats: int, part: int, parts: int, arrived: int) -> None:
    before = read_mxcsr()
    write_mxcsr(before | FLUSH)
    target = 0
    for _ in range(repeats):
        for k in range(count):
            call_kernel(calls[2 * k], calls[2 * k + 1], part, parts)
            if parts > 1:
                target = barrier(arrived, target, parts)
    write_mxcsr(before)


_WORDS = types.CPointer(types.int64)


@functools.cache
def play() -> Callable[[int, int, int, int, int, int], None]:
    """`play()(calls, count, repeats, part, parts, arrived)`; addresses are integers. The GIL is free while it runs.

    `arrived` is the address of an int64 that is 0 before the parts start and that all of them share.
    """
    signature = types.void(_WORDS, types.int64, types.int64, types.int64, types.int64, types.int64)
    function = compile_function(_play, signature, "play")
    word = ctypes.c_int64
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, word, word, word, word, word)
    entry: Callable[[int, int, int, int, int, int], None] = prototype(int(function.address or 0))
    return entry
