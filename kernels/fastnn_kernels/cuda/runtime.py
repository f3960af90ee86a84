"""What the CUDA engine asks of a GPU, in one small interface, and the errors that a GPU makes.

`fastnn_kernels.cuda.device` implements it with CuPy. Everything above it (schedules, graphs, training) knows only this, so
that tests put another implementation in its place: one that runs the same sources on the host, records what is asked, and
fails where it is told to.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fastnn_kernels.cuda.kernels import Kernel
from fastnn_kernels.cuda.lowering import Device, Product


class CudaError(RuntimeError):
    """A call to the GPU failed; the message is one line and says what to do about it."""


class CudaUnavailable(CudaError):
    """There is no GPU that can be used here."""


class CudaAbsent(CudaUnavailable):
    """There is no GPU here, or nothing that drives one: a machine like most."""


class CudaOutOfMemory(CudaError):
    """Memory was asked for that the GPU does not have."""

    def __init__(self, asked: int, free: int, total: int) -> None:
        super().__init__(
            f"the GPU has no {describe_bytes(asked)} left ({describe_bytes(free)} of {describe_bytes(total)} are free)"
        )
        self.asked, self.free, self.total = asked, free, total


class CudaLost(CudaError):
    """The GPU no longer answers, or a kernel failed on it: nothing on it can be used again in this process."""


def describe_bytes(count: int) -> str:
    """`1.5 GiB`."""
    number, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if number < 1024:
            break
        number, unit = number / 1024, larger
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"


class Memory(Protocol):
    """Memory of a GPU, `nbytes` from `address` on; given back when the last reference to it goes."""

    @property
    def address(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True)
class Launch:
    """A kernel and what it is run with: blocks, bytes of shared memory, and a value for each of its arguments."""

    kernel: Kernel
    blocks: int
    shared: int
    values: tuple[int | float | bool, ...]


_CTYPES: dict[str, Any] = {"i64": ctypes.c_longlong, "float": ctypes.c_float, "double": ctypes.c_double, "bool": ctypes.c_bool}


def pack(launch: Launch) -> tuple[Any, list[Any]]:
    """The arguments of a launch as C wants them: a table of addresses of values, and the values, to be kept until then."""
    types = (_CTYPES.get(type, ctypes.c_void_p) for type in launch.kernel.types)
    values = [type(value) for type, value in zip(types, launch.values, strict=True)]
    return (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values)), values


@dataclass(frozen=True)
class Multiplication:
    """A product and where its operands lie: addresses in the order of `Product.pointers`."""

    product: Product
    addresses: tuple[int, ...]


Node = Launch | Multiplication


class Runtime(Protocol):
    """One GPU. Streams, graphs and events are opaque; all work is asynchronous but for `synchronize`."""

    def __hash__(self) -> int: ...

    @property
    def device(self) -> Device: ...

    @property
    def name(self) -> str: ...

    @property
    def ordinal(self) -> int: ...

    def memory(self) -> tuple[int, int]:
        """Bytes that are free (what a pool holds back counts as free), and all there are."""

    def allocate(self, nbytes: int) -> Memory:
        """Memory that holds nothing yet, aligned to 256 bytes. Raises CudaOutOfMemory."""

    def allocate_pinned(self, nbytes: int) -> np.ndarray:
        """Host memory (uint8) that copies need not wait for."""

    @property
    def stream(self) -> Any:
        """The stream that does the work; it does not wait for the default one."""

    @property
    def copies(self) -> Any:
        """A second stream, for copies beside the work."""

    def event(self) -> Any: ...

    def record(self, event: Any, stream: Any) -> None:
        """Let `event` stand for the work given to `stream` so far."""

    def wait(self, stream: Any, event: Any) -> None:
        """Let the work given to `stream` from now on wait for `event`."""

    def is_done(self, event: Any) -> bool:
        """Whether a recorded event has come, without waiting for it."""

    def elapsed_seconds(self, first: Any, last: Any) -> float:
        """Seconds between two recorded events; waits for the second."""

    def synchronize(self, work: Any) -> None:
        """Wait until a stream is done, or until an event has come. Raises what the work raised."""

    def upload(self, address: int, array: np.ndarray, stream: Any) -> None:
        """Copy a C-contiguous host array to the GPU."""

    def download(self, array: np.ndarray, address: int, stream: Any) -> None:
        """Copy from the GPU into a C-contiguous host array; it holds the values once the stream is synchronized."""

    def copy(self, target: int, source: int, nbytes: int, stream: Any) -> None:
        """Copy on the GPU."""

    def clear(self, address: int, nbytes: int, stream: Any) -> None:
        """Set bytes to 0."""

    def prepare(self, nodes: Sequence[Node]) -> None:
        """Compile and load what the nodes need, so that running them allocates and waits for nothing."""

    def run(self, node: Node, stream: Any) -> None:
        """Give a prepared node to a stream."""

    @property
    def products_version(self) -> int:
        """The version of cuBLASLt; 0 where there is none."""

    def algorithms(self, product: Product, count: int) -> list[bytes]:
        """Up to `count` algorithms that cuBLASLt has for a product that it supports, the most promising first."""

    def adopt(self, array: Any) -> tuple[int, tuple[int, ...], np.dtype[Any], Any]:
        """An array of another library on this GPU: address, shape, dtype, and what keeps it alive."""

    def lend(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any], owner: Any) -> Any:
        """Memory of this GPU as an array that users know."""

    def capture(self, stages: Sequence[Sequence[Node]]) -> Any:
        """A graph of prepared nodes, ready to be launched: stages one after another, the nodes of a stage side by side.

        A stage has one node or two, which do not depend on each other.
        """

    def launch(self, graph: Any, stream: Any) -> None:
        """Give a graph to a stream."""
