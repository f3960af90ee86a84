"""A machine with a simulated GPU: every Python that is started in its environment finds one, as do the scripts of `ci/`.

In one process `simulated_cupy.install` is enough; this is for programs that start others. What is simulated is connected when
`fastnn_kernels.cuda.device` is first imported; until then a process imports what it would have imported anyway.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

ABSENT = "SIMULATED_ABSENT"
"""Names modules that are not installed on this machine, with commas between them."""
FAULT = "SIMULATED_FAULT"
"""A factor by which all products of cuBLASLt are wrong."""

CONNECTIONS = "SIMULATED_CONNECTIONS"
"""Names the file in which every process writes down what it asks of a network."""

PROGRAMS = {
    "nvidia-smi": "#!/bin/sh\necho 'NAME, MEBIBYTES MiB, 000.00'\n",
    # What it does on this machine: run a program, and find nothing.
    "compute-sanitizer": """#!/usr/bin/env bash
[[ $1 != --version ]] || exit 0
while [[ $1 == --* ]]; do [[ $1 != *=* && $1 != --version ]] && shift; shift; done
"$@"; code=$?
echo "========= ERROR SUMMARY: 0 errors"
exit $code
""",
}


def environment(folder: Path, *, absent: Sequence[str] = (), fault: float | None = None) -> dict[str, str]:
    """The variables of a process on this machine, whose programs are written into `folder`."""
    from simulated_cupy import NAME, memory

    programs, site = folder / "bin", folder / "site"
    programs.mkdir(exist_ok=True)
    site.mkdir(exist_ok=True)
    for name, text in PROGRAMS.items():
        (programs / name).write_text(text.replace("NAME", NAME).replace("MEBIBYTES", str(memory.TOTAL // 2**20)))
        (programs / name).chmod(0o700)
    (site / "sitecustomize.py").write_text("import simulated_machine\nsimulated_machine.start()\n")
    paths = [str(site), str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    made = os.environ | {"PYTHON": sys.executable, "PATH": f"{programs}:/usr/bin:/bin", "PYTHONPATH": ":".join(paths)}
    made |= {CONNECTIONS: str(folder / "connections")}
    return made | {ABSENT: ",".join(absent)} | ({} if fault is None else {FAULT: str(fault)})


# --- in every process -------------------------------------------------------------------------------------------------


def start() -> None:
    """Make this process one of the machine."""
    for name in filter(None, os.environ.get(ABSENT, "").split(",")):
        sys.modules[name] = None  # type: ignore[assignment]
    sys.addaudithook(_listen)
    calls = {"fastnn_kernels.cuda.device": _simulate, "simulated_cupy": _connect, "fastnn.benchmarks.environment": _describe}
    sys.meta_path.insert(0, _Finder(calls))


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    asked = event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
    if asked or (event == "socket.connect" and isinstance(arguments[1], tuple)):  # and not within this machine
        with open(os.environ[CONNECTIONS], "a") as file:
            file.write(f"{event} {arguments[-1]}\n")


class _Finder(importlib.abc.MetaPathFinder):
    """Calls something with some modules right after they were imported; CuPy is what has been connected then."""

    def __init__(self, calls: Mapping[str, Callable[[ModuleType], None]]) -> None:
        self.calls = calls

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name == "cupy":
            return importlib.machinery.ModuleSpec(name, _Simulated())
        if name not in self.calls:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self.calls[name](module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


class _Simulated(importlib.abc.Loader):
    """Gives what was connected."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        importlib.import_module("fastnn_kernels.cuda.device")
        return sys.modules["cupy"]

    def exec_module(self, module: ModuleType) -> None:
        pass


def _simulate(device: ModuleType) -> None:
    importlib.import_module("simulated_cupy")


def _connect(simulated_cupy: Any) -> None:
    """The GPU of this process; it is looked at when the process ends."""
    import atexit

    gpu = simulated_cupy.SimulatedGpu()
    factor = os.environ.get(FAULT)
    if factor is not None:
        epilogue = gpu.cublaslt._epilogue
        gpu.cublaslt._epilogue = lambda wanted, result, *rest: epilogue(  # type: ignore[method-assign]
            wanted, float(factor) * result, *rest
        )  # fmt: skip
    simulated_cupy.connect(gpu, setattr, lambda modules, name, module: modules.update({name: module}))
    cuda = sys.modules["cupy"].cuda
    cuda.set_allocator = lambda allocator: None  # blocks are watched one by one in any case
    cuda.nvrtc = _Compiler()
    sys.modules["cupy.cuda"] = cuda

    def end() -> None:
        gpu.check()
        del simulated_cupy.memory.Pooled.__del__  # what is left now goes with the process

    atexit.register(end)


class _Compiler:
    """NVRTC itself: the newest that `FASTNN_NVRTC` names, or that of the installed packages. Loaded when it is first asked."""

    def __getattr__(self, name: str) -> Any:
        from cuda_on_host import nvrtc_library

        named = list(nvrtc_library.named().values())
        installed = importlib.util.find_spec("nvidia")
        for folder in () if installed is None else installed.submodule_search_locations or ():
            named = [*sorted(Path(folder).rglob("libnvrtc.so.*[0-9]")), *named]
        if not named:
            raise ImportError("there is no NVRTC here")
        loaded = nvrtc_library.Nvrtc(named[-1])
        self.__dict__ |= {each: getattr(loaded, each) for each in dir(loaded) if not each.startswith("_")}
        return getattr(loaded, name)


def _describe(environment: ModuleType) -> None:
    """What the driver says, which is asked without CuPy."""
    import simulated_cupy

    described = environment.Gpu(name=simulated_cupy.NAME, memory=simulated_cupy.memory.TOTAL, driver="13.0")
    environment.gpu = lambda: described  # type: ignore[attr-defined]
