"""The CUDA sources as NVRTC and nvcc see them, on a machine that need not have a GPU."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import locale
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_on_host import calls, host, nvrtc_library

import fastnn_kernels.cuda
from fastnn_kernels.contract import KERNELS
from fastnn_kernels.cuda import compiling
from fastnn_kernels.cuda.compiling import OPTIONS, Resources, compile_source, resources_of, version
from fastnn_kernels.cuda.kernels import Kernel, kernel, unit
from fastnn_kernels.cuda.lowering import LOWERINGS, Body, Device, lower
from fastnn_kernels.cuda.runtime import CudaUnavailable

FAMILIES = sorted({family for family, _ in LOWERINGS.values()})
PRECISIONS = ("float32", "float64", "bfloat16")
ARCHITECTURES = (75, 80, 86, 87, 88, 89, 90, 100, 103, 107, 110, 120, 121)
"""Of GPUs from Turing on, as far as compilers know them."""
EVERY_DAY = (75, "float32")
"""What is compiled without being asked for: what the oldest architecture takes, the others nearly always do."""
WHOLE = (75, 90, 120)
"""Architectures that every family is compiled for in every precision; for the others in one each, by turns. The sources are the
same for all, and the assembler's rules those of a generation: each has one of these, or three in a row (86 to 89, 100 on)."""
OTHERS = nvrtc_library.named()
"""Libraries of other compilers, the oldest and the newest of CUDA 12 and 13."""
OTHERS_FOR = 90

REGISTERS = {"float32": 128, "float64": 168, "bfloat16": 128}
"""A thread may have 128 where two blocks of 256 threads are to fit on a multiprocessor."""
SPILLED = {"float32": 16, "float64": 128, "bfloat16": 16}
"""Bytes. The assembler spills a number or two itself where that makes room for another block; double division and elementary
functions are calls, around which registers are kept on the stack."""
EARLY = (12, 4)
"""Compilers before this one use more registers (142) and spill more (52 bytes) in two families; right they are, if slower."""

SETUP = f"import sys; sys.path[:0] = {[p for p in sys.path if p]!r}\n"

needs_cases = pytest.mark.skipif(not calls.CASES.exists(), reason="bench/ is not here; it is not installed")


@pytest.fixture(scope="module")
def nvrtc() -> tuple[int, int]:
    """The version of the compiler; the test is skipped where there is none."""
    try:
        return version()
    except CudaUnavailable as error:
        pytest.skip(str(error))


def bodies(name: str, precision: str, *devices: Device) -> list[Body]:
    """Of all example calls of a kernel, on these devices (else with and without cuBLASLt)."""
    found = {}
    for case in calls.calls(name):
        if precision == "float32" or case.precisions != ("int64",):
            operands = calls.operands(case, precision)
            for device in devices or (Device(), Device(products=False)):
                works = lower(name, operands, case.attributes, device).works
                found |= {kernel([work]): work for work in works if isinstance(work, Body)}
    return list(found.values())


@functools.cache
def kernels(family: str, precision: str) -> tuple[Kernel, ...]:
    """All that the example calls of a family need, each once."""
    names = [name for name, (of, _) in LOWERINGS.items() if of == family]
    return tuple(dict.fromkeys(kernel([body]) for name in names for body in bodies(name, precision)))


def is_compiled(family: str, architecture: int, precision: str) -> bool:
    turn = FAMILIES.index(family) + ARCHITECTURES.index(architecture)
    return architecture in WHOLE or PRECISIONS[turn % len(PRECISIONS)] == precision


def needs(text: str, architecture: int, compiler: tuple[int, int]) -> dict[str, Resources]:
    """What the kernels of a source need when a compiler of this version compiles them, kept on disk."""
    key = repr((text, architecture, OPTIONS, compiler, inspect.getsource(compiling)))
    path = host.build_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    if not path.exists():
        found = compile_source(text, architecture)
        assert len(found.cubin) > 1000
        path.write_text(json.dumps({name: dataclasses.astuple(each) for name, each in found.resources.items()}))
    return {name: Resources(*each) for name, each in json.loads(path.read_text()).items()}


