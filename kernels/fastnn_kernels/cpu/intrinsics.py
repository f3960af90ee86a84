"""What Numba does not offer: bit casts, fused multiply-add, arrays at an address, atomics, calls through an address.

All of them are module globals, shared by every kernel.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

KERNEL_ARGUMENTS = (types.CPointer(types.int64), types.int64, types.int64, types.int64)
KERNEL = types.void(*KERNEL_ARGUMENTS)
"""Every kernel is `kernel(operands, part, parts, worker)`; operands are addresses, sizes and attributes as 64-bit words. It
computes the part of that number, in the scratch memory of the worker.
"""


def _bitcast(source: Any, target: Any, llvm_target: ir.Type) -> Any:
    @intrinsic
    def cast(typingctx: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], llvm_target)

        return target(source), codegen

    return cast


float32_bits = _bitcast(types.float32, types.int32, ir.IntType(32))
float32_from_bits = _bitcast(types.int32, types.float32, ir.FloatType())
float64_bits = _bitcast(types.float64, types.int64, ir.IntType(64))
float64_from_bits = _bitcast(types.int64, types.float64, ir.DoubleType())


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c with one rounding; all three of one float type."""
    if not (a == b == c and a in (types.float32, types.float64)):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fma(*args)

    return a(a, a, a), codegen


def _pointer(element: Any) -> Any:
    @intrinsic
    def pointer(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_data_type(element).as_pointer())

        return types.CPointer(element)(types.int64), codegen

    return pointer


float32_pointer = _pointer(types.float32)
float64_pointer = _pointer(types.float64)
int64_pointer = _pointer(types.int64)
uint8_pointer = _pointer(types.uint8)

POINTERS = {
    types.float32: float32_pointer,
    types.float64: float64_pointer,
    types.int64: int64_pointer,
    types.uint8: uint8_pointer,
}
"""Element type -> intrinsic that turns an address into a pointer; `carray(pointer(address), n)` is then an array."""


def emit_prefetch(builder: Any, address: Any, level: int = 1) -> None:
    """Ask for the cache line at a byte pointer, for the first-level or the second-level cache; where there is no such memory,
    nothing happens.
    """
    word = ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [address.type, word, word, word])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
    builder.call(function, [address, word(0), word(4 - level), word(1)])


@intrinsic
def prefetch(typingctx: Any, address: Any) -> Any:
    """Ask for the cache line at an address, for the second-level cache."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit_prefetch(builder, builder.inttoptr(args[0], ir.IntType(8).as_pointer()), 2)
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def call_kernel(typingctx: Any, address: Any, operands: Any, part: Any, parts: Any, worker: Any) -> Any:
    """Call the kernel at `address`; `operands` is the address of its words."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i64 = ir.IntType(64)
        function = ir.FunctionType(ir.VoidType(), [i64.as_pointer(), i64, i64, i64]).as_pointer()
        words = builder.inttoptr(args[1], i64.as_pointer())
        builder.call(builder.inttoptr(args[0], function), [words, *args[2:]])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


@intrinsic
def atomic_add(typingctx: Any, address: Any, value: Any) -> Any:
    """Add to the int64 at `address`, return what it was."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", word, args[1], "acq_rel")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def atomic_load(typingctx: Any, address: Any) -> Any:
    """The int64 at `address`, read so that what was written before it is seen after it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(builder.inttoptr(args[0], ir.IntType(64).as_pointer()), "acquire", 8)

    return types.int64(types.int64), codegen


@intrinsic
def atomic_store(typingctx: Any, address: Any, value: Any) -> Any:
    """Write the int64 at `address`, after all that was written before."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], builder.inttoptr(args[0], ir.IntType(64).as_pointer()), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen
