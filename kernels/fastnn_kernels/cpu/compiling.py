"""Kernels declared, compiled one by one when a program first needs them, and kept on disk.

A kernel is declared by a factory that takes the floating-point type `F` (a Numba type) and returns the body:

    @kernel("softmax", sizes=lambda x, y: (math.prod(x.shape[:-1]), x.shape[-1]))
    def softmax(F):
        pointer = POINTERS[F]
        def body(op, part, parts, worker):
            x, y, rows, columns = op[0], op[1], op[2], op[3]     # addresses first, then sizes, then attributes
            ...
        return body

`sizes` gets the operands and, by keyword, the attributes, and returns integers and floats; a float travels as the
bits of a float64 (read it with `float64_from_bits`). Attributes that should be compiled in are named in `static`; the
factory then gets them by keyword. `dtypes` names operands whose dtype is compiled in too (as keyword `<operand>_type`).
A call may be cut into parts, which are computed in any order and by any worker of a team. Where `scratch` is given, it
returns the bytes of private memory that a part needs while it is computed; the words behind the operands' addresses are then
the address of the scratch memory and that number of bytes: worker w owns the bytes from w times it on.
`addresses(F, **attributes)` returns addresses of other compiled functions, which come next; the sizes come last.

The cache (`fastnn_kernels.caching`): one file a kernel, named by a hash of everything that could change its code (sources of
this package, versions, processor).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba import types
from numba.core.ccallback import CFunc
from numba.core.registry import cpu_target
from numba.core.serialize import dumps

from fastnn_kernels.caching import cache_folder, read, write
from fastnn_kernels.contract import KERNELS, Operand
from fastnn_kernels.cpu.intrinsics import KERNEL

OPTIONS: dict[str, Any] = {"nopython": True, "error_model": "numpy", "boundscheck": False}

helper = numba.njit(error_model="numpy", boundscheck=False, forceinline=True)
"""Decorator for functions used inside kernels; always inlined, so that loops around them vectorize."""

TYPES = {"float32": types.float32, "float64": types.float64, "int64": types.int64, "uint8": types.uint8, "bool": types.uint8}
"""NumPy dtype name -> Numba type, as kernels see it (bool is read and written as 0 and 1 in a byte)."""


@dataclass(frozen=True)
class Declaration:
    """How to lower and compile one kernel."""

    name: str
    factory: Callable[..., Callable[..., None]]
    sizes: Callable[..., Sequence[int | float]]
    static: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    scratch: Callable[..., int] | None = None
    addresses: Callable[..., Sequence[int]] | None = None


@dataclass(frozen=True)
class Lowered:
    """A call ready for the player, but for the addresses of its operands."""

    address: int
    numbers: tuple[int, ...]
    scratch: int | None = None
    """Bytes of private memory a worker; None where the kernel takes none."""

    def words(self, addresses: Sequence[int], scratch: int = 0) -> list[int]:
        """The operand words for arrays at `addresses` and scratch memory at `scratch`."""
        return [*addresses, *(() if self.scratch is None else (scratch, self.scratch)), *self.numbers]


DECLARATIONS: dict[str, Declaration] = {}


def kernel(
    name: str,
    *,
    sizes: Callable[..., Sequence[int | float]],
    static: tuple[str, ...] = (),
    dtypes: tuple[str, ...] = (),
    scratch: Callable[..., int] | None = None,
    addresses: Callable[..., Sequence[int]] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare the kernel `name` of the contract; see the module's docstring."""

    def declare(factory: Callable[..., Any]) -> Callable[..., Any]:
        DECLARATIONS[name] = Declaration(name, factory, sizes, static, dtypes, scratch, addresses)
        return factory

    return declare


def lower(name: str, operands: Sequence[Operand], attributes: Mapping[str, Any]) -> Lowered:
    """Compile (or find) the kernel for these operands and attributes, and compute the words behind its addresses."""
    declaration = DECLARATIONS[name]
    address = kernel_address(*kernel_key(name, operands, attributes))
    numbers = compile_called(name, operands, attributes)
    numbers += [_word(number) for number in declaration.sizes(*operands, **attributes)]
    scratch = declaration.scratch(*operands, **attributes) if declaration.scratch else None
    return Lowered(address, tuple(numbers), scratch)


KernelKey = tuple[str, Any, tuple[tuple[str, Any], ...]]
"""What tells a compiled kernel from all others: its name, its floating-point type, and attributes that are compiled in."""


