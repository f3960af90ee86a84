"""A GPU through CuPy: memory from CuPy's pool, modules from NVRTC, products by cuBLASLt, graphs by stream capture.

One stream of its own, which does not wait for the default one, does all the work of a GPU in the order in which it is given, so
that programs share scratch memory and the workspaces of the products; copies have a second one. Within a graph two nodes may
run side by side, of which each has a workspace: graphs are captured on two more streams, see `CupyRuntime.capture`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from fastnn_kernels.cuda.compiling import machine_codes
from fastnn_kernels.cuda.cublaslt import WORKSPACE, CublasError, CublasLt, Plan
from fastnn_kernels.cuda.kernels import Kernel, unit
from fastnn_kernels.cuda.lowering import THREADS, Device, Product
from fastnn_kernels.cuda.runtime import (
    CudaAbsent,
    CudaError,
    CudaLost,
    CudaOutOfMemory,
    CudaUnavailable,
    Launch,
    Multiplication,
    Node,
    pack,
)

SHARED_BYTES = 48 * 1024
"""Shared memory that a block may have without being asked for."""

MEMORY_ALLOCATION = 2  # cudaErrorMemoryAllocation
LOST = {214, 220, 700, 702, 708, 710, 714, 715, 716, 717, 718, 719, 721, 999}
"""Statuses after which no call to the GPU succeeds any more in this process (driver_types.h)."""


@dataclass(frozen=True)
class DeviceMemory:
    """Memory of CuPy's pool; it goes back when the last reference to it goes."""

    address: int
    nbytes: int
    owner: Any


@functools.cache
def open_device(ordinal: int) -> CupyRuntime:
    """The GPU with this number. Raises CudaUnavailable, in one line that says what to do."""
    return CupyRuntime(ordinal)