def check(family: str, precision: str, found: dict[str, Resources], compiler: tuple[int, int] = EARLY) -> None:
    """Every kernel is there, fits and does not spill."""
    named = {each.name: each.sections[0].function for each in kernels(family, precision)}
    bounds = precision if compiler >= EARLY else "float64"
    assert set(found) == set(named)
    for name, needs in found.items():
        assert needs.registers <= REGISTERS[bounds], f"{named[name]}: {needs}"
        assert needs.spilled <= SPILLED[bounds], f"{named[name]}: {needs}"


def test_every_kernel_is_lowered() -> None:
    assert set(LOWERINGS) == {name for name, kernel in KERNELS.items() if "cuda" in kernel.sets}


@needs_cases
@pytest.mark.parametrize(
    ("architecture", "precision", "family"),
    [
        pytest.param(a, p, f, marks=() if (a, p) == EVERY_DAY else pytest.mark.slow)
        for a in ARCHITECTURES for p in PRECISIONS for f in FAMILIES if is_compiled(f, a, p)
    ],
)  # fmt: skip
def test_compiles_for_every_architecture(family, architecture, precision, nvrtc) -> None:
    if architecture not in compiling._nvrtc().getSupportedArchs():
        pytest.skip(f"NVRTC {nvrtc[0]}.{nvrtc[1]} does not know sm_{architecture}")
    check(family, precision, needs(unit(kernels(family, precision)), architecture, nvrtc))


def test_every_generation_compiles_everything() -> None:
    """In an architecture of its own, or in its neighbors together, none of which lacks a family."""
    for generation in (
        (75,), (80, 86, 87, 88, 89), (86, 87, 88), (87, 88, 89), (90,), (100, 103, 107), (103, 107, 110), (120, 121),
    ):  # fmt: skip
        for family in FAMILIES:
            assert {p for p in PRECISIONS for a in generation if is_compiled(family, a, p)} == set(PRECISIONS)
            assert all(any(is_compiled(family, a, p) for p in PRECISIONS) for a in generation)


def test_all_architectures_of_the_compiler_are_tried(nvrtc) -> None:
    known = {each for each in compiling._nvrtc().getSupportedArchs() if each >= min(ARCHITECTURES)}
    assert known <= set(ARCHITECTURES), "add the new ones"


