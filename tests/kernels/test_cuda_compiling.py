"""Kernels are compiled one by one on all cores, to the same bytes however it is done, and kept when something ends it early."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from cuda_on_host import nvrtc_library

from fastnn_kernels.contract import Operand
from fastnn_kernels.cuda import compiling
from fastnn_kernels.cuda.compiling import Compiled, machine_codes
from fastnn_kernels.cuda.kernels import kernel, unit
from fastnn_kernels.cuda.lowering import Body, Device, lower
from fastnn_kernels.cuda.runtime import CudaError, CudaUnavailable

SOURCES = {name: f"the source of {name}" for name in "abcdefgh"}
OTHERS = nvrtc_library.named()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(compiling, "cache_folder", lambda: tmp_path)
    return tmp_path


class Compiler:
    """In the place of `compile_source`. `seconds` a source takes; sources that are `refused`; `at_once`: the most at a time."""

    def __init__(self, seconds: float = 0.0, refused: str = "") -> None:
        self.seconds, self.refused = seconds, refused
        self.compiled: list[str] = []
        self.at_once = self._running = 0
        self._lock = threading.Lock()

    def __call__(self, source: str, architecture: int, name: str) -> Compiled:
        with self._lock:
            self._running += 1
            self.at_once = max(self.at_once, self._running)
        time.sleep(self.seconds)
        with self._lock:
            self._running -= 1
            self.compiled.append(name)
        if name in self.refused:
            raise CudaError(f"NVRTC refused {name} (why)")
        return Compiled(f"{source} for {architecture}".encode(), {})


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiler]:
    made = Compiler()
    monkeypatch.setattr(compiling, "compile_source", made)
    monkeypatch.setattr(compiling, "version", lambda: (13, 0))
    yield made
    assert not any(thread.name.startswith("fastnn-nvrtc") for thread in threading.enumerate())


def small_kernels() -> dict[str, str]:
    """Sources of four kernels that compile quickly, by their names."""
    names = {"exp": 2, "add": 3, "multiply": 3, "divide": 3}
    operand = Operand((7, 5), np.dtype("float32"))
    works = [work for name, count in names.items() for work in lower(name, [operand] * count, {}, Device()).works]
    bodies = [kernel([work]) for work in works if isinstance(work, Body)]
    return {each.name: unit([each]) for each in bodies}


@pytest.mark.parametrize("which", ["the one of CuPy", *(pytest.param(each, marks=pytest.mark.slow) for each in OTHERS)])
def test_the_same_bytes_in_any_order_on_any_number_of_threads(
    which: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if which in OTHERS:
        library = nvrtc_library.Nvrtc(OTHERS[which])
        monkeypatch.setattr(compiling, "_nvrtc", lambda: library)
        monkeypatch.setattr(compiling, "version", library.getVersion)
    try:
        compiling.version()
    except CudaUnavailable as error:
        pytest.skip(str(error))
    sources = small_kernels()
    assert len(sources) == 4
    alone = {name: compiling.compile_source(source, 75).cubin for name, source in sources.items()}
    backwards = dict(reversed(sources.items()))
    monkeypatch.setattr(compiling, "usable_cores", lambda: 4)
    assert machine_codes(backwards, 75) == alone
    assert machine_codes(sources, 75) == alone, "from the disk"
    monkeypatch.setattr(compiling, "cache_folder", lambda: None)
    assert machine_codes(sources, 75) == alone
    monkeypatch.setattr(compiling, "usable_cores", lambda: 1)
    assert machine_codes(backwards, 75) == alone


def test_what_is_kept_is_compiled_once(folder: Path, compiler: Compiler) -> None:
    first = machine_codes({name: SOURCES[name] for name in "abc"}, 90)
    assert sorted(compiler.compiled) == ["a", "b", "c"]
    compiler.compiled.clear()
    assert machine_codes({name: SOURCES[name] for name in "dcba"}, 90).items() > first.items()
    assert compiler.compiled == ["d"]
    assert machine_codes({"a": SOURCES["a"]}, 80) == {"a": b"the source of a for 80"}, "of another architecture"
    assert machine_codes({"other": SOURCES["a"]}, 90) == {"other": first["a"]}, "its name does not matter"
    assert compiler.compiled == ["d", "a"]


@pytest.mark.parametrize(("cores", "most", "threads"), [(3, None, 3), (3, "2", 2), (1, None, 1), (64, None, 8), (3, "7", 3)])
def test_no_more_threads_than_cores_and_kernels(
    cores: int, most: str | None, threads: int, folder: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    monkeypatch.delenv("FASTNN_THREADS", raising=False)
    if most is not None:
        monkeypatch.setenv("FASTNN_THREADS", most)
    compiler.seconds = 0.1
    machine_codes(SOURCES, 90)
    assert compiler.at_once == threads


def test_an_error_names_the_kernel_and_loses_no_other(folder: Path, compiler: Compiler) -> None:
    compiler.refused = "fc"
    with pytest.raises(CudaError, match="NVRTC refused c "):
        machine_codes(SOURCES, 90)
    compiler.refused = ""
    compiler.compiled.clear()
    assert list(machine_codes(SOURCES, 90)) != []
    assert sorted(compiler.compiled) == ["c", "f"]


def test_a_source_that_does_not_compile_is_named(folder: Path) -> None:
    try:
        compiling.version()
    except CudaUnavailable as error:
        pytest.skip(str(error))
    good = 'extern "C" __global__ void good(int* x) { *x = 1; }'
    with pytest.raises(CudaError, match=r"(?s)NVRTC refused wrong .*error.*undefined_thing"):
        machine_codes({"good": good, "wrong": good.replace("1", "undefined_thing")}, 75)


def test_an_interrupt_keeps_what_is_done_and_begins_nothing_more(
    folder: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "usable_cores", lambda: 1)
    ended = threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            ended.set()
            super().shutdown(wait=wait)

    def interrupted(source: str, architecture: int, name: str) -> Compiled:
        if name == "d":
            while len(list(folder.glob("*.kernel"))) < 3:
                time.sleep(0.01)
            time.sleep(0.3)  # by now the main thread waits
            for _ in range(30):  # one that comes right before it begins to wait is not seen until it ends
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                if ended.wait(1):
                    break
            assert ended.is_set()
        return compiler(source, architecture, name)

    monkeypatch.setattr(compiling, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(compiling, "compile_source", interrupted)
    with pytest.raises(KeyboardInterrupt):
        machine_codes(SOURCES, 90)
    assert compiler.compiled == ["a", "b", "c", "d"]
    monkeypatch.setattr(compiling, "compile_source", compiler)
    compiler.compiled.clear()
    assert set(machine_codes(SOURCES, 90)) == set(SOURCES)
    assert compiler.compiled == ["d", "e", "f", "g", "h"]


def test_a_process_that_is_killed_leaves_whole_files(folder: Path, compiler: Compiler) -> None:
    """Killed while one file is being written and two are there."""
    code = f"""
import sys; sys.path[:0] = {[p for p in sys.path if p]!r}
import os, pathlib, signal
from fastnn_kernels import caching
from fastnn_kernels.cuda import compiling
compiling.cache_folder = lambda: pathlib.Path({str(folder)!r})
compiling.version = lambda: (13, 0)
compiling.usable_cores = lambda: 1
def compile_source(source, architecture, name):
    return compiling.Compiled(f"{{source}} for {{architecture}}".encode(), {{}})
compiling.compile_source = compile_source
replace, written = os.replace, []
def kill(source, target):
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(target)
    replace(source, target)
caching.os.replace = kill
compiling.machine_codes({SOURCES!r}, 90)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert len(list(folder.glob("*.kernel"))) == 2
    found = machine_codes(SOURCES, 90)
    assert found == {name: f"{source} for 90".encode() for name, source in SOURCES.items()}
    assert len(compiler.compiled) == len(SOURCES) - 2


def test_where_nothing_can_be_kept_everything_is_compiled(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "cache_folder", lambda: None)
    for _ in range(2):
        assert len(machine_codes(SOURCES, 90)) == len(SOURCES)
    assert len(compiler.compiled) == 2 * len(SOURCES)