class CupyRuntime:
    """`fastnn_kernels.cuda.runtime.Runtime` by CuPy."""

    def __init__(self, ordinal: int) -> None:
        check_driver()
        import cupy

        self.cupy = cupy
        self.ordinal = ordinal
        self._lock = threading.RLock()
        """Held while work is captured, compiled or asked about: what a library loads meanwhile might end up in the graph."""
        self._translated = _ErrorsTranslated(self)
        with self._translated:
            count = cupy.cuda.runtime.getDeviceCount()
            if ordinal >= count:
                raise CudaUnavailable(f"there is no cuda:{ordinal}; {count} GPU{'s are' if count > 1 else ' is'} here")
            self._device = cupy.cuda.Device(ordinal)
            properties = cupy.cuda.runtime.getDeviceProperties(ordinal)
            self.name: str = properties["name"].decode()
            with self._device:
                self.stream = cupy.cuda.Stream(non_blocking=True)
                self.copies = cupy.cuda.Stream(non_blocking=True)
                self._capturing, self._branch = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
        self._on_device = _OnDevice(self, self._device, self.stream)
        architecture = 10 * properties["major"] + properties["minor"]
        if architecture < 75:
            raise CudaUnavailable(f"{self.name} has compute capability {architecture / 10}; 7.5 is needed at least")
        self._products = self._open_products()
        if self._products is not None:
            self._workspace = self.allocate(WORKSPACE)
        self._branch_workspace: DeviceMemory | None = None
        shared = properties.get("sharedMemPerBlockOptin", SHARED_BYTES)
        self.device = Device(
            architecture, properties["multiProcessorCount"], shared, self._products is not None, supports=self._supports
        )  # fmt: skip
        self._functions: dict[Kernel, Any] = {}
        self._modules: list[Any] = []
        self._plans: dict[Product, Plan] = {}
        self._raised: set[Kernel] = set()

    def _open_products(self) -> CublasLt | None:
        """cuBLASLt; None where it is not installed, and with a warning where it does not start."""
        try:
            with self._on_device:
                return CublasLt()
        except CudaUnavailable:
            return None
        except CublasError as error:
            warnings.warn(
                f"cuBLASLt does not start on cuda:{self.ordinal} ({error}); fastnn's own kernels compute all products, which "
                "takes longer where they are large",
                RuntimeWarning, stacklevel=2,
            )  # fmt: skip
            return None

    # --- memory -------------------------------------------------------------------------------------------------------

    def memory(self) -> tuple[int, int]:
        with self._on_device:
            free, total = self.cupy.cuda.runtime.memGetInfo()
            return free + self.cupy.get_default_memory_pool().free_bytes(), total

    def allocate(self, nbytes: int) -> DeviceMemory:
        with self._on_device:
            try:
                pointer = self.cupy.cuda.alloc(nbytes)
            except self.cupy.cuda.memory.OutOfMemoryError:
                self.cupy.get_default_memory_pool().free_all_blocks()
                try:
                    pointer = self.cupy.cuda.alloc(nbytes)
                except self.cupy.cuda.memory.OutOfMemoryError as error:
                    raise CudaOutOfMemory(nbytes, *self.memory()) from error
            return DeviceMemory(pointer.ptr, nbytes, pointer)

    def allocate_pinned(self, nbytes: int) -> np.ndarray:
        with self._on_device:
            memory = self.cupy.cuda.alloc_pinned_memory(max(nbytes, 1))
            return np.frombuffer(memory, np.uint8, nbytes)

    def upload(self, address: int, array: np.ndarray, stream: Any) -> None:
        self._copy(address, array.ctypes.data, array.nbytes, "memcpyHostToDevice", stream)

    def download(self, array: np.ndarray, address: int, stream: Any) -> None:
        self._copy(array.ctypes.data, address, array.nbytes, "memcpyDeviceToHost", stream)

    def copy(self, target: int, source: int, nbytes: int, stream: Any) -> None:
        self._copy(target, source, nbytes, "memcpyDeviceToDevice", stream)

    def _copy(self, target: int, source: int, nbytes: int, kind: str, stream: Any) -> None:
        if nbytes:
            runtime = self.cupy.cuda.runtime
            with self._translated:  # copies go to the device of their stream, whatever the current one is
                runtime.memcpyAsync(target, source, nbytes, getattr(runtime, kind), stream.ptr)

    def clear(self, address: int, nbytes: int, stream: Any) -> None:
        if nbytes:
            with self._on_device:
                self.cupy.cuda.runtime.memsetAsync(address, 0, nbytes, stream.ptr)

    # --- streams ------------------------------------------------------------------------------------------------------

    def event(self) -> Any:
        with self._on_device:
            return self.cupy.cuda.Event()

    def record(self, event: Any, stream: Any) -> None:
        with self._on_device:
            event.record(stream)

    def wait(self, stream: Any, event: Any) -> None:
        with self._on_device:
            stream.wait_event(event)

    def _let_wait(self, stream: Any, other: Any) -> None:
        """Let the work given to `stream` from now on wait for what `other` was given so far."""
        event = self.cupy.cuda.Event(disable_timing=True)
        event.record(other)
        stream.wait_event(event)

    def is_done(self, event: Any) -> bool:
        with self._on_device:
            return bool(event.done)

    def elapsed_seconds(self, first: Any, last: Any) -> float:
        with self._on_device:
            last.synchronize()
            return float(self.cupy.cuda.get_elapsed_time(first, last)) / 1e3

    def synchronize(self, work: Any) -> None:
        with self._on_device:
            work.synchronize()

    # --- work ---------------------------------------------------------------------------------------------------------

    def prepare(self, nodes: Sequence[Node]) -> None:
        with self._lock, self._on_device:
            launches = [node for node in nodes if isinstance(node, Launch)]
            missing = dict.fromkeys(node.kernel for node in launches if node.kernel not in self._functions)
            if missing:
                codes = machine_codes({each.name: unit([each]) for each in missing}, self.device.architecture)
                for kernel in missing:
                    module = self.cupy.cuda.function.Module()
                    module.load(codes[kernel.name])
                    self._modules.append(module)
                    self._functions[kernel] = module.get_function(kernel.name)
            for node in launches:
                if node.shared > SHARED_BYTES and node.kernel not in self._raised:
                    driver = self.cupy.cuda.driver
                    attribute = driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                    driver.funcSetAttribute(self._functions[node.kernel].ptr, attribute, self.device.shared_bytes)
                    self._raised.add(node.kernel)
            for product in (node for node in nodes if isinstance(node, Multiplication)):
                self._plan(product.product).prepare(product.addresses)

    def run(self, node: Node, stream: Any) -> None:
        with self._on_device:
            if isinstance(node, Launch):
                table, _kept = pack(node)
                self.cupy.cuda.driver.launchKernel(
                    self._functions[node.kernel].ptr, node.blocks, 1, 1, THREADS, 1, 1, node.shared, stream.ptr,
                    ctypes.addressof(table), 0,
                )  # fmt: skip
            else:
                workspace = self._branch_workspace if stream is self._branch else self._workspace
                assert workspace is not None
                self._plan(node.product).run(node.addresses, workspace.address, stream.ptr)

    def _plan(self, product: Product) -> Plan:
        plan = self._plans.get(product)
        if plan is None:
            assert self._products is not None
            plan = self._plans[product] = self._products.plan(product)
        return plan

    @property
    def products_version(self) -> int:
        return 0 if self._products is None else self._products.version

    def algorithms(self, product: Product, count: int) -> list[bytes]:
        assert self._products is not None
        with self._lock, self._on_device:
            return [candidate.data for candidate in self._products.algorithms(product, count)]

    def _supports(self, product: Product) -> bool:
        assert self._products is not None
        with self._lock, self._on_device:
            return self._products.supports(product)

    def capture(self, stages: Sequence[Sequence[Node]]) -> Any:
        """A graph of what the capturing stream is given. The second of two nodes side by side is given to another stream, which
        takes part in the capture: it waits for an event of the first stream, and the first stream then waits for one of it. So
        the graph has two branches, and the next stage waits for both. Where there is no room for the workspace of the second
        branch, the nodes follow one another.
        """
        with self._lock, self._on_device:
            stream, branch = self._capturing, self._branch
            if self._branch_workspace is None and any(isinstance(node, Multiplication) for _, *rest in stages for node in rest):
                try:
                    self._branch_workspace = self.allocate(WORKSPACE)
                except CudaOutOfMemory:
                    stages = [[node] for stage in stages for node in stage]
            stream.begin_capture()
            try:
                for node, *beside in stages:
                    if beside:
                        self._let_wait(branch, stream)
                    self.run(node, stream)
                    for other in beside:
                        self.run(other, branch)
                    if beside:
                        self._let_wait(stream, branch)
            except BaseException:
                with contextlib.suppress(Exception):
                    stream.end_capture()
                raise
            return stream.end_capture()

    def launch(self, graph: Any, stream: Any) -> None:
        with self._on_device:
            graph.launch(stream)

    # --- arrays of others ---------------------------------------------------------------------------------------------

    def adopt(self, array: Any) -> tuple[int, tuple[int, ...], np.dtype[Any], Any]:
        """A C-contiguous array on this GPU, of any library that speaks DLPack: address, shape, dtype and what keeps it alive.

        Our stream waits for what its owner was still computing.
        """
        with self._translated, self._device:
            cupy_array = array if isinstance(array, self.cupy.ndarray) else self.cupy.from_dlpack(array)
            cupy_array = self.cupy.ascontiguousarray(cupy_array)
            self._let_wait(self.stream, self.cupy.cuda.get_current_stream())
            return cupy_array.data.ptr, tuple(cupy_array.shape), np.dtype(cupy_array.dtype), cupy_array

    def lend(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any], owner: Any) -> Any:
        """Memory of this GPU as a CuPy array; the caller's stream waits for what ours was still computing."""
        with self._translated, self._device:
            nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            memory = self.cupy.cuda.UnownedMemory(address, nbytes, _Lent(self, owner), self.ordinal)
            self._let_wait(self.cupy.cuda.get_current_stream(), self.stream)
            return self.cupy.ndarray(shape, dtype, self.cupy.cuda.MemoryPointer(memory, 0))


