"""Compiling with NVRTC, which needs no GPU and no driver, and keeping what came out on disk."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from fastnn_kernels.caching import cache_folder, read, write
from fastnn_kernels.cores import usable_cores
from fastnn_kernels.cuda.runtime import CudaError, CudaUnavailable

OPTIONS = ("--std=c++17", "--device-as-default-execution-space", "--ptxas-options=-v")
"""Without the second, NVRTC before 13.2 takes the call operator of a generic lambda for a host function and refuses it."""

LISTENING = 0.1
"""Seconds until a Ctrl-C is seen at the latest. NVRTC 12.0 puts the handler of SIGINT back so that system calls go on after it
(SA_RESTART), and a wait without an end goes on too."""


@dataclass(frozen=True)
class Resources:
    """What the assembler says of one kernel: registers a thread, bytes of stack a thread and of them what was spilled."""

    registers: int
    stack: int
    spilled: int


@dataclass(frozen=True)
class Compiled:
    """Machine code of one source, and what its kernels need."""

    cubin: bytes
    resources: dict[str, Resources]


def compile_source(source: str, architecture: int, name: str = "a source") -> Compiled:
    """Machine code for `sm_<architecture>`; for one that this NVRTC does not know, PTX of the next older one that it does.

    `name`: what errors call the source; it is not compiled in. Raises CudaUnavailable for an architecture that is older than
    all that NVRTC knows. Any number of threads may compile at once: NVRTC leaves the interpreter's lock.
    """
    nvrtc = _nvrtc()
    older = [each for each in nvrtc.getSupportedArchs() if each <= architecture]
    if not older:
        major, minor = version()
        raise CudaUnavailable(
            f"CUDA {major}.{minor} compiles for no GPU as old as this one (sm_{architecture}); use an older CUDA"
        )
    known = architecture in older
    target = f"--gpu-architecture=sm_{architecture}" if known else f"--gpu-architecture=compute_{max(older)}"
    program = nvrtc.createProgram(source, "fastnn.cu", (), ())
    try:
        try:
            with _locale_of_this_thread():
                nvrtc.compileProgram(program, (target, *OPTIONS))
        except nvrtc.NVRTCError as error:
            raise CudaError(f"NVRTC refused {name} ({error}):\n{nvrtc.getProgramLog(program)}") from error
        log = nvrtc.getProgramLog(program)
        # CuPy leaves the last byte of either out, taking it for the zero that ends a text.
        code = nvrtc.getCUBIN(program) if known else nvrtc.getPTX(program)
    finally:
        nvrtc.destroyProgram(program)
    return Compiled((code if isinstance(code, bytes) else code.encode()) + b"\0", resources_of(log))


@contextlib.contextmanager
def _locale_of_this_thread() -> Iterator[None]:
    """Keep the locale: NVRTC 12.0 to 12.4 leaves its thread with that of C, in which Python takes all text for ASCII."""
    try:
        uselocale = ctypes.CDLL(None).uselocale
    except (OSError, AttributeError, TypeError):  # the C library has none
        yield
        return
    uselocale.restype, uselocale.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    before = uselocale(None)
    try:
        yield
    finally:
        uselocale(before)


def machine_codes(sources: Mapping[str, str], architecture: int) -> dict[str, bytes]:
    """What `compile_source` makes of each source, by their names, kept on disk for the next process.

    What is not there is compiled on all cores and kept as soon as it is done: an interrupt or an error loses nothing else. Of
    several errors that of the first source is raised.
    """
    folder = cache_folder()
    if folder is not None:
        made_by = (architecture, OPTIONS, version())
        digests = {n: hashlib.sha256(repr((source, *made_by)).encode()).hexdigest()[:24] for n, source in sources.items()}
        paths = {name: folder / f"cuda-sm{architecture}-{digest}.kernel" for name, digest in digests.items()}
        cached = {name: read(path) for name, path in paths.items()}
    else:
        cached = dict.fromkeys(sources)
    codes = {name: code for name, code in cached.items() if code is not None}
    missing = [name for name in sources if name not in codes]
    if not missing:
        return codes
    errors: dict[str, CudaError] = {}
    pool = ThreadPoolExecutor(min(len(missing), usable_cores()), "fastnn-nvrtc")
    try:
        compiling = {pool.submit(compile_source, sources[name], architecture, name): name for name in missing}
        waiting = set(compiling)
        while waiting:
            done, waiting = wait(waiting, LISTENING, FIRST_COMPLETED)
            for name, future in ((compiling[future], future) for future in done):
                try:
                    codes[name] = future.result().cubin
                except CudaError as error:
                    errors[name] = error
                    continue
                if folder is not None:
                    write(paths[name], codes[name])
    finally:
        pool.shutdown(cancel_futures=True)
    if errors:
        raise errors[min(errors, key=missing.index)]
    return codes


@functools.cache
def version() -> tuple[int, int]:
    """The version of NVRTC."""
    major, minor = _nvrtc().getVersion()
    return int(major), int(minor)


@functools.cache
def _nvrtc() -> Any:
    try:
        from cupy.cuda import nvrtc
    except ImportError as error:
        raise CudaUnavailable('CuPy is not installed; pip install "fastnn-xp[cuda13]"') from error
    try:
        nvrtc.getVersion()
    except Exception as error:  # CuPy raises RuntimeError, ImportError or OSError, by version and cause
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CudaUnavailable(
            f'CuPy finds no NVRTC, the compiler of CUDA ({reason}); pip install "fastnn-xp[cuda13]"'
        ) from error
    return nvrtc


def resources_of(log: str) -> dict[str, Resources]:
    """Reads what `ptxas -v` writes: a line that names the kernel, one of its stack, one of its registers."""
    by_kernel: dict[str, Resources] = {}
    name, stack, spilled = "", 0, 0
    for line in log.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            name, stack, spilled = match[1], 0, 0
        elif match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            stack, spilled = int(match[1]), int(match[2]) + int(match[3])
        elif (match := re.search(r"Used (\d+) registers", line)) and name:
            by_kernel[name] = Resources(int(match[1]), stack, spilled)
    return by_kernel
