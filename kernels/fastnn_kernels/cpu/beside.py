"""Compiling in two processes: the first time that a machine needs the kernels of a program, most of the time goes into that.

Threads would take turns, as Numba and LLVM compile one function at a time. So a second process, which begins with what the
kernels call, compiles them from the first one on, and this process from the last one on; what either has made, the other finds
in the cache. Where there is no cache, or the process cannot be started or fails, this one compiles all by itself.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fastnn_kernels.contract import Operand
from fastnn_kernels.cpu.compiling import KernelKey, Lowered, compile_called, is_kept, kernel_address, kernel_key, lower

Call = tuple[str, Sequence[Operand], Mapping[str, Any]]
"""The name of a kernel, its operands and its attributes."""

WORTH = 4
"""Kernels to be compiled from which on it is worth starting a process."""
PATIENCE = 120.0
"""Seconds that the process may take longer for what the kernels call."""
CODE = "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); from fastnn_kernels.cpu import beside; beside.main()"

_starting = threading.Lock()


def lower_all(calls: Sequence[Call], cores: Callable[[], int]) -> list[Lowered]:
    """Lower calls, after their kernels were compiled; in two processes where there are so many cores."""
    missing = {key: call for call in calls if not is_kept(key := kernel_key(*call))}
    if len(missing) >= WORTH and cores() > 1 and _starting.acquire(blocking=False):
        try:
            with _second_process(list(missing.values())) as wait:
                for key in reversed(missing):
                    kernel_address(*key)
                wait()
        finally:
            _starting.release()
    return [lower(*call) for call in calls]


@contextlib.contextmanager
def _second_process(calls: list[Call]) -> Iterator[Callable[[], object]]:
    """A process that compiles the kernels of these calls; it is given a function that waits for what they call.

    When its input ends, the process finishes the kernel that it is at, which nobody waits for.
    """
    process = _start(calls)
    if process is None:
        yield lambda: None
        return
    assert process.stdin is not None
    called, over = threading.Event(), threading.Event()
    threading.Thread(target=_see_off, args=(process, called, over), name="fastnn-compiling", daemon=True).start()
    try:
        yield lambda: called.wait(PATIENCE)
    finally:
        if not called.is_set():
            process.kill()
        with contextlib.suppress(OSError):
            process.stdin.close()
        over.set()


def _see_off(process: subprocess.Popen[bytes], called: threading.Event, over: threading.Event) -> None:
    """Tell when the process has compiled what is called, or failed; and see that it ends."""
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
        called.set()
        over.wait()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _start(calls: list[Call]) -> subprocess.Popen[bytes] | None:
    """None where it cannot be started. Programs that are not Python's own, but hold it, are not started a second time."""
    if getattr(sys, "frozen", False) or not os.path.basename(sys.executable or "").startswith("python"):
        return None
    try:
        work = pickle.dumps(sys.path) + pickle.dumps(calls)
        process = subprocess.Popen(
            [sys.executable, "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except (OSError, ValueError, TypeError, AttributeError, pickle.PicklingError):
        return None
    assert process.stdin is not None
    with contextlib.suppress(OSError):  # where it has ended already
        process.stdin.write(work)
        process.stdin.flush()
    return process


def main() -> None:
    """The second process: compile what stands in its input, until that ends; a line says when all is done that is called."""
    calls: list[Call] = pickle.load(sys.stdin.buffer)
    over = threading.Event()
    threading.Thread(target=_read_on, args=(over,), daemon=True).start()
    for call in calls:
        compile_called(*call)
    print(flush=True)
    for call in calls:
        key: KernelKey = kernel_key(*call)
        if over.is_set():
            break
        if not is_kept(key):
            kernel_address(*key)


def _read_on(over: threading.Event) -> None:
    """Tell when the input ends; not through its buffer, which this thread would hold when the process ends."""
    while os.read(0, 4096):
        pass
    over.set()
