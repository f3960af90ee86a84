"""Engines: which are usable here, and a program instantiated on one of them.

An engine plays a program for a number of rows. `numpy` runs the definition call by call, in Python; `cpu` plays compiled
kernels in a compiled loop on several threads; `cuda` replays CUDA graphs.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fastnn import arrays
from fastnn.engines.base import Engine, Instance
from fastnn.engines.host import CPU, NUMPY, cores
from fastnn.engines.host import check_threads as check_threads
from fastnn.errors import DeviceError, DeviceLostError, DeviceMemoryError, InputError, nearest, warn
from fastnn.program.trace import Program

if TYPE_CHECKING:
    from fastnn.engines.cuda import CudaEngine

DEVICES = ("auto", "cpu", "cuda", "numpy")
"""Names of devices; `cuda:1` is the second GPU."""

PRECISIONS = ("float32", "tf32", "bf16")
"""Of products of float32 numbers; others than the first on a GPU only."""


def choose(device: str, precision: str = "float32", autotune: bool = False) -> tuple[Engine, str]:
    """The engine for a device name, and why, in one line. `autotune`: of a GPU, the one that chooses by timing.

    `"auto"` takes the best that is usable. Raises DeviceError for one that is not, InputError for an unknown name.
    """
    ordinal = re.fullmatch(r"cuda(?::(\d+))?", device) if isinstance(device, str) else None
    if device not in DEVICES and ordinal is None:
        raise InputError(f"no device is called {device!r}{nearest(device, DEVICES)}")
    if precision not in PRECISIONS:
        raise InputError(f"no precision is called {precision!r}{nearest(precision, PRECISIONS)}")
    if ordinal is not None:
        return gpu(int(ordinal[1] or 0), precision, autotune=autotune), "as asked"
    reason = "as asked"
    if device == "auto":
        try:
            return gpu(0, precision, autotune=autotune), "a GPU is here"
        except DeviceError as error:
            device, reason = "cpu", str(error).split(";")[0]
            _warn_if_broken(error)
    if precision != "float32":
        raise DeviceError(
            f"precision={precision!r} needs a GPU; {reason if reason != 'as asked' else 'the device is ' + device}"
        )
    return NUMPY if device == "numpy" else CPU, reason


_cuda: dict[tuple[int, str, bool, bool], CudaEngine] = {}
_unusable: list[str] = []
_lock = threading.Lock()


def gpu(ordinal: int = 0, precision: str = "float32", capture: bool | None = None, autotune: bool = False) -> CudaEngine:
    """The engine of a GPU. Raises DeviceError, in one line with the cure, where it cannot be used.

    `capture`: whether programs are replayed as graphs; by default unless `FASTNN_CUDA_CAPTURE` is 0 in the environment, with
    which debuggers and sanitizers see every kernel on its own. The bits are the same. A model continues with the programs that
    it has: set the variable before its first `fit`.
    """
    if capture is None:
        capture = os.environ.get("FASTNN_CUDA_CAPTURE") != "0"
    with _lock:
        key = (ordinal, precision, capture, autotune)
        found = _cuda.get(key)
        if found is None:
            if ordinal == 0 and _unusable:  # asked once a process: a driver that fails may take seconds to say so
                raise DeviceError(_unusable[0])
            import fastnn_kernels.cuda as kernels
            from fastnn.engines.cuda import CudaEngine
            from fastnn_kernels.cuda.runtime import CudaUnavailable

            try:
                found = _cuda[key] = CudaEngine(kernels.runtime(ordinal), precision, capture, autotune)
            except CudaUnavailable as error:
                if ordinal == 0:
                    _unusable.append(str(error))
                raise DeviceError(str(error)) from error
        return found


def _warn_if_broken(error: DeviceError) -> None:
    """Say, where the driver was asked just now, what keeps a GPU from being used that seems to be here."""
    from fastnn_kernels.cuda.runtime import CudaAbsent

    if error.__cause__ is not None and not isinstance(error.__cause__, CudaAbsent):
        warn(f"the GPU cannot be used: {error}", RuntimeWarning)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a GPU had no room for something."""
    runtime = sys.modules.get("fastnn_kernels.cuda.runtime")
    return runtime is not None and isinstance(error, runtime.CudaOutOfMemory)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Errors of a GPU as errors of this library."""
    try:
        yield
    except RuntimeError as error:
        runtime = sys.modules.get("fastnn_kernels.cuda.runtime")
        if runtime is None or not isinstance(error, runtime.CudaError):
            raise
        kinds = ((runtime.CudaOutOfMemory, DeviceMemoryError), (runtime.CudaLost, DeviceLostError))
        kind = next((ours for theirs, ours in kinds if isinstance(error, theirs)), DeviceError)
        raise kind(str(error)) from error


def of(array: Any) -> Engine:
    """The engine on which an operation on this array is computed at once: where it lies."""
    ordinal = arrays.ordinal(array)
    return CPU if ordinal is None else gpu(ordinal)


def named(name: str) -> Engine:
    """The engine of that name (`History.device` holds one)."""
    return choose(name)[0]


def instantiate(program: Program, rows: int, engine: str | Engine = "cpu", threads: int | None = None) -> Instance:
    """`program` on an engine, given by itself or by name, for `rows` rows."""
    chosen = engine if isinstance(engine, Engine) else named(engine)
    return chosen.instantiate(program, rows, threads)


__all__ = ["DEVICES", "PRECISIONS", "Engine", "Instance", "choose", "cores", "gpu", "instantiate", "named", "of"]
