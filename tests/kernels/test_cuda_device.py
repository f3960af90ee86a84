"""The GPU through CuPy, as far as it can be seen without one: what is asked of CuPy, by a stand-in that does no work."""

from __future__ import annotations

import contextlib
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cuda_on_host.cublaslt import FakeCublasLt

from fastnn_kernels.contract import Operand
from fastnn_kernels.cuda import cublaslt, device
from fastnn_kernels.cuda.device import CupyRuntime
from fastnn_kernels.cuda.kernels import kernel
from fastnn_kernels.cuda.lowering import Body, Pointer, Product, lower
from fastnn_kernels.cuda.runtime import CudaUnavailable, Launch, Multiplication

PRODUCT = Product(Pointer(0, "float", False), Pointer(1, "float", False), Pointer(2, "float", True), 5, 130, 7)
ADDRESSES = (0x1000, 0x2000, 0x3000)


class Stream(contextlib.nullcontext[None]):
    ptr = 77

    def __init__(self, non_blocking: bool = False) -> None:
        super().__init__()

    def begin_capture(self) -> None:
        pass

    def end_capture(self) -> str:
        return "a graph"


class Module:
    """Its functions are pairs of a name and what was loaded."""

    def load(self, code: bytes) -> None:
        self.code = code

    def get_function(self, name: str) -> tuple[str, bytes]:
        return name, self.code


class Error(Exception):
    """None that CuPy raises comes up."""


def stand_in() -> Any:
    """What `CupyRuntime` uses of CuPy to open a GPU."""
    properties = {"name": b"a stand-in", "major": 9, "minor": 0, "multiProcessorCount": 4}
    runtime = SimpleNamespace(
        getDeviceCount=lambda: 1, getDeviceProperties=lambda ordinal: properties, CUDARuntimeError=Error
    )  # fmt: skip
    cuda = SimpleNamespace(
        runtime=runtime, driver=SimpleNamespace(CUDADriverError=Error), memory=SimpleNamespace(OutOfMemoryError=Error),
        Device=lambda ordinal: contextlib.nullcontext(), Stream=Stream, alloc=lambda nbytes: SimpleNamespace(ptr=0x10000),
        function=SimpleNamespace(Module=Module),
    )  # fmt: skip
    return SimpleNamespace(cuda=cuda)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCublasLt]:
    """The cuBLASLt of every GPU that is opened."""
    fake = FakeCublasLt()
    monkeypatch.setitem(sys.modules, "cupy", stand_in())
    monkeypatch.setattr(device, "check_driver", lambda: None)
    monkeypatch.setattr(cublaslt, "load_library", lambda: fake)
    device.open_device.cache_clear()
    yield fake
    device.open_device.cache_clear()


def test_without_cublaslt_a_gpu_is_opened(library: FakeCublasLt, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise CudaUnavailable("cuBLASLt is not found")

    assert CupyRuntime(0).device.products
    monkeypatch.setattr(cublaslt, "load_library", missing)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not CupyRuntime(0).device.products


@pytest.mark.parametrize("status", [1, 3, 8, 14, 16])
def test_where_cublaslt_does_not_start_products_are_our_own_and_one_warning_says_so(library: FakeCublasLt, status: int) -> None:
    library.fail["Create"] = status
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        opened = [device.open_device(0) for _ in range(3)]
    (warning,) = caught
    name = cublaslt.STATUSES[status]
    assert f"cuBLASLt does not start on cuda:0 (CUBLAS_STATUS_{name}: " in str(warning.message)
    assert {(each.device.products, each.products_version) for each in opened} == {(False, 0)}


@pytest.mark.parametrize(
    "ask", [lambda gpu: gpu.device.supports(PRODUCT), lambda gpu: gpu.algorithms(PRODUCT, 3)], ids=["supports", "algorithms"]
)
def test_heuristics_are_not_asked_while_another_thread_captures(
    library: FakeCublasLt, ask: Callable[[CupyRuntime], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = CupyRuntime(0)
    order: list[str] = []
    capturing, asking = threading.Event(), threading.Event()

    def run(node: Any, stream: Any) -> None:
        capturing.set()
        assert asking.wait(10)
        other.join(0.2)  # time enough to ask, if it may
        order.append("captured")

    heuristic = library._MatmulAlgoGetHeuristic

    def note(*arguments: Any) -> None:
        order.append("asked")
        heuristic(*arguments)

    def ask_beside() -> None:
        assert capturing.wait(10)
        asking.set()
        ask(gpu)

    monkeypatch.setattr(gpu, "run", run)
    monkeypatch.setattr(library, "_MatmulAlgoGetHeuristic", note)
    other = threading.Thread(target=ask_beside)
    other.start()
    assert gpu.capture([[Multiplication(PRODUCT, ADDRESSES)]]) == "a graph"
    other.join(10)
    assert order == ["captured", "asked"]


def test_every_kernel_is_a_unit_of_its_own_and_asked_for_once(library: FakeCublasLt, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = CupyRuntime(0)
    asked: list[dict[str, str]] = []

    def machine_codes(sources: dict[str, str], architecture: int) -> dict[str, bytes]:
        assert architecture == 90
        asked.append(sources)
        return {name: f"the code of {name}".encode() for name in sources}

    monkeypatch.setattr(device, "machine_codes", machine_codes)
    works = [
        work
        for name in ("exp", "tanh", "sigmoid")
        for work in lower(name, [Operand((7,), np.dtype("float32"))] * 2, {}, gpu.device).works
    ]
    launches = [Launch(kernel([work]), 1, 0, ()) for work in works if isinstance(work, Body)]
    names = [launch.kernel.name for launch in launches]
    for nodes in (launches[:2], launches, launches):
        gpu.prepare(nodes)
    assert [list(sources) for sources in asked] == [names[:2], names[2:]]
    for sources in asked:
        for name, text in sources.items():
            assert [other for other in names if f"{other}(" in text] == [name]
    assert gpu._functions == {
        each.kernel: (name, f"the code of {name}".encode()) for each, name in zip(launches, names, strict=True)
    }