class _Lent:
    """Memory of ours that a user's array holds. Ours again, it is not written before the user's stream is done with it."""

    def __init__(self, runtime: CupyRuntime, owner: Any) -> None:
        self._runtime, self._owner = runtime, owner

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # an interpreter that ends, a GPU that is lost
            self._runtime._let_wait(self._runtime.stream, self._runtime.cupy.cuda.get_current_stream())


class _ErrorsTranslated:
    """Errors of CuPy as ours. An object for all calls: a generator would take the host longer than most calls of CuPy do."""

    def __init__(self, runtime: CupyRuntime) -> None:
        self._runtime = runtime

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None and (ours := _translate(self._runtime, error)) is not None:
            try:
                raise ours from error
            finally:
                del ours  # else this frame would keep the error, and the error all frames, and what they hold


class _OnDevice(_ErrorsTranslated):
    """On a GPU, with errors of CuPy translated, and with allocations belonging to our stream."""

    def __init__(self, runtime: CupyRuntime, *contexts: Any) -> None:
        super().__init__(runtime)
        self._device, self._stream = contexts

    def __enter__(self) -> None:
        try:
            self._device.__enter__()
        except Exception as error:
            super().__exit__(type(error), error, None)
            raise
        self._stream.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stream.__exit__(kind, error, trace)
        self._device.__exit__(kind, error, trace)
        super().__exit__(kind, error, trace)