def kernel_key(name: str, operands: Sequence[Operand], attributes: Mapping[str, Any]) -> KernelKey:
    """That of the kernel for these operands and attributes."""
    declaration = DECLARATIONS[name]
    static = {key: attributes[key] for key in declaration.static}
    for operand_name, operand in zip(KERNELS[name].operands, operands, strict=True):
        if operand_name in declaration.dtypes:
            static[f"{operand_name}_type"] = TYPES[operand.dtype.name]
    return name, _float_type(name, operands), tuple(sorted(static.items(), key=lambda item: item[0]))


def compile_called(name: str, operands: Sequence[Operand], attributes: Mapping[str, Any]) -> list[int]:
    """The addresses of the functions that the kernel calls, compiled now if nobody has yet."""
    addresses = DECLARATIONS[name].addresses
    return [int(function) for function in addresses(_float_type(name, operands), **attributes)] if addresses else []


def _float_type(name: str, operands: Sequence[Operand]) -> Any:
    for operand_name, operand in zip(KERNELS[name].operands, operands, strict=True):
        if operand.dtype.kind == "f" and operand_name != "source":
            return TYPES[operand.dtype.name]
    return types.float32  # integers only: one compilation serves


def _word(number: int | float) -> int:
    if isinstance(number, float):
        return int(np.float64(number).view(np.int64))
    return int(number)


_lock = threading.RLock()
if hasattr(os, "register_at_fork"):  # a fork waits for the compilation of another thread, which would never end in the child
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
_compiled: dict[tuple[Any, ...], CFunc] = {}


def kernel_address(name: str, float_type: Any, static: tuple[tuple[str, Any], ...] = ()) -> int:
    """The address of the kernel `name` for `float_type`, compiled now if nobody has yet."""
    key = (name, float_type, static)
    cached = _compiled.get(key)
    if cached is None:
        with _lock:
            cached = _compiled.get(key)
            if cached is None:
                body = DECLARATIONS[name].factory(float_type, **dict(static))
                cached = _compiled[key] = compile_function(body, KERNEL, _label(*key))
    return int(cached.address or 0)


def _label(name: str, float_type: Any, static: tuple[tuple[str, Any], ...]) -> str:
    return "-".join([name, str(float_type), *(str(value) for _, value in static)])


def is_kept(key: KernelKey) -> bool:
    """Whether a kernel was compiled in this process, or lies in the cache; also where there is no cache."""
    if key in _compiled:
        return True
    path = _FileCache(_label(*key))._path(KERNEL, cpu_target.target_context.codegen())
    return path is None or path.exists()


def compile_function(body: Callable[..., Any], signature: Any, label: str) -> CFunc:
    """Compile `body` to a C function, or load it from the cache. `label` must tell it from every other function."""
    with _interrupts_wait(), _lock:
        function = CFunc(body, (signature.args, signature.return_type), locals={}, options=dict(OPTIONS))
        function._cache = _FileCache(label)  # type: ignore[attr-defined]
        function.compile()
    return function


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Hold a Ctrl-C back until the kernel is done: one that comes inside a callback of LLVM could be lost."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    seen: list[Any] = []
    signal.signal(signal.SIGINT, lambda number, frame: seen.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if seen:
        before(*seen[0])


class CacheStatistics:
    """Counts of this process, for tests."""

    hits = 0
    misses = 0


class _FileCache:
    """The two methods that Numba asks of a cache, over one file with a checksum."""

    def __init__(self, label: str) -> None:
        self.label = label

    def _path(self, signature: Any, codegen: Any) -> Path | None:
        folder = cache_folder()
        if folder is None:
            return None
        key = repr((self.label, str(signature), codegen.magic_tuple(), _stamp()))
        readable = "".join(c if c.isalnum() or c in "-_." else "_" for c in self.label)[:80]
        return folder / f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.kernel"

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        target_context.refresh()
        path = self._path(signature, target_context.codegen())
        if path is None:
            CacheStatistics.misses += 1
            return None
        payload = read(path)
        if payload is None:
            CacheStatistics.misses += 1
            return None
        CacheStatistics.hits += 1
        return numba.core.compiler.CompileResult._rebuild(target_context, *pickle.loads(payload))

    def save_overload(self, signature: Any, result: Any) -> None:
        path = self._path(signature, result.codegen)
        if path is None:
            return
        payload = dumps(result._reduce())
        write(path, payload)


@functools.cache
def _stamp() -> tuple[str, ...]:
    """Everything beside the kernel's own label that decides its code.

    Constants are compiled in from the contract, the shapes and the definition too, so that every source counts but the CUDA
    set's, of which this one takes nothing.
    """
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for source in sorted(package.rglob("*.py")):
        name = source.relative_to(package)
        if name.parts[0] != "cuda":
            digest.update(name.as_posix().encode() + b"\0" + source.read_bytes() + b"\0")
    return (digest.hexdigest(), numba.__version__, llvmlite.__version__, platform.python_version(), sys.platform)
