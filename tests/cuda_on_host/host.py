"""A GPU made of the host: the CUDA sources compiled by g++ and run as fibers, behind the interface of a runtime.

Memory is host memory between guards, filled with NaN when it is allocated; capturing records what is given to a stream, and a
graph plays the record. Everything that is asked is done at once. `fail_at` makes the n-th call that could fail on a GPU fail.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import itertools
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastnn_kernels.contract import KERNELS, Operand
from fastnn_kernels.cuda.kernels import Kernel, kernel, unit
from fastnn_kernels.cuda.lowering import THREADS, Ahead, Body, Device, Number, Pointer, lower

HERE = Path(__file__).parent
OPTIONS = ("-O1", "-std=c++17", "-shared", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing", "-w")

CTYPES = {"i64": ctypes.c_longlong, "float": ctypes.c_float, "double": ctypes.c_double, "bool": ctypes.c_bool}


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
    """The shared library of a C++ source, compiled if nobody has yet."""
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
def scheduler(extra: tuple[str, ...] = ()) -> ctypes.CDLL:
    options = ("-O2", "-std=c++17", "-shared", "-fPIC", *extra)
    library = ctypes.CDLL(str(compiled((HERE / "scheduler.cpp").read_text(), options)), ctypes.RTLD_GLOBAL)
    library.host_run.argtypes = [
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_size_t, ctypes.c_uint64
    ]  # fmt: skip
    return library


def host_unit(kernels: Sequence[Kernel], text: str | None = None) -> str:
    """A unit for g++: the shim, the sources, and for every kernel a function that takes its arguments from a table."""
    tables = []
    for each in dict.fromkeys(kernels):
        given = ", ".join(f"*({type}*)given[{index}]" for index, type in enumerate(each.types))
        tables.append(f'extern "C" void host_{each.name}(void** given) {{ {each.name}({given}); }}')
    return "\n".join([(HERE / "shim.h").read_text(), unit(kernels) if text is None else text, *tables, ""])


_functions: dict[tuple[Kernel, tuple[str, ...]], Any] = {}


def function(each: Kernel, options: tuple[str, ...] = OPTIONS) -> Any:
    found = _functions.get((each, options))
    if found is None:
        scheduler(tuple(o for o in options if "sanitize" in o))
        library = ctypes.CDLL(str(compiled(host_unit([each]), options)))
        found = _functions[each, options] = ctypes.cast(getattr(library, f"host_{each.name}"), ctypes.c_void_p).value
    return found


_seed = itertools.count(1)


def run_kernel(each: Kernel, blocks: int, shared: int, values: Sequence[Any], options: tuple[str, ...] = OPTIONS) -> None:
    """Run a kernel on the host now, in an order of its threads that is another one each time."""
    address = function(each, options)
    given = [CTYPES.get(type, ctypes.c_void_p)(value) for type, value in zip(each.types, values, strict=True)]
    table = (ctypes.c_void_p * len(given))(*(ctypes.addressof(value) for value in given))
    library = scheduler(tuple(o for o in options if "sanitize" in o))
    library.host_run(address, ctypes.addressof(table), blocks, THREADS, shared, next(_seed))


def run(
    name: str, arrays: Sequence[np.ndarray], attributes: Mapping[str, Any], blocks: int | None = None,
    device: Device | None = None,
) -> None:  # fmt: skip
    """Run one call of the contract on NumPy arrays; `blocks`: another number of blocks than the lowering's, at most its own.

    Products of cuBLASLt are left out: the device has none unless another is given.
    """
    operands = [Operand(array.shape, array.dtype) for array in arrays]
    lowered = lower(name, operands, attributes, device or Device(products=False))
    scratch = np.full(lowered.scratch + 64, 0xFF, np.uint8)
    for work in lowered.works:
        assert isinstance(work, Body), "products are not run here"
        assert len(KERNELS[name].operands) == len(arrays)
        count = work.blocks if blocks is None else min(blocks, work.blocks)
        values: list[Any] = [count]
        for argument in work.arguments:
            if isinstance(argument, Pointer):
                base = scratch if argument.operand < 0 else arrays[argument.operand]
                values.append(base.ctypes.data + argument.offset)
            elif isinstance(argument, Number):
                values.append(argument.value)
            else:
                assert isinstance(argument, Ahead)
                values.append(0)
        run_kernel(kernel([work]), count, work.shared, values)