@needs_cases
@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("compiler", OTHERS or ["none"])
def test_compiles_with_other_compilers(family, compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the options that are used on a GPU."""
    if compiler not in OTHERS:
        pytest.skip(f"{nvrtc_library.VARIABLE} names no folder with other versions of NVRTC")
    with_it = nvrtc_library.Nvrtc(OTHERS[compiler])
    monkeypatch.setattr(compiling, "_nvrtc", lambda: with_it)
    before = locale.getencoding(), locale.setlocale(locale.LC_CTYPE)
    found = needs(unit(kernels(family, "float32")), OTHERS_FOR, with_it.getVersion())
    assert (locale.getencoding(), locale.setlocale(locale.LC_CTYPE)) == before
    check(family, "float32", found, with_it.getVersion())


class Refusing(Exception):
    pass


@pytest.mark.parametrize(
    ("architecture", "target"),
    [(75, "sm_75"), (90, "sm_90"), (107, "compute_100"), (121, "compute_120"), (200, "compute_120"), (76, "compute_75")],
)
def test_what_a_compiler_does_not_know_becomes_ptx_of_the_next_older(
    architecture: int, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PTX runs on newer architectures than its own, and on no older one."""

    class Told:
        NVRTCError = Refusing
        options: tuple[str, ...] = ()

        def getSupportedArchs(self) -> list[int]:
            return [75, 80, 90, 100, 120]

        def createProgram(self, *arguments: object) -> str:
            return "program"

        def compileProgram(self, program: str, options: tuple[str, ...]) -> None:
            self.options = options

        def getProgramLog(self, program: str) -> str:
            return ""

        def getCUBIN(self, program: str) -> bytes:
            return b"cubin"

        def getPTX(self, program: str) -> str:
            return "ptx"

        def destroyProgram(self, program: str) -> None:
            assert program == "program"

    told = Told()
    monkeypatch.setattr(compiling, "_nvrtc", lambda: told)
    made = compile_source("", architecture)
    assert told.options == (f"--gpu-architecture={target}", *OPTIONS)
    assert made.cubin == (b"cubin\0" if target.startswith("sm") else b"ptx\0")
    monkeypatch.setattr(compiling, "version", lambda: (13, 0))
    with pytest.raises(CudaUnavailable, match=r"CUDA 13\.0 compiles for no GPU as old as this one \(sm_70\)"):
        compile_source("", 70)


@needs_cases
@pytest.mark.slow
def test_bodies_of_all_families_fit_into_one_kernel(nvrtc) -> None:
    together = Kernel(tuple(kernels(family, "float32")[0].sections[0] for family in FAMILIES))
    assert set(compile_source(unit([together]), 90).resources) == {together.name}


@needs_cases
@pytest.mark.parametrize("kibibytes", [48, 64, 227])
def test_bodies_ask_for_no_more_shared_memory_than_there_is(kibibytes: int) -> None:
    device = Device(shared_bytes=kibibytes * 1024, products=False)
    for name in LOWERINGS:
        for body in bodies(name, "float64", device):
            assert body.shared <= device.shared_bytes, body


@needs_cases
def test_a_unit_includes_nothing() -> None:
    for family in FAMILIES:
        assert "#include" not in unit(kernels(family, "float32")), family


@needs_cases
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not here")
@pytest.mark.parametrize("family", FAMILIES)
def test_nvcc_compiles_the_same(family, tmp_path: Path) -> None:
    """In the precision that has the most in it; NVRTC compiles all."""
    precision, source = "bfloat16", tmp_path / "unit.cu"
    source.write_text(unit(kernels(family, precision)))
    command = ["nvcc", "-std=c++17", "-arch=sm_90", "-cubin", "-Xptxas=-v", "-o", str(tmp_path / "unit.cubin"), str(source)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[:8000]
    check(family, precision, resources_of(ended.stderr))


def test_what_the_assembler_says_is_read() -> None:
    log = """ptxas info    : Compiling entry function 'first' for 'sm_90'
ptxas info    : Function properties for first
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 16 bytes cumulative stack size
ptxas info    : Compiling entry function 'second' for 'sm_90'
ptxas info    : Function properties for second
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers
"""
    assert resources_of(log) == {"first": Resources(40, 16, 12), "second": Resources(8, 0, 0)}


def test_spilling_is_seen(nvrtc) -> None:
    """A kernel that needs more registers than it may have."""
    text = """extern "C" __global__ void __launch_bounds__(1024) greedy(const float* x, float* y) {
  float kept[128];
  for (int i = 0; i < 128; i++) kept[i] = x[i * 1024 + threadIdx.x];
  __syncthreads();
  for (int i = 0; i < 128; i++) y[i * 1024 + threadIdx.x] = kept[127 - i] * kept[i];
}
"""
    found = compile_source(text, 90).resources["greedy"]
    assert found.spilled > 0, found


def python(code: str, **environment: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", SETUP + code], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    return ended.stdout


@pytest.mark.slow
def test_the_wheel_of_nvrtc_is_enough(nvrtc, tmp_path: Path) -> None:
    """It is found without a toolkit, and compiling needs no header."""
    pytest.importorskip("nvidia.cu13", reason="NVRTC is not there as a wheel")
    text = unit(kernels("rows", "float32")[:1])
    code = f"""
from fastnn_kernels.cuda.compiling import compile_source
assert compile_source({text!r}, 75).resources
libraries = {{line.split()[-1] for line in open("/proc/self/maps") if "libnvrtc" in line}}
import nvidia.cu13
assert libraries, "no NVRTC was loaded"
for library in libraries:
    assert any(library.startswith(folder) for folder in nvidia.cu13.__path__), library
"""
    python(code, CUDA_PATH=str(tmp_path), LD_LIBRARY_PATH="", PATH="/usr/bin:/bin")


@pytest.mark.slow
def test_training_on_the_cpu_does_not_touch_cupy() -> None:
    """Nothing asks for a driver where the CPU was asked for."""
    pytest.importorskip("cupy")
    code = """
import numpy as np
import fastnn
rng = np.random.default_rng(0)
X, y = rng.random((50, 20), dtype=np.float32), rng.integers(0, 3, 50)
model = fastnn.Sequential([fastnn.Dense(3)], seed=0)
model.fit(X, y, batch_size=32, epochs=1, verbose=0)
model.predict(X)
assert "cupy" not in sys.modules
"""
    python(code)


def test_importing_the_set_loads_neither_cupy_nor_nvrtc() -> None:
    python("import fastnn_kernels.cuda\nassert 'cupy' not in sys.modules\n")
    assert fastnn_kernels.cuda.FAMILIES
