"""A GPU made of the host: the CUDA sources compiled by g++ and run as fibers (`scheduler.cpp`, `shim.h`).

What hangs, traps or depends on the order of threads on a GPU raises Fault here or gives wrong results; scratch memory lies
between guards and holds NaN. What an engine asks of a GPU beyond kernels is in `runtime.py`.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnn_kernels.contract import Operand
from fastnn_kernels.cuda.kernels import Kernel, kernel, unit
from fastnn_kernels.cuda.lowering import THREADS, Ahead, Body, Device, Number, lower

HERE = Path(__file__).parent
OPTIONS = ("-O1", "-std=c++17", "-shared", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing", "-w", "-nostdlib")
"""What a unit needs of a library, the scheduler has loaded before it."""

SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize=pointer-overflow", "-fno-sanitize-recover=undefined")
"""To be added to OPTIONS, in a process that was started with their libraries preloaded (see `sanitized.py`). Pointers that are
computed and not used may point anywhere: GPUs have no segments."""

GUARD = 64
"""Bytes around scratch memory, but where a sanitizer watches."""

CTYPES = {"i64": ctypes.c_longlong, "float": ctypes.c_float, "double": ctypes.c_double, "bool": ctypes.c_bool}


class Fault(RuntimeError):
    """A kernel did what would hang or trap on a GPU, or wrote beyond its memory."""


@functools.cache
def build_folder() -> Path:
    """Where compiled sources are kept: beside the compiled kernels if they are kept, else for this process."""
    from fastnn_kernels.caching import cache_folder

    folder = cache_folder()
    if folder is None:
        return Path(tempfile.mkdtemp(prefix="fastnn-host-"))
    (folder / "host").mkdir(mode=0o700, exist_ok=True)
    return folder / "host"


def compiled(source: str, options: Sequence[str] = OPTIONS) -> Path:
    """The shared library of a C++ source, compiled if nobody has yet; the test is skipped where there is no g++."""
    if shutil.which("g++") is None:
        pytest.skip("the CUDA sources are not run on the host: there is no g++ here")
    digest = hashlib.sha256("\0".join([source, *options]).encode()).hexdigest()[:24]
    path = build_folder() / f"{digest}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=build_folder()) as work:
            (Path(work) / "source.cpp").write_text(source)
            command = ["g++", *options, "-o", f"{work}/library.so", f"{work}/source.cpp"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"g++ failed:\n{done.stderr[:8000]}")
            os.replace(f"{work}/library.so", path)
    return path


@functools.cache
def scheduler(sanitizers: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The one scheduler of a process; of what else is added to OPTIONS it gets sanitizers only."""
    if sanitizers and not any(option.startswith("-fsanitize") for option in sanitizers):
        return scheduler()
    options = ("-O2", "-std=c++17", "-shared", "-fPIC", *sanitizers, "-Wl,--no-as-needed", "-lm")
    library = ctypes.CDLL(str(compiled((HERE / "scheduler.cpp").read_text(), options)), ctypes.RTLD_GLOBAL)
    library.host_run.argtypes = [
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_size_t, ctypes.c_uint64
    ]  # fmt: skip
    library.host_run.restype = ctypes.c_char_p
    return library


def host_unit(kernels: Sequence[Kernel], text: str | None = None) -> str:
    """A unit for g++: the shim, the sources, and for every kernel a function that takes its arguments from a table."""
    tables = []
    for each in dict.fromkeys(kernels):
        given = ", ".join(f"*({type}*)given[{index}]" for index, type in enumerate(each.types))
        tables.append(f'extern "C" void host_{each.name}(void** given) {{ {each.name}({given}); }}')
    return "\n".join([(HERE / "shim.h").read_text(), unit(kernels) if text is None else text, *tables, ""])


_functions: dict[tuple[Kernel, tuple[str, ...]], int] = {}


def load(kernels: Sequence[Kernel], sanitizers: tuple[str, ...] = (), text: str | None = None) -> dict[Kernel, int]:
    """The addresses of some kernels, compiled together (from `text`, or what they include)."""
    scheduler(sanitizers)
    library = ctypes.CDLL(str(compiled(host_unit(kernels, text), (*OPTIONS, *sanitizers))))
    return {each: ctypes.cast(getattr(library, f"host_{each.name}"), ctypes.c_void_p).value or 0 for each in kernels}


