"""Engines: which are usable here, and a program instantiated on one of them.

An engine plays a program for a number of rows. `numpy` runs the definition call by call, in Python; `cpu` plays compiled
kernels in a compiled loop on several threads; `cuda` replays CUDA graphs.

An engine for other devices than the host is a class (`fastnn.engines.base.Engine`) in a file of its own, found by what the
names of its devices begin with: that of `cuda:1` is `ENGINE` in `fastnn/engines/cuda.py`, and `register` adds others.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fastnn import arrays
from fastnn.engines.base import AS_IT_IS, Engine, InputMap, Instance
from fastnn.engines.host import CPU, NUMPY, cores
from fastnn.engines.host import check_threads as check_threads
from fastnn.errors import DeviceError, DeviceMemoryError, InputError, best_match, nearest, warn
from fastnn.program.trace import Program

if TYPE_CHECKING:
    from fastnn.engines.cuda import CudaEngine

_HOST: dict[str, Engine] = {engine.name: engine for engine in (CPU, NUMPY)}

_registered: dict[str, type[Engine]] = {}
"""The classes that `register` was given, by the beginning of the names of their devices."""

DEVICES = ("auto", *sorted({*_HOST, *(device.prefix for device in arrays.ELSEWHERE.values())}))
"""Names of devices; `cuda:1` is the second GPU. More where `register` was called."""

PRECISIONS = ("float32", "tf32", "bf16")
"""Of products of float32 numbers; others than the first on a GPU only."""


def register(prefix: str, dlpack: int | None, engine: type[Engine]) -> None:
    """Let the devices `prefix`, `prefix:0`, `prefix:1`, ... be those that the class `engine` opens, an `Engine` in any file.

        fastnn.engines.register("npu", 12, NpuEngine)
        model.fit(X, y, device="npu:1")

    `dlpack`: DLPack's number of this kind of device (dlpack.h, DLDeviceType): `__dlpack_device__` of an array that lies there
    gives it; None for an engine whose arrays are NumPy's, the name of which has no number. `"auto"` asks for such a device
    after those that were known before, and for none of the host. Raises InputError where the name or the number is taken, or
    the name is no lower-case identifier.
    """
    global DEVICES
    if not re.fullmatch(r"[a-z_][a-z0-9_]*", prefix) or prefix in DEVICES:
        raise InputError(f"expected a name in lower-case letters that no device has yet, got {prefix!r}")
    if dlpack in arrays.ELSEWHERE or dlpack == arrays.HOST:
        raise InputError(f"DLPack's kind of device {dlpack} is that of another engine")
    if dlpack is not None:
        arrays.ELSEWHERE[dlpack] = arrays.Elsewhere(prefix, engine.kind)
    _registered[prefix] = engine
    DEVICES = (*DEVICES, prefix)


def _elsewhere() -> list[str]:
    """What the names of devices that are not the host begin with."""
    return [device.prefix for device in arrays.ELSEWHERE.values()]


def _module(prefix: str) -> str:
    return f"{__name__}.{prefix}"


def _engine(prefix: str) -> type[Engine]:
    """The class of the engines of these devices."""
    known: type[Engine] | None = _registered.get(prefix)
    return importlib.import_module(_module(prefix)).ENGINE if known is None else known


def check_name(device: object) -> tuple[str, int]:
    """What a device is called, without and as a number: `"cuda:1"` is ("cuda", 1). Raises InputError for an unknown name."""
    cure = None
    if isinstance(device, str) and device in DEVICES:
        return device, 0
    if isinstance(device, str):
        prefix, _, ordinal = device.partition(":")
        numbered = bool(re.fullmatch("[0-9]+", ordinal))
        if numbered and prefix in _elsewhere():
            return prefix, int(ordinal)
        if numbered and (near := best_match(prefix, _elsewhere())) is not None:
            cure = f"; did you mean '{near[0]}:{ordinal}'?"
    raise InputError(f"no device is called {device!r}{cure or nearest(device, DEVICES)}")


def choose(device: str, precision: str = "float32", autotune: bool = False) -> tuple[Engine, str]:
    """The engine for a device name, and why, in one line. `autotune`: of a GPU, the one that chooses by timing.

    `"auto"` takes the best that is usable. Raises DeviceError for one that is not, InputError for an unknown name.
    """
    name, ordinal = check_name(device)
    if precision not in PRECISIONS:
        raise InputError(f"no precision is called {precision!r}{nearest(precision, PRECISIONS)}")
    reason = "as asked"
    if name == "auto":
        name, reasons = CPU.name, []
        for prefix in _elsewhere():
            known = _engine(prefix)
            try:
                return known.open(0, precision, autotune), f"a {known.noun} is here"
            except DeviceError as error:
                reasons.append(str(error).split(";")[0])
                if known.is_broken(error):
                    warn(f"the {known.noun} cannot be used: {error}", RuntimeWarning)
        reason = reasons[0]
    if name not in _HOST:
        return _engine(name).open(ordinal, precision, autotune), reason
    if precision != "float32":
        raise DeviceError(f"precision={precision!r} needs a GPU; {reason if reason != 'as asked' else 'the device is ' + name}")
    return _HOST[name], reason


def gpu(ordinal: int = 0, precision: str = "float32", capture: bool | None = None, autotune: bool = False) -> CudaEngine:
    """The engine of a GPU. Raises DeviceError, in one line with the cure, where it cannot be used.

    `capture`: whether programs are replayed as graphs; by default unless `FASTNN_CUDA_CAPTURE` is 0 in the environment, with
    which debuggers and sanitizers see every kernel on its own. The bits are the same. A model continues with the programs that
    it has: set the variable before its first `fit`.
    """
    from fastnn.engines.cuda import CudaEngine

    return CudaEngine.open(ordinal, precision, autotune, capture)


def translation(error: Exception) -> DeviceError | None:
    """An error of the runtime of an engine that was loaded as one of this library; None for other errors."""
    loaded = (sys.modules.get(_module(prefix)) for prefix in _elsewhere())
    known = [*(module.ENGINE for module in loaded if module is not None), *_registered.values()]
    return next((ours for engine in known if (ours := engine.translate(error)) is not None), None)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device had no room for something."""
    return isinstance(translation(error), DeviceMemoryError)


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Errors of a device's runtime as errors of this library."""
    try:
        yield
    except RuntimeError as error:
        ours = translation(error)
        if ours is None:
            raise
        try:
            raise ours from error
        finally:
            del ours  # else this frame would keep the error, and the error all frames, and what they hold


def of(array: Any) -> Engine:
    """The engine on which an operation on this array is computed at once: where it lies."""
    device = arrays.device(array)
    return CPU if device == CPU.name else by_name(device)


def by_name(name: str) -> Engine:
    """The engine of that name (`History.device` holds one)."""
    return choose(name)[0]


def instantiate(program: Program, rows: int, engine: str | Engine = "cpu", threads: int | None = None) -> Instance:
    """`program` on an engine, given by itself or by name, for `rows` rows."""
    chosen = engine if isinstance(engine, Engine) else by_name(engine)
    return chosen.instantiate(program, rows, threads)


__all__ = [
    "AS_IT_IS", "DEVICES", "PRECISIONS", "Engine", "InputMap", "Instance", "by_name", "choose", "cores", "gpu", "instantiate",
    "of", "register",
]  # fmt: skip