def _translate(runtime: CupyRuntime, error: BaseException) -> CudaError | None:
    """An error of CuPy as ours, in one line; None for others."""
    cupy = runtime.cupy
    if isinstance(error, cupy.cuda.memory.OutOfMemoryError):
        return CudaOutOfMemory(0, *runtime.memory())
    if not isinstance(error, (cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError)):
        return None
    if error.status == MEMORY_ALLOCATION:
        return CudaOutOfMemory(0, *cupy.cuda.runtime.memGetInfo())
    if error.status in LOST:
        return CudaLost(
            f"cuda:{runtime.ordinal} failed and cannot be used again in this process ({error}); start a new process, load the "
            "last checkpoint and continue from there"
        )
    return CudaError(f"cuda:{runtime.ordinal}: {error}")


# --- what is here -----------------------------------------------------------------------------------------------------


def check_driver() -> None:
    """Raise CudaUnavailable with the cure unless there are a driver, a GPU, and a CuPy that the driver is new enough for."""
    version = driver_version()
    try:
        import cupy
    except ImportError as error:
        extra = "cuda13" if version >= 13000 else "cuda12"
        raise CudaUnavailable(f'CuPy is not installed; pip install "fastnn-xp[{extra}]"') from error
    built = cupy.cuda.runtime.runtimeGetVersion()
    if version // 1000 < built // 1000:
        raise CudaUnavailable(
            f"the driver supports CUDA {_format(version)}, and this CuPy is built for {_format(built)}; install a newer "
            f'driver, or pip uninstall cupy-cuda{built // 1000}x and pip install "fastnn-xp[cuda{version // 1000}]"'
        )


def driver_version() -> int:
    """The CUDA version that the driver supports, 1000 * major + 10 * minor; asks the driver alone.

    Raises CudaUnavailable where there is no driver, none that works, or no GPU.
    """
    driver = _driver()
    if driver is None:
        raise CudaAbsent('there is no NVIDIA driver here; install one, or use device="cpu"')
    status = driver.cuInit(0)
    count, version = ctypes.c_int(), ctypes.c_int()
    status = status or driver.cuDeviceGetCount(ctypes.byref(count)) or driver.cuDriverGetVersion(ctypes.byref(version))
    if status == 100 or (not status and not count.value):  # CUDA_ERROR_NO_DEVICE
        raise CudaAbsent('the NVIDIA driver sees no GPU (is CUDA_VISIBLE_DEVICES empty?); use device="cpu"')
    if status:
        name = ctypes.c_char_p()
        driver.cuGetErrorName(status, ctypes.byref(name))
        reason = (name.value or b"").decode() or f"error {status}"
        raise CudaUnavailable(f"the NVIDIA driver does not start ({reason}); reboot, or install it anew")
    if version.value < 12000:
        raise CudaUnavailable(
            f"the NVIDIA driver supports CUDA {_format(version.value)}, and 12.0 is needed; install a newer one"
        )
    return version.value


def _driver() -> Any:
    for name in ("libcuda.so.1", "nvcuda.dll"):
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    return None


def _format(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