def prepare(kernels: Sequence[Kernel], sanitizers: tuple[str, ...] = ()) -> None:
    """Compile some kernels together, if one of them has not been."""
    if any((each, sanitizers) not in _functions for each in kernels):
        _functions.update({(each, sanitizers): address for each, address in load(kernels, sanitizers).items()})


def function(each: Kernel, sanitizers: tuple[str, ...] = ()) -> int:
    """The address of a kernel, compiled if need be."""
    prepare([each], sanitizers)
    return _functions[each, sanitizers]


_seed = itertools.count(1)


def run_kernel(
    each: Kernel, blocks: int, shared: int, values: Sequence[Any], sanitizers: tuple[str, ...] = (),
    seed: int | None = None, address: int | None = None,
) -> None:  # fmt: skip
    """Run a kernel on the host now, in an order of its threads that is another one each time, or that of `seed`.

    `address` is what `load` gave, where the kernel does not come from the sources. Raises Fault.
    """
    address = address or function(each, sanitizers)
    given = [CTYPES.get(type, ctypes.c_void_p)(value) for type, value in zip(each.types, values, strict=True)]
    table = (ctypes.c_void_p * len(given))(*(ctypes.addressof(value) for value in given))
    number = next(_seed) if seed is None else seed
    why = scheduler(sanitizers).host_run(address, ctypes.addressof(table), blocks, THREADS, shared, number)
    if why is not None:
        raise Fault(f"{each.name}: {why.decode()}")


def run(
    name: str, arrays: Sequence[np.ndarray], attributes: Mapping[str, Any], blocks: int | None = None,
    device: Device | None = None, sanitizers: tuple[str, ...] = (),
) -> None:  # fmt: skip
    """Run one call of the contract on NumPy arrays; `blocks`: another number of blocks than the lowering's, at most its own.

    Products of cuBLASLt are left out: the device has none unless another is given. Raises Fault.
    """
    device = device or Device(products=False)
    operands = [Operand(array.shape, array.dtype) for array in arrays]
    works = _works(name, operands, attributes, device)
    alone = [kernel([work]) for work in works]
    if any((each, sanitizers) not in _functions for each in alone):
        # Whoever asks for float32 will ask for float64, and the other way round: compiled together they cost little more.
        both = [work for dtype in ("float32", "float64") for work in _works(name, _as(operands, dtype), attributes, device)]
        prepare(list(dict.fromkeys([*(kernel([work]) for work in both), *alone])), sanitizers)
    guard = 0 if sanitizers else GUARD
    temporaries: dict[int, np.ndarray] = {}
    for work, each in zip(works, alone, strict=True):
        count = work.blocks if blocks is None else min(blocks, work.blocks)
        values: list[Any] = [count]
        for argument in work.arguments:
            if isinstance(argument, Number):
                values.append(argument.value)
            elif isinstance(argument, Ahead):
                values.append(0)
            elif argument.operand >= 0:
                values.append(arrays[argument.operand].ctypes.data + argument.offset)
            else:
                empty = np.full(argument.nbytes + 2 * guard, 0xFF, np.uint8)
                values.append(temporaries.setdefault(argument.offset, empty).ctypes.data + guard)
        run_kernel(each, count, work.shared, values, sanitizers)
    for whole in temporaries.values():
        if (whole[:guard] != 0xFF).any() or (whole[len(whole) - guard :] != 0xFF).any():
            raise Fault(f"{name}: wrote beyond its scratch memory")


def _works(name: str, operands: Sequence[Operand], attributes: Mapping[str, Any], device: Device) -> list[Body]:
    """The bodies of a call."""
    works = lower(name, operands, attributes, device).works
    assert all(isinstance(work, Body) for work in works), "products are not run here"
    return [work for work in works if isinstance(work, Body)]


def _as(operands: Sequence[Operand], dtype: str) -> list[Operand]:
    """The same operands with all floats of one dtype."""
    return [Operand(o.shape, np.dtype(dtype)) if o.dtype.kind == "f" else o for o in operands]
